/* Products of activations with weight matrices: matrix-vector for one or a few tokens,
 * matrix-matrix for more. Both sum every output in the same order, so that a token gives the same
 * bits alone and among others: vectors run along the width, one accumulator an output, fused
 * multiply-adds in order, and one tree over the lanes at the end.
 *
 * For few tokens the memory is the limit: eight weight rows are read at once, eight streams of
 * addresses that keep more reads in flight than one, and each is asked for ahead.
 * For many tokens arithmetic is the limit: a slice of the panel's width is converted to floats once
 * (it stays in the cache) and used for all tokens in register tiles of 4 rows by 6 tokens, whose
 * accumulators wait in memory between slices. Blocks always go this way; for few tokens there is
 * kernels_dot.c, in the profile `fast`. */
#include "ops/cpu/vector.h"

enum {
    GROUP_ROWS = 8,
    TILE_ROWS = 4,
    TILE_TOKENS = REGISTERS == 32 ? 6 : 3,
    MOST_TILE_TOKENS = 6,
    DIRECT_TOKENS = REGISTERS == 32 ? 3 : 1,
    SLICE = 2048,              /* floats of a row that are converted at a time */
    SLICE_STRIDE = SLICE + 16, /* not a power of two: rows would share cache sets */
    AHEAD = 1024,              /* bytes from a read to what is prefetched meanwhile */
    LINE = 64
};

enum {
    PANEL_FLOATS = CPU_PANEL_ROWS * SLICE_STRIDE,
    SUMS_FLOATS = CPU_PANEL_ROWS * CPU_PANEL_TOKENS * LANES
};
_Static_assert(PANEL_FLOATS + SUMS_FLOATS <= CPU_PRODUCT_SCRATCH, "scratch of a product");
_Static_assert(CPU_PANEL_TOKENS % TILE_TOKENS == 0, "whole tiles");

ALWAYS_INLINE int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* The eight rows from `row` on; past the end the last row stands in. */
ALWAYS_INLINE void group_rows(const cpu_product *a, int row, const char **rows) {
    for (int i = 0; i < GROUP_ROWS; i++)
        rows[i] = a->weights + least(row + i, a->rows - 1) * a->row_bytes;
}

/* ---- Few tokens ---- */

/* Terms [from, to), multiples of `step`, for eight rows; what lies `ahead` bytes on is prefetched.
 */
ALWAYS_INLINE void direct_span(dtype type, const int tokens, const int step, const cpu_product *a,
                               const char **rows, int64_t from, int64_t to, int64_t ahead,
                               vec sums[GROUP_ROWS][DIRECT_TOKENS]) {
    for (int64_t k = from; k < to; k += step) {
        UNROLL
        for (int r = 0; r < GROUP_ROWS; r++)
            __builtin_prefetch(rows[r] + k * size_as(type) + ahead);
        UNROLL
        for (int s = 0; s < step; s += LANES) {
            vec x[DIRECT_TOKENS];
            UNROLL
            for (int t = 0; t < tokens; t++)
                x[t] = load(a->x + t * a->x_stride + k + s);
            UNROLL
            for (int r = 0; r < GROUP_ROWS; r++) {
                vec w = load_as(type, rows[r] + (k + s) * size_as(type));
                UNROLL
                for (int t = 0; t < tokens; t++)
                    sums[r][t] = fused(w, x[t], sums[r][t]);
            }
        }
    }
}

/* Elements of a cache line, or of a block; at least a vector. */
ALWAYS_INLINE int step_of(dtype type) {
    int count = in_blocks(type) ? (int)BLOCK_ELEMENTS : (int)(LINE / size_as(type));
    return count > LANES ? count : LANES;
}

ALWAYS_INLINE void direct_group(dtype type, const int tokens, const cpu_product *a, int row) {
    const int step = step_of(type);
    const char *rows[GROUP_ROWS];
    group_rows(a, row, rows);
    vec sums[GROUP_ROWS][DIRECT_TOKENS];
    UNROLL
    for (int r = 0; r < GROUP_ROWS; r++) {
        UNROLL
        for (int t = 0; t < tokens; t++)
            sums[r][t] = (vec){0};
    }
    int64_t whole = a->width / step * step;
    int64_t turn =
        whole > AHEAD / size_as(type) ? (whole - AHEAD / size_as(type)) / step * step : 0;
    /* At the end of the rows, the beginning of the next eight is what comes next. */
    int64_t next =
        row + GROUP_ROWS < a->rows ? GROUP_ROWS * a->row_bytes - turn * size_as(type) : 0;
    direct_span(type, tokens, step, a, rows, 0, turn, AHEAD, sums);
    direct_span(type, tokens, step, a, rows, turn, whole, next, sums);
    int64_t k = whole;
    for (; k + LANES <= a->width; k += LANES)
        direct_span(type, tokens, LANES, a, rows, k, k + LANES, 0, sums);
    if (k < a->width) {
        UNROLL
        for (int r = 0; r < GROUP_ROWS; r++) {
            vec w = load_part_at(type, rows[r], k, a->width - k);
            UNROLL
            for (int t = 0; t < tokens; t++)
                sums[r][t] = fused(w, load(a->x + t * a->x_stride + k), sums[r][t]);
        }
    }
    UNROLL
    for (int t = 0; t < tokens; t++) {
        float *z = a->z + t * a->z_stride + row;
        *(quad_anywhere *)z = fold4(sums[0][t], sums[1][t], sums[2][t], sums[3][t]);
        *(quad_anywhere *)(z + 4) = fold4(sums[4][t], sums[5][t], sums[6][t], sums[7][t]);
    }
}

