/* Ops that move rows: embedding, picking rows, sums of rows. */
#include "ops/metal/embed_arguments.h"
#include "ops/metal/faults.h"
#include "ops/metal/internal.h"

enum { THREADS = 128, PIECE = 8 };
_Static_assert((int)SUM_TERMS == (int)OPS_MAX_TERMS, "the kernel must take as many terms");

static const char *kernel_of(dtype type) {
    switch (type) {
    case DTYPE_F16:
        return "embed_f16";
    case DTYPE_BF16:
        return "embed_bf16";
    case DTYPE_Q8_0:
        return "embed_q8_0";
    case DTYPE_Q5_0:
        return "embed_q5_0";
    case DTYPE_Q5_1:
        return "embed_q5_1";
    case DTYPE_Q4_0:
        return "embed_q4_0";
    case DTYPE_Q4_1:
        return "embed_q4_1";
    case DTYPE_IQ4_NL:
        return "embed_iq4_nl";
    default:
        return "embed_f32";
    }
}

static void take(metal_stream *s, const char *op, enum metal_fault fault, const ops_tensor *source,
                 int types, const ops_tensor *index, const ops_tensor *out) {
    if (ops_failed(&s->check) ||
        !ops_expect_take(&s->check, op, source, types & ~(1 << DTYPE_F64), index, out))
        return;
    uint32_t first = metal_first(source), row_bytes = (uint32_t)ops_row_bytes(source);
    embed_arguments a = {
        .table_first =
            dtype_block(source->dtype) > 1 ? first : first * (uint32_t)dtype_size(source->dtype),
        .row_bytes = row_bytes,
        .rows = (uint32_t)source->shape[0],
        .width = (uint32_t)source->shape[1],
        .ids_first = metal_first(index),
        .out_first = metal_first(out),
        .faults_first = metal_first(&s->scratch.faults),
        .out_stride = (uint32_t)out->stride[0],
        .fault = fault,
    };
    a.aligned = a.table_first % 16 == 0 && row_bytes % 16 == 0;
    uint32_t pieces = (a.width + PIECE - 1) / PIECE;
    metal_run(
        s,
        &(metal_dispatch){
            .kernel = kernel_of(source->dtype),
            .arguments = &a,
            .argument_bytes = sizeof a,
            .operand = {{source, false}, {index, false}, {out, true}, {&s->scratch.faults, true}},
            .operands = 4,
            .groups = {(pieces + THREADS - 1) / THREADS, (uint32_t)index->shape[0]},
            .threads = THREADS});
}

void metal_embed(ops_stream *stream, const struct ops_embed *op) {
    take((metal_stream *)stream, "embed", METAL_FAULT_EMBED, &op->table, OPS_MATRICES, &op->ids,
         &op->out);
}

void metal_take_rows(ops_stream *stream, const struct ops_take_rows *op) {
    take((metal_stream *)stream, "take_rows", METAL_FAULT_TAKE_ROWS, &op->x, OPS_F32, &op->rows,
         &op->out);
}

void metal_sum(ops_stream *stream, const struct ops_sum *op) {
    static const ops_tensor absent = {0};
    metal_stream *s = (metal_stream *)stream;
    if (ops_failed(&s->check) || !ops_expect_sum(&s->check, op))
        return;
    sum_arguments a = {.count = (uint32_t)op->count,
                       .width = (uint32_t)op->out.shape[1],
                       .out_first = metal_first(&op->out),
                       .out_stride = (uint32_t)op->out.stride[0]};
    metal_dispatch d = {.kernel = "sum",
                        .arguments = &a,
                        .argument_bytes = sizeof a,
                        .operands = OPS_MAX_TERMS + 1,
                        .groups = {(a.width + THREADS - 1) / THREADS, (uint32_t)op->out.shape[0]},
                        .threads = THREADS};
    for (int i = 0; i < OPS_MAX_TERMS; i++) {
        d.operand[i] = (metal_operand){&absent, false};
        if (i >= op->count)
            continue;
        const ops_tensor *input = &op->input[i];
        a.first[i] = metal_first(input);
        a.stride[i] = (uint32_t)input->stride[0];
        a.sign[i] = op->sign[i];
        d.operand[i].tensor = input;
    }
    d.operand[OPS_MAX_TERMS] = (metal_operand){&op->out, true};
    metal_run(s, &d);
}
