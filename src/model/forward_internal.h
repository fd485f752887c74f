/* What the files of the forward program share: its memory, and the steps that are called on it. */
#ifndef MODEL_FORWARD_INTERNAL_H
#define MODEL_FORWARD_INTERNAL_H

#include "model/forward.h"

/* Activations; T = limits.tokens. */
struct forward {
    const model_config *config;
    const weights *weights;
    const state_pool *pool;
    ops_device *device;
    ops_stream *stream;
    forward_limits limits;
    program program;

    ops_buffer buffer;                  /* holds everything below */
    ops_tensor *values;                 /* [program.values], each [T][D] */
    ops_tensor q, k;                    /* [T][qk_dim] */
    ops_tensor v, output_gate, h;       /* [T][v_dim], h also [T][D] of an sLSTM */
    ops_tensor input_gate, forget_gate; /* [T][heads] */
    ops_tensor hidden;                  /* [T][F] */
    /* Only xlstm-neurips, whose q, k and v are thirds of one tensor: */
    ops_tensor qkv;                      /* [T][3 E] */
    ops_tensor inner, conv;              /* [T][E], conv also [T][D] of an sLSTM */
    ops_tensor normed, gates;            /* of an sLSTM: [T][D], [T][4 D] */
    ops_tensor ids;                      /* i32 [T] */
    ops_tensor slot, start, position;    /* of the batch */
    ops_tensor rows, row_values, logits; /* i32 [R], [R][D], [R][vocab] */
    ops_tensor penalised, sampled;       /* i32 [vocab], i32 [1] */
    ops_batch batch;

    /* Host copies of what is sent to the device. */
    int32_t *host_ids, *host_slot, *host_start;
    int64_t *host_position;
    double *wide; /* one row of logits, where activations are f64 */
};

/* The first T rows, T being the tokens of this run. */
static inline ops_tensor forward_rows(const forward *f, const ops_tensor *t) {
    return ops_tensor_rows(t, 0, f->batch.tokens);
}

/* Columns [first, first + count). */
static inline ops_tensor forward_columns(const ops_tensor *t, int64_t first, int64_t count) {
    ops_tensor part = *t;
    part.offset += (size_t)first * dtype_size(t->dtype);
    part.shape[1] = count;
    return part;
}

/* The norm in front of a layer and after the last block. */
ops_norm forward_norm(const forward *f, const ops_tensor *weight, const ops_tensor *bias);
/* Enqueues a step's ops. */
void forward_step(forward *f, const step *s);

#endif
