/* Norms: as an op, and as the first step of projections of several tokens. */
#include "ops/metal/project.h"

bool metal_expect_type(metal_stream *s, const char *op, const char *name, const ops_tensor *t) {
    if (!ops_present(t))
        return true;
    if (metal_type_of(t->dtype) == METAL_TYPES)
        return ops_fail(&s->check, XLSTM_INVALID_ARGUMENT,
                        "%s: %s is %s, which the metal device does not take", op, name,
                        dtype_name(t->dtype));
    for (int i = 0; i < t->rank; i++)
        if (t->shape[i] > INT32_MAX || dtype_bytes(t->dtype, t->stride[i]) > UINT32_MAX)
            return ops_fail(&s->check, XLSTM_INVALID_ARGUMENT,
                            "%s: %s has more than the metal device can count: %lld in rows of %lld",
                            op, name, (long long)t->shape[i], (long long)t->stride[i]);
    return true;
}

bool metal_expect_norm(metal_stream *s, const char *op, const ops_norm *norm, int64_t width) {
    return ops_expect_norm(&s->check, op, norm, width) &&
           (norm->kind == OPS_NORM_NONE ||
            (metal_expect_type(s, op, "the norm's weight", &norm->weight) &&
             metal_expect_type(s, op, "the norm's bias", &norm->bias)));
}

static uint32_t first_of(const ops_tensor *t) {
    return ops_present(t) ? metal_first(t) : 0;
}

static uint32_t stride_of(const ops_tensor *t) {
    return ops_present(t) ? (uint32_t)t->stride[0] : 0;
}

struct input_arguments metal_input_arguments(const metal_input *in) {
    struct input_arguments a = {
        .tokens = metal_tokens(in),
        .width = metal_width(in),
        .x_first = first_of(&in->x),
        .x_stride = stride_of(&in->x),
        .kind = (uint32_t)in->norm.kind,
        .groups = 1,
        .gated = ops_present(&in->gate),
        .activation = (uint32_t)in->activation,
        .gate_first = first_of(&in->gate),
        .gate_stride = stride_of(&in->gate),
        .has_skip = ops_present(&in->skip),
        .skip_first = first_of(&in->skip),
        .skip_input_first = first_of(&in->skip_input),
        .skip_input_stride = stride_of(&in->skip_input),
    };
    if (in->norm.kind == OPS_NORM_NONE)
        return a;
    a.groups = (uint32_t)in->norm.groups;
    a.eps = (float)in->norm.eps;
    a.weight_first = first_of(&in->norm.weight);
    a.weight_type = metal_type_of(in->norm.weight.dtype);
    a.bias_first = first_of(&in->norm.bias);
    a.bias_type = metal_type_of(in->norm.bias.dtype);
    a.has_bias = ops_present(&in->norm.bias);
    return a;
}

static const ops_tensor absent;

void metal_bind(metal_dispatch *d, const ops_tensor *t, bool written) {
    d->operand[d->operands++] = (metal_operand){t, written};
}

void metal_bind_input(metal_dispatch *d, const metal_input *in) {
    bool normed = in->norm.kind != OPS_NORM_NONE;
    metal_bind(d, &in->x, false);
    metal_bind(d, normed ? &in->norm.weight : &absent, false);
    metal_bind(d, normed ? &in->norm.bias : &absent, false);
}

void metal_bind_gate(metal_dispatch *d, const metal_input *in) {
    metal_bind(d, &in->gate, false);
    metal_bind(d, &in->skip, false);
    metal_bind(d, &in->skip_input, false);
}

void metal_lay_rows(metal_stream *s, const metal_input *in, const ops_tensor *out) {
    struct normalize_arguments a = {
        .input = metal_input_arguments(in),
        .out_first = first_of(out),
        .out_stride = stride_of(out),
    };
    metal_dispatch d = {
        .kernel = "normalize_rows",
        .arguments = &a,
        .argument_bytes = sizeof a,
        .groups = {metal_tokens(in)},
        .threads = METAL_PROJECT_THREADS,
    };
    metal_bind_input(&d, in);
    metal_bind_gate(&d, in);
    metal_bind(&d, out, true);
    metal_run(s, &d);
}

void metal_normalize(ops_stream *stream, const struct ops_normalize *op) {
    metal_stream *s = (metal_stream *)stream;
    ops_check *c = &s->check;
    const char *name = "normalize";
    if (ops_failed(c) || !ops_expect2(c, name, "x", &op->x, OPS_F32, -1, -1) ||
        !ops_expect2(c, name, "out", &op->out, OPS_F32, op->x.shape[0], op->x.shape[1]) ||
        !metal_expect_type(s, name, "x", &op->x) || !metal_expect_type(s, name, "out", &op->out) ||
        !metal_expect_norm(s, name, &op->norm, op->x.shape[1]))
        return;
    metal_lay_rows(s, &(metal_input){.x = op->x, .norm = op->norm}, &op->out);
}
