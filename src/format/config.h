/* The configuration of a model, from config.json (Hugging Face, both spellings of every field) or
 * config.yaml (official). Which family it is, which fields there are and what each defaults to:
 * docs/MODEL.md. */
#ifndef FORMAT_CONFIG_H
#define FORMAT_CONFIG_H

#include "format/json.h"

typedef struct xlstm_large_config {
    int32_t embedding_dim, num_heads, num_blocks, vocab_size;
    int32_t qk_dim, v_dim, ffn_dim; /* derived: totals over heads */
    bool use_bias, add_out_norm, tie_word_embeddings;
    bool fused; /* weight_mode == "fused" as the config says; the tensors decide */
    double norm_eps, eps;
    double gate_soft_cap, output_logit_soft_cap; /* 0: none (null in the config) */
    double qk_dim_factor, v_dim_factor, ffn_proj_factor;
    int32_t ffn_round_up_to_multiple_of;
    int32_t chunk_size, max_inference_chunksize;
    int32_t bos_token_id, eos_token_id, pad_token_id; /* -1: none; of a list the first */
    bool force_bos_token_insert;
    json_t *wiring;       /* the config's `wiring` field, borrowed from `source`, or NULL */
    json_t *source;       /* the whole config, owned */
    const char *spelling; /* "huggingface" or "official" */
} xlstm_large_config;

/* After XLSTM_FORMAT_ERROR the config holds what could be read, so that a caller can look for more
 * faults; dimensions that could not be read are 0. config_free in any case.
 * All faults are reported at once, a line each, naming the keys. On failure *config is zeroed. A
 * folder's config.json comes before its config.yaml. */
xlstm_status config_open_folder(const char *folder, xlstm_large_config *config);
xlstm_status config_open(const char *path, xlstm_large_config *config); /* by its extension */
/* Takes a reference of its own to `value`; `name` stands in errors. */
xlstm_status config_from_json(json_t *value, const char *name, bool yaml,
                              xlstm_large_config *config);
void config_free(xlstm_large_config *config);

#endif
