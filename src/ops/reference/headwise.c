/* A linear map of each head by itself: a block-diagonal weight matrix. */
#include "ops/reference/internal.h"

void reference_headwise(ops_stream *stream, const struct ops_headwise *op) {
    static const char *const name = "headwise";
    reference_stream *s = reference_begin(stream);
    if (!s)
        return;
    int64_t tokens = op->x.shape[0], heads = op->weight.shape[0];
    int64_t outputs = op->weight.shape[1], inputs = op->weight.shape[2];
    const int64_t shape[] = {heads, outputs, inputs};
    if (!reference_shaped(s, name, "weight", &op->weight, 3, shape) ||
        !reference_shaped(s, name, "x", &op->x, 3, (int64_t[]){tokens, heads, inputs}) ||
        !reference_shaped(s, name, "out", &op->out, 3, (int64_t[]){tokens, heads, outputs}) ||
        (ops_present(&op->bias) && !reference_shaped(s, name, "bias", &op->bias, 2, shape)) ||
        !reference_within(s, name, "values a head", inputs, s->base.options.limits.width))
        return;
    double *x = s->weight, *w = s->weight + inputs;
    for (int64_t h = 0; h < heads; h++)
        for (int64_t o = 0; o < outputs; o++) {
            double bias =
                ops_present(&op->bias) ? reference_get(&op->bias, h * op->bias.stride[0] + o) : 0;
            reference_load(&op->weight, h * op->weight.stride[0] + o * op->weight.stride[1], inputs,
                           w);
            for (int64_t t = 0; t < tokens; t++) {
                reference_load(&op->x, t * op->x.stride[0] + h * op->x.stride[1], inputs, x);
                reference_set(&op->out, t * op->out.stride[0] + h * op->out.stride[1] + o,
                              reference_dot(x, w, inputs) + bias);
            }
        }
}
