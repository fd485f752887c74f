/* Rows of blocks: each block by the search (quantise_search.h), and written as blocks.h reads it. */
#include "format/quantise.h"

#include <math.h>
#include <string.h>

#include "format/quantise_pack.h"
#include "format/quantise_search.h"

float quantise_limit(dtype type) {
    const float largest_f16 = 65504;
    const search_grid *g = search_grid_of(type);
    return g->offset ? largest_f16 : largest_f16 * g->widest;
}

/* ---- Blocks ---- */

int64_t quantise_check(dtype type, const float *values, int64_t count) {
    float limit = quantise_limit(type);
    int64_t i = 0;
    while (i < count && fabsf(values[i]) <= limit) /* false for NaN */
        i++;
    return i;
}

/* Level q as the bits of `type`. */
static int code_of(dtype type, int q) {
    int code = 0;
    switch (type) {
    case DTYPE_Q4_0:
        return q + 8;
    case DTYPE_Q5_0:
        return q + 16;
    case DTYPE_IQ4_NL:
        while (code < 15 && block_levels[code] < q)
            code++;
        return code;
    default:
        return q;
    }
}

void quantise_pack(dtype type, float d, float m, const int *q, uint8_t *block) {
    uint16_t half = float_to_f16(d);
    memcpy(block, &half, sizeof half), block += sizeof half;
    if (search_grid_of(type)->offset) {
        half = float_to_f16(m);
        memcpy(block, &half, sizeof half), block += sizeof half;
    }
    if (type == DTYPE_Q8_0) {
        for (int i = 0; i < BLOCK_ELEMENTS; i++)
            *block++ = (uint8_t)q[i];
        return;
    }
    int code[BLOCK_ELEMENTS];
    for (int i = 0; i < BLOCK_ELEMENTS; i++)
        code[i] = code_of(type, q[i]);
    for (int i = 0; (type == DTYPE_Q5_0 || type == DTYPE_Q5_1) && i < BLOCK_ELEMENTS; i += 8) {
        int high = 0;
        for (int j = 0; j < 8; j++)
            high |= (code[i + j] >> 4) << j;
        *block++ = (uint8_t)high;
    }
    for (int i = 0; i < 16; i++)
        *block++ = (uint8_t)((code[i] & 15) | (code[i + 16] & 15) << 4);
}

static void encode(dtype type, const float *values, const float *importance, uint8_t *block) {
    const search_grid *grid = search_grid_of(type);
    int q[BLOCK_ELEMENTS];
    search_scale s;
    search_block_scale(grid, &(search_problem){.values = values, .importance = importance}, &s);
    float inverse = s.d != 0 ? 1 / s.d : 0;
    for (int i = 0; i < BLOCK_ELEMENTS; i++)
        q[i] = (int)search_nearest(grid, (values[i] / s.unit - s.m) * inverse);
    quantise_pack(type, s.d * s.unit, s.m * s.unit, q, block);
}

int64_t quantise_row(dtype type, const float *values, const float *importance, int64_t count,
                     void *blocks) {
    int64_t good = quantise_check(type, values, count);
    uint8_t *block = blocks;
    for (int64_t i = 0; i < count && good == count; i += BLOCK_ELEMENTS, block += dtype_size(type))
        encode(type, values + i, importance ? importance + i : NULL, block);
    return good;
}
