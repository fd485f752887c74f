/* Taking ended sequences from their slots: a thread a sequence. */
#include "ops/cuda/device.h"

struct retire_arguments {
    const int32_t *ids, *ends;
    int32_t *slot;
    int64_t sequences, ends_count;
    int32_t spare;
};

static __global__ void retire(const __grid_constant__ struct retire_arguments a) {
    int64_t i = (int64_t)blockIdx.x * WARP + threadIdx.x;
    cuda_release();
    cuda_wait();
    if (i >= a.sequences)
        return;
    int32_t id = a.ids[i];
    bool ended = false;
    for (int64_t j = 0; j < a.ends_count; j++)
        ended = ended || a.ends[j] == id;
    if (ended)
        a.slot[i] = a.spare;
}

extern "C" void cuda_retire(ops_stream *stream, const struct ops_retire *op) {
    cuda_stream *s = (cuda_stream *)stream;
    if (ops_failed(&s->check) || !ops_expect_retire(&s->check, op))
        return;
    struct retire_arguments a = {};
    a.ids = (const int32_t *)cuda_at(&op->ids);
    a.ends = (const int32_t *)cuda_at(&op->ends);
    a.slot = (int32_t *)cuda_at(&op->slot);
    a.sequences = op->ids.shape[0];
    a.ends_count = op->ends.shape[0];
    a.spare = op->spare;
    cuda_run(s, "retire", retire, dim3((unsigned)((a.sequences + WARP - 1) / WARP)), WARP, 0, a);
}
