/* Processors by number, on Linux; other systems have no call that ties a thread to one. */
#include "base/processors.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#if defined(__linux__)
#include <sched.h>

int processors_allowed(int *processors) {
    cpu_set_t set;
    int count = 0;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 0;
    for (int i = 0; i < CPU_SETSIZE && count < PROCESSORS_MOST; i++)
        if (CPU_ISSET((size_t)i, &set))
            processors[count++] = i;
    return count;
}

bool processor_stay(int processor) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)processor, &set);
    return sched_setaffinity(0, sizeof set, &set) == 0;
}

void processor_visit(int processor) {
    cpu_set_t before;
    if (sched_getcpu() == processor || sched_getaffinity(0, sizeof before, &before) != 0 ||
        !CPU_ISSET((size_t)processor, &before))
        return;
    processor_stay(processor);
    sched_setaffinity(0, sizeof before, &before);
}
#else
int processors_allowed(int *processors) {
    (void)processors;
    return 0;
}

bool processor_stay(int processor) {
    (void)processor;
    return false;
}

void processor_visit(int processor) {
    (void)processor;
}
#endif

/* Whether `list`, such as "0-3,8", has a number. */
static bool list_has(const char *list, int number) {
    while (*list) {
        char *end;
        long first = strtol(list, &end, 10), last = first;
        if (end == list)
            return false;
        if (*end == '-')
            last = strtol(end + 1, &end, 10);
        if (number >= first && number <= last)
            return true;
        list = *end == ',' ? end + 1 : "";
    }
    return false;
}

/* How many of processors[0 … at) share a core with processors[at]. */
static int siblings_before(const char *folder, const int *processors, int at) {
    char path[512], list[512];
    int length = snprintf(path, sizeof path, "%s/cpu%d/topology/thread_siblings_list", folder,
                          processors[at]);
    FILE *file = length > 0 && (size_t)length < sizeof path ? fopen(path, "r") : NULL;
    if (!file)
        return 0;
    int siblings = 0;
    if (fgets(list, sizeof list, file)) {
        for (int i = 0; i < at; i++)
            siblings += list_has(list, processors[i]);
    }
    fclose(file);
    return siblings;
}

void processors_spread(const char *folder, int *processors, int count) {
    int rank[PROCESSORS_MOST], sorted[PROCESSORS_MOST] = {0}, most = 0, placed = 0;
    for (int i = 0; i < count; i++) {
        rank[i] = siblings_before(folder ? folder : "/sys/devices/system/cpu", processors, i);
        most = rank[i] > most ? rank[i] : most;
    }
    for (int r = 0; r <= most; r++)
        for (int i = 0; i < count; i++)
            if (rank[i] == r)
                sorted[placed++] = processors[i];
    for (int i = 0; i < count; i++)
        processors[i] = sorted[i];
}
