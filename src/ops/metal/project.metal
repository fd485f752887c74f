/* Products of matrices of weights with one token or a few, with the norm before and what each op does to
 * its outputs. Decoding is reading the weights, so they are read once, and nothing else is worth
 * mentioning.
 *
 * A threadgroup takes PROJECT_ROWS rows of weights. Its SIMD-groups cut the width among them, and lanes
 * lie next to each other along it, a piece of eight values each; a lane's piece of the input serves all
 * the rows. Sums go over lanes, then over SIMD-groups, in an order that does not depend on rows or tokens.
 * Several tokens come as rows that are normalised already; a threadgroup takes PROJECT_TOKENS of them
 * and fewer rows, and does the same sums in the same order. */
#include <metal_stdlib>

#include "ops/metal/input.h"
#include "ops/metal/weights.h"

template <int tokens> struct shape_of {
    enum { rows = PROJECT_TOKENS_ROWS, sums = rows * tokens };
};
template <> struct shape_of<1> {
    enum { rows = PROJECT_ROWS, sums = rows };
};

/* Rows of weights: the first half of them from one matrix, the others from there or another one. */
struct weight_rows {
    device const uchar *low, *high;
    uint low_bytes, high_bytes; /* from row to row */
    uint low_last, high_last;   /* the last row there is; those after it are read as this one */
    uint wide;
};

template <int rows> inline device const uchar *row_of(thread const weight_rows &w, uint row) {
    if (row < uint(rows / 2))
        return w.low + ulong(min(row, w.low_last)) * w.low_bytes;
    return w.high + ulong(min(row - uint(rows / 2), w.high_last)) * w.high_bytes;
}

/* Rows [first, first + rows) of one matrix. */
template <int rows>
inline void rows_of_one(thread weight_rows &w, device const uchar *weight,
                        constant matrix_arguments &m, uint first) {
    uint last = m.rows - 1 - first, half_of = uint(rows / 2);
    w.low = weight + m.weight_first + ulong(first) * m.row_bytes;
    w.low_bytes = w.high_bytes = m.row_bytes;
    w.low_last = last;
    w.high = last < half_of ? w.low : w.low + ulong(half_of) * m.row_bytes;
    w.high_last = last < half_of ? 0 : last - half_of;
    w.wide = m.wide;
}

/* Rows [first, first + rows / 2) of two matrices. */
inline void rows_of_two(thread weight_rows &w, device const uchar *low,
                        constant matrix_arguments &l, device const uchar *high,
                        constant matrix_arguments &h, uint first) {
    w.low = low + l.weight_first + ulong(first) * l.row_bytes;
    w.high = high + h.weight_first + ulong(first) * h.row_bytes;
    w.low_bytes = l.row_bytes;
    w.high_bytes = h.row_bytes;
    w.low_last = w.high_last = l.rows - 1 - first;
    w.wide = l.wide & h.wide;
}

/* sum + piece . (y_low, y_high). The order is written out, so that it is the same in every kernel. */
template <typename W>
inline float add_product(float sum, thread const weight_piece &p, float4 y_low, float4 y_high) {
    float s = p.low.x * y_low.x;
    s = fma(p.low.y, y_low.y, s);
    s = fma(p.low.z, y_low.z, s);
    s = fma(p.low.w, y_low.w, s);
    s = fma(p.high.x, y_high.x, s);
    s = fma(p.high.y, y_high.y, s);
    s = fma(p.high.z, y_high.z, s);
    s = fma(p.high.w, y_high.w, s);
    if (!W::blocks)
        return sum + s;
    sum = fma(p.scale, s, sum);
    if (!W::has_least)
        return sum;
    float all = ((y_low.x + y_low.y) + (y_low.z + y_low.w)) +
                ((y_high.x + y_high.y) + (y_high.z + y_high.w));
    return fma(p.least, all, sum);
}

