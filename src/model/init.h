/* A randomly initialised checkpoint of any shape: config.json and safetensors shards, streamed, so
 * that its size is not bound by memory. Initialisers as in the reference (docs/MODEL.md): N(0,
 * sqrt(2 / (5 D))) for embedding, head, q, k, v, o, gate and up, N(0, 2 / (blocks sqrt(K))) for the
 * output projections, K their inputs; gate weights 0, input gate bias -10, forget gate bias from 3
 * to 6; norms 1. For xlstm-neurips: init_neurips.c.
 */
#ifndef MODEL_INIT_H
#define MODEL_INIT_H

#include "base/dtype.h"
#include "format/config.h"

typedef struct init_options {
    dtype dtype; /* f32, bf16, f16 */
    uint64_t seed;
    int threads;             /* 0: all; the same bytes for any number */
    int64_t shard_bytes;     /* 0: 5 GB */
    bool fused;              /* the fused tensor layout */
    xlstm_progress progress; /* in bytes; may be NULL */
    void *context;
} init_options;

/* `folder` is created; an existing checkpoint in it is an error. Nothing stays behind on failure.
 */
xlstm_status init_checkpoint(const model_config *config, const char *folder,
                             const init_options *options);

#endif
