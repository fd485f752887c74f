/* The mLSTM's backward with compensated accumulation, token by token, everything in two-float
 * arithmetic until an output is rounded to its float; the equations and the two sweeps are those of
 * real_mlstm_backward.c, with chunks of one token. No state is kept. s = d_qk^-1/2.
 *
 * From the first token to the last, with C and n before token t carried along:
 *   G_t  = F_t C dh_t + I_t (dh_t v_t) k_t,  n_t = F_t n + I_t k_t
 *   dq_t = s rho_t G_t + s e_t n_t,   delta_t = rho_t s (q_t G_t)
 * from the last to the first, with dC and dn after it (those of C_t and n_t without token t itself):
 *   dk_t = I_t (dC v_t + dn) + I_t (s rho_t (dh_t v_t) + s e_t) q_t
 *   dv_t = I_t dC^T k_t + I_t s rho_t (q_t k_t) dh_t
 *   dC  <- F_t (dC + s rho_t q_t dh_t^T),   dn <- F_t (dn + s e_t q_t)
 * The last terms of G, n, dk and dv are what a token has of itself. They make up equal parts of
 * q_t dq_t and k_t dk_t, whose difference is the forget gate's gradient, and stay out of it.
 *
 * A sweep goes window by window. Tasks on slices of the states' rows or columns do what costs d_qk d_v,
 * and put C dh_t, n and dC v_t + dn into work memory; then a task for every unit (a head of a sequence)
 * does the rest. dC is carried twice, since dk needs its rows and dv its columns. Sums that cross a
 * slice are made in the second kind of task: nothing depends on the cut. */
#include "ops/cpu/internal.h"

#include "base/error.h"
#include "ops/cpu/compensated.h"
#include "ops/cpu/kernel_array.h"
#include "ops/cpu/mlstm_compensated.h"
#include "ops/kernel_shape.h"

#include <math.h>
#include <string.h>

enum { WINDOW = 64, NARROWEST_COLUMNS = 64, FEWEST_ROWS = 8, ALIGNMENT = 64 };

/* What the second sweep needs of a token. */
typedef struct token {
    two_float m, keep, write;     /* F and I */
    two_float rho, e;             /* times s */
    two_float own_key, own_value; /* the weight of q_t in dk_t, of dh_t in dv_t */
    two_float from_query;         /* q_t dq_t, without what t has of itself */
    two_float dm;
    bool stored_anew;
} token;

/* What is carried from token to token, backwards. */
typedef struct gate_sums {
    two_float f, m, left_out;
    bool empty; /* the state at the beginning */
} gate_sums;

typedef struct pairs {
    float *high, *low;
} pairs;

typedef struct backward {
    const kernel_call *call;
    const cpu_compensated *kernels;
    thread_pool *pool;
    int64_t heads, tokens, d_qk, d_v, chunk;
    bool exact, normalize, stored_states;
    two_float scale, eps;
    int64_t first, count;                 /* units at work */
    int64_t slice_rows, row_slices;       /* of d_qk */
    int64_t slice_columns, column_slices; /* of d_v */
    int64_t from, to;                     /* tokens of the window */
    bool fresh;                           /* it is the first of its sweep */
    token *token;                         /* [units][tokens] */
    gate_sums *sums;                      /* [units] */
    pairs rows;                           /* [units][d_qk][d_v]: C, then dC */
    pairs columns;      /* [units][d_qk * d_v]: dC, [d_qk][width] for each slice */
    pairs n;            /* [units][d_qk]: n, then dn */
    pairs read, read_n; /* [units][WINDOW][d_qk]: C dh_t, n; then dC v_t + dn */
    pairs value;        /* [threads][d_v]: dC^T k_t */
    float *zeros;       /* [d_v]: dh, where there is none */
} backward;

/* ---- Where things lie ---- */

typedef struct unit {
    int64_t index; /* among those at work */
    int64_t batch, head;
} unit;

static unit unit_of(const backward *b, int64_t index) {
    return (unit){index, (b->first + index) / b->heads, (b->first + index) % b->heads};
}

