/* The weights of a model, bound to device tensors.
 *
 * Every tensor that the config calls for is looked up under each of its names and layouts (Hugging
 * Face and official, q or query, single or fused; either layout of an sLSTM's recurrent weights);
 * presence, shape and dtype are checked, and everything that is wrong is reported at once. Matrices
 * stay in the mapped files, or are copied to the device as they are; what is small, or computed with
 * in another form than it is stored, becomes f32 (f64 for some, where activations are).
 */
#ifndef MODEL_WEIGHTS_H
#define MODEL_WEIGHTS_H

#include "format/config.h"
#include "format/stored.h"
#include "ops/gather.h"

/* Biases are absent (buffer NULL) where the model has none. E is xlstm-neurips' inner width, of
 * which q, k, v are made by blocks [E / s][s][s]; in xlstm-large they are matrices of the width D.
 */
typedef struct mlstm_weights {
    ops_tensor norm, norm_bias;                          /* [D] */
    ops_tensor q, q_bias, k, k_bias;                     /* [qk_dim][D], or by blocks */
    ops_tensor v, v_bias, output_gate, output_gate_bias; /* [v_dim][D], or by blocks and [E][D] */
    ops_tensor input_gate, input_gate_bias;              /* [heads][D or 3 E], [heads] */
    ops_tensor forget_gate, forget_gate_bias;            /* [heads][D or 3 E], [heads] */
    ops_tensor head_norm, head_norm_bias;                /* [v_dim or E] */
    ops_tensor out, out_bias;                            /* [D][v_dim or E] */
    /* Only xlstm-neurips: */
    ops_tensor inner, inner_bias; /* [E][D] */
    ops_tensor conv, conv_bias;   /* [E][K], [E] */
    ops_tensor skip;              /* [E] */
} mlstm_weights;

typedef struct slstm_weights {
    ops_tensor norm;            /* [D] */
    ops_tensor conv, conv_bias; /* [D][K], [D]; absent with kernel size 0 */
    ops_tensor gate[4];         /* what drives i, f, z, o: [heads][d][d] */
    ops_tensor recurrent;       /* [heads][d in][4 d out] */
    ops_tensor bias;            /* [4][D] */
    ops_tensor head_norm;       /* [D] */
    bool norm_from_file;        /* head_norm is a tensor of the checkpoint, not just ones */
} slstm_weights;

typedef struct ffn_weights {
    ops_tensor norm, norm_bias;              /* [D] */
    ops_tensor gate, gate_bias, up, up_bias; /* [F][D] */
    ops_tensor down, down_bias;              /* [D][F] */
} ffn_weights;

typedef struct block_weights {
    mlstm_weights mlstm; /* or */
    slstm_weights slstm;
    ffn_weights ffn;
} block_weights;

typedef struct weights {
    model_family family;
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

    /* One a file, then one for each tensor that had to be copied; on a device that copies all of
     * them one of pieces, and what follows is no more than host memory. */
    ops_buffer *buffers;
    void **hosts; /* the host memory that each buffer was made from */
    int buffer_count, file_count;
    ops_piece *pieces; /* of the first buffer; NULL where files are wrapped */
    size_t piece_count, piece_bytes;
} weights;

/* real: the type of activations. */
xlstm_status weights_bind(const model_config *config, const stored_tensors *files,
                          ops_device *device, dtype real, weights *out);
void weights_free(weights *w);

/* Called with a tensor under its canonical name (xlstm-large: Hugging Face, single
 * layout), and its bytes in
 * host memory. */
typedef void (*weights_visit)(void *context, const char *name, const ops_tensor *tensor,
                              const uint8_t *bytes);
/* Visits every tensor in a fixed order. */
void weights_each(const weights *w, weights_visit visit, void *context);

#endif
