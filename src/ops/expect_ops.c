/* Checks of whole ops with many tensors, the same on every device that computes in f32. */
#include "ops/expect.h"

#include <math.h>

enum { STATES = 1 << DTYPE_F32 | 1 << DTYPE_BF16 | 1 << DTYPE_F16, LONGEST_CHUNK = 128 };

/* ---- mLSTM ---- */

static bool check_shapes(ops_check *c, const struct ops_mlstm *op) {
    const char *name = "mlstm";
    const ops_limits *limits = &c->stream->options.limits;
    if (!ops_expect(c, name, "q", &op->q, ops_wide(c), 3, (int64_t[]){op->batch.tokens, -1, -1}))
        return false;
    int64_t tokens = op->q.shape[0], heads = op->q.shape[1], d_qk = op->q.shape[2];
    if (!ops_expect(c, name, "v", &op->v, ops_wide(c), 3, (int64_t[]){tokens, heads, -1}))
        return false;
    int64_t d_v = op->v.shape[2];
    if (tokens > limits->tokens || heads > limits->heads || d_qk > limits->head_dim_qk ||
        d_v > limits->head_dim_v)
        return ops_fail(c, XLSTM_INVALID_ARGUMENT,
                        "mlstm: %lld tokens, %lld heads of %lld and %lld are more than the stream "
                        "was created for",
                        (long long)tokens, (long long)heads, (long long)d_qk, (long long)d_v);
    const int64_t keys[] = {tokens, heads, d_qk}, values[] = {tokens, heads, d_v};
    return ops_expect(c, name, "k", &op->k, ops_wide(c), 3, keys) &&
           ops_expect(c, name, "h", &op->h, ops_wide(c), 3, values) &&
           ops_expect2(c, name, "the input gate", &op->input_gate, OPS_F32, tokens, heads) &&
           ops_expect2(c, name, "the forget gate", &op->forget_gate, OPS_F32, tokens, heads) &&
           ops_expect(c, name, "c", &op->c, STATES, 4, (int64_t[]){-1, heads, d_qk, d_v}) &&
           ops_expect(c, name, "n", &op->n, 1 << op->c.dtype, 3,
                      (int64_t[]){op->c.shape[0], heads, d_qk}) &&
           ops_expect2(c, name, "m", &op->m, OPS_F32, op->c.shape[0], heads);
}

static bool check_ring(ops_check *c, const struct ops_mlstm *op) {
    const char *name = "mlstm";
    int most = c->stream->options.limits.deferred;
    int64_t slots = op->c.shape[0], heads = op->q.shape[1], ring = op->deferred;
    if (ring != 0 && (ring != most || ring > OPS_MAX_DEFERRED))
        return ops_fail(c, XLSTM_INVALID_ARGUMENT,
                        "mlstm: %d deferred tokens; the stream was created for %d, at most %d are "
                        "possible",
                        op->deferred, most, OPS_MAX_DEFERRED);
    const int64_t keys[] = {slots, heads, ring, op->q.shape[2]};
    const int64_t values[] = {slots, heads, ring, op->v.shape[2]};
    return ring == 0 || (ops_expect(c, name, "ring_k", &op->ring_k, OPS_F32, 4, keys) &&
                         ops_expect(c, name, "ring_v", &op->ring_v, OPS_F32, 4, values) &&
                         ops_expect(c, name, "ring_i", &op->ring_i, OPS_F32, 3, keys) &&
                         ops_expect(c, name, "ring_f", &op->ring_f, OPS_F32, 3, keys));
}

bool ops_expect_mlstm(ops_check *c, const struct ops_mlstm *op) {
    int length = op->chunk_size;
    if (length < 0 || (length > 1 && (length % 16 != 0 || length > LONGEST_CHUNK)))
        return ops_fail(
            c, XLSTM_INVALID_ARGUMENT,
            "mlstm: chunks of %d tokens; 0, 1 and multiples of 16 up to %d are possible", length,
            LONGEST_CHUNK);
    return check_shapes(c, op) && check_ring(c, op) &&
           ops_expect_batch(c, "mlstm", &op->batch, op->c.shape[0]);
}

static bool check_skip(ops_check *c, const struct ops_mlstm_output *op, int64_t tokens,
                       int64_t width) {
    const char *name = "mlstm_output";
    if (ops_present(&op->skip) != ops_present(&op->skip_input))
        return ops_fail(c, XLSTM_INVALID_ARGUMENT, "%s: skip and skip_input go together", name);
    return !ops_present(&op->skip) ||
           (ops_expect1(c, name, "skip", &op->skip, OPS_F32, width) &&
            ops_expect2(c, name, "skip_input", &op->skip_input, OPS_F32, tokens, width));
}

