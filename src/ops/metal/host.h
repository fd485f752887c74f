/* The GPU behind C functions: what the Metal device needs of Apple's frameworks, and nothing else.
 * Implemented by host.m, the only Objective-C of the project (manual retain and release).
 *
 * One metal_gpu a process: the MTLDevice, a queue, the library of kernels compiled from the text that is
 * embedded in the binary (metal_source), and a cache of pipelines. Memory is shared with the GPU; a wrapped
 * mapping is not copied. Failures are xlstm_status with a message of the cause (base/error.h).
 */
#ifndef OPS_METAL_HOST_H
#define OPS_METAL_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "xlstm.h"

typedef struct metal_gpu metal_gpu;
typedef struct metal_memory metal_memory;
typedef struct metal_kernel metal_kernel; /* a pipeline */
typedef struct metal_commands
    metal_commands; /* of a stream: the command buffer that is being encoded, and those under way */

/* What offsets of bound buffers are multiples of, and what a wrapped mapping must be aligned to is its page. */
enum { METAL_ALIGNMENT = 16 };

typedef struct metal_facts {
    char name[128];
    int family;  /* the highest Apple family, 7 is M1; 0: none of them */
    bool bfloat; /* the family has it (Apple 9 and later without emulation) */
    uint64_t largest_buffer, working_set; /* bytes */
    uint32_t threadgroup_bytes;           /* most of a threadgroup */
    bool residency;                       /* memory is held by a residency set (macOS 15) */
} metal_facts;

/* Made by the build from src/ops/metal: the text of all kernels, headers inlined; the same compiled by Apple's
 * compiler, of size 0 where the build had none; how that was made, or why it was not. */
extern const char metal_source[];
extern const unsigned char metal_library[];
extern const size_t metal_library_size;
extern const char metal_library_note[];

/* The GPU of this machine, opened at the first call; *gpu is NULL, with an error that says why, where there is none. */
xlstm_status metal_gpu_get(metal_gpu **gpu);
const metal_facts *metal_gpu_facts(const metal_gpu *gpu);
/* Makes the library of kernels, which the first stream does too: of what the build compiled, else, or with
 * XLSTM_METAL_LIBRARY=source in the environment, of the text. *how: which of them, in which math mode, and why it is not
 * the first; it lasts as long as the GPU. */
xlstm_status metal_gpu_compile(metal_gpu *gpu, const char **how);

/* Zeroed memory. */
xlstm_status metal_memory_create(metal_gpu *gpu, size_t size, metal_memory **out);
/* Memory of the caller, which must outlive it; used in place where it begins at a page and the pages of its
 * end are mapped, else copied as it then is. Longer ones than the GPU's largest buffer become several that overlap. */
xlstm_status metal_memory_wrap(metal_gpu *gpu, void *host, size_t size, metal_memory **out);
void *metal_memory_host(const metal_memory *memory);
/* Bytes that a tensor in it may span, from a multiple of METAL_ALIGNMENT on. */
size_t metal_memory_longest(const metal_memory *memory);
void metal_memory_free(metal_memory *memory);

/* The pipeline of a kernel, made at the first call; NULL with an error. */
const metal_kernel *metal_kernel_get(metal_gpu *gpu, const char *name);
uint32_t metal_kernel_most_threads(const metal_kernel *kernel);

typedef struct metal_binding {
    const metal_memory *memory;
    size_t offset, size; /* bytes; offset a multiple of METAL_ALIGNMENT */
    bool written;
} metal_binding;

xlstm_status metal_commands_create(metal_gpu *gpu, metal_commands **out);
/* Waits for what is under way. */
void metal_commands_free(metal_commands *commands);
/* Encodes a dispatch; it runs concurrently with those since the last barrier. */
xlstm_status metal_commands_dispatch(metal_commands *commands, const metal_kernel *kernel,
                                     const void *arguments, size_t argument_bytes,
                                     const metal_binding *bindings, int count,
                                     const uint32_t groups[3], uint32_t threads,
                                     uint32_t threadgroup_bytes);
/* What was encoded before is done, and its writes are seen, before what comes after begins. */
void metal_commands_barrier(metal_commands *commands);
/* Hands what was encoded to the GPU; the serial number of it, 0 if nothing was. */
uint64_t metal_commands_commit(metal_commands *commands);
/* Blocks until the commands of this serial number, and all before, are done. Fails with the cause where one failed. */
xlstm_status metal_commands_wait(metal_commands *commands, uint64_t serial);

#endif