/* [B, NH, rows, width]; NULL if absent. */
static float *row_of(const backward *b, unit u, int argument, int64_t row) {
    return cpu_element(b->call, argument, u.batch, u.head, row, 0);
}

static const float *dh_of(const backward *b, unit u, int64_t t) {
    const float *dh = row_of(b, u, MLSTM_DH, t);
    return dh ? dh : b->zeros;
}

static token *token_of(const backward *b, unit u, int64_t t) {
    return b->token + u.index * b->tokens + t;
}

static pairs shift(pairs p, int64_t count) {
    return (pairs){p.high + count, p.low + count};
}

static pairs state_row(const backward *b, unit u, int64_t row) {
    return shift(b->rows, (u.index * b->d_qk + row) * b->d_v);
}

static pairs window_row(const backward *b, pairs p, unit u, int64_t t) {
    return shift(p, (u.index * WINDOW + t - b->from) * b->d_qk);
}

/* Floats become pairs, zeros where there are none. */
static void load(const float *from, int64_t count, pairs to) {
    memset(to.low, 0, (size_t)count * sizeof(float));
    if (from)
        memcpy(to.high, from, (size_t)count * sizeof(float));
    else
        memset(to.high, 0, (size_t)count * sizeof(float));
}

/* ---- Gates ---- */

static two_float times(two_float x, two_float y) {
    return two_float_multiply(x, y);
}

static two_float negative(two_float x) {
    return two_float_make(-x.high, -x.low);
}

static bool all_zero(const float *x, int64_t count) {
    for (int64_t i = 0; x && i < count; i++)
        if (x[i] != 0)
            return false;
    return true;
}

static bool begins_empty(const backward *b, unit u) {
    bool empty = all_zero(row_of(b, u, MLSTM_N0, 0), b->d_qk);
    for (int64_t d = 0; empty && d < b->d_qk; d++)
        empty = all_zero(row_of(b, u, MLSTM_C0, d), b->d_v);
    return empty;
}

static two_float begin_m(const backward *b, unit u) {
    const float *all_m = b->stored_states ? row_of(b, u, MLSTM_ALL_M, 0) : NULL;
    return all_m ? two_float_make(*all_m, 0) : compensated_begin(b->call, u.batch, u.head);
}

static void gates_task(void *context, int64_t index, int worker) {
    const backward *b = context;
    unit u = unit_of(b, index);
    const float *i = row_of(b, u, MLSTM_I, 0), *f = row_of(b, u, MLSTM_F, 0);
    two_float m = begin_m(b, u);
    (void)worker;
    for (int64_t t = 0; t < b->tokens; t++) {
        compensated_token gates = compensated_token_of(b->call->sigmoid, i[t], f[t], &m);
        *token_of(b, u, t) = (token){
            .m = m, .keep = gates.keep, .write = gates.write, .stored_anew = gates.stored_anew};
    }
    b->sums[index].empty = begins_empty(b, u);
}

/* ---- The first sweep ---- */

/* Rows of C and n before token t, as they were given or stored; these are weighed by an m that was
 * rounded, and become weighed by ours. */
static void load_stored(const backward *b, unit u, int64_t t, int64_t first, int64_t rows) {
    int64_t border = (t + b->chunk - 1) / b->chunk;
    int c = b->stored_states ? MLSTM_ALL_C : MLSTM_C0;
    const float *n =
        b->stored_states ? row_of(b, u, MLSTM_ALL_N, border * b->d_qk) : row_of(b, u, MLSTM_N0, 0);
    const float *all_m = b->stored_states ? row_of(b, u, MLSTM_ALL_M, border) : NULL;
    two_float weight = {1, 0};
    if (all_m && t > 0 && two_float_finite(token_of(b, u, t - 1)->m.high))
        weight = two_float_exp(two_float_add_float(negative(token_of(b, u, t - 1)->m), *all_m));
    for (int64_t d = first; d < first + rows; d++) {
        pairs row = state_row(b, u, d);
        load(row_of(b, u, c, border * b->d_qk + d), b->d_v, row);
        b->kernels->blend(row.high, row.low, b->d_v, weight, two_float_make(0, 0), NULL);
    }
    pairs to = shift(b->n, u.index * b->d_qk + first);
    load(n ? n + first : NULL, rows, to);
    b->kernels->blend(to.high, to.low, rows, weight, two_float_make(0, 0), NULL);
}

