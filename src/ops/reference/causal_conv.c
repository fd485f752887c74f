/* The causal convolution of each channel by itself (xLSTM, Beck et al. 2024, figures 9 and 10), with
 * the inputs before a sequence's first token in its slot. */
#include "ops/reference/internal.h"

static bool fits(reference_stream *s, const struct ops_causal_conv *op) {
    static const char *const name = "causal_conv";
    int64_t tokens = op->batch.tokens, width = op->x.shape[1], taps = op->weight.shape[1];
    if (!reference_shaped(s, name, "x", &op->x, 2, (int64_t[]){tokens, width}) ||
        !reference_shaped(s, name, "weight", &op->weight, 2, (int64_t[]){width, taps}) ||
        !reference_shaped(s, name, "out", &op->out, 2, op->x.shape) ||
        !reference_activation_fits(s, name, op->activation) ||
        (ops_present(&op->bias) && !reference_shaped(s, name, "bias", &op->bias, 1, &width)))
        return false;
    if (taps < 1 || taps > OPS_MAX_TAPS)
        return reference_fail(s, XLSTM_INVALID_ARGUMENT, "reference %s: %lld taps, must be 1 to %d",
                              name, (long long)taps, OPS_MAX_TAPS);
    if (taps == 1) /* no state; slots need only be numbers */
        return reference_batch_fits(s, name, &op->batch, INT32_MAX);
    return reference_shaped(s, name, "state", &op->state, 3,
                            (int64_t[]){op->state.shape[0], taps - 1, width}) &&
           reference_batch_fits(s, name, &op->batch, op->state.shape[0]);
}

/* Channel d of the tokens [first, end). window[j] is x[t - K + 1 + j].
 *   out[t] = act(b + sum over j < K of w[j] window[j]) */
static void convolve(const struct ops_causal_conv *op, int64_t slot, int64_t first, int64_t end,
                     int64_t d) {
    int64_t taps = op->weight.shape[1];
    double w[OPS_MAX_TAPS], window[OPS_MAX_TAPS];
    double bias = ops_present(&op->bias) ? reference_get(&op->bias, d) : 0;
    reference_load(&op->weight, d * op->weight.stride[0], taps, w);
    for (int64_t j = 1; j < taps; j++)
        window[j] = reference_get(&op->state,
                                  slot * op->state.stride[0] + (j - 1) * op->state.stride[1] + d);
    for (int64_t t = first; t < end; t++) {
        for (int64_t j = 1; j < taps; j++)
            window[j - 1] = window[j];
        window[taps - 1] = reference_get(&op->x, t * op->x.stride[0] + d);
        double z = bias;
        for (int64_t j = 0; j < taps; j++)
            z += w[j] * window[j];
        reference_set(&op->out, t * op->out.stride[0] + d, reference_activate(op->activation, z));
    }
    for (int64_t j = 1; j < taps; j++)
        reference_set(&op->state, slot * op->state.stride[0] + (j - 1) * op->state.stride[1] + d,
                      window[j]);
}

void reference_causal_conv(ops_stream *stream, const struct ops_causal_conv *op) {
    reference_stream *s = reference_begin(stream);
    if (!s || !fits(s, op))
        return;
    for (int i = 0; i < op->batch.sequences; i++)
        for (int64_t d = 0; d < op->x.shape[1]; d++)
            convolve(op, reference_index(&op->batch.slot, i), reference_index(&op->batch.start, i),
                     reference_index(&op->batch.start, i + 1), d);
}
