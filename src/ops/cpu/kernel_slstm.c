/* The sLSTM and LSTM of the kernel library. A task is a head of some rows of the batch, which go
 * through time together, so that the recurrent weights are read once a token for all of them; what a
 * row gets does not depend on the others. With a backward all states and raw gates are kept; the
 * gates become their gradients where they lie, and R's gradient is one product over all tokens at
 * the end. */
#include "ops/cpu/kernel_array.h"

#include <stdlib.h>

enum { Y, C, N, M, STATES, GATES = 4, MOST_ROWS = 8, WEIGHT_ROWS = 16 };

typedef struct cell_job {
    const kernel_call *call;
    const cpu_library *library;
    int64_t batch, tokens, heads, size;
    int states;
    bool backward;
    int64_t group;  /* rows of a task */
    int64_t kept;   /* tokens whose states are kept: all and the first, or two */
    void *state;    /* [heads][kept][batch][STATES][size] */
    void *gate;     /* [heads][tokens, or 1][batch][GATES][size] */
    void *turned;   /* [heads][GATES * size][size]: R transposed; backward only */
    void *gradient; /* [heads][batch][STATES][size]: of the states */
} cell_job;

/* ---- Where things lie ---- */

static void *state_at(const cell_job *job, int64_t head, int64_t t, int64_t b, int which) {
    int64_t row = (head * job->kept + (job->backward ? t : t % 2)) * job->batch + b;
    return cpu_shift(job->call, job->state, (row * STATES + which) * job->size);
}

static void *gate_at(const cell_job *job, int64_t head, int64_t t, int64_t b, int gate) {
    int64_t row = (job->backward ? head * job->tokens + t : head) * job->batch + b;
    return cpu_shift(job->call, job->gate, (row * GATES + gate) * job->size);
}

static void *gradient_at(const cell_job *job, int64_t head, int64_t b, int which) {
    return cpu_shift(job->call, job->gradient,
                     ((head * job->batch + b) * STATES + which) * job->size);
}

/* Rows [first, first + count) of the batch, of one head. */
typedef struct rows {
    int64_t head, first, count;
} rows;

/* ---- Forward ---- */

static void unit_step(const cell_job *job, int64_t head, int64_t t, int64_t b) {
    const kernel_call *call = job->call;
    cpu_copy_row(call, state_at(job, head, t, b, C), 3 * job->size,
                 state_at(job, head, t + 1, b, C));
    cpu_cell cell = {.lstm = call->lstm,
                     .y = state_at(job, head, t + 1, b, Y),
                     .c = state_at(job, head, t + 1, b, C),
                     .n = state_at(job, head, t + 1, b, N),
                     .m = state_at(job, head, t + 1, b, M),
                     .clip = call->options.forward_clip,
                     .count = job->size};
    for (int g = 0; g < GATES; g++) {
        cell.input[g] = cpu_element(call, SLSTM_X, b, t, g, head);
        cell.bias[g] = cpu_element(call, SLSTM_B, g, head, 0, 0);
        cell.mixed[g] = gate_at(job, head, t, b, g);
        cell.raw[g] = job->backward ? gate_at(job, head, t, b, g) : NULL;
    }
    job->library->cell(&cell);
    cpu_copy_row(call, cell.y, job->size, cpu_element(call, SLSTM_Y, b, t, head, 0));
    for (int i = 0; i < job->states; i++)
        cpu_copy_row(call, state_at(job, head, t + 1, b, i), job->size,
                     cpu_element(call, SLSTM_ALL_S, i, b, t, head));
}

