/* Weights of every type, read as they lie in the file, in pieces of eight values.
 *
 * Of blocks (base/blocks.h) a piece is a quarter: the four bytes with values 4 p to 4 p + 3 in their low bits and
 * 16 + 4 p to 16 + 4 p + 3 in their high ones, or the same values of q8_0; of other types, eight values in a row. So a
 * piece stands for four values from piece_first() on and four from piece_second() on.
 *
 * Blocks begin at even addresses and nothing better, so they are read by 2 bytes. Products and sums of the formulas
 * are rounded one after the other, as blocks_decode has them. */
#ifndef OPS_CUDA_BLOCKS_H
#define OPS_CUDA_BLOCKS_H

#include "ops/cuda/device.h"

enum { PIECE = 8, PIECES_A_BLOCK = 4 };

static __host__ __device__ constexpr bool is_blocks(int type) {
    return type >= DTYPE_Q8_0;
}

/* Bytes of a block. */
static __host__ __device__ constexpr int block_bytes(int type) {
    return type == DTYPE_Q8_0   ? 34
           : type == DTYPE_Q5_0 ? 22
           : type == DTYPE_Q5_1 ? 24
           : type == DTYPE_Q4_1 ? 20
                                : 18;
}

/* Where the halves of piece `index` stand in the row. */
template <int type> static __device__ __forceinline__ int piece_first(int index) {
    return is_blocks(type) ? index / PIECES_A_BLOCK * 32 + index % PIECES_A_BLOCK * 4
                           : PIECE * index;
}
template <int type> static __device__ __forceinline__ int piece_second(int index) {
    return piece_first<type>(index) + (is_blocks(type) ? 16 : 4);
}

/* ---- Blocks ---- */

/* Half-words i and i + 1 as one word. */
static __device__ __forceinline__ uint32_t word_at(const uint16_t *p, int i) {
    return (uint32_t)p[i] | (uint32_t)p[i + 1] << 16;
}

/* The level of iq4_nl that four bits stand for (block_levels of base/blocks.h, as bytes of four words). */
static __device__ __forceinline__ int iq4_level(uint32_t q) {
    const uint32_t levels[4] = {0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u};
    uint32_t low = q & 4u ? levels[1] : levels[0], high = q & 4u ? levels[3] : levels[2];
    return (int8_t)((q & 8u ? high : low) >> 8 * (q & 3u));
}

/* A value from its byte: its four bits (or all eight) and, of the types that have it, bit 4. */
template <int type>
static __device__ __forceinline__ float block_level(uint32_t bits, uint32_t fifth) {
    switch (type) {
    case DTYPE_Q8_0:
        return (float)(int8_t)bits;
    case DTYPE_IQ4_NL:
        return (float)iq4_level(bits & 15u);
    case DTYPE_Q4_0:
        return (float)((int)(bits & 15u) - 8);
    case DTYPE_Q4_1:
        return (float)(bits & 15u);
    case DTYPE_Q5_0:
        return (float)((int)((bits & 15u) | (fifth & 1u) << 4) - 16);
    default:
        return (float)((bits & 15u) | (fifth & 1u) << 4);
    }
}

/* Quarter `part` of a block: values v[0..3] and v[4..7] are scale q + least. */
template <int type>
static __device__ __forceinline__ void load_quarter(const uint16_t *block, int part, float *v) {
    constexpr bool has_least = type == DTYPE_Q4_1 || type == DTYPE_Q5_1;
    constexpr bool has_fifth = type == DTYPE_Q5_0 || type == DTYPE_Q5_1;
    constexpr int fifths = has_least ? 2 : 1,
                  bytes = fifths + (has_fifth ? 2 : 0); /* half-words before them */
    float scale = from_f16(block[0]), least = has_least ? from_f16(block[1]) : 0.0f;
    uint32_t fifth = has_fifth ? word_at(block, fifths) >> 4 * part : 0u;
    uint32_t low = word_at(block, bytes + 2 * part);
    uint32_t high = type == DTYPE_Q8_0 ? word_at(block, bytes + 8 + 2 * part) : low >> 4;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        v[j] = __fmul_rn(scale, block_level<type>(low >> 8 * j, fifth >> j));
        v[4 + j] = __fmul_rn(scale, block_level<type>(high >> 8 * j, fifth >> (16 + j)));
        if (has_least) {
            v[j] = __fadd_rn(v[j], least);
            v[4 + j] = __fadd_rn(v[4 + j], least);
        }
    }
}

/* ---- Any type ---- */

/* Eight values in a row, at a multiple of 16 bytes. */
template <int type> static __device__ __forceinline__ void load_eight(const void *p, float *v) {
    if (type == DTYPE_F32) {
        float4 low = ((const float4 *)p)[0], high = ((const float4 *)p)[1];
        v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
        v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
        return;
    }
    uint4 u = *(const uint4 *)p;
    const uint32_t words[4] = {u.x, u.y, u.z, u.w};
#pragma unroll
    for (int j = 0; j < 4; j++) {
        uint16_t low = (uint16_t)words[j], high = (uint16_t)(words[j] >> 16);
        v[2 * j] = type == DTYPE_BF16 ? from_bf16(low) : from_f16(low);
        v[2 * j + 1] = type == DTYPE_BF16 ? from_bf16(high) : from_f16(high);
    }
}

/* Piece `index` of a row of `width` values. What lies past the width is 0; of blocks, rows are whole. `aligned`: the
 * row begins at a multiple of 16 bytes. */
template <int type>
static __device__ __forceinline__ void load_piece(const void *row, int index, int64_t width,
                                                  bool aligned, float *v) {
    if (is_blocks(type)) {
        const uint16_t *block =
            (const uint16_t *)((const char *)row +
                               (int64_t)(index / PIECES_A_BLOCK) * block_bytes(type));
        load_quarter<type>(block, index % PIECES_A_BLOCK, v);
        return;
    }
    int64_t first = (int64_t)PIECE * index;
    if (aligned && first + PIECE <= width) {
        load_eight<type>((const char *)row + first * (type == DTYPE_F32 ? 4 : 2), v);
        return;
    }
#pragma unroll
    for (int j = 0; j < PIECE; j++)
        v[j] = first + j < width ? load_as(row, type, first + j) : 0.0f;
}

#endif
