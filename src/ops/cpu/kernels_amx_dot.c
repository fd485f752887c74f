/* Products of quantised activations with weights in blocks (base/blocks.h) on AMX, for up to 16
 * tokens: more than the products of kernels_dot.c are good for, and few enough that unpacking
 * weights to bf16 (kernels_amx.c) would take longer than reading them.
 *
 * A block of 32 integers is a row of a tile of weights, 32 columns of 16 tokens are a tile of
 * activations, and their product in integers times the scales of both is what a block adds to 16 x
 * 16 sums, which stay in registers. While tiles are multiplied, the products before them are scaled
 * and the weights after them unpacked. */
#include "ops/cpu/vector_amx.h"
#include "ops/cpu/vector_dot.h"

enum {
    ROWS = 16,
    TOKENS = 16,
    QUADS = BLOCK_ELEMENTS / 4,     /* neighbouring columns are multiplied four by four */
    ROW_BYTES = 2 * BLOCK_ELEMENTS, /* two blocks of a row beside each other */
    LINE = 64,
    AHEAD = 1024 /* bytes from a read to what is prefetched meanwhile */
};

/* Activations of 32 columns. */
typedef struct group {
    int8_t q[QUADS][TOKENS][4];
    float scale[TOKENS];
    float sum[TOKENS]; /* of the integers, times the scale */
} __attribute__((aligned(64))) group;
_Static_assert(sizeof(group) <= BLOCK_ELEMENTS * CPU_DOT_BYTES, "memory of quantised activations");

/* BLOCKS blocks of 16 rows: three of them are worked on at a time. What is stored is loaded as a tile
 * only a turn later, since such a load waits until the memory has what was stored before. */
typedef int8_t integers[BLOCKS / 2][ROWS][ROW_BYTES];
typedef int32_t products[BLOCKS][ROWS][TOKENS];
typedef struct scales {
    float d[ROWS / GROUP][LANES], m[ROWS / GROUP][LANES]; /* as load_group has them */
} scales;
typedef struct panels {
    integers u[2];
    products z[2];
    scales scales[4];
} __attribute__((aligned(64))) panels;

/* Tiles 0 to 3 are products, 4 and 5 weights, 6 and 7 activations. */
static void begin(void) {
    static const uint8_t rows[AMX_TILES] = {ROWS, ROWS, ROWS, ROWS, ROWS, ROWS, QUADS, QUADS};
    static const uint16_t lines[AMX_TILES] = {LINE,           LINE,           LINE, LINE,
                                              BLOCK_ELEMENTS, BLOCK_ELEMENTS, LINE, LINE};
    configure_tiles(rows, lines);
}

static void quantise(const float *x, int64_t width, int token, void *quantised) {
    group *g = quantised;
    for (int64_t i = 0; i < width; i += BLOCK_ELEMENTS, g++) {
        int8_t q[BLOCK_ELEMENTS];
        int32_t sum;
        g->scale[token] = quantise_group(x + i, q, &sum);
        g->sum[token] = g->scale[token] * (float)sum;
        for (int i4 = 0; i4 < QUADS; i4++)
            memcpy(g->q[i4][token], q + 4 * i4, 4);
    }
}

/* Rows of weights, as many bytes on as a part begins. */
typedef struct place {
    const char *const *row;
    int64_t offset;
} place;

/* BLOCKS blocks of GROUP rows from row `first` on. */
ALWAYS_INLINE void unpack(dtype type, const place *from, const int first, integers out, scales *s) {
    /* Both halves of a block beside each other. */
    const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    const char *row[GROUP];
    UNROLL
    for (int r = 0; r < GROUP; r++) {
        vec_bytes u[2];
        row[r] = from->row[first + r] + from->offset;
        UNROLL
        for (int64_t line = 0; line < BLOCKS * block_bytes(type); line += LINE)
            __builtin_prefetch(row[r] + AHEAD + line);
        load_weights(type, 0, row[r], u);
        u[0] -= (uint8_t)offset_of(type);
        u[1] -= (uint8_t)offset_of(type);
        _mm512_store_si512(out[0][first + r],
                           _mm512_permutex2var_epi64((__m512i)u[0], low, (__m512i)u[1]));
        _mm512_store_si512(out[1][first + r],
                           _mm512_permutex2var_epi64((__m512i)u[0], high, (__m512i)u[1]));
    }
    store(s->d[first / GROUP], load_group(type, row, 0));
    if (has_minimum(type))
        store(s->m[first / GROUP], load_group(type, row, 2));
}

ALWAYS_INLINE void add_products(dtype type, int32_t (*z)[TOKENS], const scales *s, const int b,
                                const group *g, vec sums[ROWS]) {
    const vec scale = load(g->scale), sum = load(g->sum);
    UNROLL
    for (int r = 0; r < ROWS; r++) {
        const int lane = WORDS * b + r % GROUP;
        const vec value = (vec)_mm512_cvtepi32_ps(_mm512_load_si512(z[r]));
        sums[r] = fused(splat(s->d[r / GROUP][lane]), scale * value, sums[r]);
        if (has_minimum(type))
            sums[r] = fused(splat(s->m[r / GROUP][lane]), sum, sums[r]);
    }
}

