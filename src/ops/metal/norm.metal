/* Norms as an op, and as the first step of a projection of several tokens: rows as they go into the
 * product, in f32, and for the tiles also as halves with a power of two a token, so that nothing is too
 * large or too small for them. A threadgroup takes one token, with the sums of input.h. */
#include <metal_stdlib>

#include "ops/metal/input.h"

/* The power of two that brings `largest` to between 1 and 2; 1 for 0 and what is not finite. */
inline float to_unity(float largest) {
    uint exponent = as_type<uint>(largest) >> 23 & 255u;
    return exponent == 0u || exponent > 252u ? 1.0f : as_type<float>((254u - exponent) << 23);
}

/* The largest magnitude among all threads' x, for all of them. */
inline float threadgroup_largest(float x, threadgroup float *parts, uint simd_group, uint lane) {
    x = simd_max(x);
    if (lane == 0)
        parts[simd_group] = x;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float largest = 0.0f;
    for (uint i = 0; i < PROJECT_SIMD_GROUPS; i++)
        largest = max(largest, parts[i]);
    return largest;
}

/* out [tokens][width] = y. */
kernel void
normalize_rows(constant normalize_arguments &a [[buffer(0)]], device const float *x [[buffer(1)]],
               device const uchar *norm_weight [[buffer(2)]],
               device const uchar *norm_bias [[buffer(3)]], device const float *gate [[buffer(4)]],
               device const float *skip [[buffer(5)]], device const float *skip_input [[buffer(6)]],
               device float *out [[buffer(7)]], uint token [[threadgroup_position_in_grid]],
               uint simd_group [[simdgroup_index_in_threadgroup]],
               uint lane [[thread_index_in_simdgroup]]) {
    threadgroup float parts[PROJECT_NORM_GROUPS * PROJECT_SIMD_GROUPS];
    threadgroup float means[PROJECT_NORM_GROUPS], scales[PROJECT_NORM_GROUPS];
    input_row row;
    input_row_begin(row, a.input, token, x, norm_weight, norm_bias, gate, skip, skip_input);
    device float *y = out + a.out_first + ulong(token) * a.out_stride;
    norm_memory memory;
    memory.parts = parts;
    memory.mean = means;
    memory.scale = scales;
    bool normed = a.input.kind != METAL_NORM_NONE;
    uint groups = normed ? a.input.groups : 1, size = a.input.width / groups;
    for (uint first = 0; first < groups; first += PROJECT_NORM_GROUPS) {
        uint count = min(groups - first, uint(PROJECT_NORM_GROUPS));
        if (normed)
            find_norm(row, a.input, first, count, memory, simd_group, lane);
        /* Where out is x, no thread writes what another has yet to read. */
        threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);
        for (uint i = simd_group * SIMD_LANES + lane; i < count * size;
             i += PROJECT_SIMD_GROUPS * SIMD_LANES) {
            uint group = groups == 1 ? 0 : i / size;
            y[first * size + i] =
                input_value(row, a.input, first * size + i, normed ? means[group] : 0.0f,
                            normed ? scales[group] : 1.0f);
        }
    }
}

/* halves [tokens][halves_stride] = y factor, zeros past the width; factors [tokens]: what undoes it. */
kernel void rows_to_halves(constant normalize_arguments &a [[buffer(0)]],
                           device const float *x [[buffer(1)]], device half *halves [[buffer(2)]],
                           device float *factors [[buffer(3)]],
                           uint token [[threadgroup_position_in_grid]],
                           uint simd_group [[simdgroup_index_in_threadgroup]],
                           uint lane [[thread_index_in_simdgroup]]) {
    threadgroup float parts[PROJECT_SIMD_GROUPS];
    device const float *row = x + a.input.x_first + ulong(token) * a.input.x_stride;
    device half *y = halves + a.out_first + ulong(token) * a.halves_stride;
    uint first = simd_group * SIMD_LANES + lane, step = PROJECT_SIMD_GROUPS * SIMD_LANES;
    float largest = 0.0f;
    for (uint i = first; i < a.input.width; i += step)
        largest = max(largest, fabs(row[i]));
    float factor = to_unity(threadgroup_largest(largest, parts, simd_group, lane));
    for (uint i = first; i < a.halves_stride; i += step)
        y[i] = i < a.input.width ? half(row[i] * factor) : half(0.0f);
    if (first == 0)
        factors[token] = 1.0f / factor;
}
