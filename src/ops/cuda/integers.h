/* Products of weights in blocks with activations as integers of eight bits, in the profile fast: four products an
 * instruction, sums that are exact within a block.
 *
 * A row of activations is laid unit by unit (weights.h), in groups of 32 values like the blocks of weights: the
 * integers x / d with d = max |x| / 127, then d and d times their sum for every group. A unit begins at a multiple of
 * 16 bytes, and those of neighbouring lanes in different banks. */
#ifndef OPS_CUDA_INTEGERS_H
#define OPS_CUDA_INTEGERS_H

#include "ops/cuda/input.h"
#include "ops/cuda/weights.h"

enum { GROUP_VALUES = 32 };

/* ---- Weights: the words of step j of a block, integers less `origin` ---- */

struct q8_0_integers : q8_0_weights {
    enum { integers = 1, origin = 0 };
    static __device__ __forceinline__ void words(const uint8_t *unit, int b, int j, uint32_t *low,
                                                 uint32_t *high) {
        *low = unit_word(unit, 34 * b + 2 + 4 * j);
        *high = unit_word(unit, 34 * b + 18 + 4 * j);
    }
};

struct q4_0_integers : q4_0_weights {
    enum { integers = 1, origin = 8 };
    static __device__ __forceinline__ void words(const uint8_t *unit, int b, int j, uint32_t *low,
                                                 uint32_t *high) {
        const uint32_t word = unit_word(unit, 18 * b + 2 + 4 * j);
        *low = word & 0x0f0f0f0fu;
        *high = word >> 4 & 0x0f0f0f0fu;
    }
};

struct iq4_nl_integers : iq4_nl_weights {
    enum { integers = 1, origin = 0 };
    static __device__ __forceinline__ void words(const uint8_t *unit, int b, int j, uint32_t *low,
                                                 uint32_t *high) {
        const uint32_t word = unit_word(unit, 18 * b + 2 + 4 * j);
        const uint32_t first = four_levels(word), second = four_levels(word >> 16);
        *low = __byte_perm(first, second, 0x6420) ^ 0x80808080u;
        *high = __byte_perm(first, second, 0x7531) ^ 0x80808080u;
    }
};

struct q5_0_integers : q5_0_weights {
    enum { integers = 1, origin = 16 };
    static __device__ __forceinline__ void words(const uint8_t *unit, int b, int j, uint32_t *low,
                                                 uint32_t *high) {
        five_bit_words(unit_word(unit, 22 * b + 6 + 4 * j), unit_word(unit, 22 * b + 2), j, low,
                       high);
    }
};

struct q4_1_integers : q4_1_weights {
    enum { integers = 1, origin = 0 };
    static __device__ __forceinline__ void words(const uint8_t *unit, int, int j, uint32_t *low,
                                                 uint32_t *high) {
        const uint32_t word = unit_word(unit, 4 + 4 * j);
        *low = word & 0x0f0f0f0fu;
        *high = word >> 4 & 0x0f0f0f0fu;
    }
};

struct q5_1_integers : q5_1_weights {
    enum { integers = 1, origin = 0 };
    static __device__ __forceinline__ void words(const uint8_t *unit, int, int j, uint32_t *low,
                                                 uint32_t *high) {
        five_bit_words(unit_word(unit, 8 + 4 * j), unit_word(unit, 4), j, low, high);
    }
};

/* ---- Activations ---- */

/* Bytes of a unit of activations. */
static __host__ __device__ __forceinline__ int integer_unit_bytes(int blocks) {
    return blocks * (GROUP_VALUES + 8) + (blocks % 2 ? 8 : 0);
}

/* Four of them, as the bytes of a word. */
static __device__ __forceinline__ uint32_t integers_word(float4 x, float inverse, int &sum) {
    const int v[4] = {__float2int_rn(x.x * inverse), __float2int_rn(x.y * inverse),
                      __float2int_rn(x.z * inverse), __float2int_rn(x.w * inverse)};
    sum += (v[0] + v[1]) + (v[2] + v[3]);
    return ((uint32_t)v[0] & 255u) | ((uint32_t)v[1] & 255u) << 8 | ((uint32_t)v[2] & 255u) << 16 |
           (uint32_t)v[3] << 24;
}

