/* The batch as kernels see it: its arrays lie in device memory, where the host does not look.
 *
 * What is wrong with it must be found before a state is touched. So every block looks at the whole batch, all of it
 * at once, and does nothing where one value is wrong; the stream fails when it is waited for. */
#ifndef OPS_CUDA_BATCH_H
#define OPS_CUDA_BATCH_H

#include "ops/cuda/device.h"

typedef struct cuda_batch {
    const int32_t *slot, *start;
    const int64_t *position;
    int sequences;
    int64_t tokens, slots; /* of the batch; of the states */
    unsigned *faults;
} cuda_batch;

static inline cuda_batch cuda_batch_of(const cuda_stream *s, const ops_batch *batch,
                                       int64_t slots) {
    cuda_batch b = {};
    b.slot = (const int32_t *)cuda_at(&batch->slot);
    b.start = (const int32_t *)cuda_at(&batch->start);
    b.position = (const int64_t *)cuda_at(&batch->position);
    b.sequences = batch->sequences;
    b.tokens = batch->tokens;
    b.slots = slots;
    b.faults = cuda_fault_words(s);
    return b;
}

/* Whether sequence i is as ops_batch says. */
static __device__ __forceinline__ bool batch_has(const cuda_batch &b, int i) {
    int64_t first = b.start[i], end = b.start[i + 1];
    return first < end && (i > 0 || first == 0) && (i + 1 < b.sequences || end == b.tokens) &&
           b.slot[i] >= 0 && b.slot[i] < b.slots && b.position[i] >= 0 &&
           b.position[i] <= INT64_MAX - b.tokens;
}

/* Whether the whole batch is. After cuda_wait(); all threads of a block come here, and get the same answer. */
static __device__ __forceinline__ bool batch_is_sound(const cuda_batch &b) {
    bool wrong = false;
    for (int i = (int)threadIdx.x; i < b.sequences; i += (int)blockDim.x)
        if (!batch_has(b, i)) {
            cuda_report(b.faults, CUDA_FAULT_BATCH, (unsigned)i);
            wrong = true;
        }
    return !__syncthreads_or(wrong);
}

#endif
