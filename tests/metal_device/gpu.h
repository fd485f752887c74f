/* The test device's processor: runs kernels that were compiled from the .metal files for this machine,
 * and finds what they do wrong. C++ (runtime.cc) behind C functions, so that the Objective-C device
 * (device.m) and tests in C use it alike.
 *
 * Every thread of a GPU is a fiber. A SIMD-group has 32; barriers and functions of SIMD-groups are rendezvous. In
 * checked mode every load and store is looked at: bounds, alignment, races, memory that was never written.
 * The kernels lie in shared libraries, one a mode, which gpu_open loads.
 */
#ifndef METAL_DEVICE_GPU_H
#define METAL_DEVICE_GPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gpu gpu;
typedef struct gpu_kernel gpu_kernel;

enum gpu_mode { GPU_CHECKED, GPU_FAST, GPU_FAST_MATH };
enum gpu_schedule { GPU_FORWARD, GPU_REVERSE, GPU_RANDOM }; /* the order in which fibers go on */
enum { GPU_SIMD = 32, GPU_BUFFERS = 31, GPU_THREADGROUP_BYTES = 32768, GPU_MOST_THREADS = 1024 };

/* Kernels in the shared library of a mode (folder: where the build put them). NULL with a message in `error`. */
gpu *gpu_open(const char *folder, enum gpu_mode mode, char *error, size_t size);
void gpu_close(gpu *g);
void gpu_set_schedule(gpu *g, enum gpu_schedule schedule, uint64_t seed);

/* The text that the kernels were compiled from, headers inlined: its FNV-1a hash (64 bits). */
uint64_t gpu_source_hash(const gpu *g);

/* A kernel by its name ([[host_name]] or that of the function); NULL: there is none. */
const gpu_kernel *gpu_find(const gpu *g, const char *name);
const char *gpu_kernel_at(const gpu *g, int index); /* names, NULL past the end */
/* Bytes of threadgroup variables of the kernel itself. */
uint32_t gpu_kernel_threadgroup_bytes(const gpu_kernel *k);
/* Whether argument [[buffer(index)]] exists, and whether the kernel may write it (device and not const). */
bool gpu_kernel_uses(const gpu_kernel *k, int index, bool *writes);

typedef struct gpu_bound {
    void *base;    /* of the allocation; NULL: nothing is bound */
    size_t length; /* of the allocation */
    size_t offset; /* where it is bound: what lies before is out of bounds */
    bool bytes;    /* setBytes: private to this dispatch */
} gpu_bound;

typedef struct gpu_launch {
    const gpu_kernel *kernel;
    gpu_bound buffer[GPU_BUFFERS];
    uint32_t threadgroup_bytes[GPU_BUFFERS]; /* of [[threadgroup(i)]] arguments */
    uint32_t groups[3], threads[3];
} gpu_launch;

/* Bytes that a dispatch touched, each counted once however often (checked mode). */
typedef struct gpu_traffic {
    uint64_t read, written;
} gpu_traffic;

/* Runs a dispatch to its end. Dispatches since the last gpu_fence are concurrent: what one wrote and
 * another touches is a race. false: an error, with kernel, file and line, thread, and what is wrong. */
bool gpu_run(gpu *g, const gpu_launch *launch, gpu_traffic *traffic, char *error, size_t size);
/* A barrier between dispatches (memoryBarrierWithScope, or the end of an encoder). */
void gpu_fence(gpu *g);
/* Memory that is gone or new: what is known of these addresses is forgotten. */
void gpu_forget(gpu *g, const void *base, size_t length);

#ifdef __cplusplus
}
#endif

#endif
