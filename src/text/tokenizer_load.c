/* Loading tokenizer.json (the format of the Hugging Face `tokenizers` package): the file and the
 * small parts that say what is done around the model. What the package would do differently from
 * this library is an error that names the field; nothing is ignored that changes ids.
 *
 * Encoding here never adds tokens, so post-processors, whose only effect on ids is to add some, are
 * accepted and not applied: encoding equals the package's encode(text, add_special_tokens=False).
 */
#include "text/tokenizer_json.h"

#include "base/file.h"
#include "format/json.h"
#include "format/printable.h"

#include <stdlib.h>
#include <string.h>

enum { JSON_SIZE_LIMIT = 1 << 30 };

json_t *tokenizer_field(const json_t *object, const char *key) {
    json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

const char *tokenizer_kind(const json_t *value) {
    if (!value)
        return "missing";
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a fraction";
    case JSON_TRUE:
        return "true";
    case JSON_FALSE:
        return "false";
    default:
        return "null";
    }
}

xlstm_status tokenizer_read_bool(const json_t *object, const char *where, const char *key,
                                 bool required, bool *value) {
    const json_t *field = json_object_get(object, key);
    if (!field && !required)
        return XLSTM_OK;
    if (!json_is_boolean(field))
        return error_set(XLSTM_FORMAT_ERROR, "%s.%s must be true or false, but is %s", where, key,
                         tokenizer_kind(field));
    *value = json_is_true(field);
    return XLSTM_OK;
}

xlstm_status tokenizer_reserve(xlstm_tokenizer *tokenizer, json_int_t id) {
    if (id < tokenizer->size)
        return XLSTM_OK;
    size_t size = (size_t)id + 1, old = (size_t)tokenizer->size;
    /* calloc, since a file with few tokens but a high id should cost what it uses. */
    text_token *tokens =
        old ? realloc(tokenizer->tokens, size * sizeof *tokens) : calloc(size, sizeof *tokens);
    if (!tokens)
        return error_memory(size * sizeof *tokens, "tokens");
    if (old)
        memset(tokens + old, 0, (size - old) * sizeof *tokens);
    tokenizer->tokens = tokens;
    tokenizer->size = (int32_t)size;
    return XLSTM_OK;
}

uint32_t tokenizer_store(xlstm_tokenizer *tokenizer, const void *bytes, size_t size) {
    /* JSON_SIZE_LIMIT bounds the sum: every byte of the file is stored at most three times. */
    uint32_t offset = (uint32_t)tokenizer->bytes.size;
    buffer_append(&tokenizer->bytes, bytes, size);
    return offset;
}

/* The "type" of a component, which must be an object. */
static xlstm_status read_type(const json_t *part, const char *where, const char **type) {
    if (!json_is_object(part))
        return error_set(XLSTM_FORMAT_ERROR, "%s must be an object, but is %s", where,
                         tokenizer_kind(part));
    *type = json_string_value(json_object_get(part, "type"));
    if (!*type)
        return error_set(XLSTM_FORMAT_ERROR, "%s.type must be a string, but is %s", where,
                         tokenizer_kind(json_object_get(part, "type")));
    return XLSTM_OK;
}

/* A Sequence of one component is that component. */
static xlstm_status unwrap(const json_t **part, const char *where, const char *list,
                           const char **type) {
    xlstm_status status = read_type(*part, where, type);
    if (status != XLSTM_OK || strcmp(*type, "Sequence") != 0)
        return status;
    const json_t *parts = json_object_get(*part, list);
    if (json_array_size(parts) != 1)
        return error_set(XLSTM_UNSUPPORTED,
                         "%s is a Sequence; it is supported only with exactly one entry in \"%s\"",
                         where, list);
    *part = json_array_get(parts, 0);
    return read_type(*part, where, type);
}

static xlstm_status read_normalizer(xlstm_tokenizer *tokenizer, const json_t *part) {
    if (!part)
        return XLSTM_OK;
    const char *type;
    xlstm_status status = unwrap(&part, "normalizer", "normalizers", &type);
    if (status == XLSTM_OK && strcmp(type, "NFC") != 0)
        status = error_set(XLSTM_UNSUPPORTED,
                           "normalizer \"%s\" is not supported; it must be \"NFC\" or null",
                           printable_of(type).text);
    tokenizer->normalize_nfc = status == XLSTM_OK;
    return status;
}

static xlstm_status read_pre_tokenizer(xlstm_tokenizer *tokenizer, const json_t *part) {
    const char *type;
    xlstm_status status = unwrap(&part, "pre_tokenizer", "pretokenizers", &type);
    if (status == XLSTM_OK && strcmp(type, "ByteLevel") != 0)
        status = error_set(XLSTM_UNSUPPORTED,
                           "pre_tokenizer \"%s\" is not supported; it must be \"ByteLevel\"",
                           printable_of(type).text);
    if (status == XLSTM_OK)
        status = tokenizer_read_bool(part, "pre_tokenizer", "add_prefix_space", true,
                                     &tokenizer->add_prefix_space);
    tokenizer->use_pattern = true;
    if (status == XLSTM_OK)
        status =
            tokenizer_read_bool(part, "pre_tokenizer", "use_regex", false, &tokenizer->use_pattern);
    return status;
}

static xlstm_status check_post_processor(const json_t *part) {
    static const char *const known[] = {"ByteLevel", "TemplateProcessing", "RobertaProcessing",
                                        "BertProcessing", "Sequence"};
    if (!part)
        return XLSTM_OK;
    const char *type;
    xlstm_status status = read_type(part, "post_processor", &type);
    if (status != XLSTM_OK)
        return status;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(type, known[i]) == 0)
            return XLSTM_OK;
    }
    return error_set(XLSTM_UNSUPPORTED,
                     "post_processor \"%s\" is not supported; it must be \"ByteLevel\", "
                     "\"TemplateProcessing\" or null",
                     printable_of(type).text);
}

