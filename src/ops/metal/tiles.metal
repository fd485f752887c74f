/* Products of matrices of weights with many tokens, in the profile fast: tiles of 64 tokens by 64 rows,
 * which four SIMD-groups share as 32 by 32, with sums in f32.
 *
 * Per step of 32 along the width, the threads lay the tokens' values and the weights, which here become
 * numbers, into threadgroup memory. Weights of f16 and of blocks fit into halves; tokens then come
 * as halves too, each with a power of two that is undone at the end (rows_to_halves). Weights of f32 and
 * bf16 may be larger or smaller than a half can be: they, and the tokens they meet, stay floats. */
#include <metal_stdlib>

#include "ops/metal/project_arguments.h"
#include "ops/metal/weights.h"

inline float4 tile_four(device const float *p) {
    return *(device const packed_float4 *)p;
}
inline float4 tile_four(device const half *p) {
    return float4(*(device const half4 *)p);
}

/* 16 values of one token's row, from `first` on; 0 past the width and for tokens that are not there. */
template <typename V>
inline void lay_tokens(threadgroup V *to, device const V *row, bool there, uint first, uint width) {
    for (uint i = 0; i < 16; i += 4) {
        float4 four = float4(0.0f);
        if (there && first + i + 4 <= width)
            four = tile_four(row + first + i);
        else if (there)
            for (uint j = 0; first + i + j < width; j++)
                four[j] = float(row[first + i + j]);
        for (uint j = 0; j < 4; j++)
            to[i + j] = V(four[j]);
    }
}

/* Two pieces of one row of weights, into the row that begins at `to`. */
template <typename W, typename V>
inline void lay_weights(threadgroup V *to, device const uchar *row, uint first_piece, uint step,
                        uint width, uint wide) {
    for (uint i = first_piece; i < first_piece + 2; i++) {
        weight_piece p;
        load_piece<W>(row, i, width, wide, p);
        if (W::has_least) {
            p.low = p.low * p.scale + p.least;
            p.high = p.high * p.scale + p.least;
        } else if (W::blocks) {
            p.low *= p.scale;
            p.high *= p.scale;
        }
        threadgroup V *low = to + (W::first(i) - step), *high = to + (W::second(i) - step);
        for (uint j = 0; j < 4; j++) {
            low[j] = V(p.low[j]);
            high[j] = V(p.high[j]);
        }
    }
}

/* One output: z and, where there is one, that of the second matrix, to what is stored. */
inline float tile_output(constant tiles_arguments &a, float z, float z_up, float residual) {
    switch (a.ending) {
    case TILE_CAP:
        return soft_cap(z, a.soft_cap);
    case TILE_GATED:
        return activate(a.activation, z) * z_up;
    case TILE_MULTIPLY:
        return activate(a.activation, z) * residual;
    default:
        return fma(a.sign, z, residual);
    }
}

inline float tile_bias(device const uchar *bias, constant matrix_arguments &m, uint row) {
    return m.has_bias ? load_as(bias, m.bias_type, m.bias_first + row) : 0.0f;
}