bool ops_expect_mlstm_output(ops_check *c, const struct ops_mlstm_output *op) {
    const char *name = "mlstm_output";
    if (!ops_expect(c, name, "h", &op->h, ops_wide(c), 3, (int64_t[]){-1, -1, -1}))
        return false;
    const int64_t tokens = op->h.shape[0], width = op->h.shape[1] * op->h.shape[2];
    if (op->h.stride[1] != op->h.shape[2])
        return ops_fail(c, XLSTM_INVALID_ARGUMENT, "%s: the heads of h must follow each other",
                        name);
    if (op->activation != OPS_SIGMOID && op->activation != OPS_SILU)
        return ops_fail(c, XLSTM_INVALID_ARGUMENT, "%s: the activation must be sigmoid or SiLU",
                        name);
    return check_skip(c, op, tokens, width) &&
           ops_expect2(c, name, "the output gate", &op->output_gate, ops_wide(c), tokens, width) &&
           ops_expect_limits(c, name, tokens, width);
}

/* ---- sLSTM ---- */

bool ops_expect_slstm(ops_check *c, const struct ops_slstm *op) {
    const char *name = "slstm";
    static const char *const inputs[4] = {"input i", "input f", "input z", "input o"};
    if (!ops_expect(c, name, "y", &op->y, OPS_F32, 3, (int64_t[]){-1, -1, -1}))
        return false;
    int64_t heads = op->y.shape[1], size = op->y.shape[2];
    const int64_t rows[] = {op->batch.tokens, heads, size};
    if (size > c->stream->options.limits.head_dim_v)
        return ops_fail(c, XLSTM_INVALID_ARGUMENT,
                        "%s: heads of %lld are more than the stream was created for (%lld)", name,
                        (long long)size, (long long)c->stream->options.limits.head_dim_v);
    if (!(op->clip >= 0))
        return ops_fail(c, XLSTM_INVALID_ARGUMENT, "%s: clip is %g, must not be negative", name,
                        op->clip);
    for (int g = 0; g < 4; g++)
        if (!ops_expect(c, name, inputs[g], &op->input[g], OPS_F32, 3, rows))
            return false;
    return ops_expect(c, name, "the recurrent weight", &op->recurrent, OPS_F32, 3,
                      (int64_t[]){heads, size, 4 * size}) &&
           ops_expect2(c, name, "the bias", &op->bias, OPS_F32, 4, heads * size) &&
           ops_expect(c, name, "c", &op->c, OPS_F32, 3, op->y.shape) &&
           (op->lstm || (ops_expect(c, name, "n", &op->n, OPS_F32, 3, op->y.shape) &&
                         ops_expect(c, name, "m", &op->m, OPS_F32, 3, op->y.shape))) &&
           ops_expect(c, name, "out", &op->out, OPS_F32, 3, rows) &&
           ops_expect_batch(c, name, &op->batch, op->y.shape[0]);
}

/* ---- Rows, convolutions, heads ---- */

bool ops_expect_take(ops_check *c, const char *name, const ops_tensor *source, int types,
                     const ops_tensor *index, const ops_tensor *out) {
    return ops_expect2(c, name, "the source", source, types, -1, -1) &&
           ops_expect1(c, name, "the index", index, OPS_I32, -1) &&
           ops_expect2(c, name, "out", out, OPS_F32, index->shape[0], source->shape[1]);
}

bool ops_expect_sum(ops_check *c, const struct ops_sum *op) {
    if (!ops_expect2(c, "sum", "out", &op->out, OPS_F32, -1, -1))
        return false;
    if (op->count < 1 || op->count > OPS_MAX_TERMS)
        return ops_fail(c, XLSTM_INVALID_ARGUMENT, "sum: %d terms, 1 to %d are possible", op->count,
                        OPS_MAX_TERMS);
    for (int i = 0; i < op->count; i++)
        if (!ops_expect2(c, "sum", "an input", &op->input[i], OPS_F32, op->out.shape[0],
                         op->out.shape[1]))
            return false;
    return true;
}