static int64_t slice_of(int64_t slice, int64_t size, int64_t all, int64_t *first) {
    *first = slice * size;
    return all - *first < size ? all - *first : size;
}

/* C dh_t and n, before t joins them. */
static void read_states_task(void *context, int64_t task, int worker) {
    const backward *b = context;
    const cpu_compensated *kernels = b->kernels;
    unit u = unit_of(b, task / b->row_slices);
    int64_t first, rows = slice_of(task % b->row_slices, b->slice_rows, b->d_qk, &first);
    pairs n = shift(b->n, u.index * b->d_qk + first);
    (void)worker;
    for (int64_t t = b->from; t < b->to; t++) {
        const token *x = token_of(b, u, t);
        const float *k = row_of(b, u, MLSTM_K, t), *v = row_of(b, u, MLSTM_V, t);
        pairs g = shift(window_row(b, b->read, u, t), first);
        pairs g_n = shift(window_row(b, b->read_n, u, t), first);
        if (t == 0 || (b->stored_states && t % b->chunk == 0))
            load_stored(b, u, t, first, rows);
        memcpy(g_n.high, n.high, (size_t)rows * sizeof(float));
        memcpy(g_n.low, n.low, (size_t)rows * sizeof(float));
        for (int64_t d = 0; d < rows; d++) {
            pairs row = state_row(b, u, first + d);
            two_float sum = kernels->dot_pairs(dh_of(b, u, t), row.high, row.low, b->d_v);
            g.high[d] = sum.high;
            g.low[d] = sum.low;
            two_float weight =
                x->write.high == 0 ? x->write : two_float_multiply_float(x->write, k[first + d]);
            kernels->blend(row.high, row.low, b->d_v, x->keep, weight, v);
        }
        kernels->blend(n.high, n.low, rows, x->keep, x->write, k + first);
    }
}

/* rho, e and dm of a token from q_t n_t and q_t G_t, both scaled. */
static void divide(const backward *b, token *x, two_float qn, two_float qg) {
    bool held = !b->exact || !b->normalize; /* the denominator is a constant */
    two_float magnitude = qn.high < 0 ? negative(qn) : qn, largest = magnitude;
    two_float floor = two_float_exp(negative(x->m)), rho = {1, 0};
    if (isnan(floor.high) || two_float_less(magnitude, floor))
        largest = floor;
    bool above = two_float_less(floor, magnitude);
    if (b->normalize && two_float_finite(largest.high))
        largest = two_float_add(largest, b->eps);
    if (b->normalize)
        rho = two_float_divide(rho, largest);
    two_float delta = times(rho, qg), e = times(delta, rho);
    x->rho = times(b->scale, rho);
    if (!held && above)
        x->e = times(b->scale, qn.high > 0 ? negative(e) : e);
    if (!held && !b->call->sigmoid)
        x->dm = negative(times(e, b->eps));
}

