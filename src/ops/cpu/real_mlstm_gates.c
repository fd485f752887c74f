/* The gates of the mLSTM: everything that is known without touching C, and the tables it is kept in.
 *
 * The maximum m runs through the tokens as in the recurrence, m' = max(log_f + m, log_i). A piece sees
 * the state before it as one more token, whose exponent is m; all exponents grow by log_f from token to
 * token. This is done in double; only where a state is stored m has the type of the arrays, and what is
 * weighed by it there is weighed by the rounded value. The sigmoid input gate has m = 0 throughout.
 *
 * A ring holds the tokens that a state has not taken in. They are put into it here, and gates, keys and
 * values of such a piece are read from there, so that all that follows sees one stretch of tokens. */
#include "ops/cpu/real_mlstm.h"

/* ---- Tables ---- */

enum { ALIGNMENT = 64 };

void *carve(carver *c, size_t element, int64_t a, int64_t b, int64_t d) {
    size_t bytes, count;
    if (__builtin_mul_overflow((size_t)a, (size_t)b, &count) ||
        __builtin_mul_overflow(count, (size_t)d, &count) ||
        __builtin_mul_overflow(count, element, &bytes) || bytes > SIZE_MAX / 4 ||
        c->used > SIZE_MAX / 4) {
        c->overflow = true;
        return NULL;
    }
    void *memory = c->base ? c->base + c->used : NULL;
    c->used += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return memory;
}

static int64_t within(int64_t value, int64_t low, int64_t high) {
    return value > high ? high : value < low ? low : value;
}

tables lay_out(carver *c, const cpu_mlstm_call *a, int64_t most_units, int64_t y_depth) {
    int64_t terms = a->chunk_size < a->longest ? a->chunk_size : a->longest;
    int length = (int)within(terms, a->ring.length > 1 ? a->ring.length : 1, CPU_LONGEST_PIECE);
    int64_t most_pieces = WINDOW_ROWS / length;
    int64_t needed = within((a->longest - 1) / length + 2, 1, most_pieces); /* one cut short */
    int64_t units = within(most_units, 1, most_pieces);
    tables t = {.units = units,
                .pieces = within(most_pieces / units, 1, needed),
                .length = length,
                .p_stride = length > 1 ? round_up(length, LANES) + LANES : 1,
                .y_size = panels_size(length, y_depth)};
    /* Enough for fewer units or shorter sequences, too. */
    int64_t all = within(units * needed, 1, most_pieces), rows = all * length;
    t.piece = carve(c, sizeof(piece), all, 1, 1);
    t.next = carve(c, sizeof(int64_t), all, 1, 1);
    t.m_before = carve(c, sizeof(double), all, 1, 1);
    t.m_after = carve(c, sizeof(double), all, 1, 1);
    t.log_i = carve(c, sizeof(double), rows, 1, 1);
    t.log_f = carve(c, sizeof(double), rows, 1, 1);
    t.top = carve(c, sizeof(double), rows, 1, 1);
    t.carried = carve(c, sizeof(double), rows, 1, 1);
    t.write = carve(c, sizeof(real), rows, 1, 1);
    t.used = carve(c, sizeof(bool), rows, 1, 1);
    t.keep = carve(c, sizeof(real), all, 1, 1);
    t.n = carve(c, sizeof(double), all, a->d_qk, 1);
    t.inter = carve(c, sizeof(real), rows, 1, 1);
    t.divisor = carve(c, sizeof(real), rows, 1, 1);
    t.p = carve(c, sizeof(real), rows, t.p_stride, 1);
    t.y = carve(c, sizeof(real), all, t.y_size, 1);
    t.rows = rows;
    t.all_pieces = all;
    return t;
}

/* ---- Gates ---- */

/* m after the piece, as what C and n are weighed by: where a state is stored, m as its type holds it. */
static double storable(const unit *u, int64_t token, double m) {
    const cpu_mlstm_call *a = u->a;
    if (sizeof(real) == sizeof(double))
        return m;
    float nearest = (float)m;
    if (a->round_states)
        return (double)((double)nearest < m ? nextafterf(nearest, INFINITY) : nearest);
    bool border = a->all_m.data && (u->sequence->position + token) % a->chunk_size == 0;
    return border || token == u->sequence->tokens ? (double)nearest : m;
}

double begin_unit(const unit *u) {
    if (u->a->sigmoid)
        return 0;
    if (u->a->m0.data)
        return (double)*state_row(&u->a->m0, u, 0);
    return u->a->parallel ? -INFINITY : 0;
}

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Up to the next border of a chunk; long chunks are cut further, always at the same places. What does
 * not end where a ring does goes through the ring. */
static piece next_piece(const unit *u, int64_t token) {
    int64_t chunk = u->a->chunk_size, ring = u->a->ring.length, left = u->sequence->tokens - token;
    int64_t position = u->sequence->position + token, in_chunk = position % chunk;
    int64_t room = least(chunk - in_chunk, CPU_LONGEST_PIECE - in_chunk % CPU_LONGEST_PIECE);
    int64_t tokens = least(room, left);
    if (ring == 0)
        return (piece){token, (int)tokens, 0, false, true};
    int64_t held = position % ring;
    if (held == 0 && chunk % ring == 0 && tokens >= ring)
        return (piece){token, (int)(tokens / ring * ring), 0, false, true};
    tokens = least(ring - held, left);
    return (piece){token, (int)tokens, (int)held, true, held + tokens == ring};
}

