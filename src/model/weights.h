/* The weights of an xlstm-large model, bound to device tensors.
 *
 * Every tensor that the config calls for is looked up under each of its names and layouts (Hugging
 * Face and official, q or query, single or fused); presence, shape and dtype are checked, and
 * everything that is wrong is reported at once. Matrices stay in the mapped files; norms and
 * biases, which are small, become f32.
 */
#ifndef MODEL_WEIGHTS_H
#define MODEL_WEIGHTS_H

#include "format/config.h"
#include "format/safetensors.h"
#include "ops/ops.h"

/* Biases are absent (buffer NULL) where the model has none. */
typedef struct mlstm_weights {
    ops_tensor norm, norm_bias;                          /* [D] */
    ops_tensor q, q_bias, k, k_bias;                     /* [qk_dim][D] */
    ops_tensor v, v_bias, output_gate, output_gate_bias; /* [v_dim][D] */
    ops_tensor input_gate, input_gate_bias;              /* [heads][D], [heads] */
    ops_tensor forget_gate, forget_gate_bias;            /* [heads][D], [heads] */
    ops_tensor head_norm, head_norm_bias;                /* [v_dim] */
    ops_tensor out, out_bias;                            /* [D][v_dim] */
} mlstm_weights;

typedef struct ffn_weights {
    ops_tensor norm, norm_bias;              /* [D] */
    ops_tensor gate, gate_bias, up, up_bias; /* [F][D] */
    ops_tensor down, down_bias;              /* [D][F] */
} ffn_weights;

typedef struct block_weights {
    mlstm_weights mlstm;
    ffn_weights ffn;
} block_weights;

typedef struct weights {
    ops_tensor embedding;               /* [vocab][D] */
    ops_tensor out_norm, out_norm_bias; /* [D]; absent without add_out_norm */
    ops_tensor head;                    /* [vocab][D]; the embedding where tied */
    block_weights *blocks;
    int block_count;

    int64_t parameters;
    int64_t bytes;           /* as stored */
    int64_t embedding_bytes; /* not read whole by a decode step; 0 when tied */
    int64_t dtype_bytes[DTYPE_COUNT];
    bool fused; /* the layout found */

    ops_buffer *buffers; /* one a file, then one for each tensor that had to be copied */
    void **hosts;        /* the host memory that each buffer was made from */
    int buffer_count, file_count;
} weights;

xlstm_status weights_bind(const xlstm_large_config *config, const safetensors *files,
                          ops_device *device, weights *out);
void weights_free(weights *w);

/* Called with a tensor under its canonical name (Hugging Face, single layout), and its bytes in
 * host memory. */
typedef void (*weights_visit)(void *context, const char *name, const ops_tensor *tensor,
                              const uint8_t *bytes);
/* Visits every tensor in a fixed order. */
void weights_each(const weights *w, weights_visit visit, void *context);

#endif
