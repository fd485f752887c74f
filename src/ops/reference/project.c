/* Projections: z = y W^T + b, with what goes before (a norm, the output gate) and after (soft cap,
 * SwiGLU, residual).
 *
 * Each op first lays its input rows y into s->rows, in double, and then takes the weight one row at
 * a time: out[t][n] = dot(y[t], W[n]). */
#include "ops/reference/internal.h"

#include <math.h>

/* Four partial sums, added at the end, in an order that depends on `count` alone. */
double reference_dot(const double *a, const double *b, int64_t count) {
    double sum[4] = {0};
    for (int64_t i = 0; i < count; i++)
        sum[i % 4] += a[i] * b[i];
    return sum[0] + sum[1] + (sum[2] + sum[3]);
}

/* cap(z) = c tanh(z / c); c = 0: no cap. */
static double soft_cap(double z, double cap) {
    return cap == 0 ? z : cap * tanh(z / cap);
}

static double bias_at(const ops_tensor *bias, int64_t n) {
    return ops_present(bias) ? reference_get(bias, n) : 0;
}

/* Checks W [outputs][inputs] and its bias. */
static bool weight_fits(reference_stream *s, const char *op, const char *name, const ops_tensor *w,
                        const ops_tensor *bias, int64_t outputs, int64_t inputs) {
    return reference_matrix(s, op, name, w, outputs, inputs) &&
           (!ops_present(bias) || reference_shaped(s, op, "a bias", bias, 1, &outputs));
}

/* s->rows[t] = norm(x[t]), for x [T][K]. */
static bool norm_rows(reference_stream *s, const char *op, const ops_tensor *x,
                      const ops_norm *norm) {
    int64_t tokens = x->shape[0], width = x->shape[1];
    if (!reference_shaped(s, op, "x", x, 2, x->shape) ||
        !reference_within(s, op, "tokens", tokens, s->base.options.limits.tokens) ||
        !reference_within(s, op, "values a row", width, s->base.options.limits.width) ||
        !reference_norm_fits(s, op, norm, width))
        return false;
    for (int64_t t = 0; t < tokens; t++) {
        reference_load(x, t * x->stride[0], width, s->rows + t * width);
        reference_norm(norm, width, s->rows + t * width);
    }
    return true;
}

/* out = cap(norm(x) W^T + b), for each projection */
void reference_norm_project(ops_stream *stream, const struct ops_norm_project *op) {
    reference_stream *s = reference_begin(stream);
    if (!s)
        return;
    if (op->count < 1 || op->count > OPS_MAX_PROJECTIONS) {
        reference_fail(s, XLSTM_INVALID_ARGUMENT,
                       "reference norm_project: %d projections, must be 1 to %d", op->count,
                       OPS_MAX_PROJECTIONS);
        return;
    }
    if (!norm_rows(s, "norm_project", &op->x, &op->norm))
        return;
    int64_t tokens = op->x.shape[0], inputs = op->x.shape[1];
    for (int i = 0; i < op->count; i++) {
        const ops_projection *p = &op->projection[i];
        int64_t outputs = p->out.shape[1];
        if (!reference_shaped(s, "norm_project", "out", &p->out, 2, (int64_t[]){tokens, outputs}) ||
            !weight_fits(s, "norm_project", "weight", &p->weight, &p->bias, outputs, inputs))
            return;
        for (int64_t n = 0; n < outputs; n++) {
            reference_load(&p->weight, n * p->weight.stride[0], inputs, s->weight);
            for (int64_t t = 0; t < tokens; t++) {
                double z = reference_dot(s->rows + t * inputs, s->weight, inputs);
                reference_set(&p->out, t * p->out.stride[0] + n,
                              soft_cap(z + bias_at(&p->bias, n), p->soft_cap));
            }
        }
    }
}

/* Gated linear unit (Shazeer 2020): out = act(y G^T + bg) * (y U^T + bu), y = norm(x) */
void reference_norm_project_gated(ops_stream *stream, const struct ops_norm_project_gated *op) {
    static const char *const name = "norm_project_gated";
    reference_stream *s = reference_begin(stream);
    if (!s || !norm_rows(s, name, &op->x, &op->norm))
        return;
    int64_t tokens = op->x.shape[0], inputs = op->x.shape[1], outputs = op->out.shape[1];
    if (!reference_shaped(s, name, "out", &op->out, 2, (int64_t[]){tokens, outputs}) ||
        !reference_activation_fits(s, name, op->activation) ||
        !weight_fits(s, name, "gate weight", &op->gate_weight, &op->gate_bias, outputs, inputs) ||
        !weight_fits(s, name, "up weight", &op->up_weight, &op->up_bias, outputs, inputs))
        return;
    double *gate_row = s->weight, *up_row = s->weight + inputs;
    for (int64_t n = 0; n < outputs; n++) {
        reference_load(&op->gate_weight, n * op->gate_weight.stride[0], inputs, gate_row);
        reference_load(&op->up_weight, n * op->up_weight.stride[0], inputs, up_row);
        for (int64_t t = 0; t < tokens; t++) {
            const double *y = s->rows + t * inputs;
            double gate = reference_dot(y, gate_row, inputs) + bias_at(&op->gate_bias, n);
            double up = reference_dot(y, up_row, inputs) + bias_at(&op->up_bias, n);
            reference_set(&op->out, t * op->out.stride[0] + n,
                          reference_activate(op->activation, gate) * up);
        }
    }
}

