/* The Metal test device, as tests see it: which machine it pretends to be, what was created and moved, what it should
 * let fail, and what was done wrong. The device itself is used through Metal/Metal.h, by the host that ships.
 *
 * A violation is something that Metal's own validation, or the reference counts, would object to. It is printed and ends
 * the process, unless a test catches violations: then it is recorded, the call does nothing, and the command buffer
 * that is concerned fails.
 *
 * From the environment, where metal_device_configure was not called:
 *   XLSTM_METAL_TEST_DEVICE=none            a machine without a GPU
 *   XLSTM_METAL_TEST_MODE=checked|fast|fastmath
 *   XLSTM_METAL_TEST_SCHEDULE=forward|reverse|random[:seed]
 *   XLSTM_METAL_TEST_FAMILY=7|8|9           Apple's families: M1, M2, M3 and M4
 *   XLSTM_METAL_TEST_MACOS=14|15            14: no residency sets, no mathMode, no language 3.2
 *   XLSTM_METAL_TEST_BUFFER=bytes           of the largest buffer
 *   XLSTM_METAL_TEST_MEMORY=bytes           of all buffers; more of them is out of memory
 *   XLSTM_METAL_TEST_PAGE=bytes             what memory that is not copied is aligned to (the machine's page); larger
 *                                           pages than the machine's are what the program is told of, too (pages.c)
 *   XLSTM_METAL_TEST_THREADS=n              most threads of a threadgroup that a pipeline takes
 *   XLSTM_METAL_TEST_KERNELS=folder         where the compiled kernels lie
 *   XLSTM_METAL_TEST_FAIL=fault[:n[:code]],...   metal_device_fail: buffer, queue, residency, library, pipeline,
 *                                           commandbuffer, encoder, commands, lost
 *   XLSTM_METAL_TEST_TRACE=1                every dispatch and every buffer on standard error
 */
#ifndef METAL_DEVICE_DEVICE_H
#define METAL_DEVICE_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct metal_device_config {
    bool present;
    enum gpu_mode mode;
    enum gpu_schedule schedule;
    uint64_t seed;
    int family; /* of Apple; 0: a GPU of no Apple family */
    int macos;
    uint64_t largest_buffer, working_set, memory, page; /* bytes */
    uint32_t most_threads, simd_width;
    uint32_t patience; /* milliseconds that commands wait for an event before they fail */
    const char *kernels;
    bool trace;
} metal_device_config;

/* What the environment says, the rest as on a machine with an M1 and macOS 15. */
metal_device_config metal_device_default(void);
/* Before the device is created, or after all objects are gone: otherwise a violation. */
void metal_device_configure(const metal_device_config *config);

/* Counted since the process began. Commands count when they are executed. */
typedef struct metal_device_counts {
    uint64_t buffers, buffer_bytes, queues, libraries, functions, pipelines, events, residency_sets;
    uint64_t command_buffers, failed, encoders, dispatches, barriers, blits;
    uint64_t waits; /* of the processor for the GPU */
    uint64_t read,
        written;      /* bytes, each counted once a dispatch (checked mode), and those of blits */
    uint64_t objects; /* of any class */
    uint64_t violations;
} metal_device_counts;

metal_device_counts metal_device_counted(void);
metal_device_counts metal_device_since(const metal_device_counts *mark);

/* Told of every dispatch, with the bytes that it read and wrote, and of every barrier, kernel NULL, when they have been
 * executed; in their order, by the thread that executes. To be set while nothing runs; NULL: nobody is told. */
typedef void metal_device_watcher(void *context, const char *kernel, uint64_t read,
                                  uint64_t written);
void metal_device_watch(metal_device_watcher *watcher, void *context);

/* Objects that live, and bytes of buffers that do; memory of the caller that is used in place is not among them. */
uint64_t metal_device_live_objects(void);
uint64_t metal_device_live_bytes(void);
/* How many of each class live. */
void metal_device_print_live(FILE *to);

enum metal_device_fault {
    METAL_FAULT_BUFFER,         /* no memory: nil */
    METAL_FAULT_QUEUE,          /* nil */
    METAL_FAULT_RESIDENCY,      /* no residency set: nil */
    METAL_FAULT_LIBRARY,        /* the source does not compile */
    METAL_FAULT_PIPELINE,       /* the kernel does not fit */
    METAL_FAULT_COMMAND_BUFFER, /* the queue gives none: nil */
    METAL_FAULT_ENCODER,        /* a command buffer gives none: nil */
    METAL_FAULT_COMMANDS, /* a command buffer fails in the middle; code: MTLCommandBufferError */
    METAL_FAULT_LOST, /* so do all, from the nth on: the GPU is gone; no buffer is made any more */
    METAL_FAULTS
};
/* The nth from now fails, 1 being the next, once; 0: none does. */
void metal_device_fail(enum metal_device_fault what, unsigned nth, long code);
/* Whether one is still to fail. */
bool metal_device_fails(enum metal_device_fault what);

/* Whether violations are recorded instead of ending the process. */
void metal_device_catch(bool catch_violations);
/* The first violation since the last call, and forgets it; NULL: there was none. Valid until the next call. */
const char *metal_device_violation(void);

#ifdef __cplusplus
}
#endif

#endif
