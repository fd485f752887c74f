/* The causal convolution of the kernel library. A task of the forward and of the gradients of the
 * inputs is a block of channels of one row of the batch; of the gradients of the weights, a few
 * channels, which goes through the whole batch. */
#include "ops/cpu/kernel_array.h"

#include <stdlib.h>

enum { CHANNELS = 64, WEIGHT_CHANNELS = CPU_PADDING };

typedef struct conv_job {
    const kernel_call *call;
    const cpu_library *library;
    int64_t batch, tokens, width, taps;
    void *weight;   /* [taps][width] */
    void *d_weight; /* [taps][width] */
    int64_t blocks; /* of channels */
} conv_job;

/* Channels from `first` on of row b of the batch. */
static cpu_convolution_gradient describe(const conv_job *job, int64_t b, int64_t first,
                                         int64_t columns) {
    const kernel_call *call = job->call;
    const xlstm_array *a = call->array;
    cpu_convolution_gradient g = {
        .of = {.x = cpu_shift(call, cpu_element(call, CONV1D_X, b, 0, 0, 0), first),
               .before = cpu_shift(call, cpu_element(call, CONV1D_S0, b, 0, 0, 0), first),
               .x_stride = a[CONV1D_X].stride[1],
               .before_stride = a[CONV1D_S0].stride[1],
               .weight = cpu_shift(call, job->weight, first),
               .weight_stride = job->width,
               .bias = cpu_shift(call, cpu_element(call, CONV1D_B, 0, 0, 0, 0), first),
               .activation = OPS_IDENTITY,
               .out = cpu_shift(call, cpu_element(call, CONV1D_Y, b, 0, 0, 0), first),
               .out_stride = a[CONV1D_Y].stride[1],
               .tokens = job->tokens,
               .columns = columns,
               .taps = (int)job->taps},
        .dy = cpu_shift(call, cpu_element(call, CONV1D_DY, b, 0, 0, 0), first),
        .ds = cpu_shift(call, cpu_element(call, CONV1D_DS, b, 0, 0, 0), first),
        .dy_stride = a[CONV1D_DY].stride[1],
        .ds_stride = a[CONV1D_DS].stride[1],
    };
    return g;
}

static int64_t columns_of(const conv_job *job, int64_t first, int64_t most) {
    return job->width - first < most ? job->width - first : most;
}

static void conv_task(void *context, int64_t task, int worker) {
    (void)worker;
    const conv_job *job = context;
    const kernel_call *call = job->call;
    int64_t b = task / job->blocks, first = task % job->blocks * CHANNELS;
    cpu_convolution_gradient g = describe(job, b, first, columns_of(job, first, CHANNELS));
    if (g.of.out)
        job->library->convolve(&g.of);
    g.dx = cpu_shift(call, cpu_element(call, CONV1D_DX, b, 0, 0, 0), first);
    g.d_before = cpu_shift(call, cpu_element(call, CONV1D_DS0, b, 0, 0, 0), first);
    g.dx_stride = call->array[CONV1D_DX].stride[1];
    g.d_before_stride = call->array[CONV1D_DS0].stride[1];
    if (g.dx || g.d_before)
        job->library->convolve_gradient(&g);
}

static void weight_task(void *context, int64_t task, int worker) {
    (void)worker;
    const conv_job *job = context;
    const kernel_call *call = job->call;
    int64_t first = task * WEIGHT_CHANNELS, columns = columns_of(job, first, WEIGHT_CHANNELS);
    void *db = cpu_shift(call, call->array[CONV1D_DB].data, first);
    for (int64_t b = 0; b < job->batch; b++) {
        cpu_convolution_gradient g = describe(job, b, first, columns);
        g.d_weight = cpu_shift(call, job->d_weight, first);
        if (g.d_weight)
            job->library->convolve_gradient(&g);
        if (db && g.dy)
            job->library->combine(&(cpu_combine){.a = cpu_one(call),
                                                 .b = g.dy,
                                                 .b_stride = g.dy_stride,
                                                 .z = db,
                                                 .rows = 1,
                                                 .terms = job->tokens,
                                                 .columns = columns,
                                                 .add = b > 0});
    }
    if (!kernel_has(call, CONV1D_DY))
        cpu_copy_row(call, NULL, columns, db);
}

/* The last taps - 1 inputs: of those before the first token, what is still among them, and of x. The
 * rows move towards the beginning, so that s may be s0. */
static void store_state(const conv_job *job) {
    const kernel_call *call = job->call;
    int64_t past = job->taps - 1;
    for (int64_t b = 0; kernel_has(call, CONV1D_S) && b < job->batch; b++)
        for (int64_t j = 0; j < past; j++) {
            int64_t t = job->tokens - past + j;
            cpu_copy_row(call,
                         t < 0 ? cpu_element(call, CONV1D_S0, b, past + t, 0, 0)
                               : cpu_element(call, CONV1D_X, b, t, 0, 0),
                         job->width, cpu_element(call, CONV1D_S, b, j, 0, 0));
        }
}

static void run(conv_job *job, thread_pool *pool) {
    const kernel_call *call = job->call;
    const xlstm_array *w = &call->array[CONV1D_W], *dw = &call->array[CONV1D_DW];
    cpu_transpose(call, w->data, w->stride[0], job->width, job->taps, job->weight, job->width);
    job->blocks = (job->width + CHANNELS - 1) / CHANNELS;
    thread_pool_run(pool, job->batch * job->blocks, conv_task, job);
    if (kernel_has(call, CONV1D_DW) || kernel_has(call, CONV1D_DB))
        thread_pool_run(pool, (job->width + WEIGHT_CHANNELS - 1) / WEIGHT_CHANNELS, weight_task,
                        job);
    if (job->d_weight)
        cpu_transpose(call, job->d_weight, job->width, job->taps, job->width, dw->data,
                      dw->stride[0]);
    store_state(job);
}

xlstm_status cpu_kernel_conv1d(const kernel_call *call) {
    const int64_t *x = call->array[CONV1D_X].shape;
    conv_job job = {.call = call,
                    .library = cpu_library_of(call),
                    .batch = x[0],
                    .tokens = x[1],
                    .width = x[2],
                    .taps = call->array[CONV1D_W].shape[1]};
    if (!job.library)
        return XLSTM_UNSUPPORTED;
    bool wants_dw = kernel_has(call, CONV1D_DW);
    job.weight = cpu_scratch(call, job.taps, job.width);
    job.d_weight = wants_dw ? cpu_scratch(call, job.taps, job.width) : NULL;
    thread_pool *pool;
    xlstm_status status = XLSTM_OUT_OF_MEMORY;
    if (job.weight && (job.d_weight || !wants_dw))
        status = cpu_pool_take(call->options.threads, &pool);
    if (status == XLSTM_OK) {
        run(&job, pool);
        cpu_pool_give_back(pool);
    }
    free(job.weight);
    free(job.d_weight);
    return status;
}
