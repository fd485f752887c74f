/* Weights of every type, read as they lie in the file, in pieces of eight values.
 *
 * A piece is what one lane takes of a row at a time. Of blocks (base/blocks.h) it is a quarter: the four
 * bytes with values 4 p to 4 p + 3 in their low bits and 16 + 4 p to 16 + 4 p + 3 in their high ones, or
 * the same values of q8_0; of other types, eight values in a row. Two float4 hold it, which stand for the
 * values at first(piece) and second(piece). Of blocks they are still integers q: the values are
 * scale q + least, and sums take scale and least once a piece.
 *
 * Blocks begin at even addresses and nothing better, so they are read by 2 bytes. */
#ifndef OPS_METAL_WEIGHTS_H
#define OPS_METAL_WEIGHTS_H

#include "ops/metal/common.h"

enum { PIECE = 8, PIECES_A_BLOCK = 4 };

struct weight_piece {
    float4 low, high;
    float scale, least;
};

/* ---- One value after the other ---- */

struct in_a_row {
    static inline uint first(uint index) {
        return PIECE * index;
    }
    static inline uint second(uint index) {
        return PIECE * index + 4;
    }
};

struct f32_weights : in_a_row {
    enum { type = METAL_F32, blocks = 0, has_least = 0 };
    static inline float at(device const uchar *row, uint i) {
        return ((device const float *)row)[i];
    }
    static inline void wide(device const uchar *row, uint index, thread float4 &low,
                            thread float4 &high) {
        device const float4 *p = (device const float4 *)row + 2 * index;
        low = p[0];
        high = p[1];
    }
};

struct f16_weights : in_a_row {
    enum { type = METAL_F16, blocks = 0, has_least = 0 };
    static inline float at(device const uchar *row, uint i) {
        return float(((device const half *)row)[i]);
    }
    static inline void wide(device const uchar *row, uint index, thread float4 &low,
                            thread float4 &high) {
        uint4 u = ((device const uint4 *)row)[index];
        low = float4(float2(as_type<half2>(u.x)), float2(as_type<half2>(u.y)));
        high = float4(float2(as_type<half2>(u.z)), float2(as_type<half2>(u.w)));
    }
};

struct bf16_weights : in_a_row {
    enum { type = METAL_BF16, blocks = 0, has_least = 0 };
    static inline float at(device const uchar *row, uint i) {
        return from_bf16(((device const ushort *)row)[i]);
    }
    static inline void wide(device const uchar *row, uint index, thread float4 &low,
                            thread float4 &high) {
        uint4 u = ((device const uint4 *)row)[index];
        low = float4(as_type<float>(u.x << 16), as_type<float>(u.x & 0xffff0000u),
                     as_type<float>(u.y << 16), as_type<float>(u.y & 0xffff0000u));
        high = float4(as_type<float>(u.z << 16), as_type<float>(u.z & 0xffff0000u),
                      as_type<float>(u.w << 16), as_type<float>(u.w & 0xffff0000u));
    }
};

/* ---- Blocks ---- */

struct in_blocks {
    static inline uint first(uint index) {
        return index / PIECES_A_BLOCK * 32 + index % PIECES_A_BLOCK * 4;
    }
    static inline uint second(uint index) {
        return first(index) + 16;
    }
};

/* Half-words i and i + 1 as one word. */
inline uint word_at(device const ushort *p, uint i) {
    return uint(p[i]) | uint(p[i + 1]) << 16;
}

inline float half_at(device const ushort *p, uint i) {
    return float(as_type<half>(p[i]));
}

/* The low four bits of the four bytes. */
inline float4 low_bits(uint word) {
    return float4(float(word & 15u), float(word >> 8 & 15u), float(word >> 16 & 15u),
                  float(word >> 24 & 15u));
}

/* The same with a fifth bit each: bits 0 to 3 of `fifth`. */
inline float4 five_bits(uint word, uint fifth) {
    return float4(float((word & 15u) | (fifth << 4 & 16u)),
                  float((word >> 8 & 15u) | (fifth << 3 & 16u)),
                  float((word >> 16 & 15u) | (fifth << 2 & 16u)),
                  float((word >> 24 & 15u) | (fifth << 1 & 16u)));
}

inline float4 signed_bytes(uint word) {
    return float4(as_type<char4>(word));
}

struct q8_0_weights : in_blocks {
    enum { type = METAL_Q8_0, blocks = 1, has_least = 0 };
    static inline void load(device const uchar *row, uint index, thread weight_piece &to) {
        device const ushort *block = (device const ushort *)row + index / PIECES_A_BLOCK * 17;
        uint part = index % PIECES_A_BLOCK * 2;
        to.scale = half_at(block, 0);
        to.low = signed_bytes(word_at(block, 1 + part));
        to.high = signed_bytes(word_at(block, 9 + part));
    }
};

