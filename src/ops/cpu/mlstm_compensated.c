/* The mLSTM kernels with compensated accumulation, for f32 data: gates, C, n, m, scores and sums in
 * two-float arithmetic (ops/two_float.h), about 48 bits from float operations alone. Arrays of the
 * caller are floats, so a state that is handed over is rounded once.
 *
 * This file is the forward; the backward is mlstm_compensated_backward.c.
 *
 * The tokens of a head are cut into pieces, at the borders of chunks (chunkwise, and the parallel
 * forms, which differ in m alone) or after each token (sequence, step). With C, n, m the state before a piece, and the weights of its gates
 * (mlstm_compensated.h), for each of its tokens j:
 *   p_jl  = weight_jl (q_j k_l)
 *   qn_j  = inter_j (q_j n) + sum of p_jl
 *   h_j   = s (inter_j q_j^T C + sum of p_jl v_l) / (max(|s qn_j|, exp(-m_j)) + eps),  s = d_qk^-1/2
 * and after it  C = keep C + sum of write_l k_l v_l^T,  n = keep n + sum of write_l k_l.
 *
 * A task is a head and a slice of the columns of C; gates and scores are computed anew for every
 * slice. The work memory of all threads is one block. */
#include "ops/cpu/internal.h"

#include "base/error.h"
#include "ops/cpu/compensated.h"
#include "ops/cpu/mlstm_compensated.h"
#include "ops/kernel_shape.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NARROWEST_SLICE = 64 };

typedef struct mlstm_run {
    const kernel_call *call;
    const cpu_compensated *kernels;
    int64_t heads, tokens, d_qk, d_v;
    int64_t chunk;  /* tokens between the borders that are stored */
    int64_t piece;  /* most tokens of a piece */
    int64_t slice;  /* columns of a task */
    int64_t slices; /* of a head */
    two_float scale;
    bool normalize;
    float *before; /* [units][d_qk + 1]: n and m, which other tasks may overwrite */
    float *work;   /* [threads][work_size] */
    size_t work_size;
} mlstm_run;

/* One task. */
typedef struct head {
    const mlstm_run *job;
    int64_t batch, index, column, columns;
    float *c_high, *c_low, *n_high, *n_low; /* [d_qk][columns], [d_qk] */
    float *sum_high, *sum_low;              /* [columns] */
    two_float m;
} head;

/* ---- Where things lie ---- */

/* Row `row` of this head: [B, NH, rows, width], or [B, NH, width], which is one row. */
static float *row_of(const head *a, int argument, int64_t row) {
    const xlstm_array *x = &a->job->call->array[argument];
    return (float *)x->data + kernel_offset(x, a->batch, a->index) +
           (x->rank == 4 ? row * x->stride[2] : 0);
}

static bool has(const head *a, int argument) {
    return kernel_has(a->job->call, argument);
}

/* ---- States ---- */

static void load_state(head *a) {
    const mlstm_run *job = a->job;
    size_t c_count = (size_t)(job->d_qk * a->columns), n_count = (size_t)job->d_qk;
    const float *before = job->before + (a->batch * job->heads + a->index) * (job->d_qk + 1);
    memset(a->c_high, 0, c_count * sizeof(float));
    memset(a->c_low, 0, c_count * sizeof(float));
    memset(a->n_low, 0, n_count * sizeof(float));
    for (int64_t d = 0; has(a, MLSTM_C0) && d < job->d_qk; d++)
        memcpy(a->c_high + d * a->columns, row_of(a, MLSTM_C0, d) + a->column,
               (size_t)a->columns * sizeof(float));
    memcpy(a->n_high, before, n_count * sizeof(float));
    a->m = two_float_make(before[job->d_qk], 0);
}

/* The state as border `border` of the arrays c, n, m. m is rounded first, and what it loses there is
 * put into C and n before they are rounded. */
static void store_state(const head *a, int c, int n, int m, int64_t border) {
    int64_t d_qk = a->job->d_qk;
    two_float weight = two_float_finite(a->m.high) ? fast_two_sum(1, a->m.low) : (two_float){1, 0};
    for (int64_t d = 0; has(a, c) && d < d_qk; d++) {
        float *row = row_of(a, c, border * d_qk + d) + a->column;
        for (int64_t e = 0; e < a->columns; e++) {
            int64_t at = d * a->columns + e;
            two_float value = {a->c_high[at], a->c_low[at]};
            row[e] = weight.low == 0 ? value.high : two_float_multiply(value, weight).high;
        }
    }
    if (a->column > 0)
        return;
    for (int64_t d = 0; has(a, n) && d < d_qk; d++) {
        two_float value = {a->n_high[d], a->n_low[d]};
        row_of(a, n, 0)[border * d_qk + d] =
            weight.low == 0 ? value.high : two_float_multiply(value, weight).high;
    }
    if (has(a, m))
        row_of(a, m, 0)[border] = a->m.high;
}

