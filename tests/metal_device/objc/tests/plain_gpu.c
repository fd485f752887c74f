/* See plain_gpu.h. */
#include "plain_gpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char plain_gpu_source[] = "kernel void scale() {}\n";
int plain_gpu_fences;

struct gpu_kernel {
    const char *name;
    int buffers, written; /* how many, and which of them is */
    uint32_t shared;
};

static const struct gpu_kernel kernels[] = {
    {"scale", 3, 2, 0}, {"count", 1, 0, 0}, {"shared", 1, 0, 30000}};
enum { KERNELS = sizeof kernels / sizeof *kernels, MOST_TOUCHED = 256 };

struct gpu {
    enum gpu_mode mode;
    struct {
        const void *base;
        bool written;
    } touched[MOST_TOUCHED]; /* since the last fence */
    int count;
};

gpu *gpu_open(const char *folder, enum gpu_mode mode, char *error, size_t size) {
    if (strcmp(folder, "nowhere") == 0) {
        snprintf(error, size, "%s: no kernels are there", folder);
        return NULL;
    }
    gpu *g = calloc(1, sizeof *g);
    if (g != NULL) {
        g->mode = mode;
    }
    return g;
}

void gpu_close(gpu *g) {
    free(g);
}

void gpu_set_schedule(gpu *g, enum gpu_schedule schedule, uint64_t seed) {
    (void)g;
    (void)schedule;
    (void)seed;
}

uint64_t gpu_source_hash(const gpu *g) {
    (void)g;
    uint64_t value = 14695981039346656037u;
    for (const char *c = plain_gpu_source; *c != '\0'; c++) {
        value = (value ^ (unsigned char)*c) * 1099511628211u;
    }
    return value;
}

const gpu_kernel *gpu_find(const gpu *g, const char *name) {
    (void)g;
    for (int i = 0; i < KERNELS; i++) {
        if (strcmp(kernels[i].name, name) == 0) {
            return &kernels[i];
        }
    }
    return NULL;
}

const char *gpu_kernel_at(const gpu *g, int index) {
    (void)g;
    return index < KERNELS ? kernels[index].name : NULL;
}

uint32_t gpu_kernel_threadgroup_bytes(const gpu_kernel *k) {
    return k->shared;
}

bool gpu_kernel_uses(const gpu_kernel *k, int index, bool *writes) {
    *writes = index == k->written;
    return index < k->buffers;
}

/* What one dispatch wrote and another touched without a fence between them. */
static bool touch(gpu *g, const void *base, bool writes) {
    for (int i = 0; i < g->count; i++) {
        if (g->touched[i].base == base && (writes || g->touched[i].written)) {
            return false;
        }
    }
    if (g->count < MOST_TOUCHED) {
        g->touched[g->count].base = base;
        g->touched[g->count++].written = writes;
    }
    return true;
}

static bool scale(const gpu_launch *launch, gpu_traffic *traffic, char *error, size_t size) {
    struct {
        uint32_t n;
        float factor;
    } arguments;
    memcpy(&arguments, (const char *)launch->buffer[0].base + launch->buffer[0].offset,
           sizeof arguments);
    const gpu_bound *in = &launch->buffer[1], *out = &launch->buffer[2];
    size_t bytes = arguments.n * sizeof(float);
    if (in->offset + bytes > in->length || out->offset + bytes > out->length) {
        snprintf(error, size, "scale: out of bounds");
        return false;
    }
    const float *x = (const float *)(const void *)((const char *)in->base + in->offset);
    float *y = (float *)(void *)((char *)out->base + out->offset);
    for (uint32_t i = 0; i < arguments.n; i++) {
        y[i] = arguments.factor * x[i];
    }
    traffic->read = bytes + sizeof arguments;
    traffic->written = bytes;
    return true;
}

bool gpu_run(gpu *g, const gpu_launch *launch, gpu_traffic *traffic, char *error, size_t size) {
    const struct gpu_kernel *k = launch->kernel;
    for (int i = 0; i < k->buffers; i++) {
        if (!launch->buffer[i].bytes && !touch(g, launch->buffer[i].base, i == k->written)) {
            snprintf(error, size, "%s: race on buffer(%d) with another dispatch", k->name, i);
            return false;
        }
    }
    if (k == &kernels[0]) {
        return scale(launch, traffic, error, size);
    }
    if (k == &kernels[1]) {
        uint32_t *counter =
            (uint32_t *)(void *)((char *)launch->buffer[0].base + launch->buffer[0].offset);
        *counter += launch->groups[0] * launch->groups[1] * launch->groups[2] * launch->threads[0] *
                    launch->threads[1] * launch->threads[2];
        traffic->read = traffic->written = sizeof *counter;
    }
    return true;
}

void gpu_fence(gpu *g) {
    g->count = 0;
    plain_gpu_fences++;
}

void gpu_forget(gpu *g, const void *base, size_t length) {
    (void)length;
    for (int i = 0; i < g->count; i++) {
        if (g->touched[i].base == base) {
            g->touched[i--] = g->touched[--g->count];
        }
    }
}
