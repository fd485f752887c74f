/* Ids that kernels tell the host themselves, besides leaving them in the GPU's memory (reads.c): a word a row in page-locked
 * memory of the host, which looks there until the word has the number of the read that it waits for. No copy, and no event
 * between two kernels. */
#ifndef OPS_CUDA_TOLD_H
#define OPS_CUDA_TOLD_H

#include "ops/cuda/device.h"

/* Whether anything is wrong with what was enqueued so far. */
static __device__ __forceinline__ bool cuda_anything_wrong(const unsigned *faults) {
    unsigned any = 0;
#pragma unroll
    for (int kind = 0; kind < CUDA_FAULTS; kind++)
        any |= ((const volatile unsigned *)faults)[kind];
    return any != 0;
}

/* The word of a row: the number of the read, whether anything is wrong, and the id. */
static __device__ __forceinline__ void cuda_tell(const struct cuda_told &told, int row, int32_t id,
                                                 bool wrong) {
    typedef unsigned long long word;
    if (told.words)
        *(volatile word *)(told.words + row) =
            (word)told.number << CUDA_TOLD_NUMBER | (word)wrong << CUDA_TOLD_WRONG | (uint32_t)id;
}

#endif