/* The row that input_lay has left in shared memory, as integers. Two threads have a group; `padded` is whole units.
 * Whole warps come here; the row is whole after a barrier. */
template <int blocks>
static __device__ __forceinline__ void integers_lay(const float *row, int padded, uint8_t *to) {
    enum { UNIT = blocks * GROUP_VALUES, HALF = GROUP_VALUES / 2, FOURS = HALF / 4 };
    const int most = (padded / HALF + WARP - 1) / WARP * WARP;
    for (int half = (int)threadIdx.x; half < most; half += block_threads()) {
        const int i = HALF * half;
        float4 x[FOURS] = {};
        unsigned largest = 0; /* as bits, so that a NaN is the largest */
#pragma unroll
        for (int k = 0; k < FOURS; k++) {
            if (i < padded)
                x[k] = *(const float4 *)(row + input_place(i + 4 * k));
            largest = max(largest,
                          max(max(__float_as_uint(fabsf(x[k].x)), __float_as_uint(fabsf(x[k].y))),
                              max(__float_as_uint(fabsf(x[k].z)), __float_as_uint(fabsf(x[k].w)))));
        }
        largest = max(largest, __shfl_xor_sync(ALL_LANES, largest, 1));
        const float bound = __uint_as_float(largest), d = bound / 127.0f;
        const float inverse = bound > 1e-30f && bound < INFINITY ? 1.0f / d : 0.0f;
        int sum = 0;
        uint4 words;
        words.x = integers_word(x[0], inverse, sum);
        words.y = integers_word(x[1], inverse, sum);
        words.z = integers_word(x[2], inverse, sum);
        words.w = integers_word(x[3], inverse, sum);
        sum += __shfl_xor_sync(ALL_LANES, sum, 1);
        if (i >= padded)
            continue;
        uint8_t *unit = to + i / UNIT * integer_unit_bytes(blocks);
        *(uint4 *)(unit + i % UNIT) = words;
        if (half % 2 == 0)
            *(float2 *)(unit + UNIT + i % UNIT / GROUP_VALUES * 8) =
                make_float2(bound < INFINITY ? d : NAN, d * (float)sum);
    }
}

/* ---- Products ---- */

/* A lane's unit of each row times that of the activations, added to `sums`. */
template <class W> struct integer_unit {
    static __device__ __forceinline__ void add(float (&sums)[W::rows][1],
                                               const uint8_t *(&unit)[W::rows], const uint8_t *x) {
#pragma unroll
        for (int b = 0; b < W::blocks; b++) {
            const uint4 first = *((const uint4 *)x + 2 * b),
                        second = *((const uint4 *)x + 2 * b + 1);
            const uint32_t low[STEPS] = {first.x, first.y, first.z, first.w},
                           high[STEPS] = {second.x, second.y, second.z, second.w};
            const float2 group = *(const float2 *)(x + W::blocks * GROUP_VALUES + 8 * b);
#pragma unroll
            for (int r = 0; r < W::rows; r++) {
                int dot = 0;
#pragma unroll
                for (int j = 0; j < STEPS; j++) {
                    uint32_t of_low, of_high;
                    W::words(unit[r], b, j, &of_low, &of_high);
                    dot = __dp4a((int)of_low, (int)low[j], dot);
                    dot = __dp4a((int)of_high, (int)high[j], dot);
                }
                float z = group.x * (float)dot;
                if (W::origin != 0)
                    z = fmaf(-(float)W::origin, group.y, z);
                sums[r][0] = fmaf(W::scale(unit[r], b), z, sums[r][0]);
                if (W::least)
                    sums[r][0] = fmaf(W::offset(unit[r], b), group.y, sums[r][0]);
            }
        }
    }
};

#endif
