/* Rows that are fetched and added: embedding, picking rows, sums of rows. A thread takes a piece of eight
 * values of a row (weights.h), or one value of a sum. */
#include <metal_stdlib>

#include "ops/metal/common.h"
#include "ops/metal/embed_arguments.h"
#include "ops/metal/faults.h"
#include "ops/metal/weights.h"

/* Those of blocks are whole; of other types the end of a row may cut it short. */
template <bool blocks>
struct piece_values {
    static inline void finish(thread weight_piece &) {
    }
};

template <>
struct piece_values<true> {
    static inline void finish(thread weight_piece &p) {
        p.low = p.scale * p.low + p.least;
        p.high = p.scale * p.high + p.least;
    }
};

/* out[t] = table[ids[t]]; an id that is no row is a fault, and its row of out stays as it is. */
template <typename W>
kernel void embed(constant embed_arguments &a [[buffer(0)]],
                  device const uchar *table [[buffer(1)]], device const int *ids [[buffer(2)]],
                  device float *out [[buffer(3)]], device atomic_uint *faults [[buffer(4)]],
                  uint3 group [[threadgroup_position_in_grid]],
                  uint3 threads [[threads_per_threadgroup]],
                  uint thread_index [[thread_index_in_threadgroup]]) {
    uint index = group.x * threads.x + thread_index, token = group.y;
    int id = ids[a.ids_first + token];
    if (id < 0 || uint(id) >= a.rows) {
        if (index == 0u)
            report_fault(faults + a.faults_first, metal_fault(a.fault), token);
        return;
    }
    if (index * PIECE >= a.width)
        return;
    weight_piece p;
    p.least = 0.0f;
    load_piece<W>(table + a.table_first + ulong(id) * a.row_bytes, index, a.width, a.aligned, p);
    piece_values<W::blocks != 0>::finish(p);
    device float *row = out + a.out_first + ulong(token) * a.out_stride;
    uint first = W::first(index), second = W::second(index);
    for (uint j = 0u; j < 4u; j++) {
        if (first + j < a.width)
            row[first + j] = p.low[j];
        if (second + j < a.width)
            row[second + j] = p.high[j];
    }
}

#define EMBED(name, W)                                                                            \
    template [[host_name(name)]] kernel void embed<W>(                                            \
        constant embed_arguments & a [[buffer(0)]], device const uchar * table [[buffer(1)]],     \
        device const int *ids [[buffer(2)]], device float *out [[buffer(3)]],                     \
        device atomic_uint *faults [[buffer(4)]], uint3 group [[threadgroup_position_in_grid]],   \
        uint3 threads [[threads_per_threadgroup]],                                                \
        uint thread_index [[thread_index_in_threadgroup]])

EMBED("embed_f32", f32_weights);
EMBED("embed_f16", f16_weights);
EMBED("embed_bf16", bf16_weights);
EMBED("embed_q8_0", q8_0_weights);
EMBED("embed_q5_0", q5_0_weights);
EMBED("embed_q5_1", q5_1_weights);
EMBED("embed_q4_0", q4_0_weights);
EMBED("embed_q4_1", q4_1_weights);
EMBED("embed_iq4_nl", iq4_nl_weights);

/* out = sum over inputs of sign * input, in their order. */
kernel void sum(constant sum_arguments &a [[buffer(0)]], device const float *input0 [[buffer(1)]],
                device const float *input1 [[buffer(2)]], device const float *input2 [[buffer(3)]],
                device const float *input3 [[buffer(4)]], device const float *input4 [[buffer(5)]],
                device const float *input5 [[buffer(6)]], device const float *input6 [[buffer(7)]],
                device const float *input7 [[buffer(8)]], device float *out [[buffer(9)]],
                uint3 group [[threadgroup_position_in_grid]],
                uint3 threads [[threads_per_threadgroup]],
                uint thread_index [[thread_index_in_threadgroup]]) {
    device const float *inputs[SUM_TERMS] = {input0, input1, input2, input3,
                                             input4, input5, input6, input7};
    uint column = group.x * threads.x + thread_index;
    if (column >= a.width)
        return;
    float total = 0.0f;
    for (uint i = 0u; i < SUM_TERMS; i++)
        if (i < a.count) {
            float value = inputs[i][a.first[i] + ulong(group.y) * a.stride[i] + column];
            total += a.sign[i] < 0 ? -value : value;
        }
    out[a.out_first + ulong(group.y) * a.out_stride + column] = total;
}
