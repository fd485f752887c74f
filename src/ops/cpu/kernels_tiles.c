/* Products for many tokens in f32, for the profile fast where there is no AMX (kernels_amx.c).
 *
 * Vectors run along the tokens: a step takes one column, the activations of three vectors of tokens,
 * and one weight after the other from the rows of a panel, broadcast. Every sum has a lane of its
 * own, so nothing is added up across lanes at the end. */
#include "ops/cpu/vector.h"
#include "ops/cpu/vector_transpose.h"

enum {
    ROWS = REGISTERS == 32 ? 8 : 4,
    VECTORS = 3,
    TOKENS = VECTORS * LANES,
    PANEL_STRIDE = CPU_TILE_DEPTH + 16 /* rows would share the sets of a cache */
};
_Static_assert(ROWS <= (int)CPU_TILE_ROWS && TOKENS <= (int)CPU_TILE_TOKENS, "as kernels.h says");

static void nothing(void) {
}

/* ---- Activations: the tokens of a column beside each other ---- */

static void pack(const float *x, int64_t x_stride, int tokens, int64_t count, void *block) {
    float *packed = block;
    int64_t padded = (count + CPU_TILE_UNIT - 1) / CPU_TILE_UNIT * CPU_TILE_UNIT;
    memset(packed, 0, (size_t)padded * TOKENS * sizeof *packed);
    for (int t = 0; t < tokens; t++) {
        int64_t at = 0;
#if defined(__AVX512F__)
        if (t % SQUARE == 0 && t + SQUARE <= tokens) {
            for (; at + SQUARE <= count; at += SQUARE) {
                __m512 square[SQUARE];
                for (int i = 0; i < SQUARE; i++)
                    square[i] = _mm512_loadu_ps(x + (t + i) * x_stride + at);
                transpose_square(square);
                for (int i = 0; i < SQUARE; i++)
                    _mm512_storeu_ps(packed + (at + i) * TOKENS + t, square[i]);
            }
        } else if (t / SQUARE * SQUARE + SQUARE <= tokens) {
            at = count / SQUARE * SQUARE;
        }
#endif
        for (; at < count; at++)
            packed[at * TOKENS + t] = x[t * x_stride + at];
    }
}

/* ---- Weights ---- */

ALWAYS_INLINE void convert_row(dtype type, const char *row, const cpu_tile_weights *w, float *out) {
    int64_t at = 0;
    for (; at + LANES <= w->count; at += LANES) {
        if (at % BLOCK_ELEMENTS == 0)
            __builtin_prefetch(row + bytes_as(type, at) + w->ahead);
        store(out + at, load_at(type, row, at));
    }
    if (at < w->count)
        store_part(out + at, load_part_at(type, row, at, w->count - at), w->count - at);
}

ALWAYS_INLINE void convert_as(dtype type, const cpu_tile_weights *w, float *panel) {
    for (int r = 0; r < ROWS; r++)
        convert_row(type,
                    w->rows + (r < w->count_rows ? r : w->count_rows - 1) * w->row_bytes +
                        bytes_as(type, w->from),
                    w, panel + r * PANEL_STRIDE);
}

static void convert(const cpu_tile_weights *w,
                    void *panel){FOR_WEIGHT_TYPE(w->type, convert_as, w, panel)}

/* ---- Products ---- */

ALWAYS_INLINE void multiply_vectors(const int vectors, const float *weights, const float *x,
                                    int64_t count, bool add, float *sums) {
    vec sum[ROWS][VECTORS];
    UNROLL
    for (int r = 0; r < ROWS; r++) {
        UNROLL
        for (int v = 0; v < vectors; v++)
            sum[r][v] = (vec){0};
    }
    for (int64_t k = 0; k < count; k++) {
        vec xs[VECTORS];
        UNROLL
        for (int v = 0; v < vectors; v++)
            xs[v] = load(x + k * TOKENS + v * LANES);
        UNROLL
        for (int v = 0; v < vectors; v++) /* from the next cache, some columns ahead */
            __builtin_prefetch(x + (k + 8) * TOKENS + v * LANES);
        UNROLL
        for (int r = 0; r < ROWS; r++) {
            const vec w = splat(weights[r * PANEL_STRIDE + k]);
            UNROLL
            for (int v = 0; v < vectors; v++)
                sum[r][v] = fused(w, xs[v], sum[r][v]);
        }
    }
    UNROLL
    for (int r = 0; r < ROWS; r++) {
        UNROLL
        for (int v = 0; v < vectors; v++) {
            float *p = sums + r * TOKENS + v * LANES;
            store(p, add ? load(p) + sum[r][v] : sum[r][v]);
        }
    }
}

static void multiply(const void *panel, const void *block, int tokens, int64_t count, bool add,
                     const cpu_tile_ahead *ahead, float *sums) {
    const int64_t step = ahead->step;
    for (int64_t i = 0, at = 0; i < count && step > 0; i += CPU_TILE_UNIT, at += step) {
        __builtin_prefetch(ahead->first + at, 0, 2);
        __builtin_prefetch(ahead->second + at, 0, 2);
    }
    if (tokens > 2 * LANES)
        multiply_vectors(3, panel, block, count, add, sums);
    else if (tokens > LANES)
        multiply_vectors(2, panel, block, count, add, sums);
    else
        multiply_vectors(1, panel, block, count, add, sums);
}

static void spread(const float *sums, int tokens, float *z, int64_t z_stride) {
    for (int t = 0; t < tokens; t++)
        for (int r = 0; r < ROWS; r++)
            z[t * z_stride + r] = sums[r * TOKENS + t];
}

static void put(const float *from, int64_t count, float *to) {
    memcpy(to, from, (size_t)count * sizeof *to);
}

const cpu_tiles PER_ISA(cpu_tiles) = {
    .rows = ROWS,
    .tokens = TOKENS,
    .depth = CPU_TILE_DEPTH,
    .least_tokens = 12,
    .panel_bytes = (size_t)ROWS * PANEL_STRIDE * sizeof(float),
    .block_bytes = (size_t)TOKENS * CPU_TILE_DEPTH * sizeof(float),
    .begin = nothing,
    .end = nothing,
    .pack = pack,
    .convert = convert,
    .multiply = multiply,
    .spread = spread,
    .put = put,
};
