/* The tokenizer as metadata of a GGUF file: the whole tokenizer.json, which is what is loaded
 * again, and the same as the lists of tokens and merges that other tools read. A token's text there
 * is as tokenizer.json writes it, in the alphabet of bytes. */
#include "model/describe_tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "format/json.h"
#include "text/tokenizer.h"

/* tokenizer.ggml.token_type */
enum { TOKEN_NORMAL = 1, TOKEN_CONTROL = 3, TOKEN_USER_DEFINED = 4, TOKEN_UNUSED = 5 };

typedef struct listing {
    const xlstm_model *model;
    const xlstm_tokenizer *tokenizer;
    gguf_metadata *metadata;
    json_t *root;
} listing;

/* ---- Tokens ---- */

/* Ids without a token get a name of their own, since the list has a place for every row of the
 * embedding. */
static void put_unused(gguf_text *texts, int32_t *types, char (*names)[16], int32_t count) {
    for (int32_t id = 0; id < count; id++) {
        if (texts[id].bytes)
            continue;
        int length = snprintf(names[id], sizeof names[id], "[PAD%d]", id);
        texts[id] = (gguf_text){names[id], (size_t)length};
        types[id] = TOKEN_UNUSED;
    }
}

/* The tokenizer was loaded from the same text, so ids and strings are there and in range. */
static void find_tokens(const listing *l, gguf_text *texts, int32_t *types) {
    json_t *value;
    const char *text;
    json_object_foreach(json_object_get(json_object_get(l->root, "model"), "vocab"), text, value) {
        json_int_t id = json_integer_value(value);
        texts[id] = (gguf_text){text, strlen(text)};
        types[id] = TOKEN_NORMAL;
    }
    size_t i;
    json_array_foreach(json_object_get(l->root, "added_tokens"), i, value) {
        json_int_t id = json_integer_value(json_object_get(value, "id"));
        const json_t *content = json_object_get(value, "content");
        texts[id] = (gguf_text){json_string_value(content), json_string_length(content)};
        types[id] =
            json_is_true(json_object_get(value, "special")) ? TOKEN_CONTROL : TOKEN_USER_DEFINED;
    }
}

static xlstm_status put_tokens(const listing *l) {
    int32_t count = l->model->config.vocab_size; /* no id of the tokenizer is beyond it */
    size_t size = (size_t)count;
    gguf_text *texts = calloc(size, sizeof *texts);
    int32_t *types = calloc(size, sizeof *types);
    char(*names)[16] = calloc(size, sizeof *names);
    xlstm_status status = XLSTM_OK;
    if (texts && types && names) {
        find_tokens(l, texts, types);
        put_unused(texts, types, names, count);
        gguf_put_texts(l->metadata, "tokenizer.ggml.tokens", texts, size);
        gguf_put_array(l->metadata, "tokenizer.ggml.token_type", GGUF_I32, types, size);
    } else {
        status = error_memory(size * sizeof *texts, "the list of tokens");
    }
    free(texts);
    free(types);
    free(names);
    return status;
}

/* ---- Merges ---- */

/* "a b", which a merge of tokenizer.json is or becomes. */
static gguf_text merge_text(const json_t *merge, buffer *joined) {
    if (json_is_string(merge))
        return (gguf_text){json_string_value(merge), json_string_length(merge)};
    const json_t *first = json_array_get(merge, 0), *second = json_array_get(merge, 1);
    size_t begin = joined->size;
    buffer_append(joined, json_string_value(first), json_string_length(first));
    buffer_append(joined, " ", 1);
    buffer_append(joined, json_string_value(second), json_string_length(second));
    return (gguf_text){NULL, joined->size - begin}; /* the buffer may move: set at the end */
}

static xlstm_status put_merges(const listing *l) {
    const json_t *merges = json_object_get(json_object_get(l->root, "model"), "merges");
    size_t count = 0, at = 0;
    buffer joined = {0};
    gguf_text *texts = calloc(json_array_size(merges) + 1, sizeof *texts);
    for (size_t i = 0; texts && i < json_array_size(merges); i++) {
        texts[count] = merge_text(json_array_get(merges, i), &joined);
        bool heading = texts[count].bytes && strncmp(texts[count].bytes, "#version", 8) == 0;
        count += !heading;
    }
    for (size_t i = 0; !joined.failed && i < count; i++) {
        if (texts[i].bytes)
            continue;
        texts[i].bytes = joined.data + at;
        at += texts[i].size;
    }
    xlstm_status status = XLSTM_OK;
    if (texts && !joined.failed)
        gguf_put_texts(l->metadata, "tokenizer.ggml.merges", texts, count);
    else
        status = error_memory(json_array_size(merges) * sizeof *texts, "the list of merges");
    free(texts);
    buffer_free(&joined);
    return status;
}

/* ---- The whole ---- */

static void put_id(gguf_metadata *m, const char *key, int32_t id) {
    if (id >= 0)
        gguf_put_u32(m, key, (uint32_t)id);
}

static xlstm_status put_lists(const listing *l) {
    const model_config *c = &l->model->config;
    gguf_metadata *m = l->metadata;
    gguf_put_text(m, "tokenizer.ggml.model", "gpt2", 4);
    if (l->tokenizer->use_pattern)
        gguf_put_text(m, "tokenizer.ggml.pre", "gpt-2", 5);
    xlstm_status status = put_tokens(l);
    if (status == XLSTM_OK)
        status = put_merges(l);
    put_id(m, "tokenizer.ggml.bos_token_id", c->bos_token_id);
    put_id(m, "tokenizer.ggml.eos_token_id", model_end_of_text(l->model));
    put_id(m, "tokenizer.ggml.padding_token_id", c->pad_token_id);
    put_id(m, "tokenizer.ggml.unknown_token_id", l->tokenizer->unknown_id);
    gguf_put_bool(m, "tokenizer.ggml.add_bos_token", c->force_bos_token_insert);
    gguf_put_bool(m, "tokenizer.ggml.add_space_prefix", l->tokenizer->add_prefix_space);
    return status;
}

xlstm_status describe_tokenizer(const xlstm_model *model, gguf_metadata *metadata) {
    listing l = {.model = model, .tokenizer = xlstm_model_tokenizer(model), .metadata = metadata};
    if (!l.tokenizer)
        return XLSTM_FORMAT_ERROR;
    buffer text = {0}, name = {0};
    xlstm_status status = source_tokenizer_text(&model->source, &text, &name);
    if (status == XLSTM_OK)
        status = json_parse(text.data, text.size, name.data, &l.root);
    if (status == XLSTM_OK)
        status = put_lists(&l);
    if (status == XLSTM_OK)
        gguf_put_text(metadata, "tokenizer.huggingface.json", text.data, text.size);
    json_decref(l.root);
    buffer_free(&text);
    buffer_free(&name);
    return status;
}
