/* A loaded model: config, wiring, weights on one device, the state pool, and the plan that runs it. */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include <pthread.h>
#include "format/config.h"
#include "format/safetensors.h"
#include "model/forward.h"
#include "model/state.h"
#include "model/weights.h"
#include "model/wiring.h"
#include "ops/ops.h"

struct xlstm_model {
    char *path; /* as given */
    char *folder;
    xlstm_large_config config;
    safetensors files;
    wiring graph;
    weights weights;
    ops_device *device;
    ops_profile profile;
    int max_batch_tokens;

    /* What runs: one stream and one forward plan, used by one caller at a time. */
    pthread_mutex_t lock;
    ops_stream *stream;
    forward *forward;
    state_pool pool;

    uint64_t fingerprint; /* of config, wiring and weights; computed when first needed */
    bool fingerprinted;

    pthread_once_t tokenizer_once;
    xlstm_tokenizer *tokenizer;
    char *tokenizer_error;
};

/* As xlstm_model_load, without taking memory for running: config, wiring and weights are checked, and nothing more. For `info`. */
xlstm_status model_open(const char *path, const xlstm_model_options *options, xlstm_model **model);
/* The second half of loading. */
xlstm_status model_prepare(xlstm_model *model, const xlstm_model_options *options);
uint64_t model_fingerprint(xlstm_model *model);

/* What running needs, in bytes. */
typedef struct model_memory {
    int64_t weights;          /* mapped from files */
    int64_t state_per_session;
    int64_t working;          /* activations, scratch and converted small tensors */
    int64_t embedding;        /* of `weights`: rows that decoding touches only one at a time */
} model_memory;
void model_get_memory(const xlstm_model *model, const xlstm_model_options *options, model_memory *memory);

#endif
