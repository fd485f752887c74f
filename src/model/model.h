/* A loaded model: config, wiring, weights on one device, the state pool, and the plan that runs it.
 */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include <pthread.h>
#include "format/config.h"
#include "format/source.h"
#include "model/forward.h"
#include "model/state.h"
#include "model/weights.h"
#include "model/wiring.h"
#include "ops/ops.h"

struct xlstm_model {
    checkpoint_source source;
    model_config config;
    stored_tensors files;
    wiring graph;
    weights weights;

    ops_device *device;
    ops_profile profile;
    dtype activation; /* f32; f64 with device "reference:f64" */
    state_options state;
    int threads, max_sessions, max_batch_tokens;
    bool pin, fp8;
    int granule; /* prompts are cut at multiples of this: every chunk length divides it */

    /* What runs: one stream and one forward program, used by one caller at a time. NULL after
     * model_open. */
    pthread_mutex_t lock;
    ops_stream *stream;
    forward *forward;
    state_pool pool;
    struct xlstm_session
        *flying; /* has a token under way that no call waits for (engine/decode.c) */

    /* Loaded when first asked for. */
    pthread_mutex_t tokenizer_lock;
    xlstm_tokenizer *tokenizer;
    char *tokenizer_error;
    bool end_known; /* the two fields below are filled (end_of_text.c) */
    int32_t end_of_text;
    char *end_warning;
};

/* As xlstm_model_load, without taking memory for running: config, wiring and weights are checked,
 * and nothing more. For `info`. */
xlstm_status model_open(const char *path, const xlstm_model_options *options, xlstm_model **model);
/* The second half of loading. */
xlstm_status model_prepare(xlstm_model *model);
/* Of config, wiring and weights: the same for every file layout of the same weights. Reads a little
 * of every tensor. */
uint64_t model_fingerprint(const xlstm_model *model);
/* Whether the model has a tokenizer, be it sound or not. */
bool model_has_tokenizer(const xlstm_model *model);
/* The id that ends a text; -1: none. */
int32_t model_end_of_text(const xlstm_model *model);

/* What running needs, in bytes. */
typedef struct model_memory {
    int64_t weights; /* mapped from files */
    int64_t
        embedding; /* of `weights`: a decode step reads one row of it; 0 when tied to the head */
    int64_t state_per_session;
    int state_slots;                  /* of the pool: sessions, and the spare one */
    double state_read, state_written; /* of it, by a decoded token */
    int64_t working;                  /* activations and scratch, and weights in fp8 */
} model_memory;
void model_get_memory(const xlstm_model *model, model_memory *memory);

#endif