static xlstm_status check_decoder(const json_t *part) {
    const char *type;
    xlstm_status status = unwrap(&part, "decoder", "decoders", &type);
    if (status == XLSTM_OK && strcmp(type, "ByteLevel") != 0)
        status = error_set(XLSTM_UNSUPPORTED,
                           "decoder \"%s\" is not supported; it must be \"ByteLevel\"",
                           printable_of(type).text);
    return status;
}

static xlstm_status check_root(const json_t *root) {
    if (!json_is_object(root))
        return error_set(XLSTM_FORMAT_ERROR, "the file must hold an object, but holds %s",
                         tokenizer_kind(root));
    const json_t *version = json_object_get(root, "version");
    const char *text = json_string_value(version);
    if (version && (!text || strcmp(text, "1.0") != 0))
        return error_set(XLSTM_UNSUPPORTED, "version %s%s%s is not supported; it must be \"1.0\"",
                         text ? "\"" : "", text ? printable_of(text).text : tokenizer_kind(version),
                         text ? "\"" : "");
    static const char *const must_be_null[] = {"truncation", "padding"};
    for (size_t i = 0; i < sizeof must_be_null / sizeof *must_be_null; i++) {
        if (tokenizer_field(root, must_be_null[i]))
            return error_set(XLSTM_UNSUPPORTED, "%s is not supported; it must be null",
                             must_be_null[i]);
    }
    return XLSTM_OK;
}

static xlstm_status read_root(xlstm_tokenizer *tokenizer, const json_t *root) {
    xlstm_status status = check_root(root);
    if (status == XLSTM_OK)
        status = read_normalizer(tokenizer, tokenizer_field(root, "normalizer"));
    if (status == XLSTM_OK)
        status = read_pre_tokenizer(tokenizer, tokenizer_field(root, "pre_tokenizer"));
    if (status == XLSTM_OK)
        status = check_post_processor(tokenizer_field(root, "post_processor"));
    if (status == XLSTM_OK)
        status = check_decoder(tokenizer_field(root, "decoder"));
    if (status == XLSTM_OK)
        status = tokenizer_read_model(tokenizer, tokenizer_field(root, "model"));
    if (status == XLSTM_OK)
        status = tokenizer_read_added(tokenizer,
                                      json_object_get(tokenizer_field(root, "model"), "vocab"),
                                      tokenizer_field(root, "added_tokens"));
    if (status == XLSTM_OK && tokenizer->bytes.failed)
        status = error_memory(tokenizer->bytes.size, "token texts");
    return status;
}

xlstm_status tokenizer_load_memory(const char *json, size_t size, const char *name,
                                   xlstm_tokenizer **tokenizer) {
    *tokenizer = NULL;
    if (size > JSON_SIZE_LIMIT)
        return error_set(XLSTM_FORMAT_ERROR, "%s has %zu bytes; at most %d are read of a tokenizer",
                         name, size, JSON_SIZE_LIMIT);
    json_t *root;
    xlstm_status status = json_parse(json ? json : "", size, name, &root);
    if (status != XLSTM_OK)
        return status;
    xlstm_tokenizer *loaded = calloc(1, sizeof *loaded);
    status = loaded ? XLSTM_OK : error_memory(sizeof *loaded, "tokenizer");
    if (loaded) {
        added_trie_init(&loaded->literal);
        added_trie_init(&loaded->normalized);
        status = read_root(loaded, root);
    }
    json_decref(root);
    if (status != XLSTM_OK) {
        xlstm_tokenizer_free(loaded);
        return error_prefix(status, "%s", name);
    }
    *tokenizer = loaded;
    return XLSTM_OK;
}

xlstm_status tokenizer_load_source(const checkpoint_source *source, xlstm_tokenizer **tokenizer) {
    *tokenizer = NULL;
    buffer text = {0}, name = {0};
    xlstm_status status = source_tokenizer_text(source, &text, &name);
    if (status == XLSTM_OK)
        status = tokenizer_load_memory(text.data, text.size, name.data, tokenizer);
    buffer_free(&text);
    buffer_free(&name);
    return status;
}

/* A file that is no GGUF is a tokenizer.json, whatever its name. */
static xlstm_status load_file(const char *path, xlstm_tokenizer **tokenizer) {
    file_map map;
    xlstm_status status = file_map_open(path, &map);
    if (status == XLSTM_OK) {
        status = tokenizer_load_memory((const char *)map.data, map.size, path, tokenizer);
        file_map_close(&map);
    }
    return status;
}

xlstm_status xlstm_tokenizer_load(const char *path, xlstm_tokenizer **tokenizer) {
    *tokenizer = NULL;
    checkpoint_source source;
    xlstm_status status = source_open(path, &source);
    if (status != XLSTM_OK)
        return status;
    status = source.one_file || file_is_folder(path) ? tokenizer_load_source(&source, tokenizer)
                                                     : load_file(path, tokenizer);
    source_close(&source);
    return status;
}

void xlstm_tokenizer_free(xlstm_tokenizer *tokenizer) {
    if (!tokenizer)
        return;
    free(tokenizer->tokens);
    buffer_free(&tokenizer->bytes);
    bpe_merges_free(&tokenizer->merges);
    free(tokenizer->pieces);
    free(tokenizer->added);
    added_trie_free(&tokenizer->literal);
    added_trie_free(&tokenizer->normalized);
    free(tokenizer);
}
