/* What src/ops/cuda/async.h has in assembly: barriers that count arrivals and bytes, bulk copies that come late. */
#ifndef CUDA_DEVICE_ASYNC_FUNCTIONS_H
#define CUDA_DEVICE_ASYNC_FUNCTIONS_H

#include "cuda_device/language.h"

/* A barrier's 64 bits: arrivals to come, arrivals of a phase, bytes to come, the phase, and a sign that it was made. */
union cuda_device_mbarrier {
    uint64_t word;
    struct {
        uint64_t pending : 12, arrivals : 12, phase : 1, made : 7;
        int64_t bytes : 32;
    } is;
};
enum { CUDA_DEVICE_MADE = 0x35 };

static inline cuda_device_mbarrier cuda_device_mbarrier_read(uint64_t *barrier, const char *what) {
    cuda_device_mbarrier b;
    b.word = *barrier;
    if (b.is.made != CUDA_DEVICE_MADE)
        cuda_device_fail("%s of a barrier that was not made", what);
    return b;
}
static inline cuda_device_mbarrier cuda_device_mbarrier_at(uint64_t *barrier, const char *what) {
    if (!cuda_device_is_shared(barrier))
        cuda_device_fail("%s of a barrier that is not in shared memory", what);
    return cuda_device_mbarrier_read(barrier, what);
}
static inline void cuda_device_mbarrier_set(uint64_t *barrier, cuda_device_mbarrier b) {
    if (b.is.pending == 0 && b.is.bytes == 0) {
        b.is.phase = !b.is.phase;
        b.is.pending = b.is.arrivals;
    }
    *barrier = b.word;
    cuda_device_progress();
}
static inline void cuda_device_mbarrier_bytes(void *barrier, unsigned bytes) {
    cuda_device_mbarrier b = cuda_device_mbarrier_read((uint64_t *)barrier, "a copy's arrival");
    b.is.bytes -= bytes;
    cuda_device_mbarrier_set((uint64_t *)barrier, b);
}

static inline uint32_t shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}
static inline void barrier_make(uint64_t *barrier, unsigned arrivals) {
    if (!cuda_device_is_shared(barrier) || (uintptr_t)barrier % 8 != 0 || arrivals == 0 ||
        arrivals > 4095)
        cuda_device_fail("barrier_make of %u arrivals at %p", arrivals, (void *)barrier);
    cuda_device_mbarrier b = {};
    b.is.pending = b.is.arrivals = arrivals;
    b.is.made = CUDA_DEVICE_MADE;
    *barrier = b.word;
}
static inline void barrier_made() {
}
/* Then others go on first: what the caller still does here comes too late for those who waited for it. */
static inline void barrier_arrive(uint64_t *barrier, CUDA_DEVICE_HERE) {
    cuda_device_mbarrier b = cuda_device_mbarrier_at(barrier, "an arrival");
    if (b.is.pending == 0)
        cuda_device_fail("more arrivals than the barrier's %u", (unsigned)b.is.arrivals);
    b.is.pending = b.is.pending - 1;
    cuda_device_mbarrier_set(barrier, b);
    cuda_device_poll(CUDA_DEVICE_SITE("barrier_arrive"));
}
static inline void barrier_arrive_for(uint64_t *barrier, unsigned bytes) {
    cuda_device_mbarrier b = cuda_device_mbarrier_at(barrier, "an arrival");
    if (b.is.pending == 0)
        cuda_device_fail("more arrivals than the barrier's %u", (unsigned)b.is.arrivals);
    b.is.bytes += bytes;
    b.is.pending = b.is.pending - 1;
    cuda_device_mbarrier_set(barrier, b);
}
static inline bool cuda_device_mbarrier_passed(uint64_t *barrier, unsigned parity) {
    return cuda_device_mbarrier_at(barrier, "a wait").is.phase != (parity & 1);
}
static inline bool barrier_passed(uint64_t *barrier, unsigned parity, CUDA_DEVICE_HERE) {
    if (cuda_device_mbarrier_passed(barrier, parity))
        return true;
    cuda_device_poll(CUDA_DEVICE_SITE("barrier_passed"));
    return cuda_device_mbarrier_passed(barrier, parity);
}
static inline bool barrier_tested(uint64_t *barrier, unsigned parity, CUDA_DEVICE_HERE) {
    return barrier_passed(barrier, parity, file, line);
}
static inline void barrier_wait(uint64_t *barrier, unsigned parity, CUDA_DEVICE_HERE) {
    while (!cuda_device_mbarrier_passed(barrier, parity))
        cuda_device_poll(CUDA_DEVICE_SITE("barrier_wait"));
}
static inline void copy_bulk(void *to, const void *from, unsigned bytes, uint64_t *barrier) {
    if (((uintptr_t)to | (uintptr_t)from | bytes) % 16 != 0 || bytes == 0)
        cuda_device_fail("copy_bulk of %u bytes from %p to %p: not multiples of 16", bytes, from,
                         to);
    if (!cuda_device_is_shared(to) || !cuda_device_is_shared((char *)to + bytes - 1))
        cuda_device_fail("copy_bulk of %u bytes to %p, which is not all in shared memory", bytes,
                         to);
    cuda_device_mbarrier_at(barrier, "copy_bulk");
    cuda_device_copy_later(to, from, bytes, cuda_device_mbarrier_bytes, barrier);
}
static inline void copy_bulk_out(void *to, const void *from, unsigned bytes) {
    if (((uintptr_t)to | (uintptr_t)from | bytes) % 16 != 0 || bytes == 0)
        cuda_device_fail("copy_bulk_out of %u bytes from %p to %p: not multiples of 16", bytes,
                         from, to);
    if (!cuda_device_is_shared(from) || !cuda_device_is_shared((const char *)from + bytes - 1))
        cuda_device_fail("copy_bulk_out of %u bytes from %p, which is not all in shared memory",
                         bytes, from);
    memcpy(to, from, bytes);
}
static inline void fence_async() {
}

#endif
