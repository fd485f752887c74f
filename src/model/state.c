/* The table of state tensors, and slots handed out by the first that is free. */
#include "model/state.h"

#include <stdlib.h>
#include <string.h>

enum { STATE_ALIGNMENT = 64 };

typedef struct layout {
    const char *kind;
    int rank;
    int64_t shape[3];
} layout;

enum { MOST_KINDS = 5 };

static int mlstm_layout(const model_config *config, layout out[MOST_KINDS]) {
    bool large = config->family == FAMILY_LARGE;
    const large_config *l = &config->large;
    const neurips_mlstm_config *c = &config->neurips.mlstm;
    int64_t heads = large ? l->num_heads : c->num_heads;
    int64_t qk = (large ? l->qk_dim : c->inner.width) / heads;
    int64_t v = (large ? l->v_dim : c->inner.width) / heads;
    int count = 0;
    out[count++] = (layout){"c", 3, {heads, qk, v}};
    out[count++] = (layout){"n", 2, {heads, qk}};
    out[count++] = (layout){"m", 1, {heads}};
    if (!large && c->conv1d_kernel_size > 1)
        out[count++] = (layout){"conv", 2, {c->conv1d_kernel_size - 1, c->inner.width}};
    return count;
}

static int slstm_layout(const model_config *config, layout out[MOST_KINDS]) {
    const neurips_slstm_config *c = &config->neurips.slstm;
    int64_t heads = c->num_heads, d = config->embedding_dim / c->num_heads;
    int count = 0;
    out[count++] = (layout){"y", 2, {heads, d}};
    out[count++] = (layout){"c", 2, {heads, d}};
    if (!c->lstm) {
        out[count++] = (layout){"n", 2, {heads, d}};
        out[count++] = (layout){"m", 2, {heads, d}};
    }
    if (c->conv1d_kernel_size > 1)
        out[count++] = (layout){"conv", 2, {c->conv1d_kernel_size - 1, config->embedding_dim}};
    return count;
}

/* The tensors of a node; 0: it has no state. */
static int node_layout(const model_config *config, enum wiring_kind kind, layout out[MOST_KINDS]) {
    return kind == WIRING_MLSTM   ? mlstm_layout(config, out)
           : kind == WIRING_SLSTM ? slstm_layout(config, out)
                                  : 0;
}

/* -1: more than 2^48, which no memory holds. */
static int64_t layout_elements(const layout *l) {
    int64_t elements = 1;
    for (int i = 0; i < l->rank; i++)
        if (__builtin_mul_overflow(elements, l->shape[i], &elements) || elements > (int64_t)1 << 48)
            return -1;
    return elements;
}

int64_t state_bytes(const model_config *config, const wiring *graph, dtype type) {
    int64_t bytes = 0;
    for (int node = 0; node < graph->count; node++) {
        layout kinds[MOST_KINDS];
        int count = node_layout(config, graph->nodes[node].kind, kinds);
        for (int i = 0; i < count; i++) {
            int64_t elements = layout_elements(&kinds[i]);
            if (elements < 0 ||
                __builtin_add_overflow(bytes, elements * (int64_t)dtype_size(type), &bytes))
                return INT64_MAX;
        }
    }
    return bytes;
}

/* Fills the table in order of execution; the buffer is only known afterwards. Returns the bytes of
 * the pool. */
static size_t place(const model_config *config, const wiring *graph, dtype type, state_pool *pool) {
    layout kinds[MOST_KINDS];
    size_t offset = 0;
    for (int at = 0; at < graph->count; at++) {
        int node = graph->order[at];
        int count = node_layout(config, graph->nodes[node].kind, kinds);
        for (int i = 0; i < count; i++) {
            int64_t shape[4] = {pool->slots, kinds[i].shape[0], kinds[i].shape[1],
                                kinds[i].shape[2]};
            state_tensor *t = &pool->tensors[pool->count++];
            t->node = graph->nodes[node].name;
            t->node_index = node;
            t->kind = kinds[i].kind;
            t->slot_size = (size_t)layout_elements(&kinds[i]) * dtype_size(type);
            t->pool = ops_tensor_make(&pool->buffer, offset, type, kinds[i].rank + 1, shape);
            offset += (t->slot_size * (size_t)pool->slots + STATE_ALIGNMENT - 1) / STATE_ALIGNMENT *
                      STATE_ALIGNMENT;
        }
    }
    return offset;
}