/* Tile `b` of sums = block b of the 16 rows times its columns of the activations. */
ALWAYS_INLINE void multiply_tile(const int b, const integers u, const group *g) {
    const char *weights = (const char *)u[b / 2] + b % 2 * BLOCK_ELEMENTS;
    /* What lies in memory is to be there: the loads of tiles do not say what they read. */
    __asm__ volatile("" : : : "memory");
    switch (b) { /* the numbers of tiles are parts of instructions */
    case 0:
        _tile_zero(0);
        _tile_loadd(4, weights, ROW_BYTES);
        _tile_loadd(6, g->q, LINE);
        _tile_dpbssd(0, 4, 6);
        break;
    case 1:
        _tile_zero(1);
        _tile_loadd(5, weights, ROW_BYTES);
        _tile_loadd(7, g->q, LINE);
        _tile_dpbssd(1, 5, 7);
        break;
    case 2:
        _tile_zero(2);
        _tile_loadd(4, weights, ROW_BYTES);
        _tile_loadd(6, g->q, LINE);
        _tile_dpbssd(2, 4, 6);
        break;
    default:
        _tile_zero(3);
        _tile_loadd(5, weights, ROW_BYTES);
        _tile_loadd(7, g->q, LINE);
        _tile_dpbssd(3, 5, 7);
    }
}

ALWAYS_INLINE void store_tile(const int b, int32_t (*z)[TOKENS]) {
    switch (b) {
    case 0:
        _tile_stored(0, z, LINE);
        break;
    case 1:
        _tile_stored(1, z, LINE);
        break;
    case 2:
        _tile_stored(2, z, LINE);
        break;
    default:
        _tile_stored(3, z, LINE);
    }
    __asm__ volatile("" : : : "memory");
}

/* The end of rows whose width is no multiple of PART, laid out as a whole part: what comes before it is
 * the columns before, which count nothing, or zeros behind where there are none. */
typedef struct rest {
    const char *row[ROWS];
    char bytes[ROWS][BLOCKS * sizeof(block_q8_0)];
    group groups[BLOCKS];
} rest;

ALWAYS_INLINE void lay_out_rest(dtype type, const cpu_dot_product *a, const char *const row[ROWS],
                                rest *end) {
    const int64_t whole = a->width / PART, left = (a->width - whole * PART) / BLOCK_ELEMENTS;
    const int64_t row_bytes = a->width / BLOCK_ELEMENTS * block_bytes(type);
    const group *g = (const group *)a->x + whole * BLOCKS;
    *end = (rest){0};
    memcpy(&end->groups[whole > 0 ? BLOCKS - left : 0], g, (size_t)left * sizeof *g);
    for (int r = 0; r < ROWS; r++) {
        end->row[r] = whole > 0 ? row[r] + row_bytes - BLOCKS * block_bytes(type) : end->bytes[r];
        if (whole == 0)
            memcpy(end->bytes[r], row[r], (size_t)row_bytes);
    }
}

/* Rows first, first + step, …: every stream of addresses walks rows that follow each other.
 *
 * Part `at` is multiplied while the part before is scaled and the part after unpacked, a quarter of
 * each in turn, so that the processor has all of them before it at once. */
ALWAYS_INLINE void sixteen_rows(dtype type, const cpu_dot_product *a, const int first,
                                const int step) {
    const int64_t bytes = BLOCKS * block_bytes(type), whole = a->width / PART;
    const int64_t parts = (a->width + PART - 1) / PART;
    const group *x = a->x;
    const char *row[ROWS];
    panels all;
    rest end;
    vec sums[ROWS];
    for (int r = 0; r < ROWS; r++) {
        const int index = first + r * step < a->rows ? first + r * step : a->rows - 1;
        row[r] = a->weights + index * a->row_bytes;
        sums[r] = (vec){0};
    }
    if (parts > whole)
        lay_out_rest(type, a, row, &end);
    for (int64_t at = -1; at <= parts; at++) {
        const place next = at + 1 < whole ? (place){row, (at + 1) * bytes} : (place){end.row, 0};
        const group *g = at < whole ? x + at * BLOCKS : end.groups;
        const group *before = at - 1 < whole ? x + (at - 1) * BLOCKS : end.groups;
        UNROLL
        for (int b = 0; b < BLOCKS; b++) {
            if (at >= 0 && at < parts)
                multiply_tile(b, all.u[at & 1], g + b);
            if (at > 0)
                add_products(type, all.z[(at - 1) & 1][b], &all.scales[(at - 1) & 3], b, before + b,
                             sums);
            if (at + 1 < parts)
                unpack(type, &next, b * GROUP, all.u[(at + 1) & 1], &all.scales[(at + 1) & 3]);
            if (at >= 0 && at < parts)
                store_tile(b, all.z[at & 1][b]);
        }
    }
    for (int r = 0; r < ROWS && first + r * step < a->rows; r++)
        for (int t = 0; t < a->tokens; t++)
            a->z[t * a->z_stride + first + r * step] = sums[r][t];
}

ALWAYS_INLINE void multiply_as(dtype type, const cpu_dot_product *a) {
    const int step = (a->rows + ROWS - 1) / ROWS;
    for (int row = 0; row < step; row++)
        sixteen_rows(type, a, row, step);
}

static void multiply(const cpu_dot_product *a) {
    begin();
    FOR_BLOCK_TYPE(a->type, multiply_as, a)
    _tile_release();
}

const cpu_dot PER_ISA(cpu_dot) = {
    .most_tokens = TOKENS, .quantise = quantise, .multiply = multiply};
