/* What all devices share of the seam: tensors as views, the values of a batch, the list of devices,
 * the names of the ops. */
#include "ops/ops.h"

#include <stdio.h>

#include "base/error.h"
#include "ops/cpu/cpu.h"
#include "ops/reference/reference.h"
#ifdef XLSTM_CUDA
#include "ops/cuda/cuda.h"
#endif
#ifdef XLSTM_METAL
#include "ops/metal/metal.h"
#endif

/* ---- Tensors ---- */

ops_tensor ops_tensor_make(ops_buffer *buffer, size_t offset, dtype type, int rank,
                           const int64_t *shape) {
    ops_tensor t = {.buffer = buffer, .offset = offset, .dtype = type, .rank = rank};
    int64_t stride = 1;
    for (int i = rank - 1; i >= 0; i--) {
        t.shape[i] = shape[i];
        t.stride[i] = stride;
        stride *= shape[i];
    }
    return t;
}

int64_t ops_tensor_elements(const ops_tensor *t) {
    int64_t elements = 1;
    for (int i = 0; i < t->rank; i++)
        elements *= t->shape[i];
    return elements;
}

bool ops_tensor_fits(const ops_tensor *t) {
    int64_t last = 0, block = dtype_block(t->dtype);
    for (int i = 0; i < t->rank; i++) {
        if (t->shape[i] == 0)
            return true;
        if (block > 1 && (i == t->rank - 1 ? t->shape[i] : t->stride[i]) % block != 0)
            return false;
        last += (t->shape[i] - 1) * t->stride[i];
    }
    size_t aligned = block > 1 ? 1 : dtype_size(t->dtype), size = t->buffer->size;
    return t->offset % aligned == 0 && t->offset <= size &&
           (uint64_t)((last + block) / block) <= (size - t->offset) / dtype_size(t->dtype);
}

ops_tensor ops_tensor_rows(const ops_tensor *t, int64_t first, int64_t count) {
    ops_tensor rows = *t;
    rows.offset += (size_t)dtype_bytes(t->dtype, first * t->stride[0]);
    rows.shape[0] = count;
    return rows;
}

ops_tensor ops_tensor_split(const ops_tensor *t, int64_t outer, int64_t inner) {
    ops_tensor split = *t;
    split.rank = 3;
    split.shape[1] = outer;
    split.stride[1] = inner;
    split.shape[2] = inner;
    split.stride[2] = 1;
    return split;
}

/* ---- Batches ---- */

const char *ops_batch_fault(const ops_batch *batch, int64_t slots) {
    const int32_t *slot = ops_data(&batch->slot), *start = ops_data(&batch->start);
    const int64_t *position = ops_data(&batch->position);
    if (start[0] != 0 || start[batch->sequences] != batch->tokens)
        return "its starts must begin with 0 and end with its number of tokens";
    for (int i = 0; i < batch->sequences; i++) {
        if (start[i] >= start[i + 1])
            return "its starts must rise: every sequence has a token at least";
        /* Of a device that works ahead it is the slot before or after an op retire under way. */
        if (slot[i] < 0 || slot[i] >= slots)
            return "it names a slot that the states do not have";
        if (position[i] < 0 || position[i] > INT64_MAX - batch->tokens)
            return "a position is negative or too large";
    }
    return NULL;
}

/* ---- Devices ---- */

static ops_device *(*const devices[])(void) = {
    cpu_device,
#ifdef XLSTM_CUDA
    cuda_device,
#endif
#ifdef XLSTM_METAL
    metal_device,
#endif
    reference_device,
};
enum { DEVICE_COUNT = sizeof devices / sizeof *devices };

ops_device *ops_device_at(int index) {
    return index >= 0 && index < DEVICE_COUNT ? devices[index]() : NULL;
}

/* Why a build may lack a device that there is. */
static const char *absence(const char *name) {
    if (strcmp(name, "metal") == 0)
        return ". Metal is in builds made on macOS 14 or later; it needs a Mac with Apple silicon "
               "(M1 or later)";
    return strcmp(name, "cuda") == 0 ? "; built without CUDA: run make cuda" : "";
}

ops_device *ops_device_find(const char *name) {
    for (int i = 0; i < DEVICE_COUNT; i++)
        if (strcmp(devices[i]()->name, name) == 0)
            return devices[i]();
    char names[200];
    size_t used = 0;
    for (int i = 0; i < DEVICE_COUNT && used < sizeof names; i++)
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "",
                                 devices[i]()->name);
    error_set(XLSTM_UNSUPPORTED, "no device \"%s\" in this build; it has: %s%s", name, names,
              absence(name));
    return NULL;
}

/* ---- Names of the ops ---- */

static const struct {
    const char *name;
    size_t offset; /* of its entry in ops_table */
} ops[] = {
    {"embed", offsetof(ops_table, embed)},
    {"take_rows", offsetof(ops_table, take_rows)},
    {"sum", offsetof(ops_table, sum)},
    {"normalize", offsetof(ops_table, normalize)},
    {"norm_project", offsetof(ops_table, norm_project)},
    {"norm_project_gated", offsetof(ops_table, norm_project_gated)},
    {"project_add", offsetof(ops_table, project_add)},
    {"mlstm_output", offsetof(ops_table, mlstm_output)},
    {"mlstm", offsetof(ops_table, mlstm)},
    {"causal_conv", offsetof(ops_table, causal_conv)},
    {"headwise", offsetof(ops_table, headwise)},
    {"slstm", offsetof(ops_table, slstm)},
    {"sample", offsetof(ops_table, sample)},
    {"retire", offsetof(ops_table, retire)},
};
enum { OP_COUNT = sizeof ops / sizeof *ops };
_Static_assert(OP_COUNT == sizeof(ops_table) / sizeof(void (*)(void)), "an op without a name");

const char *ops_name(int index) {
    return index >= 0 && index < OP_COUNT ? ops[index].name : NULL;
}

bool ops_device_has(const ops_device *device, int index) {
    if (index < 0 || index >= OP_COUNT)
        return false;
    void (*entry)(void) = NULL;
    memcpy(&entry, (const char *)&device->ops + ops[index].offset, sizeof entry);
    return entry != NULL;
}