/* out = residual + sign (y W^T + b), y in s->rows */
static void add_projection(reference_stream *s, const char *op, int64_t tokens, int64_t inputs,
                           const ops_tensor *weight, const ops_tensor *bias,
                           const ops_tensor *residual, int sign, const ops_tensor *out) {
    int64_t outputs = out->shape[1];
    if (!reference_shaped(s, op, "out", out, 2, (int64_t[]){tokens, outputs}) ||
        !weight_fits(s, op, "weight", weight, bias, outputs, inputs) ||
        (ops_present(residual) && !reference_shaped(s, op, "residual", residual, 2, out->shape)))
        return;
    for (int64_t n = 0; n < outputs; n++) {
        reference_load(weight, n * weight->stride[0], inputs, s->weight);
        for (int64_t t = 0; t < tokens; t++) {
            double z = reference_dot(s->rows + t * inputs, s->weight, inputs) + bias_at(bias, n);
            double r =
                ops_present(residual) ? reference_get(residual, t * residual->stride[0] + n) : 0;
            reference_set(out, t * out->stride[0] + n, r + sign * z);
        }
    }
}

void reference_project_add(ops_stream *stream, const struct ops_project_add *op) {
    static const ops_norm none = {.kind = OPS_NORM_NONE};
    reference_stream *s = reference_begin(stream);
    if (s && norm_rows(s, "project_add", &op->x, &none))
        add_projection(s, "project_add", op->x.shape[0], op->x.shape[1], &op->weight, &op->bias,
                       &op->residual, op->sign, &op->out);
}

static bool mlstm_output_fits(reference_stream *s, const struct ops_mlstm_output *op) {
    static const char *const name = "mlstm_output";
    int64_t tokens = op->h.shape[0], width = op->h.shape[1] * op->h.shape[2];
    const int64_t rows[] = {tokens, width};
    if (op->activation != OPS_SIGMOID && op->activation != OPS_SILU)
        return reference_fail(s, XLSTM_INVALID_ARGUMENT,
                              "reference %s: the activation must be sigmoid or SiLU", name);
    if (ops_present(&op->skip) != ops_present(&op->skip_input))
        return reference_fail(s, XLSTM_INVALID_ARGUMENT,
                              "reference %s: skip and skip_input go together", name);
    return reference_shaped(s, name, "h", &op->h, 3, op->h.shape) &&
           reference_shaped(s, name, "output_gate", &op->output_gate, 2, rows) &&
           (!ops_present(&op->skip) ||
            (reference_shaped(s, name, "skip", &op->skip, 1, &width) &&
             reference_shaped(s, name, "skip_input", &op->skip_input, 2, rows))) &&
           reference_within(s, name, "tokens", tokens, s->base.options.limits.tokens) &&
           reference_within(s, name, "values a row", width, s->base.options.limits.width) &&
           reference_norm_fits(s, name, &op->norm, width);
}

/* out = residual + sign ((act(o) * (norm(h) + skip * x)) W^T + b)
 * (xLSTM, Beck et al. 2024, eq. 25-27, and the learnable skip of its figure 10) */
void reference_mlstm_output(ops_stream *stream, const struct ops_mlstm_output *op) {
    reference_stream *s = reference_begin(stream);
    if (!s || !mlstm_output_fits(s, op))
        return;
    int64_t tokens = op->h.shape[0], heads = op->h.shape[1], size = op->h.shape[2];
    int64_t width = heads * size;
    const ops_tensor *o = &op->output_gate, *x = &op->skip_input;
    for (int64_t t = 0; t < tokens; t++) {
        double *y = s->rows + t * width;
        for (int64_t head = 0; head < heads; head++)
            reference_load(&op->h, t * op->h.stride[0] + head * op->h.stride[1], size,
                           y + head * size);
        reference_norm(&op->norm, width, y);
        for (int64_t d = 0; d < width; d++) {
            if (ops_present(x))
                y[d] += reference_get(&op->skip, d) * reference_get(x, t * x->stride[0] + d);
            y[d] *= reference_activate(op->activation, reference_get(o, t * o->stride[0] + d));
        }
    }
    add_projection(s, "mlstm_output", tokens, width, &op->weight, &op->bias, &op->residual,
                   op->sign, &op->out);
}
