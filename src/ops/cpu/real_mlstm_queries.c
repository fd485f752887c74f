/* The first sweep of the mLSTM's backward, from the first token to the last: dq, and the few numbers of
 * each token that the second sweep needs (equations: real_mlstm_backward.c). */
#include "ops/cpu/real_mlstm_backward.h"

static void read_n(const real *source, int64_t count, double *n) {
    for (int64_t i = 0; i < count; i++)
        n[i] = source ? (double)source[i] : 0;
}

static bool all_zero(const real *x, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (x[i] != 0)
            return false;
    return true;
}

static bool begins_empty(const cpu_mlstm_call *a, const unit *u) {
    bool empty = !a->n0.data || all_zero(state_row(&a->n0, u, 0), a->d_qk);
    for (int64_t d = 0; empty && a->c0.data && d < a->d_qk; d++)
        empty = all_zero(state_row(&a->c0, u, d), a->d_v);
    return empty;
}

void query_gates_task(void *context, int64_t index, int worker) {
    const backward *b = context;
    const cpu_mlstm_call *a = b->a;
    const tables *t = &b->t;
    unit u = unit_of(b, index);
    double *n = b->n + index * a->d_qk;
    (void)worker;
    if (b->fresh) {
        b->m_now[index] = begin_unit(&u);
        b->empty[index] = begins_empty(a, &u);
        read_n(a->n0.data ? state_row(&a->n0, &u, 0) : NULL, a->d_qk, n);
    }
    b->window_m[index * b->windows + b->window] = b->m_now[index];
    b->m_now[index] = scan_gates(t, &u, index, b->m_now[index]);
    for (int64_t at = index * t->pieces; at < (index + 1) * t->pieces; at++) {
        int64_t token = t->piece[at].first;
        if (t->piece[at].tokens == 0)
            break;
        if (begins_stored(b, token))
            read_n(state_row(&a->all_n, &u, 0) + token / a->chunk_size * a->d_qk, a->d_qk, n);
        memcpy(t->n + at * a->d_qk, n, (size_t)a->d_qk * sizeof *n);
        add_keys(t, &u, at, n);
    }
}

/* p = dh_j^T v_l D_jl, with the diagonal set aside */
static void query_row(void *context, int64_t token, const real *weights) {
    const scores *s = context;
    const tables *t = &s->b->t;
    int64_t j = token - s->at * t->length;
    real *p = t->p + token * t->p_stride;
    for (int64_t l = 0; l <= j; l++)
        p[l] = weights[l] == 0 ? 0 : p[l] * weights[l];
    s->b->diagonal[token] = p[j];
    p[j] = 0;
    t->inter[token] = (real)t->carried[token];
}

void query_scores_task(void *context, int64_t at, int worker) {
    const backward *b = context;
    const cpu_mlstm_call *a = b->a;
    const tables *t = &b->t;
    const piece *p = &t->piece[at];
    int64_t index = at / t->pieces, row = at * t->length;
    unit u = unit_of(b, index);
    (void)worker;
    if (p->tokens == 0)
        return;
    const real *v = token_row(&a->v, &u, p->first);
    raw_scores(0, p->tokens, a->d_v, token_row(&b->dh, &u, p->first), b->dh.row, v, a->v.row,
               t->p + row * t->p_stride, t->p_stride);
    weigh_scores(t, at, query_row, &(scores){b, u, index, at});
    pack_panels(v, a->v.row, t->write + row, NULL, p->tokens, t->length, a->d_v,
                t->y + at * t->y_size);
}

/* Columns of C^T, which are rows of C: `row` is the first of them. */
static void load_transposed(const backward *b, const cpu_rows *c, const unit *u, int64_t row,
                            int64_t count, real *packed) {
    int64_t d_v = b->a->d_v;
    if (c->data)
        pack_transposed(state_row(c, u, row), c->row, d_v, count, d_v, packed);
    else
        pack(NULL, 0, d_v, count, packed);
}

void query_columns_task(void *context, int64_t task, int worker) {
    const backward *b = context;
    const cpu_mlstm_call *a = b->a;
    const tables *t = &b->t;
    int64_t index = task / b->keys.slices, first = task % b->keys.slices * b->keys.slice;
    int64_t left = a->d_qk - first, count = left < b->keys.slice ? left : b->keys.slice;
    unit u = unit_of(b, index);
    real *state = packed_columns(b->transposed + index * b->transposed_size, a->d_v, first);
    if (b->fresh)
        load_transposed(b, &a->c0, &u, first, count, state);
    for (int64_t at = index * t->pieces; at < (index + 1) * t->pieces; at++) {
        const piece *p = &t->piece[at];
        int64_t row = at * t->length;
        if (p->tokens == 0)
            break;
        if (begins_stored(b, p->first))
            load_transposed(b, &a->all_c, &u, p->first / a->chunk_size * a->d_qk + first, count,
                            state);
        sweep_piece(&(sweep){
            .state = state,
            .depth = a->d_v,
            .columns = count,
            .tokens = p->tokens,
            .length = t->length,
            .x = token_row(&b->dh, &u, p->first),
            .x_stride = b->dh.row,
            .p = t->p + row * t->p_stride,
            .p_row = t->p_stride,
            .p_term = 1,
            .z = token_row(&a->k, &u, p->first) + first,
            .z_stride = a->k.row,
            .z_packed = b->z + worker * b->z_size,
            .y = t->y + at * t->y_size,
            .y_weight = t->write + row,
            .used = t->used + row,
            .inter = t->inter + row,
            .keep = t->keep[at],
            .o = b->g + row * a->d_qk + first,
            .o_stride = a->d_qk,
            .update = !begins_stored(b, p->first + p->tokens),
        });
    }
}

