/* What the GPU can do, measured where speeds are compared with it: reading memory, updating it in place. */
#include "ops/cuda/device.h"
#include "ops/cuda/host.h"

#include "base/error.h"

enum { THREADS = 1024, BLOCKS_A_PROCESSOR = 16, RUNS = 5, UNROLL = 4 };

struct limit_arguments {
    uint4 *data;
    size_t count; /* of 16 bytes */
    unsigned *out;
};

static __global__ void read_all(const __grid_constant__ struct limit_arguments a) {
    size_t step = (size_t)gridDim.x * THREADS, i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    unsigned sum = 0;
    for (; i + (UNROLL - 1) * step < a.count; i += UNROLL * step) {
        uint4 v[UNROLL];
#pragma unroll
        for (int j = 0; j < UNROLL; j++)
            v[j] = __ldcs(a.data + i + j * step);
        for (int j = 0; j < UNROLL; j++)
            sum += v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
    for (; i < a.count; i += step)
        sum += a.data[i].x;
    if (sum == 0x9e3779b9u) /* almost never: the sum must seem to be needed */
        *a.out = sum;
}

static __global__ void update_all(const __grid_constant__ struct limit_arguments a) {
    size_t step = (size_t)gridDim.x * THREADS, i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    for (; i + (UNROLL - 1) * step < a.count; i += UNROLL * step) {
        uint4 v[UNROLL];
#pragma unroll
        for (int j = 0; j < UNROLL; j++)
            v[j] = __ldcs(a.data + i + j * step);
        for (int j = 0; j < UNROLL; j++) {
            v[j].x += 1;
            __stcs(a.data + i + j * step, v[j]);
        }
    }
}

typedef struct stopwatch {
    cudaStream_t stream;
    cudaEvent_t begin, end;
} stopwatch;

/* The median of some runs, in seconds. In front of each there is another, so that the GPU does not wait for the host
 * between the events. */
static xlstm_status time_runs(const stopwatch *w, const cuda_launch *launch, double *seconds) {
    float ms[RUNS];
    for (int run = 0; run < RUNS; run++) {
        float taken = 0;
        xlstm_status status = cuda_enqueue(w->stream, launch);
        if (status == XLSTM_OK)
            status = cuda_status(cudaEventRecord(w->begin, w->stream), "cudaEventRecord");
        if (status == XLSTM_OK)
            status = cuda_enqueue(w->stream, launch);
        if (status == XLSTM_OK)
            status = cuda_status(cudaEventRecord(w->end, w->stream), "cudaEventRecord");
        if (status == XLSTM_OK)
            status = cuda_status(cudaEventSynchronize(w->end), "cudaEventSynchronize");
        if (status == XLSTM_OK)
            status =
                cuda_status(cudaEventElapsedTime(&taken, w->begin, w->end), "cudaEventElapsedTime");
        if (status != XLSTM_OK)
            return status;
        int at = run; /* into its place among those so far */
        for (; at > 0 && ms[at - 1] > taken; at--)
            ms[at] = ms[at - 1];
        ms[at] = taken;
    }
    *seconds = (double)ms[RUNS / 2] * 1e-3;
    return XLSTM_OK;
}

/* Of memory far larger than the caches. */
static xlstm_status sample_memory(const cuda_gpu *gpu, const stopwatch *w, bool update, void *data,
                                  size_t size, double *rate) {
    struct limit_arguments a = {(uint4 *)data, size / 16 - 1,
                                (unsigned *)((char *)data + size - 16)};
    cuda_launch launch = {};
    launch.kernel = update ? (const void *)update_all : (const void *)read_all;
    launch.name = update ? "update_all" : "read_all";
    launch.arguments = &a;
    launch.grid[0] = (unsigned)(gpu->processors * BLOCKS_A_PROCESSOR);
    launch.threads = THREADS;
    launch.alone = true;
    double seconds = 0;
    xlstm_status status = time_runs(w, &launch, &seconds);
    *rate = (update ? 2 : 1) * (double)size / seconds;
    return status;
}

extern "C" xlstm_status cuda_limit(ops_device *self, int kind, double *rate) {
    cuda_gpu *gpu;
    stopwatch w = {};
    size_t free_bytes = 0, total = 0;
    void *data = NULL;
    *rate = 0;
    xlstm_status status = cuda_gpu_get(self, &gpu);
    if (status == XLSTM_OK)
        status = cuda_status(cudaMemGetInfo(&free_bytes, &total), "cudaMemGetInfo");
    if (status != XLSTM_OK)
        return status;
    if (kind == OPS_LIMIT_PRODUCT)
        return cuda_product_limit(gpu, free_bytes / 2, rate);
    size_t size = free_bytes / 2 < (size_t)8 << 30 ? free_bytes / 2 / 16 * 16 : (size_t)8 << 30;
    if (size < 8 * gpu->level2_bytes)
        return error_set(XLSTM_OUT_OF_MEMORY, "%.2f GB of the GPU are free, %.2f are needed",
                         (double)free_bytes / 1e9, 16 * (double)gpu->level2_bytes / 1e9);
    status = cuda_status(cudaMalloc(&data, size), "cudaMalloc");
    if (status == XLSTM_OK)
        status = cuda_status(cudaStreamCreateWithFlags(&w.stream, cudaStreamNonBlocking),
                             "cudaStreamCreateWithFlags");
    if (status == XLSTM_OK)
        status = cuda_status(cudaEventCreate(&w.begin), "cudaEventCreate");
    if (status == XLSTM_OK)
        status = cuda_status(cudaEventCreate(&w.end), "cudaEventCreate");
    if (status == XLSTM_OK)
        status = cuda_status(cudaMemsetAsync(data, 0x5a, size, w.stream), "cudaMemsetAsync");
    if (status == XLSTM_OK)
        status = sample_memory(gpu, &w, kind == OPS_LIMIT_UPDATE, data, size, rate);
    if (w.end)
        cudaEventDestroy(w.end);
    if (w.begin)
        cudaEventDestroy(w.begin);
    if (w.stream)
        cudaStreamDestroy(w.stream);
    if (data)
        cudaFree(data);
    return status;
}
