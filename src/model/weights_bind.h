/* Binding and walking weights, for the files that know a family's names. */
#ifndef MODEL_WEIGHTS_BIND_H
#define MODEL_WEIGHTS_BIND_H

#include "model/weights.h"

/* The state of one binding. Faults are collected; only memory and device errors stop it. */
typedef struct weights_binder {
    const model_config *config;
    const stored_tensors *files;
    ops_device *device;
    dtype real; /* of activations */
    weights *out;
    bool *used; /* [files->count] */
    error_list faults;
    xlstm_status status;
    char prefix[96]; /* of the block at hand, "backbone.blocks.3." */
} weights_binder;

/* A NULL-terminated list of names for the same tensor. */
#define NAMES(...) ((const char *const[]){__VA_ARGS__, NULL})

/* The tensor called prefix + one of `names`, or NULL. Given twice is a fault. */
const stored_tensor *weights_find(weights_binder *b, const char *const *names);
/* As weights_find; absence, a wrong shape and a wrong dtype are faults, and NULL. */
const stored_tensor *weights_need(weights_binder *b, const char *const *names, int rank,
                                  const int64_t *shape);

/* All below: an absent tensor after a fault. */

/* [rows][columns], and any shape: in the mapped file, unless its address does not suit the type, or a piece. */
ops_tensor weights_matrix(weights_binder *b, const char *const *names, int64_t rows,
                          int64_t columns);
ops_tensor weights_place(weights_binder *b, const stored_tensor *tensor, int rank,
                         const int64_t *shape);
/* [count], as f32. The weight of a head norm may also be stored by heads. */
ops_tensor weights_vector(weights_binder *b, const char *const *names, int64_t count);
/* A copy as `type` in the given shape. */
ops_tensor weights_copy(weights_binder *b, const stored_tensor *tensor, dtype type, int rank,
                        const int64_t *shape);
/* An element, wherever it lies. */
double weights_element(const stored_tensor *tensor, int64_t index);
/* Memory of the model's own, on the device as *out, to be filled by the caller; NULL: b->status. */
void *weights_own(weights_binder *b, dtype type, int rank, const int64_t *shape, ops_tensor *out);

typedef struct weights_visitor {
    const weights *weights;
    weights_visit visit;
    void *context;
    char prefix[96];
} weights_visitor;

/* Absent tensors are passed over. */
void weights_visit_one(const weights_visitor *v, const char *name, const ops_tensor *tensor);

/* One block: its tensors are bound, or visited. */
void weights_bind_large(weights_binder *b, int index, block_weights *w);
void weights_bind_neurips(weights_binder *b, int index, block_weights *w);
void weights_visit_large(const weights_visitor *v, const block_weights *w);
void weights_visit_neurips(const weights_visitor *v, const block_weights *w);

/* [count] of real, the stored values plus one: the norms of xlstm-neurips. */
ops_tensor weights_residual_norm(weights_binder *b, const char *const *names, int64_t count);

#endif
