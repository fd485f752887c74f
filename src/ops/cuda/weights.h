/* Weights as they stand in the file, by units: a unit is what a lane takes of a row at a time, in shared memory.
 *
 * Of floating-point types it is eight values. Of blocks (base/blocks.h) it is as many as make whole words: two
 * blocks where a block is an odd number of half-words, else one. A unit begins at a multiple of 4 bytes, and words
 * of lanes lie an odd number of words apart, or nearly so, which keeps them in different banks.
 *
 * Step j of a block, 0 to 3, is its values 4 j to 4 j + 3 and 16 + 4 j to 16 + 4 j + 3, as integers: a weight is
 * scale q + least. Integers become floats exactly: they are set into the low bits of 2^23, which is then taken
 * away, by one addition. */
#ifndef OPS_CUDA_WEIGHTS_H
#define OPS_CUDA_WEIGHTS_H

#include "ops/cuda/device.h"

enum { UNIT_VALUES = 8, STEPS = 4 };

/* ---- Values one after the other: `values` gives eight of them, `swapped` the last four first ---- */

struct f32_weights {
    enum { type = DTYPE_F32, blocks = 0, elements = 8, bytes = 32, aligned = 16 };
    enum { rows = 4, depth = 3, integers = 0 };
    static __device__ __forceinline__ void values(const uint8_t *unit, float v[UNIT_VALUES],
                                                  bool swapped = false) {
        float4 low = *((const float4 *)unit + (swapped ? 1 : 0)),
               high = *((const float4 *)unit + (swapped ? 0 : 1));
        v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
        v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
    }
};

struct bf16_weights {
    enum { type = DTYPE_BF16, blocks = 0, elements = 8, bytes = 16, aligned = 16 };
    enum { rows = 4, depth = 5, integers = 0 };
    static __device__ __forceinline__ void values(const uint8_t *unit, float v[UNIT_VALUES],
                                                  bool swapped = false) {
        const uint4 u = *(const uint4 *)unit;
        const uint32_t word[4] = {swapped ? u.z : u.x, swapped ? u.w : u.y, swapped ? u.x : u.z,
                                  swapped ? u.y : u.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            v[2 * i] = float_of_bits(word[i] << 16);
            v[2 * i + 1] = float_of_bits(word[i] & 0xffff0000u);
        }
    }
};

struct f16_weights {
    enum { type = DTYPE_F16, blocks = 0, elements = 8, bytes = 16, aligned = 16 };
    enum { rows = 4, depth = 5, integers = 0 };
    static __device__ __forceinline__ void values(const uint8_t *unit, float v[UNIT_VALUES],
                                                  bool swapped = false) {
        const uint4 u = *(const uint4 *)unit;
        const uint32_t word[4] = {swapped ? u.z : u.x, swapped ? u.w : u.y, swapped ? u.x : u.z,
                                  swapped ? u.y : u.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            v[2 * i] = from_f16((uint16_t)word[i]);
            v[2 * i + 1] = from_f16((uint16_t)(word[i] >> 16));
        }
    }
};

/* ---- Blocks ---- */

/* The word at byte `at`, which is even. */
static __device__ __forceinline__ uint32_t unit_word(const uint8_t *unit, int at) {
    const uint32_t *words = (const uint32_t *)unit + at / 4;
    return at % 4 == 0 ? words[0] : __byte_perm(words[0], words[1], 0x5432);
}
static __device__ __forceinline__ float unit_half(const uint8_t *unit, int at) {
    return from_f16((uint16_t)(((const uint32_t *)unit)[at / 4] >> (at % 4 * 8)));
}