static void query_gradient(const backward *b, unit u, int64_t t) {
    const cpu_compensated *kernels = b->kernels;
    token *x = token_of(b, u, t);
    const float *q = row_of(b, u, MLSTM_Q, t), *k = row_of(b, u, MLSTM_K, t);
    pairs g = window_row(b, b->read, u, t), g_n = window_row(b, b->read_n, u, t);
    two_float others_g = {0, 0}, others_n = {0, 0}, own_g = {0, 0}, qk = {0, 0};
    if (x->keep.high != 0) {
        others_g = times(x->keep, kernels->dot_pairs(q, g.high, g.low, b->d_qk));
        others_n = times(x->keep, kernels->dot_pairs(q, g_n.high, g_n.low, b->d_qk));
    }
    if (x->write.high != 0) {
        own_g = times(x->write, kernels->dot(dh_of(b, u, t), row_of(b, u, MLSTM_V, t), b->d_v));
        qk = kernels->dot(q, k, b->d_qk);
    }
    two_float qn = two_float_add(others_n, times(x->write, qk));
    two_float qg = two_float_add(others_g, times(own_g, qk));
    divide(b, x, times(b->scale, qn), times(b->scale, qg));
    x->from_query = two_float_add(times(x->rho, others_g), times(x->e, others_n));
    x->own_key = two_float_add(times(x->rho, own_g), times(x->e, x->write));
    x->own_value = times(times(x->write, x->rho), qk);
    if (kernel_has(b->call, MLSTM_DQ))
        kernels->sum(&(cpu_compensated_sum){.count = b->d_qk,
                                            .a = times(x->rho, x->keep),
                                            .x_high = g.high,
                                            .x_low = g.low,
                                            .b = times(x->e, x->keep),
                                            .y_high = g_n.high,
                                            .y_low = g_n.low,
                                            .c = x->own_key,
                                            .z = k,
                                            .out = row_of(b, u, MLSTM_DQ, t)});
}

static void queries_task(void *context, int64_t index, int worker) {
    const backward *b = context;
    (void)worker;
    for (int64_t t = b->from; t < b->to; t++)
        query_gradient(b, unit_of(b, index), t);
}

/* ---- Between the sweeps ---- */

/* <c, C> + <n, N> with C and N the states at work; what is absent is 0. The upstream form knows no n. */
static two_float state_product(const backward *b, unit u, int c, int n) {
    pairs of_n = shift(b->n, u.index * b->d_qk);
    two_float sum = {0, 0};
    for (int64_t d = 0; kernel_has(b->call, c) && d < b->d_qk; d++) {
        pairs row = state_row(b, u, d);
        sum = two_float_add(sum,
                            b->kernels->dot_pairs(row_of(b, u, c, d), row.high, row.low, b->d_v));
    }
    if (b->exact && kernel_has(b->call, n))
        sum = two_float_add(
            sum, b->kernels->dot_pairs(row_of(b, u, n, 0), of_n.high, of_n.low, b->d_qk));
    return sum;
}

/* <dc, C> + <dn, n> of the last state, which the upstream form leaves out again. */
static void turn_task(void *context, int64_t index, int worker) {
    const backward *b = context;
    unit u = unit_of(b, index);
    const float *dm = row_of(b, u, MLSTM_DM, 0);
    gate_sums *sums = &b->sums[index];
    (void)worker;
    if (b->stored_states)
        load_stored(b, u, b->tokens, 0, b->d_qk);
    sums->f = state_product(b, u, MLSTM_DC, MLSTM_DN);
    sums->left_out = b->exact ? two_float_make(0, 0) : sums->f;
    sums->m = two_float_add_float(negative(sums->f), dm ? *dm : 0);
}

/* ---- The second sweep ---- */

/* dC v_t + dn, before t joins them. */
static void keys_slice(const backward *b, unit u, int64_t first, int64_t rows) {
    const cpu_compensated *kernels = b->kernels;
    pairs dn = shift(b->n, u.index * b->d_qk + first);
    const float *last = b->exact ? row_of(b, u, MLSTM_DN, 0) : NULL;
    if (b->fresh)
        load(last ? last + first : NULL, rows, dn);
    for (int64_t d = first; b->fresh && d < first + rows; d++)
        load(row_of(b, u, MLSTM_DC, d), b->d_v, state_row(b, u, d));
    for (int64_t t = b->to - 1; t >= b->from; t--) {
        const token *x = token_of(b, u, t);
        const float *q = row_of(b, u, MLSTM_Q, t), *v = row_of(b, u, MLSTM_V, t);
        two_float of_c = times(x->keep, x->rho);
        pairs out = shift(window_row(b, b->read, u, t), first);
        for (int64_t d = 0; d < rows; d++) {
            pairs row = state_row(b, u, first + d);
            two_float sum = kernels->dot_pairs(v, row.high, row.low, b->d_v);
            sum = two_float_accumulate(sum, two_float_make(dn.high[d], dn.low[d]));
            out.high[d] = sum.high;
            out.low[d] = sum.low;
            two_float weight = of_c.high == 0 ? of_c : two_float_multiply_float(of_c, q[first + d]);
            kernels->blend(row.high, row.low, b->d_v, x->keep, weight, dh_of(b, u, t));
        }
        kernels->blend(dn.high, dn.low, rows, x->keep, times(x->keep, x->e), q + first);
    }
}