/* This lane's part of the sums, [rows][tokens]; `last`: of the tokens that there are. */
template <typename W, int tokens> struct rows_product {
    static inline void run(thread float *sums, thread const weight_rows &w,
                           thread const input_row &input, constant input_arguments &a,
                           thread const norm_memory &m, uint last, uint simd_group, uint lane) {
        enum { rows = shape_of<tokens>::rows };
        uint pieces = (a.width + PIECE - 1) / PIECE;
        for (uint i = simd_group * SIMD_LANES + lane; i < pieces;
             i += PROJECT_SIMD_GROUPS * SIMD_LANES) {
            weight_piece p[rows];
            for (int r = 0; r < rows; r++)
                load_piece<W>(row_of<rows>(w, uint(r)), i, a.width, w.wide, p[r]);
            for (uint t = 0; t < uint(tokens); t++) {
                if (t > last)
                    break;
                input_row row = input;
                row.x = input.x + ulong(t) * a.x_stride;
                float4 low = input_values(row, a, W::first(i), m);
                float4 high = input_values(row, a, W::second(i), m);
                for (int r = 0; r < rows; r++)
                    sums[r * tokens + int(t)] =
                        add_product<W>(sums[r * tokens + int(t)], p[r], low, high);
            }
        }
    }
};

template <typename W> struct rows_product<W, 1> {
    static inline void run(thread float *sums, thread const weight_rows &w,
                           thread const input_row &input, constant input_arguments &a,
                           thread const norm_memory &m, uint, uint simd_group, uint lane) {
        uint pieces = (a.width + PIECE - 1) / PIECE;
        for (uint i = simd_group * SIMD_LANES + lane; i < pieces;
             i += PROJECT_SIMD_GROUPS * SIMD_LANES) {
            float4 low = input_values(input, a, W::first(i), m);
            float4 high = input_values(input, a, W::second(i), m);
            for (int r = 0; r < PROJECT_ROWS; r++) {
                weight_piece p;
                load_piece<W>(row_of<PROJECT_ROWS>(w, uint(r)), i, a.width, w.wide, p);
                sums[r] = add_product<W>(sums[r], p, low, high);
            }
        }
    }
};

