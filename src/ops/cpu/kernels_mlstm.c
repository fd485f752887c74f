/* The parts of the mLSTM that touch the matrix state C, with vectors along the value dimension. A
 * column of C never meets another, so columns may be cut up at will. */
#include "ops/cpu/vector.h"

enum {
    STEP_ROWS = REGISTERS == 32 ? 8 : 4, /* rows of C in flight in a step */
    TILE_ROWS = REGISTERS == 32 ? 6 : 3,
    MOST_TILE_ROWS = 6,
    TILE_VECTORS = 4
};

ALWAYS_INLINE vec load_some(const float *p, const bool part, int64_t count) {
    return part ? load_part(p, count) : load(p);
}

ALWAYS_INLINE void store_columns(float *p, vec value, const bool part, int64_t count) {
    if (part)
        store_part(p, value, count);
    else
        store(p, value);
}

/* ---- One token ---- */

/* What happens to C. NONE is the padded token: C stays as it is, to the bit. */
enum change { NONE, KEEP, KEEP_AND_WRITE };

/* Rows [row, row + rows) of C, columns from `column` on: one vector of them, or a part of one. */
ALWAYS_INLINE void step_vector(const cpu_step *a, const int rows, const enum change change,
                               const bool part, int64_t row, int64_t column) {
    int64_t count = a->columns - column;
    vec v = load_some(a->v + column, part, count), h = load_some(a->h + column, part, count);
    UNROLL
    for (int r = 0; r < rows; r++) {
        float *p = a->c + (row + r) * a->c_stride + column;
        vec c = load_some(p, part, count);
        h = fused(splat(a->q[row + r]), c, h);
        if (change != NONE)
            c = splat(a->keep) * c;
        if (change == KEEP_AND_WRITE)
            c = fused(splat(a->write * a->k[row + r]), v, c);
        if (change != NONE)
            store_columns(p, c, part, count);
    }
    store_columns(a->h + column, h, part, count);
}

ALWAYS_INLINE void step_rows(const cpu_step *a, const int rows, const enum change change,
                             int64_t row) {
    int64_t column = 0;
    for (; column + LANES <= a->columns; column += LANES)
        step_vector(a, rows, change, false, row, column);
    if (column < a->columns)
        step_vector(a, rows, change, true, row, column);
}

ALWAYS_INLINE void step_all(const cpu_step *a, const enum change change) {
    int64_t row = 0;
    for (; row + STEP_ROWS <= a->d_qk; row += STEP_ROWS)
        step_rows(a, STEP_ROWS, change, row);
    for (; row < a->d_qk; row++)
        step_rows(a, 1, change, row);
}

void PER_ISA(cpu_step)(const cpu_step *a) {
    memset(a->h, 0, (size_t)a->columns * sizeof(float));
    if (a->write != 0)
        step_all(a, KEEP_AND_WRITE);
    else if (a->keep != 1)
        step_all(a, KEEP);
    else
        step_all(a, NONE);
    for (int64_t column = 0; column < a->columns; column += LANES) {
        const bool part = column + LANES > a->columns;
        int64_t count = a->columns - column;
        vec h = load_some(a->h + column, part, count) * splat(a->inter);
        h = fused(splat(a->p), load_some(a->v + column, part, count), h);
        store_columns(a->h + column, h / splat(a->denominator), part, count);
    }
}

/* ---- A piece of a chunk ---- */

typedef vec tile_sums[MOST_TILE_ROWS][TILE_VECTORS];

/* sums[i] += factor[i] * the vectors at p, for rows i in [first, rows). */
ALWAYS_INLINE void tile_add(tile_sums sums, const int first, const int rows, const int vectors,
                            const bool part, int64_t count, const float *p, const float *factor,
                            int64_t factor_stride) {
    vec x[TILE_VECTORS];
    UNROLL
    for (int i = 0; i < vectors; i++)
        x[i] = load_some(p + i * LANES, part, count);
    UNROLL
    for (int r = first; r < rows; r++) {
        vec f = splat(factor[r * factor_stride]);
        UNROLL
        for (int i = 0; i < vectors; i++)
            sums[r][i] = fused(f, x[i], sums[r][i]);
    }
}