static void store_border(const head *a, int64_t border) {
    if (a->job->call->form == KERNEL_CHUNKWISE)
        store_state(a, MLSTM_ALL_C, MLSTM_ALL_N, MLSTM_ALL_M, border);
}

/* ---- A piece ---- */

/* max(|s qn|, floor) + eps, or 1, over s: what inter q^T C + ... is divided by. */
static two_float denominator(const mlstm_run *job, two_float qn, two_float floor) {
    two_float value = two_float_make(1, 0);
    if (job->normalize) {
        value = two_float_multiply(qn, job->scale);
        if (value.high < 0)
            value = two_float_make(-value.high, -value.low);
        if (isnan(floor.high) || two_float_less(value, floor))
            value = floor;
        if (two_float_finite(value.high))
            value = two_float_add_float(value, (float)job->call->options.eps);
    }
    return two_float_divide(value, job->scale);
}

static void read_token(const head *a, const compensated_gates *g, int64_t first, int j) {
    const mlstm_run *job = a->job;
    float p[COMPENSATED_PIECE];
    const float *q = row_of(a, MLSTM_Q, first + j);
    two_float qn = {0, 0};
    if (g->inter[j].high != 0)
        qn = two_float_multiply(job->kernels->dot_pairs(q, a->n_high, a->n_low, job->d_qk),
                                g->inter[j]);
    for (int l = 0; l <= j; l++) {
        p[l] = 0;
        if (l < g->begin[j])
            continue;
        two_float score = job->kernels->dot(q, row_of(a, MLSTM_K, first + l), job->d_qk);
        p[l] = compensated_weight(g, j, l, score);
        if (p[l] != 0)
            qn = two_float_add_float(qn, p[l]);
    }
    const xlstm_array *v = &job->call->array[MLSTM_V];
    job->kernels->read(&(cpu_compensated_read){
        .high = a->c_high,
        .low = a->c_low,
        .rows = job->d_qk,
        .columns = a->columns,
        .q = q,
        .inter = g->inter[j],
        .denominator = denominator(job, qn, g->floor[j]),
        .tokens = j + 1,
        .p = p,
        .v = row_of(a, MLSTM_V, first) + a->column,
        .v_stride = v->stride[2],
        .sum_high = a->sum_high,
        .sum_low = a->sum_low,
        .h = row_of(a, MLSTM_H, first + j) + a->column,
    });
}

static void write_tokens(const head *a, const compensated_gates *g, int64_t first, int tokens) {
    const mlstm_run *job = a->job;
    const float *k = row_of(a, MLSTM_K, first), *v = row_of(a, MLSTM_V, first) + a->column;
    int64_t k_stride = job->call->array[MLSTM_K].stride[2];
    cpu_compensated_update update = {
        .high = a->c_high,
        .low = a->c_low,
        .rows = job->d_qk,
        .columns = a->columns,
        .keep = g->keep,
        .tokens = tokens,
        .write = g->write,
        .x = k,
        .x_stride = k_stride,
        .y = v,
        .y_stride = job->call->array[MLSTM_V].stride[2],
    };
    job->kernels->update(&update);
    update.high = a->n_high;
    update.low = a->n_low;
    update.rows = 1;
    update.columns = job->d_qk;
    update.x = NULL;
    update.y = k;
    update.y_stride = k_stride;
    job->kernels->update(&update);
}

static void run_task(void *context, int64_t task, int worker) {
    const mlstm_run *job = context;
    float *work = job->work + (size_t)worker * job->work_size;
    int64_t unit = task / job->slices, column = task % job->slices * job->slice;
    int64_t left = job->d_v - column;
    head a = {.job = job,
              .batch = unit / job->heads,
              .index = unit % job->heads,
              .column = column,
              .columns = left < job->slice ? left : job->slice};
    a.c_high = work;
    a.c_low = a.c_high + job->d_qk * job->slice;
    a.n_high = a.c_low + job->d_qk * job->slice;
    a.n_low = a.n_high + job->d_qk;
    a.sum_high = a.n_low + job->d_qk;
    a.sum_low = a.sum_high + job->slice;
    load_state(&a);
    const float *i = row_of(&a, MLSTM_I, 0), *f = row_of(&a, MLSTM_F, 0);
    for (int64_t t = 0, length; t < job->tokens; t += length) {
        int64_t room = job->chunk - t % job->chunk;
        length = job->tokens - t < room ? job->tokens - t : room;
        length = length < job->piece ? length : job->piece;
        if (t % job->chunk == 0)
            store_border(&a, t / job->chunk);
        compensated_gates gates;
        compensated_gates_of(job->call->sigmoid, i + t, f + t, (int)length, &a.m, &gates);
        for (int j = 0; has(&a, MLSTM_H) && j < length; j++)
            read_token(&a, &gates, t, j);
        write_tokens(&a, &gates, t, (int)length);
    }
    store_border(&a, (job->tokens - 1) / job->chunk + 1);
    store_state(&a, MLSTM_C, MLSTM_N, MLSTM_M, 0);
}

