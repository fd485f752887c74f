/* Taking ended sequences from their slots. */
#include "ops/cpu/internal.h"

void cpu_retire(ops_stream *stream, const struct ops_retire *op) {
    cpu_stream *s = (cpu_stream *)stream;
    if (ops_failed(&s->check) || !ops_expect_retire(&s->check, op))
        return;
    const int32_t *ids = ops_data(&op->ids), *ends = ops_data(&op->ends);
    int32_t *slot = ops_data(&op->slot);
    for (int64_t i = 0; i < op->ids.shape[0]; i++)
        for (int64_t j = 0; j < op->ends.shape[0]; j++)
            if (ends[j] == ids[i])
                slot[i] = op->spare;
}
