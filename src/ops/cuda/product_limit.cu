/* How fast dense products of bf16 are here: one of 8192 x 8192 x 8192, or smaller where that does not fit, by the kernel
 * that prompts use, without norms and endings, on values that are not alike. */
#include "ops/cuda/device.h"
#include "ops/cuda/gemm.h"
#include "ops/cuda/host.h"

#include <string.h>

enum { MOST_SIDE = 8192, LEAST_SIDE = 256, THREADS = 256, RUNS = 9 };

struct fill_arguments {
    uint16_t *to;
    unsigned count;
};

static __global__ void fill(const __grid_constant__ struct fill_arguments a) {
    cuda_wait();
    for (unsigned i = blockIdx.x * THREADS + threadIdx.x; i < a.count; i += gridDim.x * THREADS) {
        unsigned hash = i * 2654435761u;
        hash = (hash ^ hash >> 15) * 2246822519u;
        a.to[i] = to_bf16((float)(int)hash * (1.0f / 2147483648.0f));
    }
}

static void run(cuda_stream *s, const gemm *g) {
    if (gemm_takes_wide(s, g))
        gemm_run_wide(s, g);
    else
        gemm_run_plain(s, g);
}

static xlstm_status time_product(cuda_stream *s, const gemm *g, double *seconds) {
    cudaEvent_t begin = NULL, end = NULL;
    float ms[RUNS];
    cuda_check(s, cudaEventCreate(&begin), "cudaEventCreate");
    cuda_check(s, cudaEventCreate(&end), "cudaEventCreate");
    for (int i = -1; i < RUNS && !ops_failed(&s->check); i++) {
        float taken = 0;
        cuda_check(s, cudaEventRecord(begin, s->stream), "cudaEventRecord");
        run(s, g);
        cuda_check(s, cudaEventRecord(end, s->stream), "cudaEventRecord");
        cuda_check(s, cudaEventSynchronize(end), "cudaEventSynchronize");
        cuda_check(s, cudaEventElapsedTime(&taken, begin, end), "cudaEventElapsedTime");
        int at = i; /* into its place among those so far */
        for (; at > 0 && ms[at - 1] > taken; at--)
            ms[at] = ms[at - 1];
        if (at >= 0)
            ms[at] = taken;
    }
    if (begin)
        cudaEventDestroy(begin);
    if (end)
        cudaEventDestroy(end);
    *seconds = (double)ms[RUNS / 2] * 1e-3;
    return ops_check_take(&s->check);
}

/* Of the matrices, three of which are to fit in `room` bytes. */
static unsigned side_within(size_t room) {
    unsigned side = MOST_SIDE;
    while (side > LEAST_SIDE && 3 * sizeof(uint16_t) * side * side > room)
        side /= 2;
    return side;
}

/* Fills both factors, and multiplies them. */
static xlstm_status sample_product(cuda_stream *s, char *memory, unsigned side, double *seconds) {
    const size_t matrix = sizeof(uint16_t) * side * side;
    struct fill_arguments a = {(uint16_t *)memory, 2 * side * side};
    cuda_run(s, "fill", fill, dim3(1024), THREADS, 0, a);
    gemm g = {};
    g.x = (const uint16_t *)memory;
    g.x_stride = g.width = g.tokens = (int)side;
    g.parts = 1;
    gemm_part *p = &g.part[0];
    p->weight = (const uint16_t *)(memory + matrix);
    p->weight_stride = p->out_stride = p->rows = (int)side;
    p->ending = CUDA_CAP;
    p->out = memory + 2 * matrix;
    p->out_type = DTYPE_BF16;
    p->paired = true;
    return time_product(s, &g, seconds);
}

extern "C" xlstm_status cuda_product_limit(cuda_gpu *gpu, size_t room, double *rate) {
    const unsigned side = side_within(room);
    char *memory = NULL;
    double seconds = 1;
    cuda_stream s;
    memset(&s, 0, sizeof s);
    s.base.device = &gpu->base;
    s.gpu = gpu;
    s.check.stream = &s.base;
    xlstm_status status =
        cuda_status(cudaMalloc((void **)&memory, 3 * sizeof(uint16_t) * side * side), "cudaMalloc");
    if (status == XLSTM_OK)
        status = cuda_status(cudaStreamCreateWithFlags(&s.stream, cudaStreamNonBlocking),
                             "cudaStreamCreateWithFlags");
    if (status == XLSTM_OK)
        status = sample_product(&s, memory, side, &seconds);
    if (s.stream)
        cudaStreamDestroy(s.stream);
    cudaFree(memory);
    *rate = 2.0 * side * side * side / seconds;
    return status;
}
