/* The state of sessions: one pool a model, with a slot a session.
 *
 * The pool is a table of named tensors, each [slots][...]: for every mLSTM node of the wiring C
 * [heads][d_qk][d_v], n [heads][d_qk] and m [heads]; for every sLSTM node y, c, n and m [heads][d]
 * (an LSTM: y and c); for every convolution its last inputs, conv [K - 1][width], the oldest first.
 * The layout of a tensor within a slot is that of the state file. A fresh slot is all zeros, which
 * is where every recurrence starts.
 */
#ifndef MODEL_STATE_H
#define MODEL_STATE_H

#include "format/config.h"
#include "model/wiring.h"
#include "ops/ops.h"

typedef struct state_tensor {
    const char *node; /* the node's name, owned by the wiring */
    const char *kind; /* "c", "n", "m", "y", "conv" */
    int node_index;
    ops_tensor pool;  /* [slots][...] */
    size_t slot_size; /* bytes of one slot */
} state_tensor;

typedef struct state_pool {
    ops_device *device;
    ops_buffer buffer;
    state_tensor *tensors;
    int count;
    int slots;
    bool *taken; /* [slots] */
} state_pool;

/* Bytes of one slot. */
int64_t state_bytes(const model_config *config, const wiring *graph, dtype type);
xlstm_status state_pool_create(const model_config *config, const wiring *graph, ops_device *device,
                               dtype type, int slots, state_pool *out);
void state_pool_free(state_pool *pool);

/* A slot of zeros; XLSTM_INVALID_ARGUMENT when all are taken. */
xlstm_status state_acquire(state_pool *pool, ops_stream *stream, int *slot);
void state_release(state_pool *pool, int slot);
void state_zero(const state_pool *pool, ops_stream *stream, int slot);
void state_copy(const state_pool *pool, ops_stream *stream, int to, int from);
/* One tensor of one slot, to and from host memory of slot_size bytes. */
xlstm_status state_read(const state_pool *pool, ops_stream *stream, int tensor, int slot,
                        void *target);
void state_write(const state_pool *pool, ops_stream *stream, int tensor, int slot,
                 const void *source);
/* A tensor of a node, or NULL. */
const state_tensor *state_find(const state_pool *pool, int node, const char *kind);

#endif
