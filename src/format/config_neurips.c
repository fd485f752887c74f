/* The fields of xlstm-neurips, as the official package's dataclasses have them: nested mappings,
 * each with its table of fields and defaults, then the widths that follow from them and the kind of
 * every block. A mapping that is absent inside a block is one of defaults; a feed-forward that is
 * null is none. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/config_read.h"

#define AT(member) CONFIG_AT(member)
#define NEURIPS(member) CONFIG_AT(neurips.member)
#define COUNT(table) (sizeof(table) / sizeof(table)[0])

enum { TAPS_LIMIT = 64, HEADS_LIMIT = 1 << 16 };

static const field top_fields[] = {
    {"vocab_size", NULL, FIELD_INTEGER, AT(vocab_size), DIMENSION_LIMIT, NAN, NAN, NULL},
    {"embedding_dim", NULL, FIELD_INTEGER, AT(embedding_dim), 1 << 20, 128, 128, NULL},
    {"num_blocks", NULL, FIELD_INTEGER, AT(num_blocks), 1 << 16, 1, 1, NULL},
    {"add_post_blocks_norm", NULL, FIELD_FLAG, AT(add_out_norm), 0, 1, 1, NULL},
    {"tie_weights", NULL, FIELD_FLAG, AT(tie_word_embeddings), 0, 0, 0, NULL},
    {"bias", NULL, FIELD_FLAG, NEURIPS(bias), 0, 0, 0, NULL},
    {"force_bos_token_insert", NULL, FIELD_FLAG, AT(force_bos_token_insert), 0, 0, 0, NULL},
    {"bos_token_id", NULL, FIELD_TOKEN, AT(bos_token_id), 0, -1, -1, NULL},
    {"eos_token_id", NULL, FIELD_TOKEN, AT(eos_token_id), 0, -1, -1, NULL},
    {"pad_token_id", NULL, FIELD_TOKEN, AT(pad_token_id), 0, -1, -1, NULL},
};

static const field mlstm_fields[] = {
    {"num_heads", NULL, FIELD_INTEGER, NEURIPS(mlstm.num_heads), HEADS_LIMIT, 4, 4, NULL},
    {"conv1d_kernel_size", NULL, FIELD_INTEGER, NEURIPS(mlstm.conv1d_kernel_size), TAPS_LIMIT, 4, 4,
     NULL},
    {"qkv_proj_blocksize", NULL, FIELD_INTEGER, NEURIPS(mlstm.qkv_proj_blocksize), 1 << 20, 4, 4,
     NULL},
    {"proj_factor", NULL, FIELD_POSITIVE, NEURIPS(mlstm.inner.proj_factor), 0, 2, 2, NULL},
    {"round_proj_up_dim_up", NULL, FIELD_FLAG, NEURIPS(mlstm.inner.round_up), 0, 1, 1, NULL},
    {"round_proj_up_to_multiple_of", NULL, FIELD_INTEGER, NEURIPS(mlstm.inner.multiple_of), 1 << 20,
     64, 64, NULL},
};

static const char *const functions[] = {"slstm", "lstm", NULL};
static const char *const backends[] = {"cuda", "vanilla", NULL};
static const char *const bias_inits[] = {"powerlaw_blockdependent", "small_init", "standard",
                                         "zeros", NULL};
static const char *const recurrent_inits[] = {"zeros", "standard", NULL};
static const char *const activations[] = {"gelu",  "relu", "relu^2", "sigmoid",
                                          "swish", "selu", NULL};

static const field slstm_fields[] = {
    {"num_heads", NULL, FIELD_INTEGER, NEURIPS(slstm.num_heads), HEADS_LIMIT, 4, 4, NULL},
    {"conv1d_kernel_size", NULL, FIELD_COUNT, NEURIPS(slstm.conv1d_kernel_size), TAPS_LIMIT, 4, 4,
     NULL},
    {"function", NULL, FIELD_EITHER, NEURIPS(slstm.lstm), 0, 0, 0, functions},
    {"group_norm_weight", NULL, FIELD_FLAG, NEURIPS(slstm.group_norm_weight), 0, 1, 1, NULL},
    {"forward_clipval", NULL, FIELD_CAP, NEURIPS(slstm.forward_clipval), 0, 0, 0, NULL},
    {"bias_init", NULL, FIELD_WORD, NEURIPS(slstm.bias_init), 0, 0, 0, bias_inits},
    {"recurrent_weight_init", NULL, FIELD_EITHER, NEURIPS(slstm.standard_recurrent_init), 0, 0, 0,
     recurrent_inits},
    {"backend", NULL, FIELD_EITHER, NEURIPS(slstm.vanilla), 0, 0, 0, backends},
};

static const field ffn_fields[] = {
    {"proj_factor", NULL, FIELD_POSITIVE, NEURIPS(ffn.hidden.proj_factor), 0, 1.3, 1.3, NULL},
    {"act_fn", NULL, FIELD_WORD, NEURIPS(ffn.activation), 0, 0, 0, activations},
    {"bias", NULL, FIELD_FLAG, NEURIPS(ffn.bias), 0, 0, 0, NULL},
    {"round_proj_up_dim_up", NULL, FIELD_FLAG, NEURIPS(ffn.hidden.round_up), 0, 1, 1, NULL},
    {"round_proj_up_to_multiple_of", NULL, FIELD_INTEGER, NEURIPS(ffn.hidden.multiple_of), 1 << 20,
     64, 64, NULL},
};

/* ---- Derived dimensions ---- */

