/* What the control group of this process allows it (Linux, cgroup v2): a container may have fewer
 * processors and less memory than the machine. */
#ifndef BASE_CGROUP_H
#define BASE_CGROUP_H

#include <stdint.h>

/* Processors' worth of time, rounded up; 0: no limit known. */
int cgroup_processors(void);
/* The tightest memory limit in bytes; 0: no limit known. */
int64_t cgroup_memory_limit(void);
/* Bytes left below the limits, counting page cache as free; INT64_MAX: no limit known. */
int64_t cgroup_memory_left(void);

#endif