/* The sums of all threads, for each of [rows][tokens], in `total` of the thread with that index. */
template <int count>
inline float collect(thread const float *sums, threadgroup float *parts, uint simd_group,
                     uint lane) {
    for (int i = 0; i < count; i++) {
        float sum = simd_sum(sums[i]);
        if (lane == 0)
            parts[simd_group * uint(count) + uint(i)] = sum;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    uint index = simd_group * SIMD_LANES + lane;
    float total = 0.0f;
    if (index < uint(count))
        for (uint i = 0; i < PROJECT_SIMD_GROUPS; i++)
            total += parts[i * uint(count) + index];
    return total;
}

inline float with_bias(float z, device const uchar *bias, constant matrix_arguments &m, uint row) {
    return m.has_bias ? z + load_as(bias, m.bias_type, m.bias_first + row) : z;
}

/* ---- Outputs of several matrices, each with its soft cap ---- */

/* Floating-point matrices go along with those of blocks, and with each other. */
template <typename W, int tokens>
inline void product_as(uint type, thread float *sums, thread const weight_rows &w,
                       thread const input_row &input, constant input_arguments &a,
                       thread const norm_memory &m, uint last, uint simd_group, uint lane) {
    if (type == METAL_F32)
        rows_product<f32_weights, tokens>::run(sums, w, input, a, m, last, simd_group, lane);
    else if (type == METAL_F16)
        rows_product<f16_weights, tokens>::run(sums, w, input, a, m, last, simd_group, lane);
    else if (type == METAL_BF16)
        rows_product<bf16_weights, tokens>::run(sums, w, input, a, m, last, simd_group, lane);
    else if (W::blocks)
        rows_product<W, tokens>::run(sums, w, input, a, m, last, simd_group, lane);
}

struct part_memory {
    device const uchar *weight, *bias;
    device float *out;
};

inline void choose_part(thread part_memory &p, bool chosen, device const uchar *weight,
                        device const uchar *bias, device float *out) {
    p.weight = chosen ? weight : p.weight;
    p.bias = chosen ? bias : p.bias;
    p.out = chosen ? out : p.out;
}

template <typename W, int tokens>
kernel void
norm_project(constant norm_project_arguments &a [[buffer(0)]], device const float *x [[buffer(1)]],
             device const uchar *norm_weight [[buffer(2)]],
             device const uchar *norm_bias [[buffer(3)]], device const uchar *weight0 [[buffer(4)]],
             device const uchar *bias0 [[buffer(5)]], device float *out0 [[buffer(6)]],
             device const uchar *weight1 [[buffer(7)]], device const uchar *bias1 [[buffer(8)]],
             device float *out1 [[buffer(9)]], device const uchar *weight2 [[buffer(10)]],
             device const uchar *bias2 [[buffer(11)]], device float *out2 [[buffer(12)]],
             device const uchar *weight3 [[buffer(13)]], device const uchar *bias3 [[buffer(14)]],
             device float *out3 [[buffer(15)]], device const uchar *weight4 [[buffer(16)]],
             device const uchar *bias4 [[buffer(17)]], device float *out4 [[buffer(18)]],
             device const uchar *weight5 [[buffer(19)]], device const uchar *bias5 [[buffer(20)]],
             device float *out5 [[buffer(21)]], device const uchar *weight6 [[buffer(22)]],
             device const uchar *bias6 [[buffer(23)]], device float *out6 [[buffer(24)]],
             device const uchar *weight7 [[buffer(25)]], device const uchar *bias7 [[buffer(26)]],
             device float *out7 [[buffer(27)]], uint2 group [[threadgroup_position_in_grid]],
             uint simd_group [[simdgroup_index_in_threadgroup]],
             uint lane [[thread_index_in_simdgroup]]) {
    enum { rows = shape_of<tokens>::rows, count = shape_of<tokens>::sums };
    threadgroup float norm_parts[PROJECT_NORM_GROUPS * PROJECT_SIMD_GROUPS];
    threadgroup float mean[PROJECT_NORM_GROUPS], scale[PROJECT_NORM_GROUPS];
    threadgroup float parts[PROJECT_SIMD_GROUPS * count];
    uint index = 0;
    while (index + 1 < a.count && group.y >= a.part[index + 1].first_block)
        index++;
    part_memory p;
    choose_part(p, true, weight0, bias0, out0);
    choose_part(p, index == 1, weight1, bias1, out1);
    choose_part(p, index == 2, weight2, bias2, out2);
    choose_part(p, index == 3, weight3, bias3, out3);
    choose_part(p, index == 4, weight4, bias4, out4);
    choose_part(p, index == 5, weight5, bias5, out5);
    choose_part(p, index == 6, weight6, bias6, out6);
    choose_part(p, index == 7, weight7, bias7, out7);
    constant part_arguments &part = a.part[index];
    uint token = group.x * uint(tokens), row = (group.y - part.first_block) * uint(rows);
    uint last = min(uint(tokens), a.input.tokens - token) - 1;
    input_row input;
    input_row_begin(input, a.input, token, x, norm_weight, norm_bias, x, x, x);
    norm_memory memory;
    memory.parts = norm_parts;
    memory.mean = mean;
    memory.scale = scale;
    if (a.input.kind != METAL_NORM_NONE)
        find_norm(input, a.input, 0, a.input.groups, memory, simd_group, lane);
    weight_rows w;
    rows_of_one<rows>(w, p.weight, part.matrix, row);
    float sums[count];
    for (int i = 0; i < count; i++)
        sums[i] = 0.0f;
    product_as<W, tokens>(part.matrix.type, sums, w, input, a.input, memory, last, simd_group,
                          lane);
    float z = collect<count>(sums, parts, simd_group, lane);
    uint own = simd_group * SIMD_LANES + lane, own_row = row + own / uint(tokens);
    uint own_token = own % uint(tokens);
    if (own < uint(count) && own_row < part.matrix.rows && own_token <= last)
        p.out[part.out_first + ulong(token + own_token) * part.out_stride + own_row] =
            soft_cap(with_bias(z, p.bias, part.matrix, own_row), part.soft_cap);
}

/* ---- Two matrices, one the gate of the other ---- */

template <typename W, int tokens>
kernel void norm_project_gated(
    constant project_gated_arguments &a [[buffer(0)]], device const float *x [[buffer(1)]],
    device const uchar *norm_weight [[buffer(2)]], device const uchar *norm_bias [[buffer(3)]],
    device const uchar *gate [[buffer(4)]], device const uchar *gate_bias [[buffer(5)]],
    device const uchar *up [[buffer(6)]], device const uchar *up_bias [[buffer(7)]],
    device float *out [[buffer(8)]], uint2 group [[threadgroup_position_in_grid]],
    uint simd_group [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
    enum { rows = shape_of<tokens>::rows / 2, count = shape_of<tokens>::sums };
    threadgroup float norm_parts[PROJECT_NORM_GROUPS * PROJECT_SIMD_GROUPS];
    threadgroup float mean[PROJECT_NORM_GROUPS], scale[PROJECT_NORM_GROUPS];
    threadgroup float parts[PROJECT_SIMD_GROUPS * count], gates[count / 2];
    uint token = group.x * uint(tokens), row = group.y * uint(rows);
    uint last = min(uint(tokens), a.input.tokens - token) - 1;
    input_row input;
    input_row_begin(input, a.input, token, x, norm_weight, norm_bias, x, x, x);
    norm_memory memory;
    memory.parts = norm_parts;
    memory.mean = mean;
    memory.scale = scale;
    if (a.input.kind != METAL_NORM_NONE)
        find_norm(input, a.input, 0, a.input.groups, memory, simd_group, lane);
    weight_rows w;
    rows_of_two(w, gate, a.gate, up, a.up, row);
    float sums[count];
    for (int i = 0; i < count; i++)
        sums[i] = 0.0f;
    rows_product<W, tokens>::run(sums, w, input, a.input, memory, last, simd_group, lane);
    float z = collect<count>(sums, parts, simd_group, lane);
    uint own = simd_group * SIMD_LANES + lane, half_of = uint(count) / 2;
    uint own_row = row + own % half_of / uint(tokens), own_token = own % uint(tokens);
    bool there = own < uint(count) && own_row < a.gate.rows && own_token <= last;
    if (there && own < half_of)
        gates[own] = activate(a.activation, with_bias(z, gate_bias, a.gate, own_row));
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (there && own >= half_of)
        out[a.out_first + ulong(token + own_token) * a.out_stride + own_row] =
            gates[own - half_of] * with_bias(z, up_bias, a.up, own_row);
}

/* ---- One matrix, with a residual ---- */

template <typename W, int tokens>
kernel void project_add(
    constant project_add_arguments &a [[buffer(0)]], device const float *x [[buffer(1)]],
    device const uchar *norm_weight [[buffer(2)]], device const uchar *norm_bias [[buffer(3)]],
    device const float *gate [[buffer(4)]], device const float *skip [[buffer(5)]],
    device const float *skip_input [[buffer(6)]], device const uchar *weight [[buffer(7)]],
    device const uchar *bias [[buffer(8)]], device const float *residual [[buffer(9)]],
    device float *out [[buffer(10)]], uint2 group [[threadgroup_position_in_grid]],
    uint simd_group [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
    enum { rows = shape_of<tokens>::rows, count = shape_of<tokens>::sums };
    threadgroup float norm_parts[PROJECT_NORM_GROUPS * PROJECT_SIMD_GROUPS];
    threadgroup float mean[PROJECT_NORM_GROUPS], scale[PROJECT_NORM_GROUPS];
    threadgroup float parts[PROJECT_SIMD_GROUPS * count];
    uint token = group.x * uint(tokens), row = group.y * uint(rows);
    uint last = min(uint(tokens), a.input.tokens - token) - 1;
    input_row input;
    input_row_begin(input, a.input, token, x, norm_weight, norm_bias, gate, skip, skip_input);
    norm_memory memory;
    memory.parts = norm_parts;
    memory.mean = mean;
    memory.scale = scale;
    if (a.input.kind != METAL_NORM_NONE)
        find_norm(input, a.input, 0, a.input.groups, memory, simd_group, lane);
    weight_rows w;
    rows_of_one<rows>(w, weight, a.matrix, row);
    float sums[count];
    for (int i = 0; i < count; i++)
        sums[i] = 0.0f;
    rows_product<W, tokens>::run(sums, w, input, a.input, memory, last, simd_group, lane);
    float z = collect<count>(sums, parts, simd_group, lane);
    uint own = simd_group * SIMD_LANES + lane, own_row = row + own / uint(tokens);
    uint own_token = own % uint(tokens);
    if (own >= uint(count) || own_row >= a.matrix.rows || own_token > last)
        return;
    z = with_bias(z, bias, a.matrix, own_row);
    ulong at = ulong(token + own_token);
    float r = a.has_residual ? residual[a.residual_first + at * a.residual_stride + own_row] : 0.0f;
    out[a.out_first + at * a.out_stride + own_row] =
        a.multiply ? activate(a.activation, z) * r : fma(a.sign, z, r);
}

/* ---- Instances ---- */

/* norm_project takes floating-point matrices of any type as one kind. */
typedef decltype(norm_project<f32_weights, 1>) norm_project_kernel;
typedef decltype(norm_project_gated<f32_weights, 1>) norm_project_gated_kernel;
typedef decltype(project_add<f32_weights, 1>) project_add_kernel;
template [[host_name(
    "norm_project_one_floats")]] kernel norm_project_kernel norm_project<f32_weights, 1>;
template
    [[host_name("norm_project_one_q8_0")]] kernel norm_project_kernel norm_project<q8_0_weights, 1>;
template
    [[host_name("norm_project_one_q5_0")]] kernel norm_project_kernel norm_project<q5_0_weights, 1>;
template
    [[host_name("norm_project_one_q5_1")]] kernel norm_project_kernel norm_project<q5_1_weights, 1>;
template
    [[host_name("norm_project_one_q4_0")]] kernel norm_project_kernel norm_project<q4_0_weights, 1>;
template
    [[host_name("norm_project_one_q4_1")]] kernel norm_project_kernel norm_project<q4_1_weights, 1>;
template [[host_name(
    "norm_project_one_iq4_nl")]] kernel norm_project_kernel norm_project<iq4_nl_weights, 1>;
template [[host_name("norm_project_few_floats")]] kernel norm_project_kernel
    norm_project<f32_weights, PROJECT_TOKENS>;
template [[host_name("norm_project_few_q8_0")]] kernel norm_project_kernel
    norm_project<q8_0_weights, PROJECT_TOKENS>;
template [[host_name("norm_project_few_q5_0")]] kernel norm_project_kernel
    norm_project<q5_0_weights, PROJECT_TOKENS>;
template [[host_name("norm_project_few_q5_1")]] kernel norm_project_kernel
    norm_project<q5_1_weights, PROJECT_TOKENS>;
template [[host_name("norm_project_few_q4_0")]] kernel norm_project_kernel
    norm_project<q4_0_weights, PROJECT_TOKENS>;
template [[host_name("norm_project_few_q4_1")]] kernel norm_project_kernel
    norm_project<q4_1_weights, PROJECT_TOKENS>;
template [[host_name("norm_project_few_iq4_nl")]] kernel norm_project_kernel
    norm_project<iq4_nl_weights, PROJECT_TOKENS>;
template [[host_name("norm_project_gated_one_f32")]] kernel norm_project_gated_kernel
    norm_project_gated<f32_weights, 1>;
template [[host_name("norm_project_gated_one_f16")]] kernel norm_project_gated_kernel
    norm_project_gated<f16_weights, 1>;
template [[host_name("norm_project_gated_one_bf16")]] kernel norm_project_gated_kernel
    norm_project_gated<bf16_weights, 1>;
template [[host_name("norm_project_gated_one_q8_0")]] kernel norm_project_gated_kernel
    norm_project_gated<q8_0_weights, 1>;
template [[host_name("norm_project_gated_one_q5_0")]] kernel norm_project_gated_kernel
    norm_project_gated<q5_0_weights, 1>;
template [[host_name("norm_project_gated_one_q5_1")]] kernel norm_project_gated_kernel
    norm_project_gated<q5_1_weights, 1>;
template [[host_name("norm_project_gated_one_q4_0")]] kernel norm_project_gated_kernel
    norm_project_gated<q4_0_weights, 1>;
template [[host_name("norm_project_gated_one_q4_1")]] kernel norm_project_gated_kernel
    norm_project_gated<q4_1_weights, 1>;
template [[host_name("norm_project_gated_one_iq4_nl")]] kernel norm_project_gated_kernel
    norm_project_gated<iq4_nl_weights, 1>;
template [[host_name("norm_project_gated_few_f32")]] kernel norm_project_gated_kernel
    norm_project_gated<f32_weights, PROJECT_TOKENS>;
template [[host_name("norm_project_gated_few_f16")]] kernel norm_project_gated_kernel
    norm_project_gated<f16_weights, PROJECT_TOKENS>;
template [[host_name("norm_project_gated_few_bf16")]] kernel norm_project_gated_kernel
    norm_project_gated<bf16_weights, PROJECT_TOKENS>;
template [[host_name("norm_project_gated_few_q8_0")]] kernel norm_project_gated_kernel
    norm_project_gated<q8_0_weights, PROJECT_TOKENS>;
template [[host_name("norm_project_gated_few_q5_0")]] kernel norm_project_gated_kernel
    norm_project_gated<q5_0_weights, PROJECT_TOKENS>;
template [[host_name("norm_project_gated_few_q5_1")]] kernel norm_project_gated_kernel
    norm_project_gated<q5_1_weights, PROJECT_TOKENS>;
template [[host_name("norm_project_gated_few_q4_0")]] kernel norm_project_gated_kernel
    norm_project_gated<q4_0_weights, PROJECT_TOKENS>;
template [[host_name("norm_project_gated_few_q4_1")]] kernel norm_project_gated_kernel
    norm_project_gated<q4_1_weights, PROJECT_TOKENS>;
template [[host_name("norm_project_gated_few_iq4_nl")]] kernel norm_project_gated_kernel
    norm_project_gated<iq4_nl_weights, PROJECT_TOKENS>;
template [[host_name("project_add_one_f32")]] kernel project_add_kernel project_add<f32_weights, 1>;
template [[host_name("project_add_one_f16")]] kernel project_add_kernel project_add<f16_weights, 1>;
template
    [[host_name("project_add_one_bf16")]] kernel project_add_kernel project_add<bf16_weights, 1>;
template
    [[host_name("project_add_one_q8_0")]] kernel project_add_kernel project_add<q8_0_weights, 1>;
template
    [[host_name("project_add_one_q5_0")]] kernel project_add_kernel project_add<q5_0_weights, 1>;
template
    [[host_name("project_add_one_q5_1")]] kernel project_add_kernel project_add<q5_1_weights, 1>;
template
    [[host_name("project_add_one_q4_0")]] kernel project_add_kernel project_add<q4_0_weights, 1>;
template
    [[host_name("project_add_one_q4_1")]] kernel project_add_kernel project_add<q4_1_weights, 1>;
template [[host_name(
    "project_add_one_iq4_nl")]] kernel project_add_kernel project_add<iq4_nl_weights, 1>;
template [[host_name(
    "project_add_few_f32")]] kernel project_add_kernel project_add<f32_weights, PROJECT_TOKENS>;
template [[host_name(
    "project_add_few_f16")]] kernel project_add_kernel project_add<f16_weights, PROJECT_TOKENS>;
template [[host_name(
    "project_add_few_bf16")]] kernel project_add_kernel project_add<bf16_weights, PROJECT_TOKENS>;
template [[host_name(
    "project_add_few_q8_0")]] kernel project_add_kernel project_add<q8_0_weights, PROJECT_TOKENS>;
template [[host_name(
    "project_add_few_q5_0")]] kernel project_add_kernel project_add<q5_0_weights, PROJECT_TOKENS>;
template [[host_name(
    "project_add_few_q5_1")]] kernel project_add_kernel project_add<q5_1_weights, PROJECT_TOKENS>;
template [[host_name(
    "project_add_few_q4_0")]] kernel project_add_kernel project_add<q4_0_weights, PROJECT_TOKENS>;
template [[host_name(
    "project_add_few_q4_1")]] kernel project_add_kernel project_add<q4_1_weights, PROJECT_TOKENS>;
template [[host_name("project_add_few_iq4_nl")]] kernel project_add_kernel
    project_add<iq4_nl_weights, PROJECT_TOKENS>;