/* ---- The call ---- */

/* n and m at the beginning. */
static void copy_before(const mlstm_run *job, int64_t batches) {
    const kernel_call *call = job->call;
    const xlstm_array *n0 = &call->array[MLSTM_N0];
    float *before = job->before;
    for (int64_t b = 0; b < batches; b++)
        for (int64_t h = 0; h < job->heads; h++, before += job->d_qk + 1) {
            memset(before, 0, (size_t)(job->d_qk + 1) * sizeof(float));
            if (kernel_has(call, MLSTM_N0))
                memcpy(before, (const float *)n0->data + kernel_offset(n0, b, h),
                       (size_t)job->d_qk * sizeof(float));
            before[job->d_qk] = compensated_begin(call, b, h).high;
        }
}

/* Fills in what follows from the shapes, but for the memory. */
static mlstm_run make_job(const kernel_call *call) {
    const xlstm_array *q = &call->array[MLSTM_Q], *v = &call->array[MLSTM_V];
    int64_t chunk = call->options.chunk_size ? call->options.chunk_size : KERNEL_DEFAULT_CHUNK;
    double scale = 1 / sqrt((double)q->shape[3]);
    bool by_token = call->form == KERNEL_SEQUENCE || call->form == KERNEL_STEP;
    return (mlstm_run){
        .call = call,
        .kernels = cpu_kernels_choose()->compensated,
        .heads = q->shape[1],
        .tokens = q->shape[2],
        .d_qk = q->shape[3],
        .d_v = v->shape[3],
        .chunk = chunk,
        .piece = by_token ? 1 : COMPENSATED_PIECE,
        .slice = v->shape[3],
        .slices = 1,
        .scale = two_float_make((float)scale, (float)(scale - (double)(float)scale)),
        .normalize = !call->sigmoid || call->options.normalize,
    };
}

static xlstm_status run_job(mlstm_run *job, int64_t batches, thread_pool *pool) {
    int64_t units = batches * job->heads;
    while (units * job->slices < thread_pool_size(pool) && job->slice > NARROWEST_SLICE) {
        job->slice = cpu_padded(job->slice / 2);
        job->slices = (job->d_v + job->slice - 1) / job->slice;
    }
    size_t state = 0, before = 0, total = 0;
    bool too_large =
        __builtin_mul_overflow((size_t)job->d_qk, 2 * (size_t)job->slice + 2, &state) ||
        __builtin_add_overflow(state, 2 * (size_t)job->slice, &job->work_size) ||
        __builtin_mul_overflow((size_t)job->d_qk + 1, (size_t)units, &before) ||
        __builtin_mul_overflow(job->work_size, (size_t)thread_pool_size(pool), &total) ||
        __builtin_add_overflow(total, before, &total) ||
        __builtin_mul_overflow(total, sizeof(float), &total);
    float *memory = too_large ? NULL : malloc(total);
    if (!memory)
        return error_memory(too_large ? SIZE_MAX : total, "the states of the mLSTM");
    job->before = memory;
    job->work = memory + before;
    copy_before(job, batches);
    thread_pool_run(pool, units * job->slices, run_task, job);
    free(memory);
    return XLSTM_OK;
}

/* The backward comes first: a last state may be written where the initial one was. */
static xlstm_status run_call(const kernel_call *call, thread_pool *pool) {
    xlstm_status status = XLSTM_OK;
    if (call->options.backward != XLSTM_FORWARD)
        status = compensated_backward(call, pool);
    if (status != XLSTM_OK || !cpu_mlstm_has_forward(call))
        return status;
    kernel_call forward = *call;
    for (int i = MLSTM_ALL_C; cpu_mlstm_reads_states(call) && i <= MLSTM_ALL_M; i++)
        forward.array[i].data = NULL; /* inputs */
    mlstm_run job = make_job(&forward);
    return run_job(&job, call->array[MLSTM_Q].shape[0], pool);
}

xlstm_status cpu_kernel_mlstm_compensated(const kernel_call *call) {
    thread_pool *pool;
    if (!cpu_kernels_choose())
        return XLSTM_UNSUPPORTED;
    xlstm_status status = cpu_pool_take(call->options.threads, &pool);
    if (status != XLSTM_OK)
        return status;
    status = run_call(call, pool);
    cpu_pool_give_back(pool);
    return status;
}
