/* The causal convolution of each channel by itself. A thread has a channel of CONV_TOKENS tokens of a
 * sequence; neighbouring threads have neighbouring channels.
 *
 * The state is read and written by the thread that has a sequence's first tokens, and by no other: what
 * lies before the sequence reaches less than CONV_TOKENS tokens far, and where there are more, the new
 * state is inputs alone. */
#include <metal_stdlib>

#include "ops/metal/causal_conv_arguments.h"
#include "ops/metal/common.h"

template <typename W>
kernel void causal_conv(constant causal_conv_arguments &a [[buffer(0)]],
                        device const float *x [[buffer(1)]],
                        device const typename W::stored *weight [[buffer(2)]],
                        device const uchar *bias [[buffer(3)]], device float *state [[buffer(4)]],
                        device const int *slot [[buffer(5)]], device const int *start [[buffer(6)]],
                        device float *out [[buffer(7)]],
                        uint3 group [[threadgroup_position_in_grid]],
                        uint3 threads [[threads_per_threadgroup]],
                        uint thread_index [[thread_index_in_threadgroup]]) {
    uint channel = group.x * threads.x + thread_index, from = group.y * CONV_TOKENS;
    int sequence_start = start[a.start_first + group.z];
    uint length = uint(start[a.start_first + group.z + 1] - sequence_start);
    if (channel >= a.width || from >= length)
        return;
    uint before = a.taps - 1, to = min(from + CONV_TOKENS, length);
    device const float *input = x + a.x_first + ulong(sequence_start) * a.x_stride + channel;
    device float *output = out + a.out_first + ulong(sequence_start) * a.out_stride + channel;
    ulong first_weight = a.weight_first + ulong(channel) * a.weight_stride;
    state += before == 0u ? 0ul
                          : a.state_first + ulong(slot[a.slot_first + group.z]) * a.slot_stride +
                                channel;
    float addend = a.bias_type == METAL_TYPES ? 0.0f
                                              : load_as(bias, a.bias_type, a.bias_first + channel);
    for (uint t = from; t < to; t++) {
        float z = addend;
        for (uint j = 0u; j < a.taps; j++) {
            float value = t + j < before ? state[ulong(t + j) * a.state_stride]
                                         : input[ulong(t + j - before) * a.x_stride];
            z = fma(W::load(weight, first_weight + j), value, z);
        }
        output[ulong(t) * a.out_stride] = activate(a.activation, z);
    }
    if (from > 0u)
        return;
    for (uint j = 0u; j < before; j++)
        state[ulong(j) * a.state_stride] = length + j < before
                                               ? state[ulong(length + j) * a.state_stride]
                                               : input[ulong(length + j - before) * a.x_stride];
}

#define CAUSAL_CONV(name, W)                                                                      \
    template [[host_name(name)]] kernel void causal_conv<W>(                                      \
        constant causal_conv_arguments & a [[buffer(0)]], device const float *x [[buffer(1)]],    \
        device const typename W::stored *weight [[buffer(2)]],                                    \
        device const uchar *bias [[buffer(3)]], device float *state [[buffer(4)]],                \
        device const int *slot [[buffer(5)]], device const int *start [[buffer(6)]],              \
        device float *out [[buffer(7)]], uint3 group [[threadgroup_position_in_grid]],            \
        uint3 threads [[threads_per_threadgroup]],                                                \
        uint thread_index [[thread_index_in_threadgroup]])

CAUSAL_CONV("causal_conv_f32", f32_values);
CAUSAL_CONV("causal_conv_f16", f16_values);
CAUSAL_CONV("causal_conv_bf16", bf16_values);