xlstm_status state_pool_create(const model_config *config, const wiring *graph, ops_device *device,
                               dtype type, int slots, state_pool *out) {
    *out = (state_pool){.device = device, .slots = slots};
    /* With room to spare for the alignment of every tensor: place() cannot overflow. */
    int64_t one = state_bytes(config, graph, type), all;
    if (one > INT64_MAX / 4 || __builtin_mul_overflow(one, (int64_t)slots, &all) ||
        all > INT64_MAX / 4)
        return error_set(XLSTM_OUT_OF_MEMORY,
                         "the states of %d sessions do not fit into any memory", slots);
    out->tensors = calloc(wiring_size(graph) * MOST_KINDS + 1, sizeof *out->tensors);
    out->taken = calloc((size_t)slots, sizeof *out->taken);
    if (!out->tensors || !out->taken) {
        state_pool_free(out);
        return error_memory((size_t)slots, "the state pool");
    }
    size_t size = place(config, graph, type, out);
    xlstm_status status =
        device->buffer_create(device, size ? size : STATE_ALIGNMENT, &out->buffer);
    if (status != XLSTM_OK) {
        state_pool_free(out);
        return error_prefix(status, "the states of %d sessions", slots);
    }
    return XLSTM_OK;
}

void state_pool_free(state_pool *pool) {
    if (pool->buffer.device)
        pool->device->buffer_free(&pool->buffer);
    free(pool->tensors);
    free(pool->taken);
    *pool = (state_pool){0};
}

xlstm_status state_acquire(state_pool *pool, ops_stream *stream, int *slot) {
    for (int i = 0; i < pool->slots; i++) {
        if (pool->taken[i])
            continue;
        pool->taken[i] = true;
        state_zero(pool, stream, i);
        *slot = i;
        return XLSTM_OK;
    }
    return error_set(
        XLSTM_BUSY,
        "all %d sessions of this model are in use; free one, or load the model with a larger "
        "max_sessions",
        pool->slots);
}

void state_release(state_pool *pool, int slot) {
    pool->taken[slot] = false;
}

static size_t slot_offset(const state_tensor *t, int slot) {
    return t->pool.offset + t->slot_size * (size_t)slot;
}

void state_zero(const state_pool *pool, ops_stream *stream, int slot) {
    for (int i = 0; i < pool->count; i++) {
        const state_tensor *t = &pool->tensors[i];
        pool->device->zero(stream, t->pool.buffer, slot_offset(t, slot), t->slot_size);
    }
}

void state_copy(const state_pool *pool, ops_stream *stream, int to, int from) {
    for (int i = 0; i < pool->count; i++) {
        const state_tensor *t = &pool->tensors[i];
        pool->device->copy(stream, t->pool.buffer, slot_offset(t, to), t->pool.buffer,
                           slot_offset(t, from), t->slot_size);
    }
}

xlstm_status state_read(const state_pool *pool, ops_stream *stream, int tensor, int slot,
                        void *target) {
    const state_tensor *t = &pool->tensors[tensor];
    return pool->device->read(stream, t->pool.buffer, slot_offset(t, slot), target, t->slot_size);
}

void state_write(const state_pool *pool, ops_stream *stream, int tensor, int slot,
                 const void *source) {
    const state_tensor *t = &pool->tensors[tensor];
    pool->device->write(stream, t->pool.buffer, slot_offset(t, slot), source, t->slot_size);
}

const state_tensor *state_find(const state_pool *pool, int node, const char *kind) {
    for (int i = 0; i < pool->count; i++)
        if (pool->tensors[i].node_index == node && strcmp(pool->tensors[i].kind, kind) == 0)
            return &pool->tensors[i];
    return NULL;
}
