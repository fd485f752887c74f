/* What the files of the Objective-C test device share that is plain C: configuration, counters, faults, violations, and
 * the processor. */
#ifndef METAL_DEVICE_CONTROL_H
#define METAL_DEVICE_CONTROL_H

#include "device.h"

extern metal_device_config device_config; /* after device_configured() */
void device_configured(void);

/* Records what was done wrong, or ends the process. */
void device_violation(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Whether this one is to fail; *code is what the test gave. */
bool device_fails(enum metal_device_fault what, long *code);
bool device_lost(void);

extern metal_device_counts device_counts; /* added to from any thread */
extern uint64_t device_live_bytes;

/* Tells who watches. */
void device_tell(const char *kernel, uint64_t read, uint64_t written);

static inline void device_count(uint64_t *counter, uint64_t by) {
    __atomic_fetch_add(counter, by, __ATOMIC_RELAXED);
}

/* The processor, opened at first use, with the lock held; NULL with a message where the kernels are missing. */
gpu *device_gpu(const char **error);
void device_gpu_lock(void);
void device_gpu_unlock(void);

/* Holds and lets go of an Objective-C object that a block has captured (foundation.m). */
void device_retain(const void *object);
void device_release(const void *object);

#endif
