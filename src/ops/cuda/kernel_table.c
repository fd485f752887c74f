/* The kernel library of the device "cuda": its groups, the GPU and the stream of a call, and the memory of those who have
 * their arrays on the host. */
#include "base/error.h"
#include "ops/cuda/kernel_call.h"

/* ---- The GPU and its stream ---- */

xlstm_status cuda_kernel_gpu_now(cuda_kernel_gpu *gpu) {
    int ordinal, shared = 0;
    cudaError_t error = cudaGetDevice(&ordinal);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&gpu->processors, cudaDevAttrMultiProcessorCount, ordinal);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&gpu->major, cudaDevAttrComputeCapabilityMajor, ordinal);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&gpu->minor, cudaDevAttrComputeCapabilityMinor, ordinal);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&gpu->clusters, cudaDevAttrClusterLaunch, ordinal);
    gpu->shared_bytes = (size_t)shared;
    return cuda_status(error, "cudaDeviceGetAttribute");
}

static xlstm_status enter(const kernel_call *call) {
    int count = 0;
    (void)call;
    if (cudaGetDeviceCount(&count) == cudaSuccess && count > 0)
        return XLSTM_OK;
    cudaGetLastError(); /* is told here */
    return error_set(XLSTM_UNSUPPORTED, "no CUDA device");
}

xlstm_status cuda_kernel_launch(const kernel_call *call, const cuda_launch *launch) {
    return cuda_enqueue((cudaStream_t)call->options.stream, launch);
}

/* ---- Memory ---- */

static xlstm_status take(size_t bytes, void **memory) {
    xlstm_status status = enter(NULL);
    if (status != XLSTM_OK)
        return status;
    cudaError_t error = cudaMalloc(memory, bytes);
    if (error != cudaErrorMemoryAllocation)
        return cuda_status(error, "cudaMalloc");
    cudaGetLastError();
    size_t left = 0, all = 0;
    cudaMemGetInfo(&left, &all);
    return error_set(XLSTM_OUT_OF_MEMORY,
                     "out of memory on the GPU: %zu bytes were asked for, %zu are free", bytes,
                     left);
}

static void give_back(void *memory) {
    if (memory)
        cudaFree(memory);
}

static xlstm_status write_memory(void *to, const void *host, size_t bytes) {
    return cuda_status(cudaMemcpy(to, host, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
}

static xlstm_status read_memory(void *host, const void *from, size_t bytes) {
    return cuda_status(cudaMemcpy(host, from, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
}

static const kernel_memory memory = {take, give_back, write_memory, read_memory};

/* ---- The table ---- */

/* Each group with its kernel and what tells the workspace (kernel_call.h); {NULL, NULL}: not built, and not listed. */

const kernel_table cuda_kernel_table = {
    .memory = &memory,
    .enter = enter,
    .mlstm = {cuda_kernel_mlstm, cuda_kernel_mlstm_workspace},
    .slstm = {cuda_kernel_slstm, cuda_kernel_slstm_workspace},
    .conv1d = {cuda_kernel_conv1d, cuda_kernel_conv1d_workspace},
    .headwise_linear = {cuda_kernel_headwise, cuda_kernel_headwise_workspace},
    .rms_norm = {cuda_kernel_rms_norm, cuda_kernel_norm_workspace},
    .layer_norm = {cuda_kernel_layer_norm, cuda_kernel_norm_workspace},
    .soft_cap = {cuda_kernel_soft_cap, NULL},
    .swiglu = {cuda_kernel_swiglu, NULL},
    .gelu_gate = {cuda_kernel_gelu_gate, NULL},
    .cross_entropy = {cuda_kernel_cross_entropy, NULL},
};