bool ops_expect_causal_conv(ops_check *c, const struct ops_causal_conv *op, int types) {
    const char *name = "causal_conv";
    if (!ops_expect2(c, name, "x", &op->x, OPS_F32, op->batch.tokens, -1))
        return false;
    int64_t tokens = op->x.shape[0], width = op->x.shape[1];
    if (!ops_expect2(c, name, "the weight", &op->weight, types, width, -1) ||
        (ops_present(&op->bias) && !ops_expect1(c, name, "the bias", &op->bias, types, width)) ||
        !ops_expect2(c, name, "out", &op->out, OPS_F32, tokens, width) ||
        !ops_expect_activation(c, name, op->activation))
        return false;
    int64_t taps = op->weight.shape[1];
    if (taps > OPS_MAX_TAPS)
        return ops_fail(c, XLSTM_INVALID_ARGUMENT, "%s: %lld taps, must be 1 to %d", name,
                        (long long)taps, OPS_MAX_TAPS);
    if (taps == 1) /* no state; slots need only be numbers */
        return ops_expect_batch(c, name, &op->batch, INT32_MAX);
    return ops_expect(c, name, "the state", &op->state, OPS_F32, 3,
                      (int64_t[]){-1, taps - 1, width}) &&
           ops_expect_batch(c, name, &op->batch, op->state.shape[0]);
}

bool ops_expect_headwise(ops_check *c, const struct ops_headwise *op, int types) {
    const char *name = "headwise";
    const int64_t *w = op->weight.shape;
    return ops_expect(c, name, "the weight", &op->weight, types, 3, (int64_t[]){-1, -1, -1}) &&
           ops_expect(c, name, "x", &op->x, OPS_F32, 3, (int64_t[]){-1, w[0], w[2]}) &&
           ops_expect(c, name, "out", &op->out, OPS_F32, 3,
                      (int64_t[]){op->x.shape[0], w[0], w[1]}) &&
           (!ops_present(&op->bias) ||
            ops_expect2(c, name, "the bias", &op->bias, types, w[0], w[1]));
}

/* ---- Sampling ---- */

/* Whether the rule of this row is as it should be. */
static bool check_rule(ops_check *c, const struct ops_sample *op, int64_t row) {
    const struct ops_sample_row *rule = &op->rows[row];
    if (rule->limit < 1 || rule->limit > op->logits.shape[1])
        return ops_fail(c, XLSTM_INVALID_ARGUMENT,
                        "sample: row %lld is limited to %d ids, must be 1 to %lld", (long long)row,
                        rule->limit, (long long)op->logits.shape[1]);
    if (!(rule->uniform >= 0 && rule->uniform < 1) || !isfinite(rule->temperature) ||
        !(rule->penalty >= 0) || !isfinite(rule->penalty))
        return ops_fail(c, XLSTM_INVALID_ARGUMENT,
                        "sample: row %lld: uniform %g must be in [0, 1), temperature %g finite, "
                        "penalty %g finite and not negative",
                        (long long)row, rule->uniform, (double)rule->temperature,
                        (double)rule->penalty);
    if (rule->penalised_count > 0 &&
        (rule->penalised_first < 0 || !ops_present(&op->penalised) ||
         (int64_t)rule->penalised_first + rule->penalised_count > op->penalised.shape[0]))
        return ops_fail(c, XLSTM_INVALID_ARGUMENT,
                        "sample: row %lld: its penalised ids are not all there", (long long)row);
    return true;
}

bool ops_expect_sample(ops_check *c, const struct ops_sample *op) {
    if (!ops_expect2(c, "sample", "logits", &op->logits, OPS_F32, -1, -1))
        return false;
    int64_t rows = op->logits.shape[0], vocab = c->stream->options.limits.vocab;
    if (op->logits.shape[1] > vocab)
        return ops_fail(c, XLSTM_INVALID_ARGUMENT,
                        "sample: %lld logits a row are more than the stream was created for (%lld)",
                        (long long)op->logits.shape[1], (long long)vocab);
    if (!ops_expect1(c, "sample", "out", &op->out, OPS_I32, rows) ||
        (ops_present(&op->penalised) &&
         !ops_expect1(c, "sample", "the penalised ids", &op->penalised, OPS_I32, -1)))
        return false;
    for (int64_t row = 0; row < rows; row++)
        if (!check_rule(c, op, row))
            return false;
    return true;
}

bool ops_expect_retire(ops_check *c, const struct ops_retire *op) {
    if (!ops_expect1(c, "retire", "the ids", &op->ids, OPS_I32, -1) ||
        !ops_expect1(c, "retire", "slot", &op->slot, OPS_I32, op->ids.shape[0]) ||
        !ops_expect1(c, "retire", "the ends", &op->ends, OPS_I32, -1))
        return false;
    if (op->ends.shape[0] < 1 || op->spare < 0)
        return ops_fail(
            c, XLSTM_INVALID_ARGUMENT,
            "retire: %lld ends, at least one is needed; the spare slot is %d, must not be "
            "negative",
            (long long)op->ends.shape[0], (int)op->spare);
    return true;
}
