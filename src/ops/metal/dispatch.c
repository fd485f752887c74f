/* From an op's dispatch to the host's: operands become spans of memory and bindings, barriers stand where
 * spans conflict. And the pieces of a stream's scratch memory. */
#include "ops/metal/hazards.h"
#include "ops/metal/internal.h"

#include "base/error.h"

enum { CARVE_ALIGNMENT = 256 };

/* ---- Operands ---- */

/* Bytes from the tensor's first element to behind its last. */
static size_t extent(const ops_tensor *t) {
    int64_t last = 0, block = dtype_block(t->dtype);
    for (int i = 0; i < t->rank; i++)
        last += (t->shape[i] - 1) * t->stride[i];
    return (size_t)((last + block) / block) * dtype_size(t->dtype);
}

static size_t bound_at(const ops_tensor *t) {
    return t->offset / METAL_ALIGNMENT * METAL_ALIGNMENT;
}

uint32_t metal_first(const ops_tensor *t) {
    size_t bytes = t->offset % METAL_ALIGNMENT;
    return (uint32_t)(dtype_block(t->dtype) > 1 ? bytes : bytes / dtype_size(t->dtype));
}

/* ---- Dispatches ---- */

/* The list of spans is longer than any token's; where it is full, all of it is waited for. */
static bool make_room(metal_stream *s, int count) {
    return metal_hazards_room(s->hazards, count) || metal_finish(s);
}

static void order(metal_stream *s, const metal_span *spans, int count) {
    bool conflict = false;
    for (int i = 0; i < count && !conflict; i++)
        conflict = spans[i].memory && metal_hazards_conflict(s->hazards, &spans[i]);
    if (conflict) {
        metal_commands_barrier(s->commands);
        metal_hazards_barrier(s->hazards);
    }
    for (int i = 0; i < count; i++)
        if (spans[i].memory)
            metal_hazards_add(s->hazards, &spans[i]);
}

void metal_run(metal_stream *s, const metal_dispatch *d) {
    if (ops_failed(&s->check) || !make_room(s, d->operands))
        return;
    metal_span spans[METAL_MOST_OPERANDS];
    metal_binding bindings[METAL_MOST_OPERANDS];
    for (int i = 0; i < d->operands; i++) {
        const ops_tensor *t = d->operand[i].tensor;
        bool written = d->operand[i].written;
        if (!t || !ops_present(t)) {
            spans[i] = (metal_span){0};
            bindings[i] = (metal_binding){.memory = s->arena.handle, .size = 1};
            continue;
        }
        size_t begin = bound_at(t), end = t->offset + extent(t);
        spans[i] = (metal_span){t->buffer->handle, t->offset, end, written};
        bindings[i] = (metal_binding){t->buffer->handle, begin, end - begin, written};
    }
    const metal_kernel *kernel = metal_kernel_get(s->gpu, d->kernel);
    if (!kernel) {
        ops_fail(&s->check, XLSTM_DEVICE_ERROR, "%s", xlstm_last_error());
        return;
    }
    if (s->rehearsing)
        return;
    uint32_t groups[3];
    for (int i = 0; i < 3; i++)
        groups[i] = d->groups[i] > 0 ? d->groups[i] : 1;
    order(s, spans, d->operands);
    xlstm_status status =
        metal_commands_dispatch(s->commands, kernel, d->arguments, d->argument_bytes, bindings,
                                d->operands, groups, d->threads, d->threadgroup_bytes);
    if (status != XLSTM_OK)
        ops_fail(&s->check, status, "%s: %s", d->kernel, xlstm_last_error());
}

/* ---- Scratch memory ---- */

ops_tensor metal_carve(metal_carver *c, dtype type, int rank, const int64_t *shape) {
    size_t bytes = dtype_size(type);
    for (int i = 0; i < rank; i++)
        if (shape[i] < 0 || __builtin_mul_overflow(bytes, (size_t)shape[i], &bytes))
            c->overflow = true;
    if (c->overflow || bytes > SIZE_MAX / 2 - CARVE_ALIGNMENT || c->used > SIZE_MAX / 2 - bytes) {
        c->overflow = true;
        return (ops_tensor){0};
    }
    ops_tensor t = ops_tensor_make(c->buffer, c->used, type, rank, shape);
    c->used += (bytes + CARVE_ALIGNMENT - 1) / CARVE_ALIGNMENT * CARVE_ALIGNMENT;
    return t;
}
