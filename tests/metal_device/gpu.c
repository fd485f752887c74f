/* Opens the shared library of kernels of a mode and passes calls on to the runtime inside it. Finds the lines of the
 * addresses that an error tells, with addr2line where it is installed. */
#include "gpu.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "module.h"

struct gpu {
    const gpu_module *module;
    void *library;
    char path[1024];
};

/* The runtime of a library is one machine: one dispatch at a time. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

gpu *gpu_open(const char *folder, enum gpu_mode mode, char *error, size_t size) {
    static const char *const modes[] = {"checked", "fast", "fastmath"};
    gpu *g = calloc(1, sizeof *g);
    if (g == NULL) {
        snprintf(error, size, "out of memory");
        return NULL;
    }
    snprintf(g->path, sizeof g->path, "%s/kernels-%s.so", folder, modes[mode]);
    char *whole = realpath(g->path, NULL);
    g->library = whole == NULL ? NULL : dlopen(whole, RTLD_NOW | RTLD_LOCAL);
    if (g->library == NULL) {
        snprintf(error, size, "%s: %s", g->path, whole == NULL ? "is not there" : dlerror());
        free(whole);
        free(g);
        return NULL;
    }
    free(whole);
    const gpu_module *(*module)(void);
    *(void **)&module = dlsym(g->library, "metal_device_module");
    if (module == NULL) {
        snprintf(error, size, "%s: is no library of kernels", g->path);
        dlclose(g->library);
        free(g);
        return NULL;
    }
    g->module = module();
    g->module->set_schedule(GPU_FORWARD, 0);
    return g;
}

void gpu_close(gpu *g) {
    if (g != NULL)
        dlclose(g->library);
    free(g);
}

void gpu_set_schedule(gpu *g, enum gpu_schedule schedule, uint64_t seed) {
    g->module->set_schedule(schedule, seed);
}

uint64_t gpu_source_hash(const gpu *g) {
    return g->module->source_hash;
}

const gpu_kernel *gpu_find(const gpu *g, const char *name) {
    for (int i = 0; i < g->module->kernels; i++) {
        const gpu_kernel *k = g->module->kernel_at(i);
        if (strcmp(g->module->name(k), name) == 0)
            return k;
    }
    return NULL;
}

const char *gpu_kernel_at(const gpu *g, int index) {
    const gpu_kernel *k = g->module->kernel_at(index);
    return k == NULL ? NULL : g->module->name(k);
}

static const gpu_module *module_of(const gpu_kernel *k) {
    return ((const gpu_kernel_of *)(const void *)k)->module;
}

uint32_t gpu_kernel_threadgroup_bytes(const gpu_kernel *k) {
    return module_of(k)->threadgroup_bytes(k);
}

bool gpu_kernel_uses(const gpu_kernel *k, int index, bool *writes) {
    return module_of(k)->uses(k, index, writes);
}

/* The line of an address: the innermost that is not of the device's own headers. */
static void append_line(const gpu *g, uintptr_t code, const char *before, char *to, size_t size) {
    char command[1200], line[1024];
    snprintf(command, sizeof command, "addr2line -i -e '%s' 0x%lx 2>/dev/null", g->path,
             (unsigned long)(code - g->module->base));
    FILE *pipe = popen(command, "r");
    if (pipe == NULL)
        return;
    bool found = false;
    while (fgets(line, sizeof line, pipe) != NULL) {
        line[strcspn(line, "\n ")] = 0;
        if (!found && strstr(line, "/include/metal_device/") == NULL && line[0] != '?') {
            size_t used = strlen(to);
            snprintf(to + used, size - used, "%s%s", before, line + (line[0] == '.' ? 2 : 0));
            found = true;
        }
    }
    pclose(pipe);
}

bool gpu_run(gpu *g, const gpu_launch *launch, gpu_traffic *traffic, char *error, size_t size) {
    gpu_fault fault;
    pthread_mutex_lock(&lock);
    bool fine = g->module->run(launch, traffic, &fault);
    pthread_mutex_unlock(&lock);
    if (!fine) {
        snprintf(error, size, "%s", fault.message);
        if (fault.code[0] != 0)
            append_line(g, fault.code[0], ", at ", error, size);
        if (fault.code[1] != 0)
            append_line(g, fault.code[1], ", before at ", error, size);
    }
    return fine;
}

void gpu_fence(gpu *g) {
    pthread_mutex_lock(&lock);
    g->module->fence();
    pthread_mutex_unlock(&lock);
}

void gpu_forget(gpu *g, const void *base, size_t length) {
    pthread_mutex_lock(&lock);
    g->module->forget(base, length);
    pthread_mutex_unlock(&lock);
}