/* The embedding's width times the factor, in whole multiples; r is inside the mapping with the
 * factor. */
static void derive_width(config_reader *r, width_rule *rule) {
    int32_t D = r->config.embedding_dim;
    if (D == 0 || rule->proj_factor <= 0 || rule->multiple_of == 0)
        return; /* reported already */
    double multiples = D * rule->proj_factor / rule->multiple_of;
    double width = (rule->round_up ? ceil(multiples) : floor(multiples)) * rule->multiple_of;
    if (width >= 1 && width <= DIMENSION_LIMIT) {
        rule->width = (int32_t)width;
        return;
    }
    error_list_add(&r->faults,
                   "%s: %sproj_factor %g makes a width of %.0f; it must be from 1 to %d", r->name,
                   r->path, rule->proj_factor, width, DIMENSION_LIMIT);
}

static void check_heads(config_reader *r, const char *what, int32_t width, int32_t heads) {
    if (width > 0 && heads > 0 && width % heads != 0)
        error_list_add(&r->faults, "%s: %snum_heads %d does not divide %s %d", r->name, r->path,
                       heads, what, width);
}

/* The q, k and v projections have width / blocksize diagonal blocks, rounded down, which must be
 * equal. */
static void derive_qkv(config_reader *r, neurips_mlstm_config *c) {
    if (c->inner.width == 0 || c->qkv_proj_blocksize == 0)
        return;
    int32_t blocks = c->inner.width / c->qkv_proj_blocksize;
    if (blocks > 0 && c->inner.width % blocks == 0)
        c->qkv_heads = blocks;
    else
        error_list_add(&r->faults,
                       "%s: %sqkv_proj_blocksize %d makes %d blocks of the inner width %d, which "
                       "must be equal and one at least",
                       r->name, r->path, c->qkv_proj_blocksize, blocks, c->inner.width);
}

/* ---- Blocks ---- */

/* Whether any block is an sLSTM's, or an mLSTM's. */
static bool any_block(const config_reader *r, bool slstm) {
    for (int32_t i = 0; i < r->config.num_blocks; i++)
        if (r->config.neurips.slstm_at && r->config.neurips.slstm_at[i] == slstm)
            return true;
    return false;
}

/* Goes into a block's mapping, which is absent where there are no such blocks. */
static bool enter_block(config_reader *r, const char *key) {
    return config_get(r, key) != NULL && config_enter(r, key);
}

/* Goes into a layer's, which may be absent, but not null. */
static bool enter_layer(config_reader *r, const char *key) {
    const json_t *value = config_get(r, key);
    if (json_is_null(value))
        config_fault(r, key, value, "a mapping");
    return config_enter(r, key);
}

/* The fields are read in any case, but widths that no block has are not asked to fit. */
static void read_mlstm(config_reader *r) {
    neurips_mlstm_config *c = &r->config.neurips.mlstm;
    config_place top = config_here(r);
    bool entered = enter_block(r, "mlstm_block");
    c->present = entered && any_block(r, false);
    if (entered && enter_layer(r, "mlstm")) {
        config_read_fields(r, mlstm_fields, COUNT(mlstm_fields));
        if (c->present) {
            derive_width(r, &c->inner);
            check_heads(r, "the inner width", c->inner.width, c->num_heads);
            derive_qkv(r, c);
        }
    }
    config_leave(r, top);
}