static void forward(const cell_job *job, rows r) {
    const kernel_call *call = job->call;
    for (int64_t b = r.first; b < r.first + r.count; b++)
        for (int i = 0; i < job->states; i++)
            cpu_copy_row(call, cpu_element(call, SLSTM_S0, i, b, r.head, 0), job->size,
                         state_at(job, r.head, 0, b, i));
    for (int64_t t = 0; t < job->tokens; t++) {
        job->library->combine(&(cpu_combine){
            .a = state_at(job, r.head, t, r.first, Y),
            .a_row = STATES * job->size,
            .a_term = 1,
            .b = cpu_element(call, SLSTM_R, r.head, 0, 0, 0),
            .b_stride = call->array[SLSTM_R].stride[1],
            .z = gate_at(job, r.head, t, r.first, 0),
            .z_stride = GATES * job->size,
            .rows = r.count,
            .terms = job->size,
            .columns = GATES * job->size,
        });
        for (int64_t b = r.first; b < r.first + r.count; b++)
            unit_step(job, r.head, t, b);
    }
    for (int64_t b = r.first; b < r.first + r.count; b++)
        for (int i = 0; i < job->states; i++)
            cpu_copy_row(call, state_at(job, r.head, job->tokens, b, i), job->size,
                         cpu_element(call, SLSTM_S, i, b, r.head, 0));
}

/* ---- Backward ---- */

static void unit_back(const cell_job *job, int64_t head, int64_t t, int64_t b) {
    const kernel_call *call = job->call;
    cpu_cell_gradient cell = {.lstm = call->lstm,
                              .c = state_at(job, head, t, b, C),
                              .n = state_at(job, head, t, b, N),
                              .m = state_at(job, head, t, b, M),
                              .c_new = state_at(job, head, t + 1, b, C),
                              .n_new = state_at(job, head, t + 1, b, N),
                              .dy = cpu_element(call, SLSTM_DY, b, t, head, 0),
                              .dy_next = gradient_at(job, head, b, Y),
                              .dc = gradient_at(job, head, b, C),
                              .dn = gradient_at(job, head, b, N),
                              .dm = gradient_at(job, head, b, M),
                              .clip = call->options.forward_clip,
                              .count = job->size};
    for (int g = 0; g < GATES; g++)
        cell.gate[g] = gate_at(job, head, t, b, g);
    job->library->cell_gradient(&cell);
    for (int g = 0; g < GATES; g++)
        cpu_copy_row(call, cell.gate[g], job->size, cpu_element(call, SLSTM_DX, b, t, g, head));
}

/* The gradient of y of the token before. */
static void mix_back(const cell_job *job, rows r, int64_t t) {
    const xlstm_kernel_options *options = &job->call->options;
    int64_t width = GATES * job->size;
    job->library->combine(&(cpu_combine){
        .a = gate_at(job, r.head, t, r.first, 0),
        .a_row = width,
        .a_term = 1,
        .b = cpu_shift(job->call, job->turned, r.head * width * job->size),
        .b_stride = job->size,
        .z = gradient_at(job, r.head, r.first, Y),
        .z_stride = STATES * job->size,
        .rows = r.count,
        .terms = width,
        .columns = job->size,
    });
    for (int64_t b = r.first; b < r.first + r.count; b++)
        if (options->recurrent_cut)
            cpu_copy_row(job->call, NULL, job->size, gradient_at(job, r.head, b, Y));
        else if (options->recurrent_gradient_clip != 0)
            job->library->bound(options->recurrent_gradient_clip, job->size,
                                gradient_at(job, r.head, b, Y));
}

static void backward(const cell_job *job, rows r) {
    const kernel_call *call = job->call;
    for (int64_t b = r.first; b < r.first + r.count; b++)
        for (int i = 0; i < job->states; i++)
            cpu_copy_row(call, cpu_element(call, SLSTM_DS, i, b, r.head, 0), job->size,
                         gradient_at(job, r.head, b, i));
    for (int64_t t = job->tokens - 1; t >= 0; t--) {
        for (int64_t b = r.first; b < r.first + r.count; b++)
            unit_back(job, r.head, t, b);
        mix_back(job, r, t);
    }
    for (int64_t b = r.first; b < r.first + r.count; b++)
        for (int i = 0; i < job->states; i++)
            cpu_copy_row(call, gradient_at(job, r.head, b, i), job->size,
                         cpu_element(call, SLSTM_DS0, i, b, r.head, 0));
}

static void cell_task(void *context, int64_t task, int worker) {
    (void)worker;
    const cell_job *job = context;
    rows r = {.head = task % job->heads, .first = task / job->heads * job->group};
    int64_t left = job->batch - r.first;
    r.count = left < job->group ? left : job->group;
    forward(job, r);
    if (job->backward)
        backward(job, r);
}

