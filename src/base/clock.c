/* Time and memory, as the system tells them. */
#include "base/clock.h"

#include "base/cgroup.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#if defined(__APPLE__)
#include <mach/mach.h>
#include <sys/sysctl.h>
#endif

double clock_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void clock_sleep(double seconds) {
    struct timespec left = {.tv_sec = (time_t)seconds,
                            .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        ;
}

#if defined(__APPLE__)
int64_t memory_total(void) {
    int64_t bytes = 0;
    size_t size = sizeof bytes;
    return sysctlbyname("hw.memsize", &bytes, &size, NULL, 0) == 0 ? bytes : 0;
}

/* Free, and what can be dropped without being written anywhere. */
int64_t memory_available(void) {
    vm_statistics64_data_t counts;
    mach_msg_type_number_t fields = HOST_VM_INFO64_COUNT;
    mach_port_t host = mach_host_self();
    kern_return_t result = host_statistics64(host, HOST_VM_INFO64, (host_info64_t)&counts, &fields);
    mach_port_deallocate(mach_task_self(), host);
    if (result != KERN_SUCCESS)
        return 0;
    int64_t pages = (int64_t)counts.free_count + (int64_t)counts.external_page_count +
                    (int64_t)counts.purgeable_count;
    return pages * (int64_t)sysconf(_SC_PAGESIZE);
}
#else
int64_t memory_total(void) {
    int64_t pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    if (pages <= 0 || page <= 0)
        return 0;
    int64_t bytes = pages * page, limit = cgroup_memory_limit();
    return limit > 0 && limit < bytes ? limit : bytes;
}

int64_t memory_available(void) {
    FILE *file = fopen("/proc/meminfo", "r");
    if (!file)
        return 0;
    char line[256];
    long long kilobytes = 0;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %lld kB", &kilobytes) == 1)
            break;
    fclose(file);
    int64_t bytes = kilobytes * 1024, left = cgroup_memory_left();
    return left < bytes ? left : bytes;
}
#endif
