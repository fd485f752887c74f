/* The causal convolution: a task is a block of channels of one sequence. */
#include "ops/cpu/internal.h"

enum { CHANNELS = CPU_PANEL_ROWS };

typedef struct conv_job {
    const cpu_stream *s;
    const struct ops_causal_conv *op;
    int64_t blocks; /* of channels */
} conv_job;

/* Channels [first, first + count) of the weights as [taps][CHANNELS]. */
static void turn_weights(const conv_job *job, int64_t first, int64_t count, float *turned) {
    const ops_tensor *w = &job->op->weight;
    int64_t taps = w->shape[1];
    float row[OPS_MAX_TAPS];
    for (int64_t d = 0; d < count; d++) {
        const char *from =
            (const char *)ops_data(w) + (size_t)((first + d) * w->stride[0]) * dtype_size(w->dtype);
        job->s->kernels->widen(w->dtype, from, taps, row);
        for (int64_t j = 0; j < taps; j++)
            turned[j * CHANNELS + d] = row[j];
    }
}

/* The state becomes the last inputs: of the old state, what is still among them, and of x. */
static void update_state(float *state, int64_t stride, int64_t rows, const float *x,
                         int64_t x_stride, int64_t tokens, int64_t count) {
    for (int64_t j = 0; j < rows; j++) {
        int64_t at = tokens - rows + j;
        memcpy(state + j * stride, at < 0 ? state + (rows + at) * stride : x + at * x_stride,
               (size_t)count * sizeof *state);
    }
}

static void conv_task(void *context, int64_t task, int worker) {
    const conv_job *job = context;
    const struct ops_causal_conv *op = job->op;
    const cpu_worker *w = &job->s->workers[worker];
    int64_t sequence = task / job->blocks, first = task % job->blocks * CHANNELS;
    int64_t left = op->x.shape[1] - first, count = left < CHANNELS ? left : CHANNELS;
    int64_t taps = op->weight.shape[1];
    const int32_t *start = ops_data(&op->batch.start), *slot = ops_data(&op->batch.slot);
    float *state = taps > 1 ? cpu_row(&op->state, slot[sequence]) + first : NULL;
    int64_t state_stride = taps > 1 ? op->state.stride[1] : 0;
    const float *bias = NULL;
    turn_weights(job, first, count, w->taps);
    if (ops_present(&op->bias)) {
        const char *from =
            (const char *)ops_data(&op->bias) + (size_t)first * dtype_size(op->bias.dtype);
        job->s->kernels->widen(op->bias.dtype, from, count, w->bias);
        bias = w->bias;
    }
    const float *x = cpu_row(&op->x, start[sequence]) + first;
    int64_t tokens = start[sequence + 1] - start[sequence];
    job->s->kernels->f32->convolve(&(cpu_convolution){
        .x = x,
        .before = state,
        .x_stride = op->x.stride[0],
        .before_stride = state_stride,
        .weight = w->taps,
        .weight_stride = CHANNELS,
        .bias = bias,
        .activation = op->activation,
        .out = cpu_row(&op->out, start[sequence]) + first,
        .out_stride = op->out.stride[0],
        .tokens = tokens,
        .columns = count,
        .taps = (int)taps,
    });
    update_state(state, state_stride, taps - 1, x, op->x.stride[0], tokens, count);
}

void cpu_causal_conv(ops_stream *stream, const struct ops_causal_conv *op) {
    cpu_stream *s = (cpu_stream *)stream;
    if (ops_failed(&s->check) || !ops_expect_causal_conv(&s->check, op, OPS_FLOATS))
        return;
    conv_job job = {.s = s, .op = op, .blocks = (op->x.shape[1] + CHANNELS - 1) / CHANNELS};
    thread_pool_run(s->pool, op->batch.sequences * job.blocks, conv_task, &job);
}
