/* The GPU: opened at first use, what it is, failures of the runtime's calls as errors. */
#include "base/error.h"
#include "ops/cuda/fp8.h"
#include "ops/cuda/host.h"

#include <pthread.h>
#include <stdio.h>

/* ---- Failures ---- */

xlstm_status cuda_status(cudaError_t error, const char *call) {
    if (error == cudaSuccess)
        return XLSTM_OK;
    (void)cudaGetLastError(); /* it was reported */
    return error_set(error == cudaErrorMemoryAllocation ? XLSTM_OUT_OF_MEMORY : XLSTM_DEVICE_ERROR,
                     "%s: %s (%s)", call, cudaGetErrorString(error), cudaGetErrorName(error));
}

bool cuda_check(cuda_stream *s, cudaError_t error, const char *call) {
    xlstm_status status = cuda_status(error, call);
    return status == XLSTM_OK || ops_fail(&s->check, status, "%s", xlstm_last_error());
}

/* ---- Opening ---- */

enum { LEAST_MAJOR = 8 };

static xlstm_status no_device(const char *why) {
    return error_set(XLSTM_DEVICE_ERROR, "no CUDA device: %s", why);
}

static xlstm_status look(cuda_gpu *gpu) {
    int count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count <= gpu->ordinal) {
        (void)cudaGetLastError();
        return no_device(error != cudaSuccess ? cudaGetErrorString(error)
                                              : "the driver shows no GPU");
    }
    struct cudaDeviceProp p;
    error = cudaGetDeviceProperties(&p, gpu->ordinal);
    if (error != cudaSuccess)
        return cuda_status(error, "cudaGetDeviceProperties");
    if (p.major < LEAST_MAJOR)
        return error_set(XLSTM_DEVICE_ERROR,
                         "no CUDA device: %s has compute capability %d.%d; 8.0 (A100, RTX 30) or "
                         "later is needed",
                         p.name, p.major, p.minor);
    gpu->processors = p.multiProcessorCount;
    gpu->major = p.major;
    gpu->minor = p.minor;
    gpu->shared_bytes = p.sharedMemPerBlockOptin;
    gpu->level2_bytes = (size_t)p.l2CacheSize;
    snprintf(gpu->name, sizeof gpu->name, "%s", p.name);
    gpu->known = true;
    return XLSTM_OK;
}

xlstm_status cuda_enter(const cuda_gpu *gpu) {
    return cuda_status(cudaSetDevice(gpu->ordinal), "cudaSetDevice");
}

xlstm_status cuda_gpu_get(ops_device *device, cuda_gpu **out) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    cuda_gpu *gpu = (cuda_gpu *)device;
    pthread_mutex_lock(&lock);
    xlstm_status status = gpu->known ? XLSTM_OK : look(gpu);
    pthread_mutex_unlock(&lock);
    *out = status == XLSTM_OK ? gpu : NULL;
    return status == XLSTM_OK ? cuda_enter(gpu) : status;
}

/* ---- What it is ---- */

xlstm_status cuda_has_fp8(ops_device *self) {
    cuda_gpu *gpu;
    xlstm_status status = cuda_gpu_get(self, &gpu);
    if (status == XLSTM_OK && gpu->major != 9)
        return error_set(XLSTM_UNSUPPORTED,
                         "%s has compute capability %d.%d; 9.0 (H100, H200) is needed", gpu->name,
                         gpu->major, gpu->minor);
    return status;
}

void cuda_describe(ops_device *self, char *text, size_t size) {
    cuda_gpu *gpu;
    size_t free_bytes = 0, total = 0;
    if (cuda_gpu_get(self, &gpu) != XLSTM_OK ||
        cudaMemGetInfo(&free_bytes, &total) != cudaSuccess) {
        snprintf(text, size, "%s", xlstm_last_error());
        return;
    }
    snprintf(text, size,
             "%s, compute capability %d.%d, %d multiprocessors, %.1f GB, %.1f GB free\n"
             "weights as stored (f32, bf16, f16, blocks), activations and accumulation f32; in "
             "profile fast products of many tokens are of bf16",
             gpu->name, gpu->major, gpu->minor, gpu->processors, (double)total / 1e9,
             (double)free_bytes / 1e9);
}

static void add_text(ops_fact *facts, int *count, const char *name, const char *text) {
    ops_fact *fact = &facts[(*count)++];
    *fact = (ops_fact){.name = name, .kind = OPS_FACT_TEXT};
    snprintf(fact->text, sizeof fact->text, "%s", text);
}

static void add_number(ops_fact *facts, int *count, const char *name, enum ops_fact_kind kind,
                       int64_t number) {
    facts[(*count)++] = (ops_fact){.name = name, .kind = kind, .number = number};
}

static void add_version(ops_fact *facts, int *count, const char *name, int version) {
    char text[32];
    snprintf(text, sizeof text, "%d.%d", version / 1000, version % 1000 / 10);
    add_text(facts, count, name, text);
}

xlstm_status cuda_tell_facts(ops_device *self, ops_profile profile, ops_fact *facts, int *count) {
    cuda_gpu *gpu;
    int driver = 0, runtime = 0;
    size_t free_bytes = 0, total = 0;
    *count = 0;
    xlstm_status status = cuda_gpu_get(self, &gpu);
    if (status == XLSTM_OK)
        status = cuda_status(cudaMemGetInfo(&free_bytes, &total), "cudaMemGetInfo");
    if (status == XLSTM_OK)
        status = cuda_status(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
    if (status == XLSTM_OK)
        status = cuda_status(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
    if (status != XLSTM_OK)
        return status;
    char capability[32];
    snprintf(capability, sizeof capability, "%d.%d", gpu->major, gpu->minor);
    add_text(facts, count, "gpu", gpu->name);
    add_text(facts, count, "compute_capability", capability);
    add_number(facts, count, "multiprocessors", OPS_FACT_NUMBER, gpu->processors);
    add_number(facts, count, "memory", OPS_FACT_BYTES, (int64_t)total);
    add_number(facts, count, "memory_free", OPS_FACT_BYTES, (int64_t)free_bytes);
    add_number(facts, count, "level2_cache", OPS_FACT_BYTES, (int64_t)gpu->level2_bytes);
    add_number(facts, count, "shared_memory", OPS_FACT_BYTES, (int64_t)gpu->shared_bytes);
    add_version(facts, count, "driver", driver);
    add_version(facts, count, "runtime", runtime);
    add_text(facts, count, "weights", "copied as stored: f32, bf16, f16, blocks");
    add_text(facts, count, "few_tokens", "matrix-vector, sums in f32");
    add_text(facts, count, "many_tokens",
             profile == OPS_FAST ? "tensor cores, factors in bf16, sums in f32"
                                 : "matrix-vector, as for one token");
    return XLSTM_OK;
}
