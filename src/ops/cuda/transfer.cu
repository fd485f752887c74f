/* Small writes of the host travel as arguments of a kernel: they keep their place in the order of kernels, and need no
 * memory that must last until they arrive. Larger ones are staged by the runtime. Zeros and small writes are gathered: those
 * of several tensors are one kernel each. */
#include "ops/cuda/device.h"
#include "ops/cuda/host.h"

#include <string.h>

enum { THREADS = 128 };

/* Whatever has failed since: the write was asked for before. */
static void write_now(cuda_stream *s, cuda_launch launch) {
    xlstm_status status = cuda_enter(s->gpu);
    launch.alone = s->written;
    s->written = true;
    s->enqueued++;
    if (status == XLSTM_OK)
        status = (cuda_times_wanted() ? cuda_enqueue_timed : cuda_enqueue)(s->stream, &launch);
    if (status != XLSTM_OK)
        ops_fail(&s->check, status, "%s", xlstm_last_error());
}

/* ---- Small writes ---- */

static __global__ void put(const __grid_constant__ struct cuda_puts a) {
    cuda_wait();
    for (int i = 0; i < a.count; i++)
        for (unsigned k = threadIdx.x; k < a.span[i].size; k += THREADS)
            a.span[i].to[k] = a.bytes[a.span[i].first + k];
}

static void flush_puts(cuda_stream *s) {
    if (s->puts.count == 0)
        return;
    write_now(s, cuda_launch_of("put", put, dim3(1), THREADS, 0, s->puts));
    s->puts.count = 0;
}

/* Those that overlap would be written in any order. */
static bool puts_touch(const struct cuda_puts *p, const char *to, size_t size) {
    for (int i = 0; i < p->count; i++)
        if (to < p->span[i].to + p->span[i].size && p->span[i].to < to + size)
            return true;
    return false;
}

extern "C" void cuda_put(cuda_stream *s, void *to, const void *source, size_t size) {
    struct cuda_puts *p = &s->puts;
    const unsigned used = p->count ? p->span[p->count - 1].first + p->span[p->count - 1].size : 0;
    if (p->count == CUDA_MOST_SPANS || used + size > CUDA_MOST_PUT ||
        puts_touch(p, (const char *)to, size))
        cuda_flush_writes(s);
    const unsigned first = p->count ? used : 0;
    p->span[p->count].to = (char *)to;
    p->span[p->count].first = first;
    p->span[p->count++].size = (unsigned)size;
    memcpy(p->bytes + first, source, size);
}

/* From memory that is not page-locked: the runtime has its own copy of it when this returns. */
extern "C" void cuda_upload(cuda_stream *s, void *to, const void *source, size_t size) {
    s->enqueued++;
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

static void flush_zeros(cuda_stream *s) {
    if (s->zeros.count == 0)
        return;
    const dim3 grid(8 * (unsigned)s->gpu->processors);
    write_now(s, cuda_launch_of("zero", zero, grid, THREADS, 0, s->zeros));
    s->zeros.count = 0;
}

extern "C" void cuda_zero(cuda_stream *s, void *to, size_t size) {
    struct cuda_zeros *z = &s->zeros;
    if (z->count == CUDA_MOST_ZEROS || puts_touch(&s->puts, (const char *)to, size))
        cuda_flush_writes(s);
    z->span[z->count].to = (char *)to;
    z->span[z->count++].size = size;
}

extern "C" void cuda_flush_writes(cuda_stream *s) {
    flush_zeros(s);
    flush_puts(s);
}
