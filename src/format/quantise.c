/* Rows of blocks: each block by the search (quantise_search.h), and written as blocks.h reads it. */
#include "format/quantise.h"

#include <math.h>
#include <string.h>

#include "format/quantise_search.h"

float quantise_limit(dtype type) {
    const float largest_f16 = 65504;
    const search_grid *g = search_grid_of(type);
    return g->offset ? largest_f16 : largest_f16 * g->widest;
}

/* ---- Blocks ---- */

/* Index of the first value that is not within `limit`, or 32. */
static int first_outside(const float *values, float limit) {
    int i = 0;
    while (i < BLOCK_ELEMENTS && fabsf(values[i]) <= limit) /* false for NaN */
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

static void pack(dtype type, float d, float m, const int *q, uint8_t *block) {
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
    pack(type, s.d * s.unit, s.m * s.unit, q, block);
}

int64_t quantise_row(dtype type, const float *values, const float *importance, int64_t count,
                     void *blocks) {
    float limit = quantise_limit(type);
    uint8_t *block = blocks;
    for (int64_t first = 0; first < count; first += BLOCK_ELEMENTS, block += dtype_size(type)) {
        int outside = first_outside(values + first, limit);
        if (outside < BLOCK_ELEMENTS)
            return first + outside;
        encode(type, values + first, importance ? importance + first : NULL, block);
    }
    return count;
}

/* ---- Carrying errors on ---- */

/* values[i] -= sum over j of error[j] * carry[j][i], for one block of them. */
static void make_good(const float *error, const float *carry, int64_t window, float *values) {
    float sum[BLOCK_ELEMENTS];
    memcpy(sum, values, sizeof sum);
    for (int j = 0; j < BLOCK_ELEMENTS; j++)
        for (int i = 0; i < BLOCK_ELEMENTS; i++)
            sum[i] -= error[j] * carry[j * window + i];
    memcpy(values, sum, sizeof sum);
}

/* Rounds the first block of `values`, which are in the order of rounding and of which `left` come
 * before the end of their window; `carry` are their rows, from their own columns on. `order` says
 * where in its row each value belongs. */
static void encode_carrying(dtype type, float *values, const float *importance, const float *carry,
                            int64_t window, int64_t left, const int32_t *order, uint8_t *row) {
    const search_grid *grid = search_grid_of(type);
    int q[BLOCK_ELEMENTS];
    float error[BLOCK_ELEMENTS];
    search_scale s;
    search_problem problem = {values, importance, carry, window};
    search_block_scale(grid, &problem, &s);
    float d = s.d * s.unit, m = s.m * s.unit;
    for (int j = 0; j < BLOCK_ELEMENTS; j++) {
        float level = search_nearest(grid, d != 0 ? (values[j] - m) / d : 0);
        q[order[j] % BLOCK_ELEMENTS] = (int)level;
        error[j] = values[j] - (d * level + m);
        for (int k = j + 1; k < BLOCK_ELEMENTS; k++)
            values[k] -= error[j] * carry[j * window + k];
    }
    for (int64_t k = BLOCK_ELEMENTS; k < left; k += BLOCK_ELEMENTS)
        make_good(error, carry + k, window, values + k);
    pack(type, d, m, q, row + order[0] / BLOCK_ELEMENTS * (int64_t)dtype_size(type));
}

int64_t quantise_row_carrying(dtype type, const float *values, const quantise_columns *columns,
                              int64_t count, float *work, void *blocks) {
    float limit = quantise_limit(type);
    int64_t window = columns->window;
    for (int64_t i = 0; i < count; i += BLOCK_ELEMENTS) {
        int outside = first_outside(values + i, limit);
        if (outside < BLOCK_ELEMENTS)
            return i + outside;
    }
    for (int64_t i = 0; i < count; i++)
        work[i] = values[columns->order[i]];
    for (int64_t first = 0; first < count; first += BLOCK_ELEMENTS) {
        int64_t end = (first / window + 1) * window;
        for (int j = 0; j < BLOCK_ELEMENTS; j++) /* what was carried may have led beyond */
            work[first + j] = fminf(fmaxf(work[first + j], -limit), limit);
        encode_carrying(type, work + first, columns->importance + first,
                        columns->carry + first * window + first % window, window,
                        (end < count ? end : count) - first, columns->order + first, blocks);
    }
    return count;
}