/* The tokens join those that are held. */
static void fill_ring(const unit *u, const piece *p) {
    const cpu_mlstm_call *a = u->a;
    for (int j = 0; j < p->tokens; j++) {
        int64_t token = p->first + j, row = p->held + j;
        memcpy(state_row(&a->ring.k, u, row), token_row(&a->k, u, token),
               (size_t)a->d_qk * sizeof(real));
        memcpy(state_row(&a->ring.v, u, row), token_row(&a->v, u, token),
               (size_t)a->d_v * sizeof(real));
        *state_row(&a->ring.i, u, row) = *token_row(&a->i, u, token);
        *state_row(&a->ring.f, u, row) = *token_row(&a->f, u, token);
    }
}

/* The terms of a piece, from m before it; returns the state's m after it. */
static double scan_piece(const tables *t, const unit *u, int64_t at, double m) {
    const cpu_mlstm_call *a = u->a;
    const piece *p = &t->piece[at];
    const real *gate_i = term_rows(&a->i, &a->ring.i, u, p);
    const real *gate_f = term_rows(&a->f, &a->ring.f, u, p);
    int64_t i_stride = term_stride(&a->i, &a->ring.i, p);
    int64_t f_stride = term_stride(&a->f, &a->ring.f, p);
    int64_t first = at * t->length, end = first + terms_of(p);
    double top = m, state = m;
    for (int64_t j = first; j < end; j++) {
        double f = (double)gate_f[(j - first) * f_stride];
        double i = (double)gate_i[(j - first) * i_stride];
        t->log_f[j] = log_sigmoid(f);
        t->log_i[j] = a->sigmoid ? log_sigmoid(i) : i;
        t->used[j] = !(t->log_i[j] == -INFINITY);
        top = a->sigmoid ? 0 : larger(t->log_f[j] + top, t->log_i[j]);
        state += t->log_f[j];
        t->top[j] = top;
        t->carried[j] = weight_of(state, top);
    }
    if (!p->folds) {
        t->keep[at] = 1;
        for (int64_t l = first; l < end; l++)
            t->write[l] = 0;
        return m;
    }
    m = storable(u, p->first + p->tokens, top);
    t->keep[at] = (real)weight_of(state, m);
    double later = 0; /* sum of log_f over the tokens behind */
    for (int64_t l = end - 1; l >= first; l--) {
        t->write[l] = (real)weight_of(t->log_i[l] + later, m);
        later += t->log_f[l];
    }
    return m;
}

/* A window has one piece in the ring, the last: the next one would overwrite it. */
double scan_gates(const tables *t, const unit *u, int64_t index, double m) {
    int64_t token = t->next[index];
    bool full = false;
    for (int64_t at = index * t->pieces; at < (index + 1) * t->pieces; at++) {
        t->piece[at] = (piece){.first = token};
        if (full || token == u->sequence->tokens)
            continue;
        t->piece[at] = next_piece(u, token);
        full = t->piece[at].ring;
        if (full)
            fill_ring(u, &t->piece[at]);
        bool border = (u->sequence->position + token) % u->a->chunk_size == 0;
        if (u->a->stored_states && u->a->all_m.data && border)
            m = (double)state_row(&u->a->all_m, u, 0)[token / u->a->chunk_size];
        t->m_before[at] = m;
        m = t->m_after[at] = scan_piece(t, u, at, m);
        token += t->piece[at].tokens;
    }
    t->next[index] = token;
    return m;
}

/* ---- n ---- */

/* Products of floats are exact in double, and so nearly is their sum. */
double dot(const real *x, const real *y, int64_t count) {
    vec_double lanes = {0};
    for (int64_t i = 0; i < count; i += LANES)
        lanes += __builtin_convertvector(load_optional(x, i, count - i), vec_double) *
                 __builtin_convertvector(load_optional(y, i, count - i), vec_double);
    double total = 0;
    for (int i = 0; i < LANES; i++)
        total += lanes[i];
    return total;
}

double dot_double(const real *x, const double *y, int64_t count) {
    vec_double lanes = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        lanes += __builtin_convertvector(load(x + i), vec_double) *
                 *(const vec_double *)(const void *)(y + i);
    double total = 0;
    for (int lane = 0; lane < LANES; lane++)
        total += lanes[lane];
    for (; i < count; i++)
        total += (double)x[i] * y[i];
    return total;
}

void blend(double a, double b, const real *x, int64_t count, double *y) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        vec_double *lanes = (vec_double *)(void *)(y + i);
        *lanes = *lanes * a + __builtin_convertvector(load(x + i), vec_double) * b;
    }
    for (; i < count; i++)
        y[i] = y[i] * a + (double)x[i] * b;
}

/* n as a state holds it. */
static void round_n(const cpu_mlstm_call *a, double *n) {
    enum { SOME = 64 };
    char narrow[SOME * sizeof(double)];
    for (int64_t i = 0; i < a->d_qk; i += SOME) {
        int64_t count = least(SOME, a->d_qk - i);
        write_row(a->state, n + i, count, narrow);
        read_row(a->state, narrow, count, n + i);
    }
}

void add_keys(const tables *t, const unit *u, int64_t at, double *n) {
    const cpu_mlstm_call *a = u->a;
    const piece *p = &t->piece[at];
    const real *k = term_rows(&a->k, &a->ring.k, u, p);
    int64_t stride = term_stride(&a->k, &a->ring.k, p);
    double keep = (double)t->keep[at];
    if (!p->folds)
        return;
    for (int l = 0; l < terms_of(p); l++) {
        double write = (double)t->write[at * t->length + l];
        if (write == 0)
            continue;
        blend(keep, write, k + l * stride, a->d_qk, n);
        keep = 1;
    }
    if (keep != 1)
        for (int64_t i = 0; i < a->d_qk; i++)
            n[i] *= keep;
    if (a->round_states)
        round_n(a, n);
}
