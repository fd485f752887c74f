/* Soft cap, SwiGLU, GELU gate and cross-entropy of the kernel library: a task is some rows. */
#include "ops/cpu/kernel_array.h"

enum { TASK_ELEMENTS = 16 * 1024 };

typedef struct rows_job {
    const kernel_call *call;
    const cpu_library *library;
    enum cpu_gate_kind kind;
    int64_t rows, width, task_rows;
} rows_job;

static void gate_task(void *context, int64_t task, int worker) {
    (void)worker;
    const rows_job *job = context;
    const kernel_call *call = job->call;
    int64_t first = task * job->task_rows, end = first + job->task_rows;
    for (int64_t r = first; r < end && r < job->rows; r++)
        job->library->gate_row(&(cpu_gate_row){
            .kind = job->kind,
            .soft_cap = call->options.soft_cap,
            .count = job->width,
            .x = cpu_element(call, GATE_X, r, 0, 0, 0),
            .u = cpu_element(call, GATE_U, r, 0, 0, 0),
            .dy = cpu_element(call, GATE_DY, r, 0, 0, 0),
            .y = cpu_element(call, GATE_Y, r, 0, 0, 0),
            .dx = cpu_element(call, GATE_DX, r, 0, 0, 0),
            .du = cpu_element(call, GATE_DU, r, 0, 0, 0),
        });
}

static double value_of(const kernel_call *call, const void *p) {
    if (!p)
        return 0;
    return call->real == DTYPE_F64 ? *(const double *)p : (double)*(const float *)p;
}

static void loss_task(void *context, int64_t task, int worker) {
    (void)worker;
    const rows_job *job = context;
    const kernel_call *call = job->call;
    const int64_t *target = call->array[CROSS_ENTROPY_TARGET].data;
    int64_t first = task * job->task_rows, end = first + job->task_rows;
    for (int64_t r = first; r < end && r < job->rows; r++) {
        void *loss = cpu_element(call, CROSS_ENTROPY_LOSS, r, 0, 0, 0);
        void *gradient = cpu_element(call, CROSS_ENTROPY_DLOGITS, r, 0, 0, 0);
        double value = 0;
        if (target[r] != call->options.ignore_index)
            value = job->library->loss_row(&(cpu_loss_row){
                .logits = cpu_element(call, CROSS_ENTROPY_LOGITS, r, 0, 0, 0),
                .count = job->width,
                .target = target[r],
                .dloss = value_of(call, cpu_element(call, CROSS_ENTROPY_DLOSS, r, 0, 0, 0)),
                .dlogits = gradient,
            });
        else
            cpu_copy_row(call, NULL, job->width, gradient);
        if (loss)
            dtype_store(call->real, loss, 0, value);
    }
}

static xlstm_status run(const kernel_call *call, int argument, enum cpu_gate_kind kind,
                        thread_task task) {
    const int64_t *shape = call->array[argument].shape;
    rows_job job = {.call = call,
                    .library = cpu_library_of(call),
                    .kind = kind,
                    .rows = shape[0],
                    .width = shape[1],
                    .task_rows = shape[1] < TASK_ELEMENTS ? TASK_ELEMENTS / shape[1] : 1};
    thread_pool *pool;
    if (!job.library)
        return XLSTM_UNSUPPORTED;
    xlstm_status status = cpu_pool_take(call->options.threads, &pool);
    if (status != XLSTM_OK)
        return status;
    thread_pool_run(pool, (job.rows + job.task_rows - 1) / job.task_rows, task, &job);
    cpu_pool_give_back(pool);
    return XLSTM_OK;
}

xlstm_status cpu_kernel_soft_cap(const kernel_call *call) {
    return run(call, GATE_X, CPU_SOFT_CAP, gate_task);
}

xlstm_status cpu_kernel_swiglu(const kernel_call *call) {
    return run(call, GATE_X, CPU_SWIGLU, gate_task);
}

xlstm_status cpu_kernel_gelu_gate(const kernel_call *call) {
    return run(call, GATE_X, CPU_GELU_GATE, gate_task);
}

xlstm_status cpu_kernel_cross_entropy(const kernel_call *call) {
    return run(call, CROSS_ENTROPY_LOGITS, CPU_SOFT_CAP /* not used */, loss_task);
}
