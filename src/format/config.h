/* The configuration of a model, from config.json (Hugging Face, both spellings of every field) or
 * config.yaml (official). Which family it is, which fields there are and what each defaults to:
 * docs/MODEL.md. */
#ifndef FORMAT_CONFIG_H
#define FORMAT_CONFIG_H

#include "format/json.h"

typedef enum model_family {
    FAMILY_LARGE,  /* xlstm-large: xLSTM-7B */
    FAMILY_NEURIPS /* xlstm-neurips: stacks of mLSTM and sLSTM blocks */
} model_family;

/* What only xlstm-large has. */
typedef struct large_config {
    int32_t num_heads, qk_dim, v_dim, ffn_dim; /* dims are derived: totals over heads */
    bool use_bias;
    bool fused; /* weight_mode == "fused" as the config says; the tensors decide */
    double norm_eps, eps;
    double gate_soft_cap, output_logit_soft_cap; /* 0: none (null in the config) */
    double qk_dim_factor, v_dim_factor, ffn_proj_factor;
    int32_t ffn_round_up_to_multiple_of;
    int32_t chunk_size, max_inference_chunksize;
} large_config;

/* How the widths of the NeurIPS model come from the embedding's. */
typedef struct width_rule {
    double proj_factor;
    bool round_up;       /* else down */
    int32_t multiple_of; /* of this */
    int32_t width;       /* derived */
} width_rule;

typedef struct neurips_mlstm_config {
    bool present; /* and there are such blocks */
    int32_t num_heads, conv1d_kernel_size, qkv_proj_blocksize;
    width_rule inner;
    int32_t qkv_heads; /* derived: diagonal blocks of the q, k and v projections */
} neurips_mlstm_config;

typedef enum slstm_bias_init {
    SLSTM_BIAS_POWERLAW,
    SLSTM_BIAS_SMALL,
    SLSTM_BIAS_STANDARD,
    SLSTM_BIAS_ZEROS
} slstm_bias_init;

typedef struct neurips_slstm_config {
    bool present;
    int32_t num_heads, conv1d_kernel_size; /* kernel 0: no convolution */
    bool lstm;                             /* function "lstm", else "slstm" */
    bool group_norm_weight;
    double forward_clipval; /* 0: none */
    /* Of a checkpoint that is made here: how it starts, and which backend's layout it has. */
    slstm_bias_init bias_init;
    bool standard_recurrent_init; /* else zeros */
    bool vanilla;                 /* backend "vanilla", else "cuda" */
} neurips_slstm_config;

typedef enum ffn_activation {
    FFN_GELU,
    FFN_RELU,
    FFN_RELU_SQUARED,
    FFN_SIGMOID,
    FFN_SWISH,
    FFN_SELU
} ffn_activation;

typedef struct neurips_ffn_config {
    bool present;
    ffn_activation activation;
    bool bias;
    width_rule hidden;
} neurips_ffn_config;

/* What only xlstm-neurips has. */
typedef struct neurips_config {
    bool bias; /* of the mLSTM layer's projections */
    neurips_mlstm_config mlstm;
    neurips_slstm_config slstm;
    neurips_ffn_config ffn; /* of sLSTM blocks */
    bool *slstm_at;         /* [num_blocks], owned: this block is an sLSTM block */
} neurips_config;

typedef struct model_config {
    model_family family;
    int32_t embedding_dim, num_blocks, vocab_size;
    bool add_out_norm, tie_word_embeddings;
    int32_t bos_token_id, eos_token_id, pad_token_id; /* -1: none; of a list the first */
    bool force_bos_token_insert;
    large_config large;     /* of its family; else zeros */
    neurips_config neurips; /* of its family; else zeros */
    bool complete;          /* every dimension is known: tensors can be looked for */
    json_t *wiring;         /* the config's `wiring` field, borrowed from `source`, or NULL */
    json_t *source;         /* the mapping that describes the model, owned */
    const char *spelling;   /* "huggingface" or "official" */
} model_config;

static inline bool config_is_slstm(const model_config *config, int block) {
    return config->family == FAMILY_NEURIPS && config->neurips.slstm_at[block];
}
/* Whether the block has a feed-forward. */
static inline bool config_has_ffn(const model_config *config, int block) {
    return config->family == FAMILY_LARGE ||
           (config->neurips.slstm_at[block] && config->neurips.ffn.present);
}
const char *config_family_name(model_family family); /* "xlstm-large", "xlstm-neurips" */

/* After XLSTM_FORMAT_ERROR the config holds what could be read, so that a caller can look for more
 * faults; dimensions that could not be read are 0. config_free in any case.
 * All faults are reported at once, a line each, naming the keys. On failure *config is zeroed. A
 * folder's config.json comes before its config.yaml. */
xlstm_status config_open_folder(const char *folder, model_config *config);
xlstm_status config_open(const char *path, model_config *config); /* by its extension */
/* Takes a reference of its own to `value`; `name` stands in errors. */
xlstm_status config_from_json(json_t *value, const char *name, bool yaml, model_config *config);
void config_free(model_config *config);

#endif