/* dv of some columns. */
static void values_slice(const backward *b, unit u, int64_t first, int64_t columns, pairs sum) {
    const cpu_compensated *kernels = b->kernels;
    pairs state = shift(b->columns, (u.index * b->d_v + first) * b->d_qk);
    for (int64_t d = 0; b->fresh && d < b->d_qk; d++) {
        const float *dc = row_of(b, u, MLSTM_DC, d);
        load(dc ? dc + first : NULL, columns, shift(state, d * columns));
    }
    for (int64_t t = b->to - 1; t >= b->from; t--) {
        const token *x = token_of(b, u, t);
        const float *q = row_of(b, u, MLSTM_Q, t), *k = row_of(b, u, MLSTM_K, t);
        const float *dh = dh_of(b, u, t) + first;
        two_float of_c = times(x->keep, x->rho);
        load(NULL, columns, sum);
        for (int64_t d = 0; d < b->d_qk; d++) {
            pairs row = shift(state, d * columns);
            two_float weight = of_c.high == 0 ? of_c : two_float_multiply_float(of_c, q[d]);
            if (x->write.high != 0)
                kernels->add_pairs(sum.high, sum.low, columns, k[d], row.high, row.low);
            kernels->blend(row.high, row.low, columns, x->keep, weight, dh);
        }
        kernels->sum(&(cpu_compensated_sum){.count = columns,
                                            .a = x->write,
                                            .x_high = sum.high,
                                            .x_low = sum.low,
                                            .c = x->own_value,
                                            .z = dh,
                                            .out = row_of(b, u, MLSTM_DV, t) + first});
    }
}

static void gradients_task(void *context, int64_t task, int worker) {
    const backward *b = context;
    int64_t slices = b->row_slices + b->column_slices, slice = task % slices, first, count;
    unit u = unit_of(b, task / slices);
    if (slice < b->row_slices) {
        count = slice_of(slice, b->slice_rows, b->d_qk, &first);
        keys_slice(b, u, first, count);
    } else {
        count = slice_of(slice - b->row_slices, b->slice_columns, b->d_v, &first);
        values_slice(b, u, first, count, shift(b->value, worker * b->d_v));
    }
}

/* Slope of log(sigmoid(x)): sigmoid(-x). */
static two_float slope(float x) {
    return two_float_exp(two_float_log_sigmoid(-x));
}

/* k^T dk is `own` + `others`. Where nothing is carried over, the gradient of log_f is 0 and its sum
 * starts anew. A gradient of m goes to what was the maximum. */
static void gate_gradients(const backward *b, unit u, int64_t t, two_float own, two_float others) {
    const token *x = token_of(b, u, t);
    gate_sums *sums = &b->sums[u.index];
    bool closed = x->keep.high == 0 || (t == 0 && sums->empty);
    sums->f = closed ? two_float_make(0, 0)
                     : two_float_add(sums->f, two_float_subtract(x->from_query, others));
    two_float dlog_i = two_float_add(own, others);
    two_float dlog_f = two_float_subtract(sums->f, sums->left_out);
    if (b->exact && !b->call->sigmoid) {
        two_float *winner = x->stored_anew ? &dlog_i : &dlog_f;
        sums->m = x->m.high == -INFINITY ? two_float_make(0, 0) : two_float_add(sums->m, x->dm);
        *winner = two_float_add(*winner, sums->m);
        if (x->stored_anew)
            sums->m = two_float_make(0, 0);
    }
    float *di = row_of(b, u, MLSTM_DI, 0), *df = row_of(b, u, MLSTM_DF, 0);
    if (di)
        di[t] =
            b->call->sigmoid ? times(dlog_i, slope(row_of(b, u, MLSTM_I, 0)[t])).high : dlog_i.high;
    if (df)
        df[t] = times(dlog_f, slope(row_of(b, u, MLSTM_F, 0)[t])).high;
}

