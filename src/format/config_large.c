/* The fields of xlstm-large: a table with both spellings, what a value must be, and the default,
 * which differs between the two kinds of file for one field only; then the dimensions that follow
 * from them. */
#include <math.h>
#include <string.h>

#include "format/config_read.h"

#define AT CONFIG_AT

static const field fields[] = {
    /* vocab_size stands before the tokens, which are compared with it. */
    {"hidden_size", "embedding_dim", FIELD_INTEGER, AT(embedding_dim), 1 << 20, 4096, NAN, NULL},
    {"num_hidden_layers", "num_blocks", FIELD_INTEGER, AT(num_blocks), 1 << 16, 32, NAN, NULL},
    {"num_heads", NULL, FIELD_INTEGER, AT(large.num_heads), 1 << 16, 8, NAN, NULL},
    {"vocab_size", NULL, FIELD_INTEGER, AT(vocab_size), 1 << 24, 50304, NAN, NULL},
    {"use_bias", NULL, FIELD_FLAG, AT(large.use_bias), 0, 0, 0, NULL},
    {"add_out_norm", NULL, FIELD_FLAG, AT(add_out_norm), 0, 1, 1, NULL},
    {"tie_word_embeddings", NULL, FIELD_FLAG, AT(tie_word_embeddings), 0, 0, 0, NULL},
    {"norm_eps", NULL, FIELD_NON_NEGATIVE, AT(large.norm_eps), 0, 1e-6, 1e-6, NULL},
    {"eps", NULL, FIELD_NON_NEGATIVE, AT(large.eps), 0, 1e-6, 1e-6, NULL},
    {"gate_soft_cap", NULL, FIELD_CAP, AT(large.gate_soft_cap), 0, 15, 15, NULL},
    {"output_logit_soft_cap", NULL, FIELD_CAP, AT(large.output_logit_soft_cap), 0, 30, 30, NULL},
    {"qk_dim_factor", NULL, FIELD_POSITIVE, AT(large.qk_dim_factor), 0, 0.5, 0.5, NULL},
    {"v_dim_factor", NULL, FIELD_POSITIVE, AT(large.v_dim_factor), 0, 1, 1, NULL},
    {"ffn_proj_factor", NULL, FIELD_POSITIVE, AT(large.ffn_proj_factor), 0, 2.667, 2.6667, NULL},
    {"ffn_round_up_to_multiple_of", NULL, FIELD_INTEGER, AT(large.ffn_round_up_to_multiple_of),
     1 << 20, 64, 64, NULL},
    {"chunk_size", NULL, FIELD_INTEGER, AT(large.chunk_size), INT32_MAX, 64, 64, NULL},
    {"max_inference_chunksize", NULL, FIELD_INTEGER, AT(large.max_inference_chunksize), INT32_MAX,
     16384, 16384, NULL},
    {"force_bos_token_insert", NULL, FIELD_FLAG, AT(force_bos_token_insert), 0, 0, 0, NULL},
    {"bos_token_id", NULL, FIELD_TOKEN, AT(bos_token_id), 0, 0, 0, NULL},
    {"eos_token_id", NULL, FIELD_TOKEN, AT(eos_token_id), 0, 2, -1, NULL},
    {"pad_token_id", NULL, FIELD_TOKEN, AT(pad_token_id), 0, 1, -1, NULL},
};

static void read_weight_mode(config_reader *r) {
    const json_t *mode = config_get(r, "weight_mode");
    const char *text = json_string_value(mode);
    r->config.large.fused = text != NULL && strcmp(text, "fused") == 0;
    if (mode != NULL && !r->config.large.fused && (text == NULL || strcmp(text, "single") != 0))
        config_fault(r, "weight_mode", mode, "\"single\" or \"fused\"");
}

/* ---- Derived dimensions ---- */

/* Python's ((x + m - 1) // m) * m with a float x: a fractional part just above a multiple is
 * dropped. */
static double round_up(double x, double m) {
    double above = x + m - 1;
    double remainder = fmod(above, m);
    double quotient = (above - remainder) / m;
    double floored = floor(quotient);
    return (quotient - floored > 0.5 ? floored + 1 : floored) * m;
}

/* embedding_dim × factor, cut to an integer, which the heads must divide; 0 after a fault. */
static int32_t head_total(config_reader *r, const char *key, double factor) {
    const model_config *c = &r->config;
    if (c->embedding_dim == 0 || c->large.num_heads == 0 || factor <= 0)
        return 0; /* reported already */
    double total = trunc(c->embedding_dim * factor);
    if (total > DIMENSION_LIMIT) {
        error_list_add(&r->faults,
                       "%s: %s %g makes %d x %g = %.0f dimensions; at most %d are allowed", r->name,
                       key, factor, c->embedding_dim, factor, total, DIMENSION_LIMIT);
        return 0;
    }
    if (total < 1 || (int32_t)total % c->large.num_heads != 0) {
        error_list_add(
            &r->faults,
            "%s: embedding_dim %d x %s %g = %.0f dimensions, which num_heads %d does not divide",
            r->name, c->embedding_dim, key, factor, total, c->large.num_heads);
        return 0;
    }
    return (int32_t)total;
}

static void derive(config_reader *r) {
    large_config *c = &r->config.large;
    c->qk_dim = head_total(r, "qk_dim_factor", c->qk_dim_factor);
    c->v_dim = head_total(r, "v_dim_factor", c->v_dim_factor);
    int32_t width_in = r->config.embedding_dim;
    if (width_in == 0 || c->ffn_proj_factor <= 0 || c->ffn_round_up_to_multiple_of == 0)
        return;
    double width = round_up(width_in * c->ffn_proj_factor, c->ffn_round_up_to_multiple_of);
    if (width >= 1 && width <= DIMENSION_LIMIT) {
        c->ffn_dim = (int32_t)width;
    } else {
        error_list_add(
            &r->faults,
            "%s: ffn_proj_factor %g makes a feed-forward width of %.0f; it must be from 1 to %d",
            r->name, c->ffn_proj_factor, width, DIMENSION_LIMIT);
    }
}

void config_read_large(config_reader *r) {
    config_read_fields(r, fields, sizeof fields / sizeof fields[0]);
    read_weight_mode(r);
    config_read_others(r);
    derive(r);
    const large_config *c = &r->config.large;
    r->config.complete = c->qk_dim > 0 && c->v_dim > 0 && c->ffn_dim > 0 &&
                         r->config.num_blocks > 0 && r->config.vocab_size > 0;
}