/* dR [p][j] = sum over tokens and rows of y[p] d(gate[j]), for some p of a head; and db. */
static void weight_task(void *context, int64_t task, int worker) {
    (void)worker;
    const cell_job *job = context;
    const kernel_call *call = job->call;
    int64_t blocks = (job->size + WEIGHT_ROWS - 1) / WEIGHT_ROWS, width = GATES * job->size;
    int64_t head = task / blocks, first = task % blocks * WEIGHT_ROWS, left = job->size - first;
    cpu_combine sum = {.a = cpu_shift(call, state_at(job, head, 0, 0, Y), first),
                       .a_row = 1,
                       .a_term = STATES * job->size,
                       .b = gate_at(job, head, 0, 0, 0),
                       .b_stride = width,
                       .z = cpu_element(call, SLSTM_DR, head, first, 0, 0),
                       .z_stride = call->array[SLSTM_DR].stride[1],
                       .rows = left < WEIGHT_ROWS ? left : WEIGHT_ROWS,
                       .terms = job->tokens * job->batch,
                       .columns = width};
    if (sum.z)
        job->library->combine(&sum);
    if (first > 0 || !kernel_has(call, SLSTM_DB))
        return;
    for (int g = 0; g < GATES; g++)
        job->library->combine(&(cpu_combine){
            .a = cpu_one(call),
            .b = gate_at(job, head, 0, 0, g),
            .b_stride = width,
            .z = cpu_element(call, SLSTM_DB, g, head, 0, 0),
            .rows = 1,
            .terms = sum.terms,
            .columns = job->size,
        });
}

/* ---- The kernel ---- */

static void run(cell_job *job, thread_pool *pool) {
    const kernel_call *call = job->call;
    int64_t width = GATES * job->size;
    /* Large groups read the weights less often; but every thread should have some. */
    int64_t share = job->batch * job->heads / thread_pool_size(pool);
    job->group = share < 1 ? 1 : share > MOST_ROWS ? MOST_ROWS : share;
    for (int64_t head = 0; job->backward && head < job->heads; head++)
        cpu_transpose(call, cpu_element(call, SLSTM_R, head, 0, 0, 0),
                      call->array[SLSTM_R].stride[1], job->size, width,
                      cpu_shift(call, job->turned, head * width * job->size), job->size);
    int64_t groups = (job->batch + job->group - 1) / job->group;
    thread_pool_run(pool, groups * job->heads, cell_task, job);
    if (job->backward)
        thread_pool_run(pool, job->heads * ((job->size + WEIGHT_ROWS - 1) / WEIGHT_ROWS),
                        weight_task, job);
}

static bool take_memory(cell_job *job) {
    int64_t units = job->heads * job->batch, gates = job->backward ? job->tokens : 1;
    job->kept = job->backward ? job->tokens + 1 : 2;
    job->state = cpu_scratch(job->call, units * STATES, job->kept * job->size);
    job->gate = job->state ? cpu_scratch(job->call, units * GATES, gates * job->size) : NULL;
    if (!job->backward)
        return job->gate;
    if (job->gate)
        job->gradient = cpu_scratch(job->call, units * STATES, job->size);
    if (job->gradient)
        job->turned = cpu_scratch(job->call, job->heads * GATES * job->size, job->size);
    return job->turned;
}

xlstm_status cpu_kernel_slstm(const kernel_call *call) {
    const int64_t *x = call->array[SLSTM_X].shape;
    cell_job job = {.call = call,
                    .library = cpu_library_of(call),
                    .batch = x[0],
                    .tokens = x[1],
                    .heads = x[3],
                    .size = x[4],
                    .states = call->lstm ? 2 : STATES,
                    .backward = call->options.backward != XLSTM_FORWARD};
    if (!job.library)
        return XLSTM_UNSUPPORTED;
    thread_pool *pool;
    xlstm_status status = XLSTM_OUT_OF_MEMORY;
    if (take_memory(&job))
        status = cpu_pool_take(call->options.threads, &pool);
    if (status == XLSTM_OK) {
        run(&job, pool);
        cpu_pool_give_back(pool);
    }
    free(job.state);
    free(job.gate);
    free(job.gradient);
    free(job.turned);
    return status;
}
