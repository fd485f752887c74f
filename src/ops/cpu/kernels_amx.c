/* Products for many tokens on AMX: bf16 values, f32 sums. Compiled once, for it;
 * kernels_tiles.c serves the other instruction sets.
 *
 * A step multiplies tiles of 16 rows x 32 columns of weights with tiles of 32 columns x 16 tokens,
 * two by two: four loads for four products. Weights are the operand whose rows lie as they are
 * stored, so that unpacking quantised blocks needs no turning over (a block of 32 values is a row of
 * a tile); activations, packed once for all weights, are the one that has pairs of columns side by
 * side. Every tile is 1 KiB of its own: rows at distances of a power of two would share the sets of
 * the nearest cache. */
#include "ops/cpu/vector_amx.h"
#include "ops/cpu/vector_bf16.h"
#include "ops/cpu/vector_transpose.h"

enum {
    SIDE = 16,         /* rows of a tile, tokens of a tile */
    ROWS = 2 * SIDE,   /* of a panel */
    TOKENS = 2 * SIDE, /* of a block */
    STEP = 32,         /* columns of a step */
    DEPTH =
        256, /* of a panel: two operands take 32 of the nearest 48 KiB, of which a neighbour may use some */
    LINE = 64,         /* bytes of a row of a tile */
    TILE = SIDE * LINE /* bytes */
};
_Static_assert(ROWS <= (int)CPU_TILE_ROWS && TOKENS <= (int)CPU_TILE_TOKENS &&
                   STEP == (int)CPU_TILE_UNIT,
               "as kernels.h says");

static void begin(void) {
    static const uint8_t rows[AMX_TILES] = {SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE};
    static const uint16_t lines[AMX_TILES] = {LINE, LINE, LINE, LINE, LINE, LINE, LINE, LINE};
    configure_tiles(rows, lines);
}

static void end(void) {
    _mm_sfence();
    _tile_release();
}

/* ---- Activations ---- */

/* Columns [at, at + 32) of 16 tokens: a row a pair of columns, a token beside the other. */
static void pack_tile(const float *x, int64_t x_stride, int tokens, int64_t at, int64_t count,
                      char *tile) {
    __m512 pairs[SQUARE];
    for (int t = 0; t < SIDE; t++) {
        const float *row = x + t * x_stride + at;
        __m512i values = _mm512_setzero_si512();
        if (t < tokens && count - at >= STEP)
            values = round_pair(load(row), load(row + LANES));
        else if (t < tokens)
            values =
                round_pair(load_some(row, count - at), load_some(row + LANES, count - at - LANES));
        pairs[t] = _mm512_castsi512_ps(values);
    }
    transpose_square(pairs);
    for (int i = 0; i < SIDE; i++)
        _mm512_storeu_ps(tile + i * LINE, pairs[i]);
}

static void pack(const float *x, int64_t x_stride, int tokens, int64_t count, void *block) {
    char *tile = block;
    for (int64_t at = 0; at < count; at += STEP, tile += 2 * TILE) {
        pack_tile(x, x_stride, tokens, at, count, tile);
        pack_tile(x + SIDE * x_stride, x_stride, tokens - SIDE, at, count, tile + TILE);
    }
}

/* ---- Weights ---- */

ALWAYS_INLINE void convert_as(dtype type, const cpu_tile_weights *w, char *panel) {
    const int64_t step_bytes = step_bytes_as(type), whole = w->count / STEP * STEP;
    for (int r = 0; r < ROWS; r++) {
        const char *p = w->rows + (r < w->count_rows ? r : w->count_rows - 1) * w->row_bytes +
                        w->from / STEP * step_bytes;
        char *line = panel + r * LINE;
        for (int64_t at = 0; at < whole; at += STEP, p += step_bytes, line += ROWS * LINE) {
            __builtin_prefetch(p + w->ahead, 0, 2);
            if (step_bytes > LINE)
                __builtin_prefetch(p + w->ahead + LINE, 0, 2);
            _mm512_storeu_si512(line, decode_as(type, p));
        }
        if (whole < w->count)
            _mm512_storeu_si512(line, decode_part_as(type, p, w->count - whole));
    }
}

static void convert(const cpu_tile_weights *w,
                    void *panel){FOR_WEIGHT_TYPE(w->type, convert_as, w, panel)}

/* ---- Products ---- */

ALWAYS_INLINE void ask_for(cpu_tile_ahead *ahead) {
    __builtin_prefetch(ahead->first, 0, 2);
    __builtin_prefetch(ahead->second, 0, 2);
    ahead->first += ahead->step;
    ahead->second += ahead->step;
}

/* Without a loop, whose end would be guessed wrongly at every step. */
ALWAYS_INLINE void ask_for_half_tile(const char *p) {
    UNROLL
    for (int line = 0; line < TILE / 2; line += LINE)
        __builtin_prefetch(p + line);
}

