/* Norms: as an op, and as the first step of projections. A task is one token. */
#include "ops/cpu/internal.h"

typedef struct norm_job {
    const cpu_stream *s;
    const ops_tensor *x;
    const struct ops_mlstm_output *output; /* NULL: only the norm */
    const float *skip;
    cpu_norm norm;
    int64_t width;
    float *out;
    int64_t out_stride;
    int64_t padded; /* zeros are written up to here */
} norm_job;

static void normalize_token(void *context, int64_t token, int worker) {
    (void)worker;
    const norm_job *job = context;
    const cpu_kernels *kernels = job->s->kernels;
    const float *x = cpu_row(job->x, token);
    float *out = job->out + token * job->out_stride;
    if (job->norm.kind == OPS_NORM_NONE)
        memmove(out, x, (size_t)job->width * sizeof(float));
    else
        kernels->normalize(&job->norm, x, job->width, out);
    if (job->output) {
        const struct ops_mlstm_output *op = job->output;
        kernels->f32->gate(op->activation, cpu_row(&op->output_gate, token), job->skip,
                           job->skip ? cpu_row(&op->skip_input, token) : NULL, job->width, out);
    }
    for (int64_t i = job->width; i < job->padded; i++)
        out[i] = 0;
}

/* Weight and bias as floats, in the scratch memory where they are not stored so. */
static cpu_norm widened(cpu_stream *s, const ops_norm *norm, int64_t width) {
    cpu_norm result = {.kind = norm->kind, .groups = norm->groups, .eps = (float)norm->eps};
    if (norm->kind == OPS_NORM_NONE)
        return result;
    s->kernels->widen(norm->weight.dtype, ops_data(&norm->weight), width, s->norm_weight);
    result.weight = s->norm_weight;
    if (ops_present(&norm->bias)) {
        s->kernels->widen(norm->bias.dtype, ops_data(&norm->bias), width, s->norm_bias);
        result.bias = s->norm_bias;
    }
    return result;
}

static cpu_input run(cpu_stream *s, norm_job *job) {
    job->s = s;
    job->out = s->rows;
    job->out_stride = cpu_row_stride(job->width);
    job->padded = cpu_padded(job->width);
    thread_pool_run(s->pool, job->x->shape[0], normalize_token, job);
    return (cpu_input){s->rows, job->out_stride};
}

cpu_input cpu_normalized(cpu_stream *s, const ops_tensor *x, int64_t width, const ops_norm *norm) {
    if (norm->kind == OPS_NORM_NONE && width % CPU_PADDING == 0 && x->shape[0] == 1)
        return (cpu_input){cpu_row(x, 0), x->stride[0]};
    return run(s, &(norm_job){.x = x, .norm = widened(s, norm, width), .width = width});
}

cpu_input cpu_gated(cpu_stream *s, const struct ops_mlstm_output *op, int64_t width) {
    return run(s, &(norm_job){.x = &op->h,
                              .output = op,
                              .skip = ops_present(&op->skip) ? ops_data(&op->skip) : NULL,
                              .norm = widened(s, &op->norm, width),
                              .width = width});
}

void cpu_normalize(ops_stream *stream, const struct ops_normalize *op) {
    cpu_stream *s = (cpu_stream *)stream;
    if (ops_failed(&s->check) ||
        !ops_expect2(&s->check, "normalize", "x", &op->x, OPS_F32, -1, -1) ||
        !ops_expect2(&s->check, "normalize", "out", &op->out, OPS_F32, op->x.shape[0],
                     op->x.shape[1]) ||
        !ops_expect_limits(&s->check, "normalize", 1, op->x.shape[1]) ||
        !ops_expect_norm(&s->check, "normalize", &op->norm, op->x.shape[1]))
        return;
    int64_t width = op->x.shape[1];
    norm_job job = {.s = s,
                    .x = &op->x,
                    .norm = widened(s, &op->norm, width),
                    .width = width,
                    .out = cpu_row(&op->out, 0),
                    .out_stride = op->out.stride[0],
                    .padded = width};
    thread_pool_run(s->pool, op->x.shape[0], normalize_token, &job);
}
