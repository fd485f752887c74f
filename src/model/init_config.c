/* The config of a checkpoint that is made here: what the source says, and every field that the shape
 * depends on, since what a field defaults to differs between the spellings. */
#include <string.h>

#include "model/init_plan.h"

static json_t *token_id(int32_t id) {
    return id < 0 ? json_null() : json_integer(id);
}

static json_t *number_or_null(double value) {
    return value == 0 ? json_null() : json_real(value);
}

/* Whatever the source has under `key` and these fields, which are taken over. */
static json_t *merged(const json_t *source, const char *key, json_t *fields) {
    const json_t *old = json_object_get(source, key);
    json_t *both = json_is_object(old) ? json_deep_copy(old) : json_object();
    if (!both || !fields || json_object_update(both, fields) != 0) {
        json_decref(both);
        both = NULL;
    }
    json_decref(fields);
    return both;
}

static json_t *large_fields(const init_plan *p) {
    const model_config *config = p->config;
    const large_config *c = &config->large;
    return json_pack(
        "{s:[s], s:i, s:i, s:i, s:b, s:b, s:b, s:s, s:f, s:f, s:o, s:o, s:f, s:f, s:f, s:i, s:i}",
        "architectures", "xLSTMForCausalLM", "hidden_size", config->embedding_dim, "num_heads",
        c->num_heads, "num_hidden_layers", config->num_blocks, "use_bias", (int)c->use_bias,
        "add_out_norm", (int)config->add_out_norm, "tie_word_embeddings",
        (int)config->tie_word_embeddings, "weight_mode", p->options->fused ? "fused" : "single",
        "norm_eps", c->norm_eps, "eps", c->eps, "gate_soft_cap", number_or_null(c->gate_soft_cap),
        "output_logit_soft_cap", number_or_null(c->output_logit_soft_cap), "qk_dim_factor",
        c->qk_dim_factor, "v_dim_factor", c->v_dim_factor, "ffn_proj_factor", c->ffn_proj_factor,
        "ffn_round_up_to_multiple_of", c->ffn_round_up_to_multiple_of, "chunk_size", c->chunk_size);
}

/* ---- xlstm-neurips ---- */

static json_t *width_fields(const width_rule *rule) {
    return json_pack("{s:f, s:b, s:i}", "proj_factor", rule->proj_factor, "round_proj_up_dim_up",
                     (int)rule->round_up, "round_proj_up_to_multiple_of", rule->multiple_of);
}

static json_t *mlstm_block(const json_t *source, const neurips_mlstm_config *c) {
    const json_t *old = json_object_get(source, "mlstm_block");
    json_t *layer = merged(old, "mlstm", width_fields(&c->inner));
    json_t *more = json_pack("{s:i, s:i, s:i}", "num_heads", c->num_heads, "conv1d_kernel_size",
                             c->conv1d_kernel_size, "qkv_proj_blocksize", c->qkv_proj_blocksize);
    json_object_update(layer, more);
    json_decref(more);
    return json_pack("{s:o}", "mlstm", layer);
}

static json_t *ffn_fields(const json_t *old, const neurips_ffn_config *c) {
    static const char *const activations[] = {"gelu", "relu", "relu^2", "sigmoid", "swish", "selu"};
    if (!c->present)
        return json_null();
    json_t *ffn = merged(old, "feedforward", width_fields(&c->hidden));
    json_t *more =
        json_pack("{s:s, s:b}", "act_fn", activations[c->activation], "bias", (int)c->bias);
    json_object_update(ffn, more);
    json_decref(more);
    return ffn;
}

static json_t *slstm_block(const json_t *source, const neurips_config *c) {
    static const char *const bias_inits[] = {"powerlaw_blockdependent", "small_init", "standard",
                                             "zeros"};
    const json_t *old = json_object_get(source, "slstm_block");
    const neurips_slstm_config *s = &c->slstm;
    json_t *layer =
        merged(old, "slstm",
               json_pack("{s:i, s:i, s:s, s:b, s:o, s:s, s:s, s:s}", "num_heads", s->num_heads,
                         "conv1d_kernel_size", s->conv1d_kernel_size, "function",
                         s->lstm ? "lstm" : "slstm", "group_norm_weight", (int)s->group_norm_weight,
                         "forward_clipval", number_or_null(s->forward_clipval), "bias_init",
                         bias_inits[s->bias_init], "recurrent_weight_init",
                         s->standard_recurrent_init ? "standard" : "zeros", "backend",
                         s->vanilla ? "vanilla" : "cuda"));
    return json_pack("{s:o, s:o}", "slstm", layer, "feedforward", ffn_fields(old, &c->ffn));
}

static json_t *neurips_fields(const init_plan *p) {
    const model_config *config = p->config;
    const neurips_config *c = &config->neurips;
    json_t *at = json_array();
    for (int i = 0; i < config->num_blocks; i++)
        if (c->slstm_at[i])
            json_array_append_new(at, json_integer(i));
    return json_pack(
        "{s:b, s:b, s:b, s:o, s:o, s:o}", "bias", (int)c->bias, "add_post_blocks_norm",
        (int)config->add_out_norm, "tie_weights", (int)config->tie_word_embeddings, "slstm_at", at,
        "mlstm_block", c->mlstm.present ? mlstm_block(config->source, &c->mlstm) : json_null(),
        "slstm_block", c->slstm.present ? slstm_block(config->source, c) : json_null());
}

/* ---- Both ---- */

/* References into a file that this config is no longer part of. */
static void drop_references(json_t *config) {
    const char *key;
    json_t *value;
    void *next;
    json_object_foreach_safe(config, next, key, value) {
        const char *text = json_string_value(value);
        if (text && strncmp(text, "${", 2) == 0)
            json_object_del(config, key);
    }
}

json_t *init_config(const init_plan *p) {
    static const char *const type_names[] = {
        [DTYPE_F32] = "float32", [DTYPE_BF16] = "bfloat16", [DTYPE_F16] = "float16"};
    const model_config *c = p->config;
    json_t *config = c->source ? json_deep_copy(c->source) : json_object();
    json_t *family = c->family == FAMILY_NEURIPS ? neurips_fields(p) : large_fields(p);
    json_t *fields = json_pack(
        "{s:s, s:i, s:i, s:i, s:o, s:o, s:o, s:b, s:s}", "model_type", "xlstm", "embedding_dim",
        c->embedding_dim, "num_blocks", c->num_blocks, "vocab_size", c->vocab_size, "bos_token_id",
        token_id(c->bos_token_id), "eos_token_id", token_id(c->eos_token_id), "pad_token_id",
        token_id(c->pad_token_id), "force_bos_token_insert", (int)c->force_bos_token_insert,
        "torch_dtype", type_names[p->options->dtype]);
    bool ok = config && fields && family && json_object_update(config, fields) == 0 &&
              json_object_update(config, family) == 0;
    if (ok && c->family == FAMILY_NEURIPS)
        drop_references(config);
    json_decref(fields);
    json_decref(family);
    if (!ok) {
        json_decref(config);
        return NULL;
    }
    return config;
}
