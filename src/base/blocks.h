/* Blocks of 32 quantised values, as GGUF files have them: what the bytes are, and what they mean.
 *
 * A row of a matrix is whole blocks, one after the other. Scales are f16. Of 16 bytes with two
 * values each, the low four bits of byte j are value j and the high four bits value j + 16. With
 * q the value's 4, 5 or 8 bits:
 *   q8_0    d q, q from -128 to 127        q4_0    d (q - 8)       q4_1    d q + m
 *   iq4_nl  d block_levels[q]              q5_0    d (q - 16)      q5_1    d q + m
 * Bit 4 of value j of the 5-bit types is bit j of the 32 bits `high` (little-endian).
 * Source: the GGUF and GGML file format documentation. */
#ifndef BASE_BLOCKS_H
#define BASE_BLOCKS_H

#include <stdint.h>

#include "base/dtype.h"

enum { BLOCK_ELEMENTS = 32 };

typedef struct block_q8_0 {
    uint16_t d;
    int8_t q[32];
} block_q8_0;
/* Also iq4_nl. */
typedef struct block_q4_0 {
    uint16_t d;
    uint8_t q[16];
} block_q4_0;
typedef struct block_q4_1 {
    uint16_t d, m;
    uint8_t q[16];
} block_q4_1;
typedef struct block_q5_0 {
    uint16_t d;
    uint8_t high[4];
    uint8_t q[16];
} block_q5_0;
typedef struct block_q5_1 {
    uint16_t d, m;
    uint8_t high[4];
    uint8_t q[16];
} block_q5_1;

/* The levels of iq4_nl, rising. */
extern const int8_t block_levels[16];

/* Value `index` of an array of blocks. */
float block_element(dtype type, const void *blocks, int64_t index);
/* `count` values of whole blocks; every value is rounded as the formulas above say, products
 * first. */
void blocks_decode(dtype type, const void *blocks, int64_t count, float *values);

#endif