template <typename W, typename V>
kernel void
tiles(constant tiles_arguments &a [[buffer(0)]], device const V *x [[buffer(1)]],
      device const float *factors [[buffer(2)]], device const uchar *weight [[buffer(3)]],
      device const uchar *bias [[buffer(4)]], device const uchar *up [[buffer(5)]],
      device const uchar *up_bias [[buffer(6)]], device const float *residual [[buffer(7)]],
      device float *out [[buffer(8)]], uint2 group [[threadgroup_position_in_grid]],
      uint simd_group [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
    /* Operands, and after the last step the sums. */
    threadgroup float memory[2 * TILE_TOKENS * TILE_STRIDE];
    threadgroup V *tokens = (threadgroup V *)memory;
    threadgroup V *weights = tokens + TILE_TOKENS * TILE_STRIDE;
    bool gated = a.ending == TILE_GATED;
    uint outputs = gated ? uint(TILE_ROWS / 2) : uint(TILE_ROWS);
    uint first_token = group.x * TILE_TOKENS, first_row = group.y * outputs;
    uint thread_index = simd_group * SIMD_LANES + lane;
    uint line = thread_index / 2, part = thread_index % 2; /* what this thread lays */
    bool is_up = gated && line >= outputs;
    uint row = min(first_row + (is_up ? line - outputs : line), a.low.rows - 1);
    device const uchar *weight_row =
        is_up ? up + a.high.weight_first + ulong(row) * a.high.row_bytes
              : weight + a.low.weight_first + ulong(row) * a.low.row_bytes;
    uint wide = gated ? a.low.wide & a.high.wide : a.low.wide;
    bool there = first_token + line < a.tokens;
    device const V *token_row = x + a.x_first + ulong(there ? first_token + line : 0) * a.x_stride;
    uint token_half = simd_group / 2 * 32, row_half = simd_group % 2 * 32;
    simdgroup_matrix<float, 8, 8> sums[4][4];
    for (uint i = 0; i < 4; i++)
        for (uint j = 0; j < 4; j++)
            sums[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    for (uint step = 0; step < a.width; step += TILE_DEPTH) {
        lay_tokens<V>(tokens + line * TILE_STRIDE + part * 16, token_row, there, step + part * 16,
                      a.width);
        lay_weights<W, V>(weights + line * TILE_STRIDE, weight_row, step / PIECE + part * 2, step,
                          a.width, wide);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint k = 0; k < TILE_DEPTH; k += 8) {
            simdgroup_matrix<V, 8, 8> left[4], right[4];
            for (uint i = 0; i < 4; i++) {
                simdgroup_load(left[i], tokens + (token_half + i * 8) * TILE_STRIDE + k,
                               TILE_STRIDE);
                simdgroup_load(right[i], weights + (row_half + i * 8) * TILE_STRIDE + k,
                               TILE_STRIDE, ulong2(0, 0), true);
            }
            for (uint i = 0; i < 4; i++)
                for (uint j = 0; j < 4; j++)
                    simdgroup_multiply_accumulate(sums[i][j], left[i], right[j], sums[i][j]);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    for (uint i = 0; i < 4; i++)
        for (uint j = 0; j < 4; j++)
            simdgroup_store(sums[i][j],
                            memory + (token_half + i * 8) * TILE_ROWS + row_half + j * 8,
                            TILE_ROWS);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = thread_index; i < TILE_TOKENS * outputs; i += PROJECT_SIMD_GROUPS * SIMD_LANES) {
        uint token = i / outputs, column = i % outputs, own_row = first_row + column;
        if (first_token + token >= a.tokens || own_row >= a.low.rows)
            continue;
        ulong at = ulong(first_token + token);
        float factor = sizeof(V) == 2 ? factors[at] : 1.0f, z_up = 0.0f, r = 0.0f;
        float z = fma(memory[token * TILE_ROWS + column], factor, tile_bias(bias, a.low, own_row));
        if (gated)
            z_up = fma(memory[token * TILE_ROWS + outputs + column], factor,
                       tile_bias(up_bias, a.high, own_row));
        if (a.has_residual)
            r = residual[a.residual_first + at * a.residual_stride + own_row];
        out[a.out_first + at * a.out_stride + own_row] = tile_output(a, z, z_up, r);
    }
}

typedef decltype(tiles<f32_weights, float>) tiles_of_floats;
typedef decltype(tiles<f16_weights, half>) tiles_of_halves;
template [[host_name("tiles_f32")]] kernel tiles_of_floats tiles<f32_weights, float>;
template [[host_name("tiles_bf16")]] kernel tiles_of_floats tiles<bf16_weights, float>;
template [[host_name("tiles_f16")]] kernel tiles_of_halves tiles<f16_weights, half>;
template [[host_name("tiles_q8_0")]] kernel tiles_of_halves tiles<q8_0_weights, half>;
template [[host_name("tiles_q5_0")]] kernel tiles_of_halves tiles<q5_0_weights, half>;
template [[host_name("tiles_q5_1")]] kernel tiles_of_halves tiles<q5_1_weights, half>;
template [[host_name("tiles_q4_0")]] kernel tiles_of_halves tiles<q4_0_weights, half>;
template [[host_name("tiles_q4_1")]] kernel tiles_of_halves tiles<q4_1_weights, half>;
template [[host_name("tiles_iq4_nl")]] kernel tiles_of_halves tiles<iq4_nl_weights, half>;
