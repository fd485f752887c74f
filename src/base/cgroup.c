/* Reads cpu.max, memory.max and memory.current of this process's group and of all groups above it.
 * A limit may stand at any level, and the tightest counts. */
#include "base/cgroup.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__linux__)
enum { PATH_SIZE = 4096 };

static const char root[] = "/sys/fs/cgroup";

/* The folder of this process's group, from the line "0::/path" of /proc/self/cgroup. */
static int own_group(char *folder, size_t size) {
    FILE *file = fopen("/proc/self/cgroup", "r");
    if (!file)
        return 0;
    char line[PATH_SIZE];
    int found = 0;
    while (!found && fgets(line, sizeof line, file)) {
        if (strncmp(line, "0::/", 4) != 0)
            continue;
        line[strcspn(line, "\n")] = '\0';
        int length = snprintf(folder, size, "%s%s", root, line + 3);
        found = length > 0 && (size_t)length < size;
    }
    fclose(file);
    return found;
}

/* The first line of a file of the group; 0 where there is none (as in the root group). */
static int read_line(const char *folder, const char *name, char *line, int size) {
    char path[PATH_SIZE + 32];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    int ok = fgets(line, size, file) != NULL;
    fclose(file);
    return ok;
}

/* "name value" from memory.stat; 0 where there is none. */
static int64_t read_statistic(const char *folder, const char *name) {
    char path[PATH_SIZE + 32], key[64];
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    long long value;
    int64_t found = 0;
    while (fscanf(file, "%63s %lld", key, &value) == 2)
        if (strcmp(key, name) == 0) {
            found = value;
            break;
        }
    fclose(file);
    return found;
}

/* Goes one group up; 0 at the root. */
static int to_parent(char *folder) {
    if (strlen(folder) < sizeof root)
        return 0;
    *strrchr(folder, '/') = '\0';
    return strlen(folder) + 1 >= sizeof root;
}

int cgroup_processors(void) {
    char folder[PATH_SIZE], line[128];
    int processors = 0;
    if (!own_group(folder, sizeof folder))
        return 0;
    do {
        long long quota, period;
        if (!read_line(folder, "cpu.max", line, sizeof line) ||
            sscanf(line, "%lld %lld", &quota, &period) != 2 || quota <= 0 || period <= 0)
            continue;
        long long count = (quota + period - 1) / period;
        if (count < 1 << 20 && (processors == 0 || count < processors))
            processors = (int)count;
    } while (to_parent(folder));
    return processors;
}

int64_t cgroup_memory_limit(void) {
    char folder[PATH_SIZE], line[128];
    int64_t limit = 0;
    if (!own_group(folder, sizeof folder))
        return 0;
    do {
        long long most;
        if (read_line(folder, "memory.max", line, sizeof line) &&
            sscanf(line, "%lld", &most) == 1 && (limit == 0 || most < limit))
            limit = most;
    } while (to_parent(folder));
    return limit;
}

int64_t cgroup_memory_left(void) {
    char folder[PATH_SIZE], line[128];
    int64_t left = INT64_MAX;
    if (!own_group(folder, sizeof folder))
        return left;
    do {
        long long most, used;
        if (!read_line(folder, "memory.max", line, sizeof line) ||
            sscanf(line, "%lld", &most) != 1 ||
            !read_line(folder, "memory.current", line, sizeof line) ||
            sscanf(line, "%lld", &used) != 1)
            continue;
        used -= read_statistic(folder, "active_file") + read_statistic(folder, "inactive_file");
        int64_t here = used < most ? most - (used > 0 ? used : 0) : 0;
        if (here < left)
            left = here;
    } while (to_parent(folder));
    return left;
}
#else
int cgroup_processors(void) {
    return 0;
}

int64_t cgroup_memory_limit(void) {
    return 0;
}

int64_t cgroup_memory_left(void) {
    return INT64_MAX;
}
#endif
