/* What quantised blocks mean, written for reading. Blocks may have any address. */
#include "base/blocks.h"

const int8_t block_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                 1,    13,   25,  38,  53,  69,  89,  113};

/* Four bits of value i. */
static int nibble(const uint8_t *q, int i) {
    return i < 16 ? q[i] & 15 : q[i - 16] >> 4;
}

static int fifth_bit(const uint8_t *high, int i) {
    return (high[i / 8] >> i % 8 & 1) << 4;
}

/* Value i of one block. */
static float value_of(dtype type, const uint8_t *block, int i) {
    union {
        block_q8_0 q8_0;
        block_q5_0 q5_0;
        block_q5_1 q5_1;
        block_q4_0 q4_0;
        block_q4_1 q4_1;
    } b;
    memcpy(&b, block, dtype_size(type));
    float d = f16_to_float(b.q8_0.d); /* in every type the scale comes first */
    switch (type) {
    case DTYPE_Q8_0:
        return d * (float)b.q8_0.q[i];
    case DTYPE_Q5_0:
        return d * (float)((nibble(b.q5_0.q, i) | fifth_bit(b.q5_0.high, i)) - 16);
    case DTYPE_Q5_1:
        return d * (float)(nibble(b.q5_1.q, i) | fifth_bit(b.q5_1.high, i)) +
               f16_to_float(b.q5_1.m);
    case DTYPE_Q4_0:
        return d * (float)(nibble(b.q4_0.q, i) - 8);
    case DTYPE_Q4_1:
        return d * (float)nibble(b.q4_1.q, i) + f16_to_float(b.q4_1.m);
    default:
        return d * (float)block_levels[nibble(b.q4_0.q, i)];
    }
}

float block_element(dtype type, const void *blocks, int64_t index) {
    const uint8_t *block =
        (const uint8_t *)blocks + (size_t)(index / BLOCK_ELEMENTS) * dtype_size(type);
    return value_of(type, block, (int)(index % BLOCK_ELEMENTS));
}

void blocks_decode(dtype type, const void *blocks, int64_t count, float *values) {
    const uint8_t *block = blocks;
    for (int64_t first = 0; first < count; first += BLOCK_ELEMENTS, block += dtype_size(type))
        for (int i = 0; i < BLOCK_ELEMENTS; i++)
            values[first + i] = value_of(type, block, i);
}
