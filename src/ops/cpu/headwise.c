/* The linear map of each head: a task is a head and a block of its outputs, for all tokens. */
#include "ops/cpu/internal.h"

enum { BLOCK = CPU_PANEL_ROWS };
_Static_assert((int)BLOCK <= (int)CPU_PANEL_TOKENS, "a turned block must fit in z");

typedef struct headwise_job {
    const cpu_stream *s;
    const struct ops_headwise *op;
    int64_t blocks; /* of outputs */
} headwise_job;

/* Inputs [input, input + inputs) of the rows [output, output + outputs), as [inputs][BLOCK]. */
static void turn_weights(const headwise_job *job, int64_t head, int64_t output, int64_t outputs,
                         int64_t input, int64_t inputs, float *turned) {
    const ops_tensor *w = &job->op->weight;
    float row[BLOCK];
    for (int64_t o = 0; o < outputs; o++) {
        int64_t element = head * w->stride[0] + (output + o) * w->stride[1] + input;
        job->s->kernels->widen(w->dtype,
                               (const char *)ops_data(w) + (size_t)element * dtype_size(w->dtype),
                               inputs, row);
        for (int64_t i = 0; i < inputs; i++)
            turned[i * BLOCK + o] = row[i];
    }
}

static void add_bias(const headwise_job *job, int64_t head, int64_t output, int64_t outputs,
                     float *out, float *bias) {
    const struct ops_headwise *op = job->op;
    int64_t element = head * op->bias.stride[0] + output;
    job->s->kernels->widen(op->bias.dtype,
                           (const char *)ops_data(&op->bias) +
                               (size_t)element * dtype_size(op->bias.dtype),
                           outputs, bias);
    for (int64_t t = 0; t < op->x.shape[0]; t++)
        job->s->kernels->add(out + t * op->out.stride[0], 1, bias, NULL, outputs,
                             out + t * op->out.stride[0]);
}

static void headwise_task(void *context, int64_t task, int worker) {
    const headwise_job *job = context;
    const struct ops_headwise *op = job->op;
    const cpu_worker *w = &job->s->workers[worker];
    int64_t head = task / job->blocks, output = task % job->blocks * BLOCK;
    int64_t left = op->weight.shape[1] - output, outputs = left < BLOCK ? left : BLOCK;
    int64_t inputs = op->weight.shape[2];
    float *out = (float *)ops_data(&op->out) + head * op->out.stride[1] + output;
    for (int64_t input = 0; input < inputs; input += BLOCK) {
        int64_t terms = inputs - input < BLOCK ? inputs - input : BLOCK;
        turn_weights(job, head, output, outputs, input, terms, w->z);
        job->s->kernels->f32->combine(&(cpu_combine){
            .a = (const float *)ops_data(&op->x) + head * op->x.stride[1] + input,
            .a_row = op->x.stride[0],
            .a_term = 1,
            .b = w->z,
            .b_stride = BLOCK,
            .z = out,
            .z_stride = op->out.stride[0],
            .rows = op->x.shape[0],
            .terms = terms,
            .columns = outputs,
            .add = input > 0,
        });
    }
    if (ops_present(&op->bias))
        add_bias(job, head, output, outputs, out, w->bias);
}

void cpu_headwise(ops_stream *stream, const struct ops_headwise *op) {
    cpu_stream *s = (cpu_stream *)stream;
    if (ops_failed(&s->check) || !ops_expect_headwise(&s->check, op, OPS_FLOATS))
        return;
    headwise_job job = {.s = s, .op = op, .blocks = (op->weight.shape[1] + BLOCK - 1) / BLOCK};
    thread_pool_run(s->pool, op->weight.shape[0] * job.blocks, headwise_task, &job);
}
