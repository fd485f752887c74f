/* The mLSTM backward, in two sweeps that keep no states (equations: docs/KERNELS.md, "Backward").
 *
 * From the first token to the last, with C^T and n carried along:
 *   G_j  = sum over l <= j of D_jl (dh_j^T v_l) k_l + bbar_j C dh_j
 *   dq_j = s (rho_j G_j + e_j n_j),   delta_j = rho_j s q_j^T G_j
 * so that h is not needed, and of each token only a few numbers are kept. Then from the last to the
 * first, with dC, dC^T and dn carried along; dn is a further row of dC^T, a further element of dh_j
 * being e_j / rho_j, and of v_l 1:
 *   dk_l = sum over j >= l of s D_jl (rho_j dh_j^T v_l + e_j) q_j + abar_l (dC v_l + dn)
 *   dv_l = sum over j >= l of s D_jl (q_j^T k_l) rho_j dh_j + abar_l dC^T k_l
 * Group by group of units, each sweep window by window; jobs are as in the forward. */
#include "ops/cpu/real_mlstm_backward.h"

enum { TASKS_PER_THREAD = 4, GROUP_BYTES = 1 << 26 };

static int64_t larger_of(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static int64_t group_size(const cpu_mlstm_call *a, int64_t state_elements) {
    int64_t units = a->sequence_count * a->heads;
    int64_t bytes =
        state_elements * (int64_t)sizeof(real) + a->longest * 4 * (int64_t)sizeof(double);
    int64_t most = GROUP_BYTES / bytes;
    return most < 1 ? 1 : most < units ? most : units;
}

static backward lay_out_backward(carver *c, const cpu_mlstm_call *a) {
    backward b = {.a = a, .scale = 1 / sqrt((double)a->d_qk), .dh = a->dh};
    b.transposed_size = packed_size(a->d_v + 1, a->d_qk);
    b.state_size = packed_size(a->d_qk, a->d_v);
    int64_t units = group_size(a, b.transposed_size + b.state_size);
    b.t = lay_out(c, a, units, a->d_v + 1);
    units = b.t.units;
    const tables *t = &b.t;
    int64_t chunk = a->chunk_size < a->longest ? a->chunk_size : a->longest;
    int64_t pieces = ((a->longest - 1) / chunk + 1) * ((chunk - 1) / t->length + 1);
    b.windows = (pieces - 1) / t->pieces + 1;
    b.window_token = carve(c, sizeof(int64_t), b.windows, 1, 1);
    b.window_m = carve(c, sizeof(double), units, b.windows, 1);
    b.m_now = carve(c, sizeof(double), units, 1, 1);
    b.n = carve(c, sizeof(double), units, a->d_qk, 1);
    b.rho = carve(c, sizeof(double), units, a->longest, 1);
    b.e = carve(c, sizeof(double), units, a->longest, 1);
    b.dm = carve(c, sizeof(double), units, a->longest, 1);
    b.q_dq = carve(c, sizeof(double), units, a->longest, 1);
    b.sum_f = carve(c, sizeof(double), units, 1, 1);
    b.sum_m = carve(c, sizeof(double), units, 1, 1);
    b.left_out = carve(c, sizeof(double), units, 1, 1);
    b.empty = carve(c, sizeof(bool), units, 1, 1);
    b.y_weight = carve(c, sizeof(real), t->rows, 1, 1);
    b.y_q_size = panels_size(t->length, a->d_qk);
    b.y_q = carve(c, sizeof(real), t->all_pieces, b.y_q_size, 1);
    b.p_keys = carve(c, sizeof(real), t->rows, t->p_stride, 1);
    b.diagonal = carve(c, sizeof(real), t->rows, 1, 1);
    b.g = carve(c, sizeof(real), t->rows, a->d_qk, 1);
    b.transposed = carve(c, sizeof(real), units, b.transposed_size, 1);
    b.state = carve(c, sizeof(real), units, b.state_size, 1);
    b.z_size = packed_size(t->length, larger_of(a->d_qk, a->d_v));
    b.z = carve(c, sizeof(real), a->threads, b.z_size, 1);
    b.zeros = carve(c, sizeof(real), a->d_v, 1, 1);
    return b;
}

static cut cut_columns(const backward *b, int64_t columns) {
    int64_t wanted = (int64_t)TASKS_PER_THREAD * b->a->threads;
    int64_t blocks = (columns + BLOCK - 1) / BLOCK, slices = (wanted - 1) / b->count + 1;
    slices = slices > blocks ? blocks : slices;
    int64_t slice = (blocks + slices - 1) / slices * BLOCK;
    return (cut){slice, (columns + slice - 1) / slice};
}

/* ---- The second sweep ---- */

static void scan_task(void *context, int64_t index, int worker) {
    const backward *b = context;
    unit u = unit_of(b, index);
    (void)worker;
    b->t.next[index] = b->window_token[b->window];
    scan_gates(&b->t, &u, index, b->window_m[index * b->windows + b->window]);
}

/* p = s rho_j (q_j^T k_l) D_jl,  p_keys = s (rho_j dh_j^T v_l + e_j) D_jl with the diagonal set aside */
static void key_row(void *context, int64_t token, const real *weights) {
    const scores *s = context;
    const backward *b = s->b;
    const tables *t = &b->t;
    int64_t j = token - s->at * t->length, from = kept(b, s->index, t->piece[s->at].first + j);
    real *p = t->p + token * t->p_stride, *p_keys = b->p_keys + token * t->p_stride;
    real rho = (real)(b->scale * b->rho[from]), e = (real)(b->scale * b->e[from]);
    for (int64_t l = 0; l <= j; l++) {
        p[l] = weights[l] == 0 ? 0 : rho * p[l] * weights[l];
        p_keys[l] = weights[l] == 0 ? 0 : (rho * p_keys[l] + e) * weights[l];
    }
    b->diagonal[token] = p_keys[j];
    p_keys[j] = 0;
    b->y_weight[token] = (real)(t->carried[token] * b->scale * b->rho[from]);
    t->inter[token] = (real)(t->carried[token] * b->scale * b->e[from]);
}

static void key_scores_task(void *context, int64_t at, int worker) {
    const backward *b = context;
    const cpu_mlstm_call *a = b->a;
    const tables *t = &b->t;
    const piece *p = &t->piece[at];
    int64_t index = at / t->pieces, row = at * t->length;
    unit u = unit_of(b, index);
    (void)worker;
    if (p->tokens == 0)
        return;
    const real *q = token_row(&a->q, &u, p->first), *dh = token_row(&b->dh, &u, p->first);
    raw_scores(0, p->tokens, a->d_qk, q, a->q.row, token_row(&a->k, &u, p->first), a->k.row,
               t->p + row * t->p_stride, t->p_stride);
    raw_scores(0, p->tokens, a->d_v, dh, b->dh.row, token_row(&a->v, &u, p->first), a->v.row,
               b->p_keys + row * t->p_stride, t->p_stride);
    weigh_scores(t, at, key_row, &(scores){b, u, index, at});
    pack_panels(dh, b->dh.row, b->y_weight + row, t->inter + row, p->tokens, t->length, a->d_v,
                t->y + at * t->y_size);
    pack_panels(q, a->q.row, b->y_weight + row, NULL, p->tokens, t->length, a->d_qk,
                b->y_q + at * b->y_q_size);
}

/* dC^T with dn as its last row, at the end. */
static void begin_keys(const backward *b, const unit *u, int64_t first, int64_t count,
                       real *packed) {
    const cpu_mlstm_call *a = b->a;
    int64_t rows = a->d_v + 1;
    const real *dn = a->exact && a->dn.data ? state_row(&a->dn, u, 0) + first : NULL;
    if (a->dc.data)
        pack_transposed(state_row(&a->dc, u, first), a->dc.row, a->d_v, count, rows, packed);
    else
        pack(NULL, 0, rows, count, packed);
    for (int64_t column = 0; column < count; column += BLOCK) {
        int64_t here = count - column < BLOCK ? count - column : BLOCK;
        int64_t width = round_up(here, LANES);
        real *row = packed_columns(packed, rows, column) + a->d_v * width;
        memset(row, 0, (size_t)width * sizeof(real));
        if (dn)
            memcpy(row, dn + column, (size_t)here * sizeof(real));
    }
}

static void keys_task(const backward *b, int64_t index, int64_t slice, int worker) {
    const cpu_mlstm_call *a = b->a;
    const tables *t = &b->t;
    int64_t first = slice * b->keys.slice, left = a->d_qk - first;
    int64_t count = left < b->keys.slice ? left : b->keys.slice;
    unit u = unit_of(b, index);
    real *state = packed_columns(b->transposed + index * b->transposed_size, a->d_v + 1, first);
    if (b->fresh)
        begin_keys(b, &u, first, count, state);
    for (int64_t at = (index + 1) * t->pieces - 1; at >= index * t->pieces; at--) {
        const piece *p = &t->piece[at];
        int64_t row = at * t->length;
        if (p->tokens == 0)
            continue;
        real *dk = a->dk.data ? token_row(&a->dk, &u, p->first) : b->g + row * a->d_qk;
        sweep_piece(&(sweep){
            .state = state,
            .depth = a->d_v,
            .extra = true,
            .columns = count,
            .tokens = p->tokens,
            .length = t->length,
            .reverse = true,
            .x = token_row(&a->v, &u, p->first),
            .x_stride = a->v.row,
            .p = b->p_keys + row * t->p_stride,
            .p_row = 1,
            .p_term = t->p_stride,
            .z = token_row(&a->q, &u, p->first) + first,
            .z_stride = a->q.row,
            .z_packed = b->z + worker * b->z_size,
            .y = t->y + at * t->y_size,
            .y_weight = b->y_weight + row,
            .inter = t->write + row,
            .keep = t->keep[at],
            .o = dk + first,
            .o_stride = a->dk.data ? a->dk.row : a->d_qk,
            .update = true,
        });
    }
}

static void values_task(const backward *b, int64_t index, int64_t slice, int worker) {
    const cpu_mlstm_call *a = b->a;
    const tables *t = &b->t;
    int64_t first = slice * b->values.slice, left = a->d_v - first;
    int64_t count = left < b->values.slice ? left : b->values.slice;
    unit u = unit_of(b, index);
    real *state = packed_columns(b->state + index * b->state_size, a->d_qk, first);
    if (b->fresh)
        pack(a->dc.data ? state_row(&a->dc, &u, 0) + first : NULL, a->dc.row, a->d_qk, count,
             state);
    for (int64_t at = (index + 1) * t->pieces - 1; at >= index * t->pieces; at--) {
        const piece *p = &t->piece[at];
        int64_t row = at * t->length;
        if (p->tokens == 0)
            continue;
        sweep_piece(&(sweep){
            .state = state,
            .depth = a->d_qk,
            .columns = count,
            .tokens = p->tokens,
            .length = t->length,
            .reverse = true,
            .x = token_row(&a->k, &u, p->first),
            .x_stride = a->k.row,
            .p = t->p + row * t->p_stride,
            .p_row = 1,
            .p_term = t->p_stride,
            .z = token_row(&b->dh, &u, p->first) + first,
            .z_stride = b->dh.row,
            .z_packed = b->z + worker * b->z_size,
            .y = b->y_q + at * b->y_q_size,
            .y_weight = b->y_weight + row,
            .inter = t->write + row,
            .keep = t->keep[at],
            .o = a->dv.data ? token_row(&a->dv, &u, p->first) + first : NULL,
            .o_stride = a->dv.row,
            .update = true,
        });
    }
}

static void columns_task(void *context, int64_t task, int worker) {
    const backward *b = context;
    int64_t slices = b->keys.slices + b->values.slices, slice = task % slices;
    if (slice < b->keys.slices)
        keys_task(b, task / slices, slice, worker);
    else
        values_task(b, task / slices, slice - b->keys.slices, worker);
}

/* Slope of log(sigmoid(x)). */
static double slope(double x) {
    return 1 / (1 + exp(x));
}

/* What one task carries from token to token, backwards. */
typedef struct gate_sums {
    double f, m;
} gate_sums;

/* The gradients of log_i and log_f of a token, k^T dk being `own` (what it has of itself) + `others`. A
 * gradient of m goes to what was the maximum. Where nothing is carried over, that of log_f is 0, and so is the sum behind it, which starts
 * anew: no rounding errors stay. */
static void gate_gradients(const backward *b, int64_t index, int64_t at, int j, double own,
                           double others, gate_sums *sums, double *dlog_i, double *dlog_f) {
    const cpu_mlstm_call *a = b->a;
    const tables *t = &b->t;
    int64_t row = at * t->length + j, token = t->piece[at].first + j;
    bool closed = t->log_f[row] == -INFINITY || (token == 0 && b->empty[index]);
    sums->f = closed ? 0 : sums->f + b->q_dq[kept(b, index, token)] - others;
    *dlog_i = own + others;
    *dlog_f = sums->f - b->left_out[index];
    if (!a->exact || a->sigmoid)
        return;
    double before = j > 0 ? t->top[row - 1] : t->m_before[at];
    bool won = t->log_i[row] > t->log_f[row] + before;
    sums->m = t->top[row] == -INFINITY ? 0 : sums->m + b->dm[kept(b, index, token)];
    *(won ? dlog_i : dlog_f) += sums->m;
    sums->m = won ? 0 : sums->m;
}

static void gate_gradients_task(void *context, int64_t index, int worker) {
    const backward *b = context;
    const cpu_mlstm_call *a = b->a;
    const tables *t = &b->t;
    unit u = unit_of(b, index);
    gate_sums sums = {b->sum_f[index], b->sum_m[index]};
    (void)worker;
    for (int64_t at = (index + 1) * t->pieces - 1; at >= index * t->pieces; at--)
        for (int j = t->piece[at].tokens - 1; j >= 0; j--) {
            int64_t token = t->piece[at].first + j, row = at * t->length + j;
            const real *q = token_row(&a->q, &u, token), *k = token_row(&a->k, &u, token);
            real *dk = a->dk.data ? token_row(&a->dk, &u, token) : b->g + row * a->d_qk;
            real weight = b->diagonal[row];
            double own = weight != 0 ? (double)weight * dot(q, k, a->d_qk) : 0, di, df;
            gate_gradients(b, index, at, j, own, dot(k, dk, a->d_qk), &sums, &di, &df);
            for (int64_t i = 0; weight != 0 && i < a->d_qk; i++)
                dk[i] += weight * q[i];
            if (a->sigmoid)
                di *= slope((double)*token_row(&a->i, &u, token));
            df *= slope((double)*token_row(&a->f, &u, token));
            if (a->di.data)
                *token_row(&a->di, &u, token) = (real)di;
            if (a->df.data)
                *token_row(&a->df, &u, token) = (real)df;
        }
    b->sum_f[index] = sums.f;
    b->sum_m[index] = sums.m;
}

/* ---- The gradients of the initial state ---- */

/* Element `d` of dn. */
static real dn_at(const backward *b, int64_t index, int64_t d) {
    const cpu_mlstm_call *a = b->a;
    int64_t block = d / BLOCK * BLOCK, left = a->d_qk - block;
    int64_t width = round_up(left < BLOCK ? left : BLOCK, LANES);
    const real *packed = b->transposed + index * b->transposed_size;
    return packed[(a->d_v + 1) * block + a->d_v * width + d - block];
}

/* C0 and n0 stand for exp(m_0) times as much: <dC0, C0> + <dn0, n0>. */
static double initial_product(const backward *b, const unit *u, int64_t index) {
    const cpu_mlstm_call *a = b->a;
    const real *packed = b->state + index * b->state_size;
    double product = 0;
    for (int64_t d = 0; a->n0.data && d < a->d_qk; d++)
        product += (double)dn_at(b, index, d) * (double)state_row(&a->n0, u, 0)[d];
    for (int64_t column = 0; a->c0.data && column < a->d_v; column += BLOCK) {
        int64_t count = a->d_v - column < BLOCK ? a->d_v - column : BLOCK;
        for (int64_t d = 0; d < a->d_qk; d++, packed += round_up(count, LANES))
            product += dot(packed, state_row(&a->c0, u, d) + column, count);
    }
    return product;
}

static void finish_task(void *context, int64_t index, int worker) {
    const backward *b = context;
    const cpu_mlstm_call *a = b->a;
    unit u = unit_of(b, index);
    (void)worker;
    if (a->dc0.data)
        unpack(b->state + index * b->state_size, a->d_qk, a->d_v, state_row(&a->dc0, &u, 0),
               a->dc0.row);
    for (int64_t d = 0; a->dn0.data && d < a->d_qk; d++)
        state_row(&a->dn0, &u, 0)[d] = a->exact ? dn_at(b, index, d) : 0;
    if (a->dm0.data)
        *state_row(&a->dm0, &u, 0) =
            a->exact ? (real)(b->sum_m[index] + initial_product(b, &u, index)) : 0;
}

/* ---- The call ---- */

static void backward_group(backward *b) {
    const cpu_mlstm_call *a = b->a;
    const tables *t = &b->t;
    int64_t pieces = b->count * t->pieces;
    b->keys = cut_columns(b, a->d_qk);
    b->values = cut_columns(b, a->d_v);
    b->fresh = true;
    for (int64_t i = 0; i < b->count; i++)
        t->next[i] = 0;
    for (b->window = 0; t->next[0] < a->longest; b->window++, b->fresh = false) {
        b->window_token[b->window] = t->next[0];
        thread_pool_run(a->pool, b->count, query_gates_task, b);
        thread_pool_run(a->pool, pieces, query_scores_task, b);
        thread_pool_run(a->pool, b->count * b->keys.slices, query_columns_task, b);
        thread_pool_run(a->pool, pieces, queries_task, b);
    }
    thread_pool_run(a->pool, b->count, turn_task, b);
    b->fresh = true;
    while (--b->window >= 0) {
        thread_pool_run(a->pool, b->count, scan_task, b);
        thread_pool_run(a->pool, pieces, key_scores_task, b);
        thread_pool_run(a->pool, b->count * (b->keys.slices + b->values.slices), columns_task, b);
        thread_pool_run(a->pool, b->count, gate_gradients_task, b);
        b->fresh = false;
    }
    thread_pool_run(a->pool, b->count, finish_task, b);
}

size_t PER_ISA(mlstm_backward_scratch)(const cpu_mlstm_call *a) {
    carver c = {0};
    lay_out_backward(&c, a);
    return c.overflow ? SIZE_MAX : c.used;
}

void PER_ISA(mlstm_backward)(const cpu_mlstm_call *a, void *scratch) {
    carver c = {.base = scratch};
    backward b = lay_out_backward(&c, a);
    int64_t units = a->sequence_count * a->heads;
    if (!b.dh.data) {
        memset(b.zeros, 0, (size_t)a->d_v * sizeof(real));
        b.dh = (cpu_rows){.data = b.zeros};
    }
    for (b.first = 0; b.first < units; b.first += b.count) {
        b.count = units - b.first < b.t.units ? units - b.first : b.t.units;
        backward_group(&b);
    }
}
