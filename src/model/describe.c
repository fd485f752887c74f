/* What a checkpoint is besides its tensors. The keys, and which of them are read again, are in
 * docs/GGUF.md: the config and tokenizer.json are kept whole and are what loading goes by; all
 * else is for other tools. */
#include "model/describe.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/error.h"
#include "format/json.h"
#include "model/describe_tokenizer.h"
#include "text/tokenizer.h"

enum { QUANTISATION_VERSION = 2 }; /* of the blocks' layout */

/* ---- Dimensions ---- */

static void put_positive(gguf_metadata *m, const char *key, int32_t value) {
    if (value > 0)
        gguf_put_u32(m, key, (uint32_t)value);
}

/* 0: there is none. */
static void put_cap(gguf_metadata *m, const char *key, double cap) {
    if (cap > 0)
        gguf_put_f32(m, key, (float)cap);
}

static void describe_large(const large_config *c, gguf_metadata *m) {
    gguf_put_f32(m, "xlstm.attention.layer_norm_rms_epsilon", (float)c->norm_eps);
    put_cap(m, "xlstm.gate_soft_cap", c->gate_soft_cap);
    put_cap(m, "xlstm.final_logit_softcapping", c->output_logit_soft_cap);
    gguf_put_bool(m, "xlstm.use_bias", c->use_bias);
}

static void describe_neurips(const model_config *config, gguf_metadata *m) {
    const neurips_config *c = &config->neurips;
    gguf_put_array(m, "xlstm.slstm_at", GGUF_BOOL, c->slstm_at, (size_t)config->num_blocks);
    put_positive(m, "xlstm.conv1d_kernel_size",
                 c->mlstm.present ? c->mlstm.conv1d_kernel_size : c->slstm.conv1d_kernel_size);
    if (c->mlstm.present) {
        put_positive(m, "xlstm.inner_length", c->mlstm.inner.width);
        put_positive(m, "xlstm.qkv_block_count", c->mlstm.qkv_heads);
    }
}

static void describe_dimensions(const xlstm_model *model, gguf_metadata *m) {
    const model_config *c = &model->config;
    xlstm_model_info info;
    xlstm_model_get_info(model, &info);
    const char *family = config_family_name(c->family);
    gguf_put_text(m, "xlstm.family", family, strlen(family));
    gguf_put_u32(m, "xlstm.block_count", (uint32_t)c->num_blocks);
    gguf_put_u32(m, "xlstm.embedding_length", (uint32_t)c->embedding_dim);
    gguf_put_u32(m, "xlstm.vocab_size", (uint32_t)c->vocab_size);
    put_positive(m, "xlstm.feed_forward_length", info.ffn_dim);
    put_positive(m, "xlstm.attention.head_count", info.num_heads);
    put_positive(m, "xlstm.attention.key_length", info.head_dim_qk);
    put_positive(m, "xlstm.attention.value_length", info.head_dim_v);
    gguf_put_bool(m, "xlstm.tie_word_embeddings", c->tie_word_embeddings);
    if (c->family == FAMILY_LARGE)
        describe_large(&c->large, m);
    else
        describe_neurips(c, m);
}

/* ---- The whole ---- */

/* The last part of the path, without ".gguf". */
static gguf_text name_of(const char *path) {
    size_t size = strlen(path);
    while (size > 1 && path[size - 1] == '/')
        size--;
    size_t begin = size;
    while (begin > 0 && path[begin - 1] != '/')
        begin--;
    if (size - begin > 5 && strncasecmp(path + size - 5, ".gguf", 5) == 0)
        size -= 5;
    return (gguf_text){path + begin, size - begin};
}

static xlstm_status describe_config(const xlstm_model *model, gguf_metadata *m) {
    buffer text = {0};
    bool yaml;
    xlstm_status status = source_config_text(&model->source, &yaml, &text);
    if (status == XLSTM_OK)
        gguf_put_text(m, yaml ? "xlstm.config.yaml" : "xlstm.config.json", text.data, text.size);
    buffer_free(&text);
    return status;
}

xlstm_status describe_as_gguf(const xlstm_model *model, const char *name, dtype type,
                              gguf_metadata *m) {
    gguf_text own = name_of(model->source.path);
    gguf_put_text(m, "general.architecture", "xlstm", 5);
    gguf_put_text(m, "general.type", "model", 5);
    gguf_put_text(m, "general.name", name ? name : own.bytes, name ? strlen(name) : own.size);
    gguf_put_u32(m, "general.file_type", gguf_file_type(type));
    gguf_put_u32(m, "general.quantization_version", QUANTISATION_VERSION);
    describe_dimensions(model, m);
    xlstm_status status = describe_config(model, m);
    if (status == XLSTM_OK && source_has_tokenizer(&model->source))
        status = describe_tokenizer(model, m);
    return status;
}

/* ---- As files ---- */

static xlstm_status write_file(const char *folder, const char *name, const buffer *text) {
    char *path = path_join(folder, name);
    file_writer file;
    xlstm_status status = path ? file_writer_open(path, &file) : XLSTM_OUT_OF_MEMORY;
    if (status == XLSTM_OK) {
        file_writer_write(&file, text->data, text->size);
        status = file_writer_commit(&file);
    }
    free(path);
    return status;
}

/* Says which token ends a text, where that is one that can be named. */
static xlstm_status write_end_of_text(const xlstm_model *model, const char *folder) {
    const xlstm_tokenizer *tokenizer = xlstm_model_tokenizer(model);
    int32_t end = model_end_of_text(model);
    if (!tokenizer)
        return XLSTM_FORMAT_ERROR;
    if (end < 0 || end >= xlstm_tokenizer_size(tokenizer))
        return XLSTM_OK;
    size_t length;
    const char *bytes = (const char *)tokenizer_token_bytes(tokenizer, end, &length);
    json_t *value = json_pack("{s:s%}", "eos_token", bytes, length); /* NULL: not UTF-8 */
    char *dump = value ? json_dumps(value, JSON_INDENT(2)) : NULL;
    buffer text = {0};
    if (dump)
        buffer_print(&text, "%s\n", dump);
    xlstm_status status =
        text.size > 0 ? write_file(folder, "tokenizer_config.json", &text) : XLSTM_OK;
    buffer_free(&text);
    free(dump);
    json_decref(value);
    return status;
}

xlstm_status describe_as_files(const xlstm_model *model, const char *folder) {
    buffer text = {0}, name = {0};
    bool yaml;
    xlstm_status status = source_config_text(&model->source, &yaml, &text);
    if (status == XLSTM_OK)
        status = write_file(folder, yaml ? "config.yaml" : "config.json", &text);
    if (status == XLSTM_OK && source_has_tokenizer(&model->source)) {
        buffer_clear(&text);
        status = source_tokenizer_text(&model->source, &text, &name);
        if (status == XLSTM_OK)
            status = write_file(folder, "tokenizer.json", &text);
        if (status == XLSTM_OK)
            status = write_end_of_text(model, folder);
    }
    buffer_free(&text);
    buffer_free(&name);
    return status;
}
