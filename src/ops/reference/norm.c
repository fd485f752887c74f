/* RMS norm and LayerNorm, over whole rows or by group (head). */
#include "ops/reference/internal.h"

#include <math.h>

bool reference_norm_fits(reference_stream *s, const char *op, const ops_norm *norm, int64_t width) {
    if (norm->kind == OPS_NORM_NONE)
        return true;
    if (norm->groups < 1 || width % norm->groups)
        return reference_fail(s, XLSTM_INVALID_ARGUMENT,
                              "reference %s: %d norm groups do not divide a width of %lld", op,
                              norm->groups, (long long)width);
    return reference_shaped(s, op, "norm weight", &norm->weight, 1, &width) &&
           (!ops_present(&norm->bias) ||
            reference_shaped(s, op, "norm bias", &norm->bias, 1, &width));
}

/* RMS norm (Zhang and Sennrich 2019):  y = x / sqrt(mean(x^2) + eps) * w [+ b]
 * LayerNorm (Ba et al. 2016):          y = (x - mean(x)) / sqrt(var(x) + eps) * w [+ b],
 *                                      var biased: mean((x - mean(x))^2)
 * each over every group of the row by itself. The head norm of the mLSTM is LayerNorm with a group
 * a head (xLSTM-7B, section 3.1 of the paper). */
void reference_norm(const ops_norm *norm, int64_t width, double *x) {
    if (norm->kind == OPS_NORM_NONE)
        return;
    int64_t size = width / norm->groups;
    for (int64_t first = 0; first < width; first += size) {
        double mean = 0, square = 0;
        if (norm->kind == OPS_NORM_LAYER) {
            for (int64_t d = first; d < first + size; d++)
                mean += x[d];
            mean /= (double)size;
        }
        for (int64_t d = first; d < first + size; d++)
            square += (x[d] - mean) * (x[d] - mean);
        double scale = 1 / sqrt(square / (double)size + norm->eps);
        for (int64_t d = first; d < first + size; d++) {
            x[d] = (x[d] - mean) * scale * reference_get(&norm->weight, d);
            if (ops_present(&norm->bias))
                x[d] += reference_get(&norm->bias, d);
        }
    }
}

void reference_normalize(ops_stream *stream, const struct ops_normalize *op) {
    reference_stream *s = reference_begin(stream);
    if (!s)
        return;
    int64_t width = op->x.shape[1];
    if (!reference_shaped(s, "normalize", "x", &op->x, 2, op->x.shape) ||
        !reference_shaped(s, "normalize", "out", &op->out, 2, op->x.shape) ||
        !reference_within(s, "normalize", "values a row", width, s->base.options.limits.width) ||
        !reference_norm_fits(s, "normalize", &op->norm, width))
        return;
    for (int64_t t = 0; t < op->x.shape[0]; t++) {
        reference_load(&op->x, t * op->x.stride[0], width, s->rows);
        reference_norm(&op->norm, width, s->rows);
        reference_store(&op->out, t * op->out.stride[0], width, s->rows);
    }
}