static void keys_task(void *context, int64_t index, int worker) {
    const backward *b = context;
    const cpu_compensated *kernels = b->kernels;
    unit u = unit_of(b, index);
    (void)worker;
    for (int64_t t = b->to - 1; t >= b->from; t--) {
        const token *x = token_of(b, u, t);
        const float *q = row_of(b, u, MLSTM_Q, t), *k = row_of(b, u, MLSTM_K, t);
        pairs others = window_row(b, b->read, u, t);
        two_float of_own = {0, 0}, of_others = {0, 0};
        if (x->write.high != 0) {
            of_own = times(x->own_key, kernels->dot(q, k, b->d_qk));
            of_others = times(x->write, kernels->dot_pairs(k, others.high, others.low, b->d_qk));
        }
        gate_gradients(b, u, t, of_own, of_others);
        if (kernel_has(b->call, MLSTM_DK))
            kernels->sum(&(cpu_compensated_sum){.count = b->d_qk,
                                                .a = x->write,
                                                .x_high = others.high,
                                                .x_low = others.low,
                                                .c = x->own_key,
                                                .z = q,
                                                .out = row_of(b, u, MLSTM_DK, t)});
    }
}

/* The gradients of the initial state. C0 and n0 stand for exp(m_0) times as much. */
static void finish_task(void *context, int64_t index, int worker) {
    const backward *b = context;
    unit u = unit_of(b, index);
    float *dn0 = row_of(b, u, MLSTM_DN0, 0), *dm0 = row_of(b, u, MLSTM_DM0, 0);
    size_t row = (size_t)b->d_v * sizeof(float), n = (size_t)b->d_qk * sizeof(float);
    (void)worker;
    for (int64_t d = 0; kernel_has(b->call, MLSTM_DC0) && d < b->d_qk; d++)
        memcpy(row_of(b, u, MLSTM_DC0, d), state_row(b, u, d).high, row);
    if (dn0)
        memcpy(dn0, b->n.high + index * b->d_qk, n);
    if (dm0)
        *dm0 = b->exact
                   ? two_float_add(b->sums[index].m, state_product(b, u, MLSTM_C0, MLSTM_N0)).high
                   : 0;
}

/* ---- The call ---- */

static int64_t divided(int64_t count, int64_t parts) {
    return (count + parts - 1) / parts;
}

static void run_group(backward *b) {
    int64_t parts = divided(thread_pool_size(b->pool), b->count);
    int64_t rows = divided(b->d_qk, parts), columns = cpu_padded(divided(b->d_v, parts));
    b->slice_rows = rows > FEWEST_ROWS ? rows : FEWEST_ROWS;
    b->slice_columns = columns > NARROWEST_COLUMNS ? columns : NARROWEST_COLUMNS;
    b->row_slices = divided(b->d_qk, b->slice_rows);
    b->column_slices = kernel_has(b->call, MLSTM_DV) ? divided(b->d_v, b->slice_columns) : 0;
    thread_pool_run(b->pool, b->count, gates_task, b);
    for (b->from = 0; b->from < b->tokens; b->from = b->to) {
        b->to = b->tokens - b->from < WINDOW ? b->tokens : b->from + WINDOW;
        thread_pool_run(b->pool, b->count * b->row_slices, read_states_task, b);
        thread_pool_run(b->pool, b->count, queries_task, b);
    }
    thread_pool_run(b->pool, b->count, turn_task, b);
    b->fresh = true;
    for (b->to = b->tokens; b->to > 0; b->to = b->from, b->fresh = false) {
        b->from = (b->to - 1) / WINDOW * WINDOW;
        thread_pool_run(b->pool, b->count * (b->row_slices + b->column_slices), gradients_task, b);
        thread_pool_run(b->pool, b->count, keys_task, b);
    }
    thread_pool_run(b->pool, b->count, finish_task, b);
}

