/* The causal convolution. */
#include "ops/metal/causal_conv_arguments.h"
#include "ops/metal/internal.h"
#include "ops/metal/types.h"

enum { THREADS = 64 };
_Static_assert((int)CONV_TOKENS >= (int)OPS_MAX_TAPS, "a state must not reach the second part");

void metal_causal_conv(ops_stream *stream, const struct ops_causal_conv *op) {
    static const ops_tensor absent = {0};
    metal_stream *s = (metal_stream *)stream;
    if (ops_failed(&s->check) ||
        !ops_expect_causal_conv(&s->check, op, OPS_FLOATS & ~(1 << DTYPE_F64)))
        return;
    dtype type = op->weight.dtype;
    bool has_bias = ops_present(&op->bias), has_state = op->weight.shape[1] > 1;
    const ops_tensor *state = has_state ? &op->state : &absent;
    causal_conv_arguments a = {
        .x_first = metal_first(&op->x),
        .x_stride = (uint32_t)op->x.stride[0],
        .weight_first = metal_first(&op->weight),
        .weight_stride = (uint32_t)op->weight.stride[0],
        .bias_first = has_bias ? metal_first(&op->bias) : 0,
        .state_first = has_state ? metal_first(state) : 0,
        .slot_stride = (uint32_t)state->stride[0],
        .state_stride = (uint32_t)state->stride[1],
        .slot_first = metal_first(&op->batch.slot),
        .start_first = metal_first(&op->batch.start),
        .out_first = metal_first(&op->out),
        .out_stride = (uint32_t)op->out.stride[0],
        .width = (uint32_t)op->x.shape[1],
        .taps = (uint32_t)op->weight.shape[1],
        .activation = op->activation,
        .bias_type = has_bias ? metal_type_of(op->bias.dtype) : METAL_TYPES,
    };
    metal_run(s, &(metal_dispatch){
                     .kernel = type == DTYPE_F32    ? "causal_conv_f32"
                               : type == DTYPE_BF16 ? "causal_conv_bf16"
                                                    : "causal_conv_f16",
                     .arguments = &a,
                     .argument_bytes = sizeof a,
                     .operand = {{&op->x, false},
                                 {&op->weight, false},
                                 {&op->bias, false},
                                 {state, true},
                                 {&op->batch.slot, false},
                                 {&op->batch.start, false},
                                 {&op->out, true}},
                     .operands = 7,
                     .groups = {(a.width + THREADS - 1) / THREADS,
                                (uint32_t)((op->batch.longest + CONV_TOKENS - 1) / CONV_TOKENS),
                                (uint32_t)op->batch.sequences},
                     .threads = THREADS});
}
