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
    ops_tensor qkv;                        /* [T][3 E] */
    ops_tensor inner, conv;                /* [T][E], conv also [T][D] of an sLSTM */
    ops_tensor normed, gates;              /* of an sLSTM: [T][D], [T][4 D] */
    ops_tensor ids;                        /* i32 [T] */
    ops_tensor slot, start, position;      /* of the batch */
    ops_tensor rows, row_values, logits;   /* i32 [R], [R][D], [R][vocab] */
    ops_tensor penalised, sampled, chosen; /* i32 [vocab], [1], [sequences] */
    ops_batch batch;                       /* of this run */
    ops_tensor batch_ids;
    /* Of tokens that are begun before the host has seen the one before (forward_ahead.c): */
    struct {
        ops_tensor slot, start, ends;  /* i32 [1], [2], [FORWARD_MOST_ENDS] */
        ops_tensor position[2], id[2]; /* i64 [1], i32 [1]: of tokens by turns */
        int32_t end_count;
        int begun, seen; /* tokens, counted from forward_ahead_begin */
    } ahead;

    /* Host copies of what is sent to the device. */
    int32_t *host_ids, *host_slot, *host_start;
    int64_t *host_position;
    int64_t narrow_from; /* tokens, as of the device; 0: never */
    double *wide;        /* one row of logits, where activations are f64 */
};

/* The first T rows, T being the tokens of this run. */
static inline ops_tensor forward_rows(const forward *f, const ops_tensor *t) {
    return ops_tensor_rows(t, 0, f->batch.tokens);
}

/* The same of what lies between ops of a layer, which the device may want in bf16. */
static inline ops_tensor forward_between(const forward *f, const ops_tensor *t) {
    ops_tensor rows = forward_rows(f, t);
    if (f->narrow_from > 0 && f->batch.tokens >= f->narrow_from)
        rows.dtype = DTYPE_BF16;
    return rows;
}

/* Columns [first, first + count). */
static inline ops_tensor forward_columns(const ops_tensor *t, int64_t first, int64_t count) {
    ops_tensor part = *t;
    part.offset += (size_t)first * dtype_size(t->dtype);
    part.shape[1] = count;
    return part;
}

/* To the device, in stream order. */
static inline void forward_send(forward *f, const ops_tensor *to, const void *from, size_t bytes) {
    f->device->write(f->stream, to->buffer, to->offset, from, bytes);
}

/* The norm in front of a layer and after the last block. */
ops_norm forward_norm(const forward *f, const ops_tensor *weight, const ops_tensor *bias);
/* Lets the device make ready what it will run (ops_device.rehearse); fails where it cannot. */
xlstm_status forward_rehearse(forward *f);
/* Enqueues a step's ops. */
void forward_step(forward *f, const step *s);
/* Enqueues the head: logits [n][vocab] of rows x [n][D]. */
void forward_head(forward *f, const ops_tensor *x, const ops_tensor *logits);
/* Sends the ids that `options` penalises: before the ops of a token, which must not be cut in two. */
void forward_penalise(forward *f, const struct ops_sample_row *options, const int32_t *penalised);
/* Enqueues the choice of an id from logits [1][vocab]. */
void forward_choose(forward *f, const ops_tensor *logits, const struct ops_sample_row *options,
                    const ops_tensor *id);

#endif
