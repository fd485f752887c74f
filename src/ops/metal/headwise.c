/* The linear map of each head. */
#include "ops/metal/headwise_arguments.h"
#include "ops/metal/internal.h"
#include "ops/metal/types.h"

enum { THREADS = 128, VALUES_A_LANE = 8 /* that a row should have before lanes share it */ };

void metal_headwise(ops_stream *stream, const struct ops_headwise *op) {
    metal_stream *s = (metal_stream *)stream;
    if (ops_failed(&s->check) ||
        !ops_expect_headwise(&s->check, op, OPS_FLOATS & ~(1 << DTYPE_F64)))
        return;
    dtype type = op->weight.dtype;
    bool has_bias = ops_present(&op->bias);
    headwise_arguments a = {
        .x_first = metal_first(&op->x),
        .x_stride = (uint32_t)op->x.stride[0],
        .x_head_stride = (uint32_t)op->x.stride[1],
        .weight_first = metal_first(&op->weight),
        .weight_head_stride = (uint32_t)op->weight.stride[0],
        .weight_row_stride = (uint32_t)op->weight.stride[1],
        .bias_first = has_bias ? metal_first(&op->bias) : 0,
        .bias_head_stride = (uint32_t)op->bias.stride[0],
        .out_first = metal_first(&op->out),
        .out_stride = (uint32_t)op->out.stride[0],
        .out_head_stride = (uint32_t)op->out.stride[1],
        .tokens = (uint32_t)op->x.shape[0],
        .heads = (uint32_t)op->weight.shape[0],
        .outputs = (uint32_t)op->weight.shape[1],
        .inputs = (uint32_t)op->weight.shape[2],
        .bias_type = has_bias ? metal_type_of(op->bias.dtype) : METAL_TYPES,
        .lanes = 1,
    };
    while (a.lanes < METAL_SIMD && a.lanes * VALUES_A_LANE < a.inputs)
        a.lanes *= 2;
    uint32_t rows = THREADS / a.lanes; /* of a threadgroup */
    metal_run(s, &(metal_dispatch){.kernel = type == DTYPE_F32    ? "headwise_f32"
                                             : type == DTYPE_BF16 ? "headwise_bf16"
                                                                  : "headwise_f16",
                                   .arguments = &a,
                                   .argument_bytes = sizeof a,
                                   .operand = {{&op->x, false},
                                               {&op->weight, false},
                                               {&op->bias, false},
                                               {&op->out, true}},
                                   .operands = 4,
                                   .groups = {(a.heads * a.outputs + rows - 1) / rows,
                                              (a.tokens + HEADWISE_TOKENS - 1) / HEADWISE_TOKENS},
                                   .threads = THREADS});
}
