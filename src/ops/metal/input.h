/* The rows that projections take in: norm(x), or act(gate) (norm(x) + skip skip_input), worked out
 * where they are needed. Each threadgroup that needs a row takes its means and variances anew, in the
 * same order of sums everywhere, so that a row is the same bits whoever asks. */
#ifndef OPS_METAL_INPUT_H
#define OPS_METAL_INPUT_H

#include "ops/metal/common.h"
#include "ops/metal/project_arguments.h"

/* One token's row, and what is for all rows. */
struct input_row {
    device const float *x, *gate, *skip, *skip_input;
    device const uchar *weight, *bias;
};

inline void input_row_begin(thread input_row &row, constant input_arguments &a, uint token,
                            device const float *x, device const uchar *weight,
                            device const uchar *bias, device const float *gate,
                            device const float *skip, device const float *skip_input) {
    row.x = x + a.x_first + ulong(token) * a.x_stride;
    row.gate = gate + a.gate_first + ulong(token) * a.gate_stride;
    row.skip = skip + a.skip_first;
    row.skip_input = skip_input + a.skip_input_first + ulong(token) * a.skip_input_stride;
    row.weight = weight;
    row.bias = bias;
}

/* Sums over SIMD-groups, and then mean and 1 / sqrt(variance + eps), of each group of a norm. */
struct norm_memory {
    threadgroup float *parts; /* [PROJECT_NORM_GROUPS][PROJECT_SIMD_GROUPS] */
    threadgroup float *mean;  /* [PROJECT_NORM_GROUPS] */
    threadgroup float *scale; /* [PROJECT_NORM_GROUPS] */
};

/* This SIMD-group's part of the sum of (x - mean)^power over a group. */
inline float group_part(device const float *x, uint size, float mean, bool squares, uint simd_group,
                        uint lane) {
    float sum = 0.0f;
    for (uint i = simd_group * SIMD_LANES + lane; i < size; i += PROJECT_SIMD_GROUPS * SIMD_LANES) {
        float difference = x[i] - mean;
        sum = squares ? fma(difference, difference, sum) : sum + difference;
    }
    return simd_sum(sum);
}

inline float parts_mean(threadgroup const float *parts, uint size) {
    float sum = 0.0f;
    for (uint i = 0; i < PROJECT_SIMD_GROUPS; i++)
        sum += parts[i];
    return sum / float(size);
}

/* Means and scales of groups [first, first + count), count <= PROJECT_NORM_GROUPS, into m; for all
 * threads of the threadgroup to see. */
inline void find_norm(thread const input_row &row, constant input_arguments &a, uint first,
                      uint count, thread const norm_memory &m, uint simd_group, uint lane) {
    uint size = a.width / a.groups, thread_index = simd_group * SIMD_LANES + lane;
    if (a.kind == METAL_NORM_LAYER) {
        for (uint g = 0; g < count; g++) {
            float part =
                group_part(row.x + (first + g) * size, size, 0.0f, false, simd_group, lane);
            if (lane == 0)
                m.parts[g * PROJECT_SIMD_GROUPS + simd_group] = part;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (thread_index < count)
            m.mean[thread_index] = parts_mean(m.parts + thread_index * PROJECT_SIMD_GROUPS, size);
    } else if (thread_index < count) {
        m.mean[thread_index] = 0.0f;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint g = 0; g < count; g++) {
        float part =
            group_part(row.x + (first + g) * size, size, m.mean[g], true, simd_group, lane);
        if (lane == 0)
            m.parts[g * PROJECT_SIMD_GROUPS + simd_group] = part;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (thread_index < count) {
        float variance = parts_mean(m.parts + thread_index * PROJECT_SIMD_GROUPS, size);
        m.scale[thread_index] = 1.0f / sqrt(variance + a.eps);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
}

/* norm(x) of one value or four, then what gates do to it. Written with fma, so that it is the same bits
 * in both forms. */
inline float input_value(thread const input_row &row, constant input_arguments &a, uint i,
                         float mean, float scale) {
    float y = row.x[i];
    if (a.kind != METAL_NORM_NONE) {
        float w = load_as(row.weight, a.weight_type, a.weight_first + i);
        y = (y - mean) * scale;
        y = a.has_bias ? fma(y, w, load_as(row.bias, a.bias_type, a.bias_first + i)) : y * w;
    }
    if (a.gated) {
        if (a.has_skip)
            y = fma(row.skip[i], row.skip_input[i], y);
        y *= activate(a.activation, row.gate[i]);
    }
    return y;
}

inline float4 input_four(thread const input_row &row, constant input_arguments &a, uint i,
                         float mean, float scale) {
    float4 y = f32_values::load4(row.x, i);
    if (a.kind != METAL_NORM_NONE) {
        float4 w = load4_as(row.weight, a.weight_type, a.weight_first + i);
        y = (y - mean) * scale;
        y = a.has_bias ? fma(y, w, load4_as(row.bias, a.bias_type, a.bias_first + i)) : y * w;
    }
    if (a.gated) {
        if (a.has_skip)
            y = fma(f32_values::load4(row.skip, i), f32_values::load4(row.skip_input, i), y);
        float4 z = f32_values::load4(row.gate, i);
        y *= float4(activate(a.activation, z.x), activate(a.activation, z.y),
                    activate(a.activation, z.z), activate(a.activation, z.w));
    }
    return y;
}

/* Values i to i + 3, which lie in one group or the norm has but one; those past the width are 0. */
inline float4 input_values(thread const input_row &row, constant input_arguments &a, uint i,
                           thread const norm_memory &m) {
    float mean = 0.0f, scale = 1.0f;
    if (i >= a.width)
        return float4(0.0f);
    if (a.kind != METAL_NORM_NONE) {
        uint group = a.groups == 1 ? 0 : i / (a.width / a.groups);
        mean = m.mean[group];
        scale = m.scale[group];
    }
    if (i + 4 <= a.width)
        return input_four(row, a, i, mean, scale);
    float4 y = float4(0.0f);
    for (uint j = 0; i + j < a.width; j++)
        y[j] = input_value(row, a, i + j, mean, scale);
    return y;
}

#endif