static void read_ffn(config_reader *r) {
    neurips_ffn_config *c = &r->config.neurips.ffn;
    config_place block = config_here(r);
    c->present = config_enter(r, "feedforward");
    if (c->present) {
        config_read_fields(r, ffn_fields, COUNT(ffn_fields));
        const json_t *type = config_get(r, "ff_type");
        if (type != NULL && (!json_is_string(type) || strcmp(json_string_value(type), "ffn_gated")))
            config_fault(r, "ff_type", type, "\"ffn_gated\"");
        derive_width(r, &c->hidden);
    }
    config_leave(r, block);
}

static void read_slstm(config_reader *r) {
    neurips_slstm_config *c = &r->config.neurips.slstm;
    config_place top = config_here(r);
    c->present = enter_block(r, "slstm_block");
    if (c->present) {
        config_place block = config_here(r);
        if (enter_layer(r, "slstm")) {
            config_read_fields(r, slstm_fields, COUNT(slstm_fields));
            const json_t *gates = config_get(r, "num_gates");
            if (gates != NULL && json_integer_value(gates) != 4)
                config_fault(r, "num_gates", gates, "4");
            check_heads(r, "embedding_dim", r->config.embedding_dim, c->num_heads);
        }
        config_leave(r, block);
        read_ffn(r);
    }
    config_leave(r, top);
}

/* ---- Which block is what ---- */

/* Python's indices: -1 is the last block. */
static void place_slstm(config_reader *r, const json_t *list) {
    int32_t blocks = r->config.num_blocks;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        json_int_t at = json_integer_value(item);
        if (!json_is_integer(item) || at < -blocks || at >= blocks) {
            error_list_add(&r->faults,
                           "%s: %sslstm_at has %s; it must have numbers of blocks, from 0 to %d",
                           r->name, r->path, config_show(item).text, blocks - 1);
            return;
        }
        r->config.neurips.slstm_at[at < 0 ? at + blocks : at] = true;
    }
}

static void read_block_map(config_reader *r) {
    neurips_config *c = &r->config.neurips;
    const json_t *at = config_get(r, "slstm_at");
    const char *text = json_string_value(at);
    int32_t blocks = r->config.num_blocks;
    c->slstm_at = calloc((size_t)blocks + 1, sizeof *c->slstm_at);
    if (c->slstm_at == NULL) {
        r->status = XLSTM_OUT_OF_MEMORY;
        return;
    }
    if (blocks == 0)
        return; /* reported already */
    const json_t *mlstm = config_get(r, "mlstm_block");
    bool all = mlstm == NULL || json_is_null(mlstm) || (text != NULL && strcmp(text, "all") == 0);
    if (all)
        memset(c->slstm_at, true, (size_t)blocks);
    else if (json_is_array(at))
        place_slstm(r, at);
    else if (at != NULL)
        config_fault(r, "slstm_at", at, "a list of numbers of blocks, or \"all\"");
    const json_t *slstm = config_get(r, "slstm_block");
    if (any_block(r, true) && (slstm == NULL || json_is_null(slstm)))
        error_list_add(&r->faults, "%s: %sslstm_block is missing: there are sLSTM blocks", r->name,
                       r->path);
}

void config_read_neurips(config_reader *r) {
    neurips_config *c = &r->config.neurips;
    config_read_fields(r, top_fields, COUNT(top_fields));
    read_block_map(r);
    read_mlstm(r);
    read_slstm(r);
    config_read_others(r);
    bool mlstm = !c->mlstm.present || (c->mlstm.inner.width > 0 && c->mlstm.qkv_heads > 0 &&
                                       c->mlstm.num_heads > 0 && c->mlstm.conv1d_kernel_size > 0);
    bool slstm = !c->slstm.present ||
                 (c->slstm.num_heads > 0 && (!c->ffn.present || c->ffn.hidden.width > 0));
    r->config.complete = mlstm && slstm && (c->mlstm.present || c->slstm.present) &&
                         r->config.embedding_dim > 0 && r->config.num_blocks > 0 &&
                         r->config.vocab_size > 0 && r->faults.count == 0;
}