/* The tiles 0 to 3 are sums, row by row; 4 and 5 weights, 6 and 7 activations. */
ALWAYS_INLINE
void multiply_wide(const char *weights, const char *x, int64_t steps, bool add,
                   cpu_tile_ahead ahead, float *sums) {
    if (add) {
        _tile_loadd(0, sums, LINE);
        _tile_loadd(1, sums + SIDE * SIDE, LINE);
        _tile_loadd(2, sums + 2 * SIDE * SIDE, LINE);
        _tile_loadd(3, sums + 3 * SIDE * SIDE, LINE);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t i = 0; i < steps; i++, weights += 2 * TILE, x += 2 * TILE) {
        /* The load of a tile waits for all its lines: what comes two steps on is asked for now. */
        ask_for_half_tile(x + 4 * TILE);
        ask_for(&ahead);
        _tile_loadd(6, x, LINE);
        _tile_loadd(4, weights, LINE);
        _tile_dpbf16ps(0, 4, 6);
        ask_for_half_tile(x + 4 * TILE + TILE / 2);
        _tile_loadd(7, x + TILE, LINE);
        _tile_dpbf16ps(1, 4, 7);
        ask_for_half_tile(x + 5 * TILE);
        _tile_loadd(5, weights + TILE, LINE);
        _tile_dpbf16ps(2, 5, 6);
        ask_for_half_tile(x + 5 * TILE + TILE / 2);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, LINE);
    _tile_stored(1, sums + SIDE * SIDE, LINE);
    _tile_stored(2, sums + 2 * SIDE * SIDE, LINE);
    _tile_stored(3, sums + 3 * SIDE * SIDE, LINE);
}

/* Up to 16 tokens: only the first of every two tiles of activations and sums. */
ALWAYS_INLINE void multiply_narrow(const char *weights, const char *x, int64_t steps, bool add,
                                   cpu_tile_ahead ahead, float *sums) {
    if (add) {
        _tile_loadd(0, sums, LINE);
        _tile_loadd(2, sums + 2 * SIDE * SIDE, LINE);
    } else {
        _tile_zero(0);
        _tile_zero(2);
    }
    for (int64_t i = 0; i < steps; i++, weights += 2 * TILE, x += 2 * TILE) {
        ask_for_half_tile(x + 4 * TILE);
        ask_for(&ahead);
        _tile_loadd(6, x, LINE);
        _tile_loadd(4, weights, LINE);
        _tile_dpbf16ps(0, 4, 6);
        ask_for_half_tile(x + 4 * TILE + TILE / 2);
        _tile_loadd(5, weights + TILE, LINE);
        _tile_dpbf16ps(2, 5, 6);
    }
    _tile_stored(0, sums, LINE);
    _tile_stored(2, sums + 2 * SIDE * SIDE, LINE);
}

static void multiply(const void *panel, const void *block, int tokens, int64_t count, bool add,
                     const cpu_tile_ahead *ahead, float *sums) {
    int64_t steps = (count + STEP - 1) / STEP;
    /* What lies in memory is to be there: the loads of tiles do not say what they read. */
    __asm__ volatile("" : : : "memory");
    if (tokens > SIDE)
        multiply_wide(panel, block, steps, add, *ahead, sums);
    else
        multiply_narrow(panel, block, steps, add, *ahead, sums);
}

static void spread(const float *sums, int tokens, float *z, int64_t z_stride) {
    for (int half = 0; half < 4; half++, sums += SIDE * SIDE) {
        int first = half % 2 * SIDE, count = tokens - first < SIDE ? tokens - first : SIDE;
        if (count <= 0)
            continue;
        __m512 square[SQUARE];
        for (int i = 0; i < SIDE; i++)
            square[i] = _mm512_loadu_ps(sums + i * SIDE);
        transpose_square(square);
        float *target = z + first * z_stride + half / 2 * SIDE;
        for (int i = 0; i < count; i++)
            _mm512_storeu_ps(target + i * z_stride, square[i]);
    }
}

/* Lines that are written in part, at the ends, are read first and stay in the caches. */
static void put(const float *from, int64_t count, float *to) {
    int64_t i = 0, aligned = (int64_t)(-(uintptr_t)to / sizeof(float) % LANES);
    for (; i < count && i < aligned; i++)
        to[i] = from[i];
    for (; i + LANES <= count; i += LANES)
        _mm512_stream_ps(to + i, _mm512_loadu_ps(from + i));
    for (; i < count; i++)
        to[i] = from[i];
}

const cpu_tiles PER_ISA(cpu_tiles) = {
    .bf16 = true,
    .rows = ROWS,
    .tokens = TOKENS,
    .depth = DEPTH,
    .least_tokens = 4,
    .panel_bytes = (size_t)ROWS * DEPTH * 2,
    .block_bytes = (size_t)TOKENS * DEPTH * 2,
    .begin = begin,
    .end = end,
    .pack = pack,
    .convert = convert,
    .multiply = multiply,
    .spread = spread,
    .put = put,
};
