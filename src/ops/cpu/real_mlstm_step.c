/* One token of the mLSTM: a single pass over C, which is as fast as memory is.
 *
 * STEP_ROWS rows are walked together, so that as many streams of addresses are in flight. Where nothing
 * is written, because the token waits in a ring, C is only read. */
#include "ops/cpu/real_mlstm.h"
#include "ops/cpu/real_state.h"

enum { STEP_ROWS = TILE_ROWS };

ALWAYS_INLINE vec load_columns(const real *p, const bool part, int64_t count) {
    return part ? load_part(p, count) : load(p);
}

ALWAYS_INLINE void store_columns(real *p, vec value, const bool part, int64_t count) {
    if (part)
        store_part(p, value, count);
    else
        store(p, value);
}

/* What happens to C. NONE also is the padded token: C stays as it is, to the bit. */
enum change { NONE, KEEP, WRITE_ONE, WRITE_ALL };

/* Rows of C that are walked together, and their q and, of one term, y: they stay in registers, which
 * leaves the processor room to look ahead for memory. */
typedef struct step_group {
    char *c;
    const real *y; /* of all terms, a panel */
    vec q[STEP_ROWS], one[STEP_ROWS];
} step_group;

/* Adds the terms to a vector of columns of the rows. */
ALWAYS_INLINE void add_terms(const step *s, const real *y, const int rows, const bool part,
                             int64_t column, vec c[STEP_ROWS]) {
    const real *v = s->v + column;
    for (int l = 0; l < s->terms; l++, v += s->v_stride, y += TILE_ROWS) {
        if (s->write[l] == 0)
            continue;
        const vec value = load_columns(v, part, s->columns - column);
        UNROLL
        for (int r = 0; r < rows; r++)
            c[r] = fused(splat(y[r]), value, c[r]);
    }
}

/* One vector of columns of a group, from `column` on, or a part of one. */
ALWAYS_INLINE void step_vector(const step *s, const step_group *g, const dtype type, const int rows,
                               const enum change change, const bool part, int64_t column) {
    const int64_t count = s->columns - column, stride = s->c_stride * state_size(type);
    const vec keep = splat(s->keep);
    const vec v = change == WRITE_ONE ? load_columns(s->v + column, part, count) : splat(0);
    vec h = load_columns(s->h + column, part, count), c[STEP_ROWS];
    char *p = g->c + column * state_size(type);
    UNROLL
    for (int r = 0; r < rows; r++) {
        c[r] =
            part ? load_state_part(type, p + r * stride, count) : load_state(type, p + r * stride);
        __builtin_prefetch(p + (r + rows) * stride); /* the next rows */
        h = fused(g->q[r], c[r], h);
        if (change != NONE)
            c[r] = keep * c[r];
        if (change == WRITE_ONE)
            c[r] = fused(g->one[r], v, c[r]);
    }
    if (change == WRITE_ALL)
        add_terms(s, g->y, rows, part, column, c);
    UNROLL
    for (int r = 0; change != NONE && r < rows; r++) {
        if (part)
            store_state_part(type, p + r * stride, c[r], count);
        else
            store_state(type, p + r * stride, c[r]);
    }
    store_columns(s->h + column, h, part, count);
}

ALWAYS_INLINE void step_rows(const step *s, const dtype type, const int rows,
                             const enum change change, int64_t row) {
    const step local = *s; /* no store to C can change it */
    step_group g = {.c = local.c + row * local.c_stride * state_size(type),
                    .y = local.y + row / TILE_ROWS * TILE_ROWS * local.length + row % TILE_ROWS};
    UNROLL
    for (int r = 0; r < rows; r++) {
        g.q[r] = splat(local.q[row + r]);
        g.one[r] = change == WRITE_ONE ? splat(g.y[r]) : splat(0);
    }
    int64_t column = 0;
    for (; column + LANES <= local.columns; column += LANES)
        step_vector(&local, &g, type, rows, change, false, column);
    if (column < local.columns)
        step_vector(&local, &g, type, rows, change, true, column);
}

ALWAYS_INLINE void step_all(const step *s, const dtype type, const enum change change) {
    int64_t row = 0;
    for (; row + STEP_ROWS <= s->d_qk; row += STEP_ROWS)
        step_rows(s, type, STEP_ROWS, change, row);
    for (; row < s->d_qk; row++)
        step_rows(s, type, 1, change, row);
}

ALWAYS_INLINE void step_typed(const step *s, const dtype type) {
    bool writes = false;
    for (int l = 0; l < s->terms && !writes; l++)
        writes = s->write[l] != 0;
    if (writes && s->terms == 1)
        step_all(s, type, WRITE_ONE);
    else if (writes)
        step_all(s, type, WRITE_ALL);
    else if (s->keep != 1)
        step_all(s, type, KEEP);
    else
        step_all(s, type, NONE);
}

/* h, so far q^T C, becomes what it is to be. */
static void finish(const step *s) {
    for (int64_t column = 0; column < s->columns; column += LANES) {
        const bool part = column + LANES > s->columns;
        const int64_t count = s->columns - column;
        vec h = load_columns(s->h + column, part, count) * splat(s->inter);
        for (int l = 0; l < s->terms; l++)
            if (s->used[l])
                h = fused(splat(s->p[l]),
                          load_columns(s->v + l * s->v_stride + column, part, count), h);
        store_columns(s->h + column, h / splat(s->divisor), part, count);
    }
}

void step_token(const step *s) {
    memset(s->h, 0, (size_t)s->columns * sizeof(real));
    if (s->state == DTYPE_BF16)
        step_typed(s, DTYPE_BF16);
    else if (s->state == DTYPE_F16)
        step_typed(s, DTYPE_F16);
    else
        step_typed(s, (dtype)STATE_REAL);
    finish(s);
}
