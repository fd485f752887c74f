/* Between the two halves of the runtime: runtime.cc moves the threads on, shadow.cc looks at their memory. */
#ifndef METAL_DEVICE_RUNTIME_H
#define METAL_DEVICE_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#include "include/metal_device/abi.h"
#include "module.h"

struct gpu_kernel : metal_device_kernel {};

namespace metal_device {

enum { STACK_BYTES = 65536, MOST_VARIABLES = 64, PAGE_BITS = 12, PAGE_BYTES = 1 << PAGE_BITS };

enum fiber_status : uint8_t { READY, AT_SIMD, AT_THREADGROUP, DONE };

struct fiber {
    void *stack_pointer;
    uintptr_t stack; /* lowest address */
    uint32_t thread; /* in the threadgroup */
    fiber_status status;
    uint32_t variables; /* threadgroup variables that it has come by */
    metal_device_site site;
    unsigned flags; /* of a barrier */
    metal_device_combine *combine;
};

/* The threadgroup variables and arguments of the kernel that runs, each from a page on. */
struct span {
    uintptr_t begin;
    uint32_t size;
};

struct machine {
    const gpu_launch *launch;
    fiber *current;
    uint32_t threads; /* of a threadgroup */
    uint32_t group;   /* number of the one that runs */
    uint32_t position[3];
    span variables[MOST_VARIABLES + GPU_BUFFERS];
    uint32_t variable_count, arguments;

    /* Time goes on at every barrier and dispatch, and is what accesses are stamped with. */
    uint32_t clock;
    uint32_t dispatch_clock, group_clock;
    /* When what was done before became visible: to the threadgroup and to SIMD-groups, in memory of
     * threadgroups [0] and of the device [1]. */
    uint32_t group_visible[2];
    uint32_t simd_visible[2][GPU_MOST_THREADS / GPU_SIMD];
    gpu_fault *fault;
};
extern machine state;

constexpr uintptr_t arena_bytes =
    (uintptr_t)(MOST_VARIABLES + GPU_BUFFERS) * 2 * PAGE_BYTES + GPU_THREADGROUP_BYTES * 4;
extern uintptr_t arena;                  /* of threadgroup memory */
extern uintptr_t stacks;                 /* of all fibers */
extern uintptr_t image_begin, image_end; /* of the library: constants are there */

/* Ends the dispatch with a message; does not come back. */
__attribute__((noreturn, format(printf, 3, 4))) void fail(uintptr_t code, uintptr_t earlier,
                                                          const char *format, ...);

/* shadow.cc; empty where nothing is checked. */
void shadow_begin(const gpu_launch *launch);
void shadow_end(gpu_traffic *traffic);
void shadow_fence();
void shadow_forget(uintptr_t base, size_t length);
void shadow_variables_changed();

} // namespace metal_device

#endif
