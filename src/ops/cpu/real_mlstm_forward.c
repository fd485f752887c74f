/* The mLSTM forward: for each group of units and window of pieces three jobs.
 *
 * 1. Gates, a task a unit: the tables, the ring, and n, which needs no C.
 * 2. Scores, a task a piece of more than one token (with the gates for one): the weights of its terms in
 *    its tokens, the divisors, and the keys as they will be stored.
 * 3. Columns, a task a unit and slice of columns: C and h. */
#include "ops/cpu/real_mlstm.h"

enum { TASKS_PER_THREAD = 4 };

typedef struct forward {
    const cpu_mlstm_call *a;
    tables t;
    int64_t first, count; /* units of the group */
    bool fresh;           /* the first window of the group */
    double scale;
    int64_t slice, slices; /* columns of a task; a multiple of BLOCK */
    real *c;               /* of the group, where the call wants none */
    double *n, *m_now;     /* [units][d_qk], [units] */
    real *packed;          /* of a thread: columns of C and of z, and h that nobody wants */
    int64_t packed_size, z_size;
} forward;

static forward lay_out_forward(carver *c, const cpu_mlstm_call *a) {
    int64_t units = a->sequence_count * a->heads;
    forward f = {.a = a, .t = lay_out(c, a, units, a->d_qk), .scale = 1 / sqrt((double)a->d_qk)};
    f.packed_size = packed_size(a->d_qk, a->d_v);
    f.z_size = packed_size(f.t.length, a->d_v);
    f.m_now = carve(c, sizeof(double), f.t.all_pieces, 1, 1);
    f.n = carve(c, sizeof(double), f.t.all_pieces, a->d_qk, 1);
    f.c = carve(c, sizeof(real), a->c.data ? 1 : f.t.all_pieces, a->d_qk, a->d_v);
    f.packed = carve(c, sizeof(real), a->threads, f.packed_size + 2 * f.z_size, 1);
    return f;
}

/* ---- 1. Gates ---- */

typedef struct scores {
    const forward *f;
    int64_t at;
    unit u;
} scores;

/* The weights of one token become p, the divisor is set. */
static void score_token(void *context, int64_t token, const real *weights) {
    scores *s = context;
    const tables *t = &s->f->t;
    int64_t j = token - s->at * t->length;
    real *p = t->p + token * t->p_stride;
    const piece *of = &t->piece[s->at];
    const real *q = token_row(&s->f->a->q, &s->u, of->first + j - of->held);
    double carried = t->carried[token], qn = 0;
    if (carried != 0)
        qn = carried * dot_double(q, t->n + s->at * s->f->a->d_qk, s->f->a->d_qk);
    for (int64_t l = 0; l <= j; l++) {
        p[l] = weights[l] == 0 ? 0 : p[l] * weights[l];
        qn += (double)p[l];
        p[l] *= (real)s->f->scale;
    }
    double n = normalizer(s->f->a, qn * s->f->scale, t->top[token]) + s->f->a->eps;
    t->divisor[token] = s->f->a->normalize ? to_real(n) : 1;
    t->inter[token] = (real)(carried * s->f->scale);
}

static void score_piece(const forward *f, const unit *u, int64_t at) {
    const tables *t = &f->t;
    const cpu_mlstm_call *a = f->a;
    const piece *p = &t->piece[at];
    const real *q = token_row(&a->q, u, p->first), *k = term_rows(&a->k, &a->ring.k, u, p);
    int64_t row = at * t->length, k_stride = term_stride(&a->k, &a->ring.k, p);
    if (a->h.data) {
        raw_scores(p->held, terms_of(p), a->d_qk, q, a->q.row, k, k_stride,
                   t->p + row * t->p_stride, t->p_stride);
        weigh_scores(t, at, score_token, &(scores){.f = f, .at = at, .u = *u});
    }
    if (p->folds)
        pack_panels(k, k_stride, t->write + row, NULL, terms_of(p), t->length, a->d_qk,
                    t->y + at * t->y_size);
}

/* n and m at border `chunk`, where they are wanted. */
static void store_border(const forward *f, const unit *u, int64_t chunk, double m,
                         const double *n) {
    const cpu_mlstm_call *a = f->a;
    if (a->all_m.data)
        state_row(&a->all_m, u, 0)[chunk] = (real)m;
    if (a->all_n.data)
        write_row(a->state, n, a->d_qk, state_row(&a->all_n, u, 0) + chunk * a->d_qk);
}

static bool at_border(const unit *u, int64_t token) {
    return (u->sequence->position + token) % u->a->chunk_size == 0 || token == u->sequence->tokens;
}

/* Of a token of the sequence that is at one. */
static int64_t border_of(const unit *u, int64_t token) {
    return (token + u->a->chunk_size - 1) / u->a->chunk_size;
}

static void begin_state(const forward *f, const unit *u, int64_t index) {
    const cpu_mlstm_call *a = f->a;
    double *n = f->n + index * a->d_qk;
    f->t.next[index] = 0;
    f->m_now[index] = begin_unit(u);
    memset(n, 0, (size_t)a->d_qk * sizeof *n);
    if (a->n0.data)
        read_row(a->state, typed_row(&a->n0, u, 0), a->d_qk, n);
    store_border(f, u, 0, f->m_now[index], n);
}