/* Byte k of the word, less `origin`. */
static __device__ __forceinline__ float byte_value(uint32_t word, int k, float origin) {
    return float_of_bits(__byte_perm(word, 0x4b000000u, 0x7440u + (unsigned)k)) -
           (8388608.0f + origin);
}
static __device__ __forceinline__ void byte_values(uint32_t low, uint32_t high, float origin,
                                                   float v[UNIT_VALUES]) {
#pragma unroll
    for (int k = 0; k < 4; k++) {
        v[k] = byte_value(low, k, origin);
        v[4 + k] = byte_value(high, k, origin);
    }
}
/* The four bits of the word at bit `at` <= 16, less `origin`. */
static __device__ __forceinline__ float bits_value(uint32_t word, int at, float origin) {
    float set = float_of_bits((word & 15u << at) | 0x4b000000u);
    return fmaf(set, 1.0f / (float)(1 << at), -((float)(1 << (23 - at)) + origin));
}
/* The low and the high four bits of each byte. */
static __device__ __forceinline__ void four_bit_values(uint32_t word, float origin,
                                                       float v[UNIT_VALUES]) {
    uint32_t upper = word >> 20;
    v[0] = bits_value(word, 0, origin);
    v[1] = bits_value(word, 8, origin);
    v[2] = bits_value(word, 16, origin);
    v[3] = bits_value(upper, 4, origin);
    v[4] = bits_value(word, 4, origin);
    v[5] = bits_value(word, 12, origin);
    v[6] = bits_value(upper, 0, origin);
    v[7] = bits_value(upper, 8, origin);
}
/* Bits 0 to 3 as bit 4 of bytes 0 to 3. */
static __device__ __forceinline__ uint32_t fifth_bits(uint32_t bits) {
    return ((bits & 15u) * 0x00204081u & 0x01010101u) << 4;
}
/* Step j of a block with a fifth bit: from the word of its four-bit values, and the word of fifth bits. */
static __device__ __forceinline__ void five_bit_words(uint32_t word, uint32_t fifth, int j,
                                                      uint32_t *low, uint32_t *high) {
    *low = (word & 0x0f0f0f0fu) | fifth_bits(fifth >> (4 * j));
    *high = (word >> 4 & 0x0f0f0f0fu) | fifth_bits(fifth >> (16 + 4 * j));
}
static __device__ __forceinline__ void five_bit_values(uint32_t word, uint32_t fifth, int j,
                                                       float origin, float v[UNIT_VALUES]) {
    uint32_t low, high;
    five_bit_words(word, fifth, j, &low, &high);
    byte_values(low, high, origin, v);
}

/* `b` is the block of the unit. */
struct q8_0_weights {
    enum { type = DTYPE_Q8_0, blocks = 2, elements = 64, bytes = 68, aligned = 4, least = 0 };
    enum { rows = 2, depth = 3, integers = 0 };
    static __device__ __forceinline__ float scale(const uint8_t *unit, int b) {
        return unit_half(unit, 34 * b);
    }
    static __device__ __forceinline__ float offset(const uint8_t *, int) {
        return 0.0f;
    }
    static __device__ __forceinline__ void step(const uint8_t *unit, int b, int j,
                                                float v[UNIT_VALUES]) {
        uint32_t low = unit_word(unit, 34 * b + 2 + 4 * j);
        uint32_t high = unit_word(unit, 34 * b + 18 + 4 * j);
        byte_values(low ^ 0x80808080u, high ^ 0x80808080u, 128.0f, v);
    }
};

struct q4_0_weights {
    enum { type = DTYPE_Q4_0, blocks = 2, elements = 64, bytes = 36, aligned = 4, least = 0 };
    enum { rows = 2, depth = 4, integers = 0 };
    static __device__ __forceinline__ float scale(const uint8_t *unit, int b) {
        return unit_half(unit, 18 * b);
    }
    static __device__ __forceinline__ float offset(const uint8_t *, int) {
        return 0.0f;
    }
    static __device__ __forceinline__ void step(const uint8_t *unit, int b, int j,
                                                float v[UNIT_VALUES]) {
        four_bit_values(unit_word(unit, 18 * b + 2 + 4 * j), 8.0f, v);
    }
};