struct q4_0_weights : in_blocks {
    enum { type = METAL_Q4_0, blocks = 1, has_least = 0 };
    static inline void load(device const uchar *row, uint index, thread weight_piece &to) {
        device const ushort *block = (device const ushort *)row + index / PIECES_A_BLOCK * 9;
        uint word = word_at(block, 1 + index % PIECES_A_BLOCK * 2);
        to.scale = half_at(block, 0);
        to.low = low_bits(word) - 8.0f;
        to.high = low_bits(word >> 4) - 8.0f;
    }
};

struct q4_1_weights : in_blocks {
    enum { type = METAL_Q4_1, blocks = 1, has_least = 1 };
    static inline void load(device const uchar *row, uint index, thread weight_piece &to) {
        device const ushort *block = (device const ushort *)row + index / PIECES_A_BLOCK * 10;
        uint word = word_at(block, 2 + index % PIECES_A_BLOCK * 2);
        to.scale = half_at(block, 0);
        to.least = half_at(block, 1);
        to.low = low_bits(word);
        to.high = low_bits(word >> 4);
    }
};

struct q5_0_weights : in_blocks {
    enum { type = METAL_Q5_0, blocks = 1, has_least = 0 };
    static inline void load(device const uchar *row, uint index, thread weight_piece &to) {
        device const ushort *block = (device const ushort *)row + index / PIECES_A_BLOCK * 11;
        uint part = index % PIECES_A_BLOCK, word = word_at(block, 3 + part * 2);
        uint fifth = word_at(block, 1) >> part * 4;
        to.scale = half_at(block, 0);
        to.low = five_bits(word, fifth) - 16.0f;
        to.high = five_bits(word >> 4, fifth >> 16) - 16.0f;
    }
};

struct q5_1_weights : in_blocks {
    enum { type = METAL_Q5_1, blocks = 1, has_least = 1 };
    static inline void load(device const uchar *row, uint index, thread weight_piece &to) {
        device const ushort *block = (device const ushort *)row + index / PIECES_A_BLOCK * 12;
        uint part = index % PIECES_A_BLOCK, word = word_at(block, 4 + part * 2);
        uint fifth = word_at(block, 2) >> part * 4;
        to.scale = half_at(block, 0);
        to.least = half_at(block, 1);
        to.low = five_bits(word, fifth);
        to.high = five_bits(word >> 4, fifth >> 16);
    }
};

/* block_levels of base/blocks.h. */
constant float iq4_nl_levels[16] = {-127.0f, -104.0f, -83.0f, -65.0f, -49.0f, -35.0f,
                                    -22.0f,  -10.0f,  1.0f,   13.0f,  25.0f,  38.0f,
                                    53.0f,   69.0f,   89.0f,  113.0f};

inline float4 levels(uint word) {
    return float4(iq4_nl_levels[word & 15u], iq4_nl_levels[word >> 8 & 15u],
                  iq4_nl_levels[word >> 16 & 15u], iq4_nl_levels[word >> 24 & 15u]);
}

struct iq4_nl_weights : in_blocks {
    enum { type = METAL_IQ4_NL, blocks = 1, has_least = 0 };
    static inline void load(device const uchar *row, uint index, thread weight_piece &to) {
        device const ushort *block = (device const ushort *)row + index / PIECES_A_BLOCK * 9;
        uint word = word_at(block, 1 + index % PIECES_A_BLOCK * 2);
        to.scale = half_at(block, 0);
        to.low = levels(word);
        to.high = levels(word >> 4);
    }
};

/* ---- Any of them ---- */

template <bool blocks> struct piece_loader {
    template <typename W>
    static inline void load(device const uchar *row, uint index, uint, uint,
                            thread weight_piece &to) {
        W::load(row, index, to);
    }
};

/* Of a row whose width is no multiple of 8, what lies past its end is 0. */
template <> struct piece_loader<false> {
    template <typename W>
    static inline void load(device const uchar *row, uint index, uint width, uint wide,
                            thread weight_piece &to) {
        uint i = PIECE * index;
        if (wide && i + PIECE <= width) {
            W::wide(row, index, to.low, to.high);
            return;
        }
        to.low = to.high = float4(0.0f);
        for (uint j = 0; j < 4; j++) {
            if (i + j < width)
                to.low[j] = W::at(row, i + j);
            if (i + 4 + j < width)
                to.high[j] = W::at(row, i + 4 + j);
        }
    }
};

/* Piece `index` of a row of `width` values; `wide`: rows begin at multiples of 16 bytes. */
template <typename W>
inline void load_piece(device const uchar *row, uint index, uint width, uint wide,
                       thread weight_piece &to) {
    piece_loader<W::blocks != 0>::template load<W>(row, index, width, wide, to);
}

#endif