static void gates_task(void *context, int64_t index, int worker) {
    const forward *f = context;
    const cpu_mlstm_call *a = f->a;
    const tables *t = &f->t;
    unit u = unit_at(a, f->first + index);
    double *n = f->n + index * a->d_qk;
    (void)worker;
    if (f->fresh)
        begin_state(f, &u, index);
    f->m_now[index] = scan_gates(t, &u, index, f->m_now[index]);
    for (int64_t at = index * t->pieces; at < (index + 1) * t->pieces; at++) {
        const piece *p = &t->piece[at];
        if (p->tokens == 0)
            break;
        memcpy(t->n + at * a->d_qk, n, (size_t)a->d_qk * sizeof *n);
        add_keys(t, &u, at, n);
        if (at_border(&u, p->first + p->tokens))
            store_border(f, &u, border_of(&u, p->first + p->tokens), t->m_after[at], n);
        if (p->tokens == 1)
            score_piece(f, &u, at);
    }
    if (t->next[index] < u.sequence->tokens)
        return;
    if (a->n.data)
        write_row(a->state, n, a->d_qk, typed_row(&a->n, &u, 0));
    if (a->m.data)
        *state_row(&a->m, &u, 0) = (real)f->m_now[index];
}

/* ---- 2. Scores ---- */

static void scores_task(void *context, int64_t at, int worker) {
    const forward *f = context;
    unit u = unit_at(f->a, f->first + at / f->t.pieces);
    (void)worker;
    if (f->t.piece[at].tokens > 1)
        score_piece(f, &u, at);
}

/* ---- 3. Columns ---- */

/* Columns of C of a unit: [d_qk] rows at c. */
typedef struct columns {
    const forward *f;
    unit u;
    int64_t first, count;
    char *c; /* of type a->state */
    int64_t c_stride;
    real *packed, *z, *h; /* of the thread */
} columns;

static void begin_columns(const columns *s) {
    const cpu_mlstm_call *a = s->f->a;
    size_t size = dtype_size(a->state), bytes = (size_t)s->count * size;
    const char *c0 = a->c0.data ? typed_row(&a->c0, &s->u, 0) + (size_t)s->first * size : NULL;
    for (int64_t d = 0; c0 != s->c && d < a->d_qk; d++) {
        char *row = s->c + (size_t)(d * s->c_stride) * size;
        if (c0)
            memcpy(row, c0 + (size_t)(d * a->c0.row) * size, bytes);
        else
            memset(row, 0, bytes);
    }
}

static void store_columns_at_border(const columns *s, int64_t token, bool is_packed) {
    const cpu_mlstm_call *a = s->f->a;
    if (!a->all_c.data || !at_border(&s->u, token))
        return;
    real *all = state_row(&a->all_c, &s->u, border_of(&s->u, token) * a->d_qk) + s->first;
    if (is_packed)
        unpack(s->packed, a->d_qk, s->count, all, a->all_c.row);
    else
        for (int64_t d = 0; d < a->d_qk; d++)
            memcpy(all + d * a->all_c.row, (real *)(void *)s->c + d * s->c_stride,
                   (size_t)s->count * sizeof(real));
}

static real *h_of(const columns *s, int64_t token) {
    const cpu_mlstm_call *a = s->f->a;
    return a->h.data ? token_row(&a->h, &s->u, token) + s->first : NULL;
}

/* A piece of one token: C is read, and written if it folds, in one pass. */
static void step_columns(const columns *s, int64_t at) {
    const cpu_mlstm_call *a = s->f->a;
    const tables *t = &s->f->t;
    const piece *p = &t->piece[at];
    int64_t row = at * t->length, own = row + p->held;
    real *h = h_of(s, p->first);
    step_token(&(step){
        .c = s->c,
        .c_stride = s->c_stride,
        .state = a->state,
        .d_qk = a->d_qk,
        .columns = s->count,
        .q = token_row(&a->q, &s->u, p->first),
        .terms = terms_of(p),
        .v = term_rows(&a->v, &a->ring.v, &s->u, p) + s->first,
        .v_stride = term_stride(&a->v, &a->ring.v, p),
        .y = t->y + at * t->y_size,
        .length = t->length,
        .write = t->write + row,
        .p = t->p + own * t->p_stride,
        .used = t->used + row,
        .keep = t->keep[at],
        .inter = t->inter[own],
        .divisor = t->divisor[own],
        .h = h ? h : s->h,
    });
    store_columns_at_border(s, p->first + 1, false);
}

