/* The linear map of each head: three products, each cut into tasks of a head and some of its rows. A
 * row of y and dx is a row of x, a row of dW is an output. */
#include "ops/cpu/kernel_array.h"

#include <stdlib.h>

enum { TASK_ROWS = 32 };

typedef struct headwise_job {
    const kernel_call *call;
    const cpu_library *library;
    int64_t rows, heads, inputs, outputs;
    void *turned;   /* [heads][inputs][outputs]: W transposed */
    int64_t blocks; /* tasks of a head */
} headwise_job;

static int64_t stride_of(const kernel_call *call, int argument, int dimension) {
    return call->array[argument].stride[dimension];
}

/* Rows of a task: the first, and how many of `rows`. */
static int64_t task_rows(const headwise_job *job, int64_t task, int64_t rows, int64_t *first) {
    *first = task % job->blocks * TASK_ROWS;
    return rows - *first < TASK_ROWS ? rows - *first : TASK_ROWS;
}

/* y = x W^T + b */
static void forward_task(void *context, int64_t task, int worker) {
    (void)worker;
    const headwise_job *job = context;
    const kernel_call *call = job->call;
    int64_t head = task / job->blocks, first, count = task_rows(job, task, job->rows, &first);
    for (int64_t r = first; r < first + count; r++)
        cpu_copy_row(call, cpu_element(call, AFFINE_B, head, 0, 0, 0), job->outputs,
                     cpu_element(call, AFFINE_Y, r, head, 0, 0));
    job->library->combine(&(cpu_combine){
        .a = cpu_element(call, AFFINE_X, first, head, 0, 0),
        .a_row = stride_of(call, AFFINE_X, 0),
        .a_term = 1,
        .b = cpu_shift(call, job->turned, head * job->inputs * job->outputs),
        .b_stride = job->outputs,
        .z = cpu_element(call, AFFINE_Y, first, head, 0, 0),
        .z_stride = stride_of(call, AFFINE_Y, 0),
        .rows = count,
        .terms = job->inputs,
        .columns = job->outputs,
        .add = true,
    });
}

/* dx = dy W */
static void input_task(void *context, int64_t task, int worker) {
    (void)worker;
    const headwise_job *job = context;
    const kernel_call *call = job->call;
    int64_t head = task / job->blocks, first, count = task_rows(job, task, job->rows, &first);
    job->library->combine(&(cpu_combine){
        .a = cpu_element(call, AFFINE_DY, first, head, 0, 0),
        .a_row = stride_of(call, AFFINE_DY, 0),
        .a_term = 1,
        .b = cpu_element(call, AFFINE_W, head, 0, 0, 0),
        .b_stride = stride_of(call, AFFINE_W, 1),
        .z = cpu_element(call, AFFINE_DX, first, head, 0, 0),
        .z_stride = stride_of(call, AFFINE_DX, 0),
        .rows = count,
        .terms = job->outputs,
        .columns = job->inputs,
    });
}

/* dW = dy^T x */
static void weight_task(void *context, int64_t task, int worker) {
    (void)worker;
    const headwise_job *job = context;
    const kernel_call *call = job->call;
    int64_t head = task / job->blocks, first, count = task_rows(job, task, job->outputs, &first);
    job->library->combine(&(cpu_combine){
        .a = cpu_shift(call, cpu_element(call, AFFINE_DY, 0, head, 0, 0), first),
        .a_row = 1,
        .a_term = stride_of(call, AFFINE_DY, 0),
        .b = cpu_element(call, AFFINE_X, 0, head, 0, 0),
        .b_stride = stride_of(call, AFFINE_X, 0),
        .z = cpu_element(call, AFFINE_DW, head, first, 0, 0),
        .z_stride = stride_of(call, AFFINE_DW, 1),
        .rows = count,
        .terms = job->rows,
        .columns = job->inputs,
    });
}

static void bias_task(void *context, int64_t head, int worker) {
    (void)worker;
    const headwise_job *job = context;
    const kernel_call *call = job->call;
    job->library->combine(&(cpu_combine){
        .a = cpu_one(call),
        .b = cpu_element(call, AFFINE_DY, 0, head, 0, 0),
        .b_stride = stride_of(call, AFFINE_DY, 0),
        .z = cpu_element(call, AFFINE_DB, head, 0, 0, 0),
        .rows = 1,
        .terms = job->rows,
        .columns = job->outputs,
    });
}

static void run_blocks(headwise_job *job, thread_pool *pool, int64_t rows, thread_task task) {
    job->blocks = (rows + TASK_ROWS - 1) / TASK_ROWS;
    thread_pool_run(pool, job->heads * job->blocks, task, job);
}

/* Without dy all gradients are 0. */
static void clear_gradients(const headwise_job *job) {
    const kernel_call *call = job->call;
    for (int64_t h = 0; h < job->heads; h++) {
        for (int64_t r = 0; r < job->rows; r++)
            cpu_copy_row(call, NULL, job->inputs, cpu_element(call, AFFINE_DX, r, h, 0, 0));
        for (int64_t o = 0; o < job->outputs; o++)
            cpu_copy_row(call, NULL, job->inputs, cpu_element(call, AFFINE_DW, h, o, 0, 0));
        cpu_copy_row(call, NULL, job->outputs, cpu_element(call, AFFINE_DB, h, 0, 0, 0));
    }
}

static void run(headwise_job *job, thread_pool *pool) {
    const kernel_call *call = job->call;
    if (kernel_has(call, AFFINE_Y)) {
        for (int64_t h = 0; h < job->heads; h++)
            cpu_transpose(call, cpu_element(call, AFFINE_W, h, 0, 0, 0),
                          stride_of(call, AFFINE_W, 1), job->outputs, job->inputs,
                          cpu_shift(call, job->turned, h * job->inputs * job->outputs),
                          job->outputs);
        run_blocks(job, pool, job->rows, forward_task);
    }
    if (!kernel_has(call, AFFINE_DY)) {
        clear_gradients(job);
        return;
    }
    if (kernel_has(call, AFFINE_DX))
        run_blocks(job, pool, job->rows, input_task);
    if (kernel_has(call, AFFINE_DW))
        run_blocks(job, pool, job->outputs, weight_task);
    if (kernel_has(call, AFFINE_DB))
        thread_pool_run(pool, job->heads, bias_task, job);
}

xlstm_status cpu_kernel_headwise(const kernel_call *call) {
    const int64_t *w = call->array[AFFINE_W].shape;
    headwise_job job = {.call = call,
                        .library = cpu_library_of(call),
                        .rows = call->array[AFFINE_X].shape[0],
                        .heads = w[0],
                        .inputs = w[2],
                        .outputs = w[1]};
    if (!job.library)
        return XLSTM_UNSUPPORTED;
    job.turned = cpu_scratch(call, job.heads * job.inputs, job.outputs);
    if (!job.turned)
        return XLSTM_OUT_OF_MEMORY;
    thread_pool *pool;
    xlstm_status status = cpu_pool_take(call->options.threads, &pool);
    if (status == XLSTM_OK) {
        run(&job, pool);
        cpu_pool_give_back(pool);
    }
    free(job.turned);
    return status;
}
