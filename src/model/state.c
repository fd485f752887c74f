/* The table of state tensors, and slots handed out by the first that is free. */
#include "model/state.h"

#include <stdlib.h>
#include <string.h>

/* Bytes: GPUs take longer for rows that begin at odd multiples of 64. */
enum { STATE_ALIGNMENT = 256 };

/* How often a decoded token touches a tensor. */
enum traffic { EVERY_TOKEN, ONCE_A_RING, RING };

typedef struct layout {
    const char *kind;
    dtype type;
    enum traffic traffic;
    int rank;
    int64_t shape[3];
} layout;

enum { MOST_KINDS = 8 };

static int mlstm_layout(const model_config *config, const state_options *o,
                        layout out[MOST_KINDS]) {
    bool large = config->family == FAMILY_LARGE;
    const large_config *l = &config->large;
    const neurips_mlstm_config *c = &config->neurips.mlstm;
    int64_t heads = large ? l->num_heads : c->num_heads;
    int64_t qk = (large ? l->qk_dim : c->inner.width) / heads;
    int64_t v = (large ? l->v_dim : c->inner.width) / heads;
    int count = 0;
    enum traffic traffic = o->deferred > 0 ? ONCE_A_RING : EVERY_TOKEN;
    out[count++] = (layout){"c", o->stored, traffic, 3, {heads, qk, v}};
    out[count++] = (layout){"n", o->stored, traffic, 2, {heads, qk}};
    out[count++] = (layout){"m", o->real, traffic, 1, {heads}};
    if (o->deferred > 0) {
        out[count++] = (layout){"ring_k", o->real, RING, 3, {heads, o->deferred, qk}};
        out[count++] = (layout){"ring_v", o->real, RING, 3, {heads, o->deferred, v}};
        out[count++] = (layout){"ring_i", o->real, RING, 2, {heads, o->deferred}};
        out[count++] = (layout){"ring_f", o->real, RING, 2, {heads, o->deferred}};
    }
    if (!large && c->conv1d_kernel_size > 1)
        out[count++] =
            (layout){"conv", o->real, EVERY_TOKEN, 2, {c->conv1d_kernel_size - 1, c->inner.width}};
    return count;
}

static int slstm_layout(const model_config *config, dtype real, layout out[MOST_KINDS]) {
    const neurips_slstm_config *c = &config->neurips.slstm;
    int64_t heads = c->num_heads, d = config->embedding_dim / c->num_heads;
    int count = 0;
    out[count++] = (layout){"y", real, EVERY_TOKEN, 2, {heads, d}};
    out[count++] = (layout){"c", real, EVERY_TOKEN, 2, {heads, d}};
    if (!c->lstm) {
        out[count++] = (layout){"n", real, EVERY_TOKEN, 2, {heads, d}};
        out[count++] = (layout){"m", real, EVERY_TOKEN, 2, {heads, d}};
    }
    if (c->conv1d_kernel_size > 1)
        out[count++] = (layout){
            "conv", real, EVERY_TOKEN, 2, {c->conv1d_kernel_size - 1, config->embedding_dim}};
    return count;
}

/* The tensors of a node; 0: it has no state. */
static int node_layout(const model_config *config, enum wiring_kind kind, const state_options *o,
                       layout out[MOST_KINDS]) {
    return kind == WIRING_MLSTM   ? mlstm_layout(config, o, out)
           : kind == WIRING_SLSTM ? slstm_layout(config, o->real, out)
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

state_size state_measure(const model_config *config, const wiring *graph,
                         const state_options *options) {
    state_size size = {0};
    for (int node = 0; node < graph->count; node++) {
        layout kinds[MOST_KINDS];
        int count = node_layout(config, graph->nodes[node].kind, options, kinds);
        for (int i = 0; i < count; i++) {
            int64_t elements = layout_elements(&kinds[i]);
            int64_t bytes = elements * (int64_t)dtype_size(kinds[i].type);
            double once = (double)bytes / (options->deferred > 0 ? options->deferred : 1);
            if (elements < 0 || __builtin_add_overflow(size.bytes, bytes, &size.bytes))
                return (state_size){.bytes = INT64_MAX};
            size.read += kinds[i].traffic == RING ? (double)bytes / 2 + once / 2 : (double)bytes;
            size.written += kinds[i].traffic == EVERY_TOKEN ? (double)bytes : once;
        }
    }
    return size;
}

/* All of them, also the spare one. */
static int state_slots(const state_pool *pool) {
    return pool->slots + (pool->spare >= 0);
}

/* Fills the table in order of execution; the buffer is only known afterwards. Returns the bytes of
 * the pool. */
static size_t place(const model_config *config, const wiring *graph, state_pool *pool) {
    layout kinds[MOST_KINDS];
    size_t offset = 0;
    for (int at = 0; at < graph->count; at++) {
        int node = graph->order[at];
        int count = node_layout(config, graph->nodes[node].kind, &pool->options, kinds);
        for (int i = 0; i < count; i++) {
            int64_t shape[4] = {state_slots(pool), kinds[i].shape[0], kinds[i].shape[1],
                                kinds[i].shape[2]};
            state_tensor *t = &pool->tensors[pool->count++];
            t->node = graph->nodes[node].name;
            t->node_index = node;
            t->kind = kinds[i].kind;
            t->slot_size = (size_t)layout_elements(&kinds[i]) * dtype_size(kinds[i].type);
            t->pool =
                ops_tensor_make(&pool->buffer, offset, kinds[i].type, kinds[i].rank + 1, shape);
            offset += (t->slot_size * (size_t)state_slots(pool) + STATE_ALIGNMENT - 1) /
                      STATE_ALIGNMENT * STATE_ALIGNMENT;
        }
    }
    return offset;
}

xlstm_status state_pool_create(const model_config *config, const wiring *graph, ops_device *device,
                               const state_options *options, int slots, state_pool *out) {
    *out = (state_pool){
        .device = device, .options = *options, .slots = slots, .spare = device->ahead ? slots : -1};
    /* With room to spare for the alignment of every tensor: place() cannot overflow. */
    int64_t one = state_measure(config, graph, options).bytes, all;
    if (one > INT64_MAX / 4 || __builtin_mul_overflow(one, (int64_t)state_slots(out), &all) ||
        all > INT64_MAX / 4)
        return error_set(XLSTM_OUT_OF_MEMORY,
                         "the states of %d sessions do not fit into any memory", slots);
    out->tensors = calloc(wiring_size(graph) * MOST_KINDS + 1, sizeof *out->tensors);
    out->taken = calloc((size_t)slots, sizeof *out->taken);
    if (!out->tensors || !out->taken) {
        state_pool_free(out);
        return error_memory((size_t)slots, "the state pool");
    }
    size_t size = place(config, graph, out);
    xlstm_status status =
        device->buffer_create(device, size ? size : STATE_ALIGNMENT, &out->buffer);
    if (status != XLSTM_OK) {
        state_pool_free(out);
        return error_prefix(status, "the states of %d sessions (max_sessions)", slots);
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

bool state_in_ring(const state_tensor *t) {
    return strncmp(t->kind, "ring_", strlen("ring_")) == 0;
}

const state_tensor *state_find(const state_pool *pool, int node, const char *kind) {
    for (int i = 0; i < pool->count; i++)
        if (pool->tensors[i].node_index == node && strcmp(pool->tensors[i].kind, kind) == 0)
            return &pool->tensors[i];
    return NULL;
}