ALWAYS_INLINE void direct(dtype type, const cpu_product *a) {
    for (int row = 0; row < a->rows; row += GROUP_ROWS)
        if (a->tokens == 1)
            direct_group(type, 1, a, row);
        else if (DIRECT_TOKENS >= 2 && a->tokens == 2)
            direct_group(type, DIRECT_TOKENS >= 2 ? 2 : 1, a, row);
        else
            direct_group(type, DIRECT_TOKENS, a, row);
}

/* ---- Many tokens ---- */

/* Columns [from, from + count) of all rows as floats, with zeros up to whole vectors. */
ALWAYS_INLINE void convert_slice(dtype type, const cpu_product *a, int64_t from, int64_t count,
                                 float *panel) {
    for (int row = 0; row < a->rows; row += GROUP_ROWS) {
        const char *rows[GROUP_ROWS];
        group_rows(a, row, rows);
        float *target = panel + row * SLICE_STRIDE;
        int64_t k = 0;
        for (; k + LANES <= count; k += LANES) {
            UNROLL
            for (int r = 0; r < GROUP_ROWS; r++) {
                if (k % step_of(type) == 0)
                    __builtin_prefetch(rows[r] + bytes_as(type, from + k) + AHEAD);
                store(target + r * SLICE_STRIDE + k, load_at(type, rows[r], from + k));
            }
        }
        if (k < count)
            for (int r = 0; r < GROUP_ROWS; r++)
                store(target + r * SLICE_STRIDE + k,
                      load_part_at(type, rows[r], from + k, count - k));
    }
}

static void convert(const cpu_product *a, int64_t from, int64_t count,
                    float *panel){FOR_WEIGHT_TYPE(a->type, convert_slice, a, from, count, panel)}

/* One slice of the products of 4 rows with up to 6 tokens. `sums` carries the accumulators from
 * slice to slice; it is not read in the first, and the last writes z instead. */
ALWAYS_INLINE
    void tile(const int tokens, const float *panel, const float *x, int64_t x_stride, int64_t count,
              bool first, bool last, vec *sums, float *z, int64_t z_stride) {
    const vec zero = {0};
    vec sum[TILE_ROWS][MOST_TILE_TOKENS];
    UNROLL
    for (int r = 0; r < TILE_ROWS; r++) {
        UNROLL
        for (int t = 0; t < tokens; t++)
            sum[r][t] = first ? zero : sums[r * TILE_TOKENS + t];
    }
    for (int64_t k = 0; k < count; k += LANES) {
        vec xs[MOST_TILE_TOKENS];
        UNROLL
        for (int t = 0; t < tokens; t++)
            xs[t] = load(x + t * x_stride + k);
        UNROLL
        for (int r = 0; r < TILE_ROWS; r++) {
            vec w = load(panel + r * SLICE_STRIDE + k);
            UNROLL
            for (int t = 0; t < tokens; t++)
                sum[r][t] = fused(w, xs[t], sum[r][t]);
        }
    }
    if (!last) {
        UNROLL
        for (int r = 0; r < TILE_ROWS; r++) {
            UNROLL
            for (int t = 0; t < tokens; t++)
                sums[r * TILE_TOKENS + t] = sum[r][t];
        }
        return;
    }
    UNROLL
    for (int t = 0; t < tokens; t++)
        *(quad_anywhere *)(z + t * z_stride) = fold4(sum[0][t], sum[1][t], sum[2][t], sum[3][t]);
}

static void tile_of(int tokens, const float *panel, const float *x, int64_t x_stride, int64_t count,
                    bool first, bool last, vec *sums, float *z, int64_t z_stride) {
    switch (tokens) {
    case 1:
        tile(1, panel, x, x_stride, count, first, last, sums, z, z_stride);
        break;
    case 2:
        tile(2, panel, x, x_stride, count, first, last, sums, z, z_stride);
        break;
    case 3:
        tile(3, panel, x, x_stride, count, first, last, sums, z, z_stride);
        break;
    case 4:
        tile(4, panel, x, x_stride, count, first, last, sums, z, z_stride);
        break;
    case 5:
        tile(5, panel, x, x_stride, count, first, last, sums, z, z_stride);
        break;
    case 6:
        tile(6, panel, x, x_stride, count, first, last, sums, z, z_stride);
        break;
    }
}

static void tiled(const cpu_product *a) {
    float *panel = a->scratch;
    vec *sums = (vec *)(void *)(a->scratch + PANEL_FLOATS);
    for (int64_t from = 0; from < a->width; from += SLICE) {
        int64_t count = least(SLICE, a->width - from);
        bool first = from == 0, last = from + count == a->width;
        convert(a, from, count, panel);
        vec *next = sums;
        for (int t = 0; t < a->tokens; t += TILE_TOKENS)
            for (int row = 0; row < a->rows; row += TILE_ROWS, next += TILE_ROWS * TILE_TOKENS)
                tile_of((int)least(TILE_TOKENS, a->tokens - t), panel + row * SLICE_STRIDE,
                        a->x + t * a->x_stride + from, a->x_stride, count, first, last, next,
                        a->z + t * a->z_stride + row, a->z_stride);
    }
}

void PER_ISA(cpu_multiply)(const cpu_product *a) {
    if (a->tokens > DIRECT_TOKENS || in_blocks(a->type)) {
        tiled(a);
        return;
    }
    switch (a->type) {
    case DTYPE_BF16:
        direct(DTYPE_BF16, a);
        break;
    case DTYPE_F16:
        direct(DTYPE_F16, a);
        break;
    case DTYPE_F64:
        direct(DTYPE_F64, a);
        break;
    default:
        direct(DTYPE_F32, a);
    }
}
