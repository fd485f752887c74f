/* What a thread of a kernel asks of the test device: where it is, to wait for others, to leave something for the
 * last that comes. The emulation of an instruction that a warp or a warpgroup executes together is a struct of what
 * one thread puts in and gets out, and a function over all of them:
 *
 *     struct operand { float in, out; };
 *     static void combine(void *const *operands, unsigned count) { ... operands[lane] is a struct operand * ... }
 *     ... operand o = {x, 0}; cuda_device_meet_warp(ALL_LANES, &o, combine, "name", __FILE__, __LINE__); return o.out;
 */
#ifndef CUDA_DEVICE_MEET_H
#define CUDA_DEVICE_MEET_H

#include <stdint.h>

#include "../cuda_runtime_api.h"

/* The thread that runs. */
struct cuda_device_lane {
    uint3 thread;
    unsigned index; /* in the block */
};
extern cuda_device_lane *cuda_device_now;
extern uint3 blockIdx;
extern dim3 blockDim, gridDim;

/* NULL where a lane is not there. Called once, by the last that comes. */
typedef void cuda_device_combine(void *const *operands, unsigned count);

struct cuda_device_site {
    const char *what, *file;
    int line;
};

/* Lanes of `mask` of this warp, at the same place of the text. */
void cuda_device_meet_warp(uint32_t mask, void *operand, cuda_device_combine *combine,
                           cuda_device_site site);
/* `count` threads of the block from the `count`-aligned one on (128: a warpgroup). */
void cuda_device_meet_group(unsigned count, void *operand, cuda_device_combine *combine,
                            cuda_device_site site);
/* The barrier of this number: `count` threads of whole warps; 0: all of the block. Those that only arrive go on. */
void cuda_device_barrier(unsigned number, unsigned count, bool arrive_only, cuda_device_site site);
/* Others run; to be called in loops that wait for what another thread or a copy does. */
void cuda_device_poll(cuda_device_site site);
/* Something happened that somebody may poll for. */
void cuda_device_progress(void);
/* Copies that the hardware makes by itself: done as late as can be, and then `done(context, bytes)` is called. */
void cuda_device_copy_later(void *to, const void *from, unsigned bytes,
                            void (*done)(void *context, unsigned bytes), void *context);
/* The same for copies that a thread waits for by itself, in groups: until all but the newest `left` have arrived. Of the
 * bytes (a power of two) `there` come, the rest becomes 0. */
void cuda_device_lane_copy(void *to, const void *from, unsigned bytes, unsigned there);
void cuda_device_lane_commit(void);
void cuda_device_lane_wait(unsigned left);
/* Of the block within its cluster; a barrier of all threads of the cluster; where block `rank` of it has what the own one
 * has at p: for writes at once, not to be kept. */
unsigned cuda_device_cluster_rank(void);
void cuda_device_cluster_sync(cuda_device_site site);
void *cuda_device_cluster_map(void *p, unsigned rank);
/* cuda_wait */
void cuda_device_wait_grid(cuda_device_site site);
/* As a 32-bit number; what is not in shared memory is an error. */
uint32_t cuda_device_shared_address(const void *p, cuda_device_site site);
bool cuda_device_is_shared(const void *p);
/* Prints where the thread is and what is wrong, and ends the process. */
__attribute__((noreturn, format(printf, 1, 2))) void cuda_device_fail(const char *format, ...);

#endif