/* The levels (base/blocks.h) at the four indexes of four bits in the low half of the word, 128 added. */
static __device__ __forceinline__ uint32_t four_levels(uint32_t word) {
    uint32_t index = word & 0x7777u;
    uint32_t low = __byte_perm(0x3f2d1801u, 0x766a5d4fu, index);
    uint32_t high = __byte_perm(0xa6998d81u, 0xf1d9c5b5u, index);
    return __byte_perm(low, high, 0x3210u | (word & 0x8888u) >> 1);
}

struct iq4_nl_weights {
    enum { type = DTYPE_IQ4_NL, blocks = 2, elements = 64, bytes = 36, aligned = 4, least = 0 };
    enum { rows = 2, depth = 4, integers = 0 };
    static __device__ __forceinline__ float scale(const uint8_t *unit, int b) {
        return unit_half(unit, 18 * b);
    }
    static __device__ __forceinline__ float offset(const uint8_t *, int) {
        return 0.0f;
    }
    static __device__ __forceinline__ void step(const uint8_t *unit, int b, int j,
                                                float v[UNIT_VALUES]) {
        uint32_t word = unit_word(unit, 18 * b + 2 + 4 * j);
        uint32_t first = four_levels(word), second = four_levels(word >> 16);
#pragma unroll
        for (int k = 0; k < 2; k++) {
            v[k] = byte_value(first, 2 * k, 128.0f);
            v[2 + k] = byte_value(second, 2 * k, 128.0f);
            v[4 + k] = byte_value(first, 2 * k + 1, 128.0f);
            v[6 + k] = byte_value(second, 2 * k + 1, 128.0f);
        }
    }
};

struct q5_0_weights {
    enum { type = DTYPE_Q5_0, blocks = 2, elements = 64, bytes = 44, aligned = 4, least = 0 };
    enum { rows = 2, depth = 3, integers = 0 };
    static __device__ __forceinline__ float scale(const uint8_t *unit, int b) {
        return unit_half(unit, 22 * b);
    }
    static __device__ __forceinline__ float offset(const uint8_t *, int) {
        return 0.0f;
    }
    static __device__ __forceinline__ void step(const uint8_t *unit, int b, int j,
                                                float v[UNIT_VALUES]) {
        five_bit_values(unit_word(unit, 22 * b + 6 + 4 * j), unit_word(unit, 22 * b + 2), j, 16.0f,
                        v);
    }
};

struct q4_1_weights {
    enum { type = DTYPE_Q4_1, blocks = 1, elements = 32, bytes = 20, aligned = 4, least = 1 };
    enum { rows = 2, depth = 6, integers = 0 };
    static __device__ __forceinline__ float scale(const uint8_t *unit, int) {
        return unit_half(unit, 0);
    }
    static __device__ __forceinline__ float offset(const uint8_t *unit, int) {
        return unit_half(unit, 2);
    }
    static __device__ __forceinline__ void step(const uint8_t *unit, int, int j,
                                                float v[UNIT_VALUES]) {
        four_bit_values(unit_word(unit, 4 + 4 * j), 0.0f, v);
    }
};

struct q5_1_weights {
    enum { type = DTYPE_Q5_1, blocks = 1, elements = 32, bytes = 24, aligned = 4, least = 1 };
    enum { rows = 2, depth = 5, integers = 0 };
    static __device__ __forceinline__ float scale(const uint8_t *unit, int) {
        return unit_half(unit, 0);
    }
    static __device__ __forceinline__ float offset(const uint8_t *unit, int) {
        return unit_half(unit, 2);
    }
    static __device__ __forceinline__ void step(const uint8_t *unit, int, int j,
                                                float v[UNIT_VALUES]) {
        five_bit_values(unit_word(unit, 8 + 4 * j), unit_word(unit, 4), j, 0.0f, v);
    }
};

#endif
