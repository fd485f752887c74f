/* Between gpu.c and a shared library of kernels, which carries its own copy of the runtime (runtime.cc, shadow.cc).
 * So nothing of it is seen by the program: not even the hooks of loads and stores, which bear the names of those of
 * the thread sanitizer. */
#ifndef METAL_DEVICE_MODULE_H
#define METAL_DEVICE_MODULE_H

#include "gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gpu_fault {
    char message[1024];
    uintptr_t code[2]; /* addresses in the library: of this access, and of the one before */
} gpu_fault;

typedef struct gpu_module {
    uint64_t source_hash;
    int kernels;
    bool (*run)(const gpu_launch *launch, gpu_traffic *traffic, gpu_fault *fault);
    void (*fence)(void);
    void (*forget)(const void *base, size_t length);
    void (*set_schedule)(enum gpu_schedule schedule, uint64_t seed);
    const gpu_kernel *(*kernel_at)(int index);
    const char *(*name)(const gpu_kernel *k);
    uint32_t (*threadgroup_bytes)(const gpu_kernel *k);
    bool (*uses)(const gpu_kernel *k, int index, bool *writes);
    uintptr_t base; /* where the library lies */
} gpu_module;

/* The beginning of a struct gpu_kernel. */
typedef struct gpu_kernel_of {
    const gpu_module *module;
} gpu_kernel_of;

/* The only symbol of the library. */
const gpu_module *metal_device_module(void);

#ifdef __cplusplus
}
#endif

#endif
