/* The part of the mLSTM that touches a matrix state with a piece of many tokens.
 *
 * The state, and the rows that are stored in it, are packed: blocks of BLOCK columns, whose rows follow
 * each other, so that a block stays in the nearest caches and no two rows compete for the same lines
 * there. A tile is TILE_ROWS rows of a block in registers. */
#include "ops/cpu/real_mlstm.h"

/* ---- Packing ---- */

ALWAYS_INLINE int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

void pack(const real *p, int64_t stride, int64_t rows, int64_t columns, real *packed) {
    for (int64_t column = 0; column < columns; column += BLOCK) {
        int64_t count = least(BLOCK, columns - column), width = round_up(count, LANES);
        for (int64_t r = 0; r < rows; r++, packed += width) {
            const real *row = p ? p + r * stride + column : NULL;
            if (row && count == BLOCK)
                for (int i = 0; i < BLOCK; i += LANES)
                    store(packed + i, load(row + i));
            else if (row)
                memcpy(packed, row, (size_t)count * sizeof(real));
            for (int64_t i = row ? count : 0; i < width; i++)
                packed[i] = 0;
        }
    }
}

void unpack(const real *packed, int64_t rows, int64_t columns, real *p, int64_t stride) {
    for (int64_t column = 0; column < columns; column += BLOCK) {
        int64_t count = least(BLOCK, columns - column), width = round_up(count, LANES);
        for (int64_t r = 0; r < rows; r++, packed += width)
            memcpy(p + r * stride + column, packed, (size_t)count * sizeof(real));
    }
}

void pack_transposed(const real *p, int64_t stride, int64_t rows, int64_t columns,
                     int64_t packed_rows, real *packed) {
    enum { SQUARE = 16 };
    for (int64_t column = 0; column < columns; column += BLOCK) {
        int64_t count = least(BLOCK, columns - column), width = round_up(count, LANES);
        for (int64_t first = 0; first < rows; first += SQUARE)
            for (int64_t i = 0; i < width; i++)
                for (int64_t r = first; r < least(first + SQUARE, rows); r++)
                    packed[r * width + i] = i < count ? p[(column + i) * stride + r] : 0;
        packed += packed_rows * width;
    }
}

void pack_panels(const real *rows, int64_t stride, const real *weights, const real *last,
                 int tokens, int length, int64_t depth, real *panels) {
    for (int64_t d = 0; d < depth; d += TILE_ROWS) {
        int64_t count = least(TILE_ROWS, depth - d);
        real *panel = panels + d * length;
        if (count == TILE_ROWS)
            for (int l = 0; l < tokens; l++)
                for (int i = 0; i < TILE_ROWS; i++)
                    panel[l * TILE_ROWS + i] = weights[l] * rows[l * stride + d + i];
        else
            for (int l = 0; l < tokens; l++)
                for (int64_t i = 0; i < count; i++)
                    panel[l * TILE_ROWS + i] = weights[l] * rows[l * stride + d + i];
    }
    if (last)
        for (int l = 0; l < tokens; l++)
            panels[depth / TILE_ROWS * TILE_ROWS * length + l * TILE_ROWS + depth % TILE_ROWS] =
                last[l];
}

/* ---- Tiles ---- */

typedef vec tile_sums[TILE_ROWS][TILE_VECTORS];

/* A block: its columns are those of S from `column` on. */
typedef struct block {
    real *state;   /* [depth][width] */
    const real *z; /* [tokens][width] */
    int64_t column;
    bool all_written; /* no y_weight is 0 */
} block;

/* sums[i] += factor * the vectors at p, for rows i in [first, last); a factor is rows[i][at]. */
ALWAYS_INLINE void tile_add(tile_sums sums, const int first, const int last, const int vectors,
                            const real *p, const real *const *rows, int64_t at) {
    vec x[TILE_VECTORS];
    UNROLL
    for (int i = 0; i < vectors; i++)
        x[i] = load(p + i * LANES);
    UNROLL
    for (int r = first; r < last; r++) {
        vec f = splat(rows[r][at]);
        UNROLL
        for (int i = 0; i < vectors; i++)
            sums[r][i] = fused(f, x[i], sums[r][i]);
    }
}

/* The sum over l of tokens [first, first + rows), only over l <= t or l >= t: what a token holds, even
 * NaN, cannot reach those it is not for. */
ALWAYS_INLINE void add_tokens(const sweep *s, const block *b, const int rows, const int vectors,
                              int first, tile_sums sums) {
    const int width = vectors * LANES;
    const real *p[TILE_ROWS];
    UNROLL
    for (int r = 0; r < rows; r++)
        p[r] = s->p + (first + r) * s->p_row;
    if (s->reverse) {
        UNROLL
        for (int early = 0; early < rows - 1; early++)
            if (!s->used || s->used[first + early])
                tile_add(sums, 0, early + 1, vectors, b->z + (first + early) * width, p,
                         (first + early) * s->p_term);
        for (int l = first + rows - 1; l < s->tokens; l++)
            if (!s->used || s->used[l])
                tile_add(sums, 0, rows, vectors, b->z + l * width, p, l * s->p_term);
        return;
    }
    for (int l = 0; l <= first; l++)
        if (!s->used || s->used[l])
            tile_add(sums, 0, rows, vectors, b->z + l * width, p, l * s->p_term);
    UNROLL
    for (int late = 1; late < rows; late++)
        if (!s->used || s->used[first + late])
            tile_add(sums, late, rows, vectors, b->z + (first + late) * width, p,
                     (first + late) * s->p_term);
}

