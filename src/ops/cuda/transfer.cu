/* Small writes of the host travel as arguments of a kernel: they keep their place in the order of kernels, and need no
 * memory that must last until they arrive. Larger ones are staged by the runtime. */
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