/* h of tokens [token, token + rows) and of `vectors` vectors of columns. Only l <= t is touched:
 * what a later token holds, even NaN, cannot reach an earlier one. */
ALWAYS_INLINE void read_tile(const cpu_chunk *a, const int rows, const int vectors, const bool part,
                             int token, int64_t column) {
    int64_t count = a->columns - column;
    tile_sums sums;
    UNROLL
    for (int r = 0; r < rows; r++)
        UNROLL
    for (int i = 0; i < vectors; i++)
        sums[r][i] = (vec){0};
    const float *q = a->q + token * a->q_stride;
    for (int64_t j = 0; j < a->d_qk; j++)
        tile_add(sums, 0, rows, vectors, part, count, a->c + j * a->c_stride + column, q + j,
                 a->q_stride);
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int i = 0; i < vectors; i++)
            sums[r][i] *= splat(a->inter[(token + r) * a->gate_stride]);
    }
    const float *p = a->p + token * a->p_stride, *v = a->v + column;
    for (int l = 0; l <= token; l++)
        tile_add(sums, 0, rows, vectors, part, count, v + l * a->v_stride, p + l, a->p_stride);
    UNROLL
    for (int late = 1; late < rows; late++)
        tile_add(sums, late, rows, vectors, part, count, v + (token + late) * a->v_stride,
                 p + token + late, a->p_stride);
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int i = 0; i < vectors; i++)
            store_columns(a->h + (token + r) * a->h_stride + column + i * LANES,
                       sums[r][i] / splat(a->denominator[(token + r) * a->gate_stride]), part,
                       count);
    }
}

/* Rows [row, row + rows) of C. */
ALWAYS_INLINE void update_tile(const cpu_chunk *a, const int rows, const int vectors,
                               const bool part, int row, int64_t column) {
    int64_t count = a->columns - column;
    float *c = a->c + row * a->c_stride + column;
    tile_sums sums;
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int i = 0; i < vectors; i++)
            sums[r][i] = splat(a->keep) * load_some(c + r * a->c_stride + i * LANES, part, count);
    }
    for (int l = 0; l < a->tokens; l++)
        if (a->write[l * a->gate_stride] != 0)
            tile_add(sums, 0, rows, vectors, part, count, a->v + l * a->v_stride + column,
                     a->wk + l * a->d_qk + row, 1);
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int i = 0; i < vectors; i++)
            store_columns(c + r * a->c_stride + i * LANES, sums[r][i], part, count);
    }
}

typedef void tile_function(const cpu_chunk *, const int rows, const int vectors, const bool part,
                           int first, int64_t column);

/* The tile of `rows` rows at `column` that is as wide as columns are left; returns the next column.
 */
ALWAYS_INLINE int64_t one_tile(tile_function *tile, const cpu_chunk *a, const int rows, int first,
                               int64_t column) {
    int64_t left = a->columns - column;
    if (left >= TILE_VECTORS * LANES)
        tile(a, rows, TILE_VECTORS, false, first, column);
    else if (left >= LANES)
        tile(a, rows, 1, false, first, column);
    else
        tile(a, rows, 1, true, first, column);
    return column + (left >= TILE_VECTORS * LANES ? TILE_VECTORS * LANES : LANES);
}

ALWAYS_INLINE void all_tiles(tile_function *tile, const cpu_chunk *a, int64_t rows) {
    for (int64_t column = 0, next; column < a->columns; column = next) {
        int first = 0;
        next = a->columns;
        for (; first + TILE_ROWS <= rows; first += TILE_ROWS)
            next = one_tile(tile, a, TILE_ROWS, first, column);
        if (first + 2 <= rows) {
            next = one_tile(tile, a, 2, first, column);
            first += 2;
        }
        if (first + 2 <= rows) {
            next = one_tile(tile, a, 2, first, column);
            first += 2;
        }
        if (first < rows)
            next = one_tile(tile, a, 1, first, column);
    }
}

void PER_ISA(cpu_chunk_read)(const cpu_chunk *a) {
    all_tiles(read_tile, a, a->tokens);
}

void PER_ISA(cpu_chunk_update)(const cpu_chunk *a) {
    all_tiles(update_tile, a, a->d_qk);
}
