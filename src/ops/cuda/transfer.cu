/* Small writes of the host travel as arguments of a kernel: they keep their place in the order of kernels, and need no
 * memory that must last until they arrive. Larger ones are staged by the runtime. Zeros of several tensors are one kernel. */
#include "ops/cuda/device.h"
#include "ops/cuda/host.h"

#include <string.h>

enum { THREADS = 128 };

struct put_arguments {
    uint8_t *to;
    unsigned size;
    uint8_t bytes[CUDA_MOST_PUT];
};

static __global__ void put(const __grid_constant__ struct put_arguments a) {
    cuda_wait();
    for (unsigned i = threadIdx.x; i < a.size; i += THREADS)
        a.to[i] = a.bytes[i];
}

extern "C" void cuda_put(cuda_stream *s, void *to, const void *source, size_t size) {
    struct put_arguments a;
    a.to = (uint8_t *)to;
    a.size = (unsigned)size;
    memcpy(a.bytes, source, size);
    cuda_run(s, "put", put, dim3(1), THREADS, 0, a);
    s->written = true;
}

/* From memory that is not page-locked: the runtime has its own copy of it when this returns. */
extern "C" void cuda_upload(cuda_stream *s, void *to, const void *source, size_t size) {
    cuda_check(s, cudaMemcpyAsync(to, source, size, cudaMemcpyHostToDevice, s->stream),
               "cudaMemcpyAsync");
}

/* ---- Zeros ---- */

static __global__ void zero(const __grid_constant__ struct cuda_zeros a) {
    const size_t first = (size_t)blockIdx.x * THREADS + threadIdx.x,
                 step = (size_t)gridDim.x * THREADS;
    cuda_wait();
    for (int i = 0; i < a.count; i++) {
        char *to = a.span[i].to;
        const size_t size = a.span[i].size, before = -(uintptr_t)to % sizeof(uint4);
        const size_t head = before < size ? before : size;
        const size_t wide = (size - head) / sizeof(uint4);
        for (size_t k = first; k < wide; k += step)
            ((uint4 *)(to + head))[k] = make_uint4(0, 0, 0, 0);
        if (first < head)
            to[first] = 0;
        if (head + wide * sizeof(uint4) + first < size)
            to[head + wide * sizeof(uint4) + first] = 0;
    }
}

extern "C" void cuda_flush_zeros(cuda_stream *s) {
    if (s->zeros.count == 0)
        return;
    const struct cuda_zeros a = s->zeros;
    s->zeros.count = 0; /* before the launch, which flushes */
    cuda_run(s, "zero", zero, dim3(8 * (unsigned)s->gpu->processors), THREADS, 0, a);
    s->written = true;
}

extern "C" void cuda_zero(cuda_stream *s, void *to, size_t size) {
    struct cuda_zeros *z = &s->zeros;
    if (z->count == CUDA_MOST_ZEROS)
        cuda_flush_zeros(s);
    z->span[z->count].to = (char *)to;
    z->span[z->count++].size = size;
}