/* Memory in order; without a base nothing but the size is found. */
typedef struct layout {
    char *base;
    size_t used;
    bool overflow;
} layout;

static void *carve(layout *l, size_t element, int64_t a, int64_t b, int64_t c) {
    size_t bytes;
    l->overflow = l->overflow || __builtin_mul_overflow((size_t)a, (size_t)b, &bytes) ||
                  __builtin_mul_overflow(bytes, (size_t)c, &bytes) ||
                  __builtin_mul_overflow(bytes, element, &bytes) || bytes > SIZE_MAX / 64 ||
                  l->used > SIZE_MAX / 64;
    if (l->overflow)
        return NULL;
    void *memory = l->base ? l->base + l->used : NULL;
    l->used += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return memory;
}

static pairs carve_pairs(layout *l, int64_t a, int64_t b, int64_t c) {
    float *high = carve(l, sizeof(float), a, b, c);
    return (pairs){high, carve(l, sizeof(float), a, b, c)};
}

static void lay_out(backward *b, layout *l, int64_t units) {
    b->token = carve(l, sizeof(token), units, b->tokens, 1);
    b->sums = carve(l, sizeof(gate_sums), units, 1, 1);
    b->rows = carve_pairs(l, units, b->d_qk, b->d_v);
    b->columns = carve_pairs(l, units, b->d_qk, b->d_v);
    b->n = carve_pairs(l, units, b->d_qk, 1);
    b->read = carve_pairs(l, units, WINDOW, b->d_qk);
    b->read_n = carve_pairs(l, units, WINDOW, b->d_qk);
    b->value = carve_pairs(l, thread_pool_size(b->pool), b->d_v, 1);
    b->zeros = carve(l, sizeof(float), b->d_v, 1, 1);
}

static two_float pair_of(double value) {
    float high = cpu_to_float(value);
    return two_float_make(high, isinf(high) ? 0 : (float)(value - (double)high));
}

xlstm_status compensated_backward(const kernel_call *call, thread_pool *pool) {
    const int64_t *shape = call->array[MLSTM_Q].shape;
    backward b = {
        .call = call,
        .kernels = cpu_kernels_choose()->compensated,
        .pool = pool,
        .heads = shape[1],
        .tokens = shape[2],
        .d_qk = shape[3],
        .d_v = call->array[MLSTM_V].shape[3],
        .chunk = call->options.chunk_size ? call->options.chunk_size : KERNEL_DEFAULT_CHUNK,
        .exact = call->options.backward == XLSTM_BACKWARD_EXACT,
        .normalize = !call->sigmoid || call->options.normalize,
        .stored_states = cpu_mlstm_reads_states(call),
        .scale = pair_of(1 / sqrt((double)shape[3])),
        .eps = pair_of(call->options.eps),
    };
    int64_t units = shape[0] * shape[1], threads = thread_pool_size(pool);
    int64_t most = units < threads ? units : threads;
    layout l = {0};
    cpu_block block;
    lay_out(&b, &l, most);
    xlstm_status status = cpu_block_take(l.overflow ? SIZE_MAX : l.used, &block);
    if (status != XLSTM_OK)
        return status;
    l = (layout){.base = block.memory};
    lay_out(&b, &l, most);
    memset(b.zeros, 0, (size_t)b.d_v * sizeof(float));
    for (b.first = 0; b.first < units; b.first += b.count) {
        b.count = units - b.first < most ? units - b.first : most;
        run_group(&b);
    }
    cpu_block_give_back(&block);
    return XLSTM_OK;
}
