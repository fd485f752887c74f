/* The state of sessions: one pool a model, with a slot a session.
 *
 * The pool is a table of named tensors, each [slots][...]: for every mLSTM node of the wiring C
 * [heads][d_qk][d_v], n [heads][d_qk] and m [heads], and with deferral its ring of R tokens, ring_k
 * [heads][R][d_qk], ring_v [heads][R][d_v], ring_i and ring_f [heads][R] (struct ops_mlstm: at position
 * t, the tokens since the last multiple of R are in C not yet, but there); for every sLSTM node y, c, n and m [heads][d]
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
    const char *kind; /* "c", "n", "m", "y", "conv", "ring_k" */
    int node_index;
    ops_tensor pool;  /* [slots][...] */
    size_t slot_size; /* bytes of one slot */
} state_tensor;

typedef struct state_options {
    dtype real;   /* what is computed in; of all tensors but C and n of the mLSTM */
    dtype stored; /* of these */
    int deferred; /* R of struct ops_mlstm; 0: no ring */
} state_options;

typedef struct state_pool {
    ops_device *device;
    state_options options;
    ops_buffer buffer;
    state_tensor *tensors;
    int count;
    int slots,
        spare;   /* `spare`: a slot of no session, for tokens ahead of an end; -1: there is none */
    bool *taken; /* [slots] */
} state_pool;

/* Bytes of one slot, and how many of them a decoded token reads and writes: C and n are written once
 * in R tokens, and half a ring is read. */
typedef struct state_size {
    int64_t bytes;
    double read, written;
} state_size;
state_size state_measure(const model_config *config, const wiring *graph,
                         const state_options *options);
/* With a spare slot where the device works ahead. */
xlstm_status state_pool_create(const model_config *config, const wiring *graph, ops_device *device,
                               const state_options *options, int slots, state_pool *out);
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
/* Whether a tensor belongs to a ring. */
bool state_in_ring(const state_tensor *t);
/* A tensor of a node, or NULL. */
const state_tensor *state_find(const state_pool *pool, int node, const char *kind);

#endif
