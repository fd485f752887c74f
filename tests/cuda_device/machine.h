/* Between the halves of the test device: runtime.cc has streams and memory, fibers.cc runs the threads of kernels,
 * report.cc says what went wrong. */
#ifndef CUDA_DEVICE_MACHINE_H
#define CUDA_DEVICE_MACHINE_H

#include <stddef.h>
#include <stdint.h>

#include "include/cuda_device/meet.h"

namespace cuda_device {

enum {
    MOST_THREADS = 1024,
    LANES = 32,
    MOST_WARPS = MOST_THREADS / LANES,
    ARGUMENT_BYTES = 4096,
    MOST_SHARED = 232448, /* of a block, bytes: 227 KiB */
    DEFAULT_SHARED = 49152,
    BARRIERS = 16,
    MOST_CLUSTER = 16,
    PROCESSORS = 8
};

enum order { FORWARD, REVERSE, RANDOM };

struct launch {
    const void *kernel;
    dim3 grid, threads;
    unsigned cluster; /* blocks, along x; 1: none */
    size_t shared;
    bool programmatic; /* begins before the kernel in front has ended */
    bool together;     /* all blocks at once */
    unsigned char arguments[ARGUMENT_BYTES];
};

/* ---- fibers.cc ---- */

extern order schedule;
extern uint64_t seed;
extern bool trace;

/* A kernel that has begun: some of its threads have run as far as cuda_wait. */
struct running;
running *kernel_begin(const launch *l);
/* The rest of it; what it waits for is done. */
void kernel_end(running *r);

/* ---- report.cc ---- */

/* Handlers of signals, before each kernel: others (a test's) may have come in between. */
void report_prepare(void);
/* The function's name and, for places of the text, file and line; in a buffer that the next call takes. */
const char *report_function(const void *address);
const char *report_line(const void *address);
/* The lines of a message, and the end of the process. */
__attribute__((noreturn)) void report_end(const char *message);

/* ---- runtime.cc ---- */

/* Multiprocessors: PROCESSORS, unless the environment says otherwise. */
unsigned processors(void);
/* Shared memory that a block may have: MOST_SHARED, likewise. */
unsigned shared_limit(void);
/* What is known of an address of device memory, in words. */
void describe_address(uintptr_t address, char *to, size_t size);

} // namespace cuda_device

#endif
