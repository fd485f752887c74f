/* Taking ended sequences from their slots. */
#include "ops/metal/internal.h"
#include "ops/metal/retire_arguments.h"

void metal_retire(ops_stream *stream, const struct ops_retire *op) {
    metal_stream *s = (metal_stream *)stream;
    if (ops_failed(&s->check) || !ops_expect_retire(&s->check, op))
        return;
    retire_arguments a = {.ids_first = metal_first(&op->ids),
                          .ends_first = metal_first(&op->ends),
                          .slot_first = metal_first(&op->slot),
                          .sequences = (uint32_t)op->ids.shape[0],
                          .ends = (uint32_t)op->ends.shape[0],
                          .spare = op->spare};
    metal_run(
        s, &(metal_dispatch){.kernel = "retire",
                             .arguments = &a,
                             .argument_bytes = sizeof a,
                             .operand = {{&op->ids, false}, {&op->ends, false}, {&op->slot, true}},
                             .operands = 3,
                             .groups = {(a.sequences + METAL_SIMD - 1) / METAL_SIMD},
                             .threads = METAL_SIMD});
}