static void piece_columns(const columns *s, int64_t at) {
    const cpu_mlstm_call *a = s->f->a;
    const tables *t = &s->f->t;
    const piece *p = &t->piece[at];
    int64_t row = at * t->length;
    bool writes = t->keep[at] != 1; /* padding alone leaves C as it is, to the bit */
    for (int l = 0; l < terms_of(p) && !writes; l++)
        writes = t->write[row + l] != 0;
    sweep_piece(&(sweep){
        .state = s->packed,
        .depth = a->d_qk,
        .columns = s->count,
        .held = p->held,
        .tokens = terms_of(p),
        .length = t->length,
        .x = token_row(&a->q, &s->u, p->first),
        .x_stride = a->q.row,
        .p = t->p + row * t->p_stride,
        .p_row = t->p_stride,
        .p_term = 1,
        .z = term_rows(&a->v, &a->ring.v, &s->u, p) + s->first,
        .z_stride = term_stride(&a->v, &a->ring.v, p),
        .z_packed = s->z,
        .y = t->y + at * t->y_size,
        .y_weight = t->write + row,
        .used = t->used + row,
        .inter = t->inter + row,
        .divisor = t->divisor + row,
        .keep = t->keep[at],
        .o = h_of(s, p->first),
        .o_stride = a->h.row,
        .update = writes,
    });
    if (a->round_states && writes)
        round_to_type(a->state, packed_size(a->d_qk, s->count), s->packed);
    store_columns_at_border(s, p->first + p->tokens, true);
}

/* The pieces from `at` on that have more than one token; returns the next one. */
static int64_t run_of_pieces(const columns *s, int64_t at, int64_t end) {
    const cpu_mlstm_call *a = s->f->a;
    const tables *t = &s->f->t;
    int64_t d_qk = a->d_qk;
    pack_state(a->state, s->c, s->c_stride, d_qk, s->count, s->packed);
    for (; at < end && t->piece[at].tokens > 1; at++)
        piece_columns(s, at);
    unpack_state(a->state, s->packed, d_qk, s->count, s->c, s->c_stride);
    return at;
}

/* Tasks that run at the same time work on states that are far apart, as far as there are threads: side
 * by side they would meet in the same banks of the memory. */
static int64_t far_apart(int64_t task, int64_t tasks, int64_t threads) {
    int64_t part = task % threads, more = tasks % threads;
    return part * (tasks / threads) + (part < more ? part : more) + task / threads;
}

static void columns_task(void *context, int64_t task, int worker) {
    const forward *f = context;
    const cpu_mlstm_call *a = f->a;
    task = far_apart(task, f->count * f->slices, a->threads);
    int64_t index = task / f->slices, first = task % f->slices * f->slice, left = a->d_v - first;
    columns s = {.f = f,
                 .u = unit_at(a, f->first + index),
                 .first = first,
                 .count = left < f->slice ? left : f->slice,
                 .packed = f->packed + worker * (f->packed_size + 2 * f->z_size)};
    s.z = s.packed + f->packed_size;
    s.h = s.z + f->z_size;
    s.c = (char *)(f->c + index * a->d_qk * a->d_v + first);
    s.c_stride = a->d_v;
    if (a->c.data) {
        s.c = typed_row(&a->c, &s.u, 0) + (size_t)first * dtype_size(a->state);
        s.c_stride = a->c.row;
    }
    if (f->fresh) {
        begin_columns(&s);
        store_columns_at_border(&s, 0, false);
    }
    int64_t at = index * f->t.pieces, end = at + f->t.pieces;
    while (at < end && f->t.piece[at].tokens > 0) {
        if (f->t.piece[at].tokens > 1)
            at = run_of_pieces(&s, at, end);
        else
            step_columns(&s, at++);
    }
}

/* ---- The call ---- */

/* Whole rows of C are the best for memory; narrower slices give every thread work. */
static void choose_slices(forward *f) {
    int64_t wanted = (int64_t)TASKS_PER_THREAD * f->a->threads;
    int64_t blocks = (f->a->d_v + BLOCK - 1) / BLOCK, slices = (wanted - 1) / f->count + 1;
    slices = slices > blocks ? blocks : slices;
    f->slice = (blocks + slices - 1) / slices * BLOCK;
    f->slices = (f->a->d_v + f->slice - 1) / f->slice;
}

static void forward_group(forward *f) {
    choose_slices(f);
    f->fresh = true;
    bool more = true;
    while (more) {
        thread_pool_run(f->a->pool, f->count, gates_task, f);
        if (f->a->longest > 1)
            thread_pool_run(f->a->pool, f->count * f->t.pieces, scores_task, f);
        thread_pool_run(f->a->pool, f->count * f->slices, columns_task, f);
        f->fresh = false;
        more = false;
        for (int64_t i = 0; i < f->count && !more; i++)
            more = f->t.next[i] < unit_at(f->a, f->first + i).sequence->tokens;
    }
}

size_t PER_ISA(mlstm_forward_scratch)(const cpu_mlstm_call *a) {
    carver c = {0};
    lay_out_forward(&c, a);
    return c.overflow ? SIZE_MAX : c.used;
}

void PER_ISA(mlstm_forward)(const cpu_mlstm_call *a, void *scratch) {
    carver c = {.base = scratch};
    forward f = lay_out_forward(&c, a);
    int64_t units = a->sequence_count * a->heads;
    for (f.first = 0; f.first < units; f.first += f.count) {
        f.count = units - f.first < f.t.units ? units - f.first : f.t.units;
        forward_group(&f);
    }
}