/* rho_j, e_j and dm_j, with `qg` = q_j^T G_j and `qn` = q_j^T n_j. */
static void finish_query(const backward *b, int64_t at, double qg, double qn, double m) {
    const cpu_mlstm_call *a = b->a;
    double d = b->scale * qn, largest = normalizer(a, d, m);
    double rho = a->normalize ? 1 / (largest + a->eps) : 1, delta = rho * b->scale * qg;
    bool held = !a->exact || !a->normalize; /* the denominator is a constant */
    b->rho[at] = rho;
    b->e[at] = held || fabs(d) < largest ? 0 : (d > 0 ? -delta : delta) * rho;
    b->dm[at] = held || a->sigmoid ? 0 : -delta * a->eps * rho;
}

/* n of every token is that of the recurrence, in the weights of its own m. What a token has of itself
 * joins G here: q^T dq and k^T dk both hold it, and in their difference, the gradient of the forget gate,
 * it must be gone without a trace, however small the rest. */
void queries_task(void *context, int64_t at, int worker) {
    const backward *b = context;
    const cpu_mlstm_call *a = b->a;
    const tables *t = &b->t;
    int64_t index = at / t->pieces;
    unit u = unit_of(b, index);
    double *n = t->n + at * a->d_qk, before = t->m_before[at];
    (void)worker;
    for (int j = 0; j < t->piece[at].tokens; j++) {
        int64_t row = at * t->length + j, token = t->piece[at].first + j,
                to = kept(b, index, token);
        const real *q = token_row(&a->q, &u, token), *k = token_row(&a->k, &u, token);
        real *g = b->g + row * a->d_qk, own = b->diagonal[row];
        double input = weight_of(t->log_i[row], t->top[row]);
        double forget = weight_of(t->log_f[row] + before, t->top[row]);
        double others_n = forget * dot_double(q, n, a->d_qk), others_g = dot(q, g, a->d_qk);
        before = t->top[row];
        blend(forget, input, k, input == 0 ? 0 : a->d_qk, n);
        for (int64_t i = 0; input == 0 && i < a->d_qk; i++)
            n[i] *= forget;
        for (int64_t i = 0; own != 0 && i < a->d_qk; i++)
            g[i] += own * k[i];
        double qg = others_g + (own != 0 ? (double)own * dot(q, k, a->d_qk) : 0);
        finish_query(b, to, qg, dot_double(q, n, a->d_qk), t->top[row]);
        double of_g = b->scale * b->rho[to], of_n = b->scale * b->e[to];
        real *dq = a->dq.data ? token_row(&a->dq, &u, token) : g;
        for (int64_t i = 0; i < a->d_qk; i++)
            dq[i] = (real)(of_g * (double)g[i] + of_n * n[i]);
        b->q_dq[to] = of_g * others_g + of_n * others_n;
    }
}

/* ---- Between the sweeps ---- */

/* <dc, C> + <dn, n> of the last state; the upstream form ignores dn. */
static double last_state_product(const backward *b, const unit *u, int64_t index) {
    const cpu_mlstm_call *a = b->a;
    int64_t border = (a->longest - 1) / a->chunk_size + 1, d_v = a->d_v;
    double *n = b->n + index * a->d_qk, product = 0;
    real *packed = b->transposed + index * b->transposed_size;
    if (a->stored_states) {
        load_transposed(b, &a->all_c, u, border * a->d_qk, a->d_qk, packed);
        read_n(state_row(&a->all_n, u, 0) + border * a->d_qk, a->d_qk, n);
    }
    for (int64_t d = 0; a->exact && a->dn.data && d < a->d_qk; d++)
        product += (double)state_row(&a->dn, u, 0)[d] * n[d];
    for (int64_t d = 0; a->dc.data && d < a->d_qk; d++) {
        int64_t block = d / BLOCK * BLOCK, left = a->d_qk - block;
        int64_t width = round_up(left < BLOCK ? left : BLOCK, LANES);
        const real *c = packed_columns(packed, d_v, block) + (d - block);
        const real *dc = state_row(&a->dc, u, d);
        for (int64_t e = 0; e < d_v; e++)
            product += (double)dc[e] * (double)c[e * width];
    }
    return product;
}

void turn_task(void *context, int64_t index, int worker) {
    const backward *b = context;
    const cpu_mlstm_call *a = b->a;
    unit u = unit_of(b, index);
    (void)worker;
    double product = last_state_product(b, &u, index);
    b->sum_f[index] = product;
    b->left_out[index] = a->exact ? 0 : product;
    b->sum_m[index] = (a->dm.data ? (double)*state_row(&a->dm, &u, 0) : 0) - product;
}