/* o of tokens [first, first + rows). */
ALWAYS_INLINE void read_tile(const sweep *s, const block *b, const int rows, const int vectors,
                             int64_t first) {
    const int width = vectors * LANES;
    tile_sums sums;
    const real *x[TILE_ROWS];
    UNROLL
    for (int r = 0; r < rows; r++) {
        x[r] = s->x + (first + r - s->held) * s->x_stride;
        UNROLL
        for (int i = 0; i < vectors; i++)
            sums[r][i] = (vec){0};
    }
    for (int64_t j = 0; j < s->depth; j++)
        tile_add(sums, 0, rows, vectors, b->state + j * width, x, j);
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int i = 0; i < vectors; i++) {
            if (s->extra)
                sums[r][i] += load(b->state + s->depth * width + i * LANES);
            sums[r][i] *= splat(s->inter[first + r]);
        }
    }
    add_tokens(s, b, rows, vectors, (int)first, sums);
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int i = 0; i < vectors; i++) {
            int64_t column = b->column + i * LANES;
            vec o = s->divisor ? sums[r][i] / splat(s->divisor[first + r]) : sums[r][i];
            store_some(s->o + (first + r - s->held) * s->o_stride + column, o, s->columns - column);
        }
    }
}

/* sums[i] += y[i] * the vectors at p. */
ALWAYS_INLINE void update_add(tile_sums sums, const int rows, const int vectors, const real *p,
                              const real *y) {
    vec z[TILE_VECTORS];
    UNROLL
    for (int i = 0; i < vectors; i++)
        z[i] = load(p + i * LANES);
    UNROLL
    for (int r = 0; r < rows; r++) {
        vec f = splat(y[r]);
        UNROLL
        for (int i = 0; i < vectors; i++)
            sums[r][i] = fused(f, z[i], sums[r][i]);
    }
}

/* Rows [first, first + rows) of S. */
ALWAYS_INLINE void update_tile(const sweep *s, const block *b, const int rows, const int vectors,
                               int64_t first) {
    const int width = vectors * LANES;
    real *state = b->state + first * width;
    const real *y = s->y + first / TILE_ROWS * TILE_ROWS * s->length + first % TILE_ROWS;
    const real *z = b->z;
    tile_sums sums;
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int i = 0; i < vectors; i++)
            sums[r][i] = splat(s->keep) * load(state + r * width + i * LANES);
    }
    if (b->all_written)
        for (int l = 0; l < s->tokens; l++, z += width, y += TILE_ROWS)
            update_add(sums, rows, vectors, z, y);
    else
        for (int l = 0; l < s->tokens; l++, z += width, y += TILE_ROWS)
            if (s->y_weight[l] != 0)
                update_add(sums, rows, vectors, z, y);
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int i = 0; i < vectors; i++)
            store(state + r * width + i * LANES, sums[r][i]);
    }
}

typedef void tile_function(const sweep *, const block *, const int rows, const int vectors,
                           int64_t first);

/* Rows [first, rows) of a block. */
ALWAYS_INLINE void all_tiles(tile_function *tile, const sweep *s, const block *b, const int vectors,
                             int64_t first, int64_t rows) {
    for (; first + TILE_ROWS <= rows; first += TILE_ROWS)
        tile(s, b, TILE_ROWS, vectors, first);
    for (; first + 2 <= rows; first += 2)
        tile(s, b, 2, vectors, first);
    if (first < rows)
        tile(s, b, 1, vectors, first);
}

ALWAYS_INLINE void whole_block(const sweep *s, const block *b, const int vectors) {
    if (s->o)
        all_tiles(read_tile, s, b, vectors, s->held, s->tokens);
    if (s->update)
        all_tiles(update_tile, s, b, vectors, 0, s->depth + s->extra);
}

void sweep_piece(const sweep *s) {
    _Static_assert(TILE_VECTORS == 3, "the widths of a block");
    pack(s->z, s->z_stride, s->tokens, s->columns, s->z_packed);
    block b = {.state = s->state, .z = s->z_packed, .all_written = true};
    for (int l = 0; l < s->tokens; l++)
        b.all_written = b.all_written && s->y_weight[l] != 0;
    for (; b.column < s->columns; b.column += BLOCK) {
        int64_t width = round_up(least(BLOCK, s->columns - b.column), LANES);
        if (width == BLOCK)
            whole_block(s, &b, TILE_VECTORS);
        else if (width == 2 * LANES)
            whole_block(s, &b, 2);
        else
            whole_block(s, &b, 1);
        b.state += (s->depth + s->extra) * width;
        b.z += s->tokens * width;
    }
}
