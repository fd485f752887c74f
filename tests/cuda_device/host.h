/* What the files of the runtime share: the lock, and what is known of memory. */
#ifndef CUDA_DEVICE_HOST_H
#define CUDA_DEVICE_HOST_H

#include <stddef.h>

#include "include/cuda_runtime_api.h"

namespace cuda_device {

/* One call at a time; the first reads the environment. */
struct guard {
    guard();
    ~guard();
};
bool is_present(void);
/* Remembers an error for cudaGetLastError. */
cudaError_t result(cudaError_t error);
void drain_all(void);

/* Whether all bytes are of one allocation, or of none: the host's own. */
bool is_accessible(const void *p, size_t bytes);
bool is_device_or_pinned(const void *p);
/* NULL where the test device has no function of this name (driver.cc). */
void *driver_function(const char *name);
/* Of a kernel: as much as a struct may have, less where the caller's memory ends before. */
void copy_arguments(unsigned char *to, const void *from);

} // namespace cuda_device

#endif
