/* The linear map of each head: a block-diagonal matrix, often of very small blocks. A SIMD-group has
 * 32 / lanes rows of weights and HEADWISE_TOKENS tokens; the lanes of a row interleave along it. The order
 * of a sum depends on the row's length alone. */
#include <metal_stdlib>

#include "ops/metal/common.h"
#include "ops/metal/headwise_arguments.h"

template <typename W>
kernel void headwise(constant headwise_arguments &a [[buffer(0)]],
                     device const float *x [[buffer(1)]],
                     device const typename W::stored *weight [[buffer(2)]],
                     device const uchar *bias [[buffer(3)]], device float *out [[buffer(4)]],
                     uint3 group [[threadgroup_position_in_grid]],
                     uint3 threads [[threads_per_threadgroup]],
                     uint thread_index [[thread_index_in_threadgroup]],
                     uint lane [[thread_index_in_simdgroup]]) {
    uint index = (group.x * threads.x + thread_index) / a.lanes, part = lane % a.lanes;
    uint head = index / a.outputs, output = index % a.outputs;
    uint token = group.y * HEADWISE_TOKENS, left = min(a.tokens - token, uint(HEADWISE_TOKENS));
    bool there = head < a.heads;
    float sums[HEADWISE_TOKENS];
    for (uint t = 0u; t < HEADWISE_TOKENS; t++)
        sums[t] = 0.0f;
    if (there) {
        ulong row = a.weight_first + ulong(head) * a.weight_head_stride +
                    ulong(output) * a.weight_row_stride;
        device const float *input =
            x + a.x_first + ulong(token) * a.x_stride + ulong(head) * a.x_head_stride;
        for (uint i = part; i < a.inputs; i += a.lanes) {
            float w = W::load(weight, row + i);
            for (uint t = 0u; t < HEADWISE_TOKENS; t++)
                if (t < left)
                    sums[t] = fma(w, input[ulong(t) * a.x_stride + i], sums[t]);
        }
    }
    for (uint offset = a.lanes / 2u; offset > 0u; offset /= 2u)
        for (uint t = 0u; t < HEADWISE_TOKENS; t++)
            sums[t] += simd_shuffle_xor(sums[t], ushort(offset));
    if (!there || part != 0u)
        return;
    float addend = 0.0f;
    if (a.bias_type != METAL_TYPES)
        addend = load_as(bias, a.bias_type, a.bias_first + head * a.bias_head_stride + output);
    device float *result =
        out + a.out_first + ulong(token) * a.out_stride + ulong(head) * a.out_head_stride + output;
    for (uint t = 0u; t < HEADWISE_TOKENS; t++)
        if (t < left)
            result[ulong(t) * a.out_stride] = sums[t] + addend;
}

#define HEADWISE(name, W)                                                                         \
    template [[host_name(name)]] kernel void headwise<W>(                                         \
        constant headwise_arguments & a [[buffer(0)]], device const float *x [[buffer(1)]],       \
        device const typename W::stored *weight [[buffer(2)]],                                    \
        device const uchar *bias [[buffer(3)]], device float *out [[buffer(4)]],                  \
        uint3 group [[threadgroup_position_in_grid]],                                             \
        uint3 threads [[threads_per_threadgroup]],                                                \
        uint thread_index [[thread_index_in_threadgroup]],                                        \
        uint lane [[thread_index_in_simdgroup]])

HEADWISE("headwise_f32", f32_values);
HEADWISE("headwise_f16", f16_values);
HEADWISE("headwise_bf16", bf16_values);
