/* Which id ends a text: eos_token of tokenizer_config.json or special_tokens_map.json (in a GGUF
 * file: tokenizer.ggml.eos_token_id), else the added token <|endoftext|>, else the config's
 * eos_token_id. xLSTM-7B's config says 2, which is
 * "!"; where the sources differ, or a file cannot be used, the model keeps a warning that says so.
 */
#include <stdlib.h>
#include <string.h>

#include "model/model.h"
#include "text/tokenizer.h"

enum { SIDE_FILE_LIMIT = 1 << 20 };

/* The id of a token by its text: an added token, or one of the vocabulary; -1: neither. */
static int32_t id_of(const xlstm_tokenizer *tokenizer, const char *content) {
    int32_t *ids, id = tokenizer_added_id(tokenizer, content);
    int64_t count;
    if (id >= 0 || xlstm_encode(tokenizer, content, strlen(content), 0, &ids, &count) != XLSTM_OK)
        return id;
    if (count == 1)
        id = ids[0];
    xlstm_free(ids);
    return id;
}

/* The id that `eos_token` of a file beside the model names: a string, or an object with "content".
 * -1: the file is absent or does not say; what is wrong with it goes into `warning`. */
static int32_t end_from_file(const xlstm_model *model, const char *name, buffer *warning) {
    int32_t id = -1;
    json_t *value = NULL;
    char *path = path_join(model->source.place, name);
    if (path && file_exists(path) && json_open(path, SIDE_FILE_LIMIT, &value) != XLSTM_OK)
        buffer_print(warning, "%s; it is not used for the end of text\n", xlstm_last_error());
    const json_t *token = json_object_get(value, "eos_token");
    const char *content =
        json_string_value(json_is_object(token) ? json_object_get(token, "content") : token);
    if (content) {
        id = id_of(model->tokenizer, content);
        if (id < 0)
            buffer_print(warning, "%s: the tokenizer does not know the eos_token \"%s\"\n", path,
                         content);
    }
    json_decref(value);
    free(path);
    return id;
}

/* The id that a GGUF file names, or -1. */
static int32_t end_from_value(const xlstm_model *model, buffer *warning) {
    static const char key[] = "tokenizer.ggml.eos_token_id";
    const gguf_value *value = gguf_find(&model->source.gguf, key);
    int64_t id = -1;
    if (!value)
        return -1;
    if (gguf_get_integer(value, &id) && id >= 0 && id < model->config.vocab_size)
        return (int32_t)id;
    buffer_print(warning, "%s: value %s is no id of the model; it is not used\n",
                 model->source.place, key);
    return -1;
}

static void find_end(xlstm_model *model) {
    int32_t config = model->config.eos_token_id, id = -1;
    buffer warning = {0};
    if (model->source.one_file) {
        id = end_from_value(model, &warning);
    } else if (model->tokenizer) {
        id = end_from_file(model, "tokenizer_config.json", &warning);
        if (id < 0)
            id = end_from_file(model, "special_tokens_map.json", &warning);
    }
    if (model->tokenizer && id < 0)
        id = tokenizer_added_id(model->tokenizer, "<|endoftext|>");
    model->end_of_text = id >= 0 ? id : config;
    if (id >= 0 && config >= 0 && config != id)
        buffer_print(&warning,
                     "the config's eos_token_id is %d, but the tokenizer's end of text is %d; "
                     "generation stops at %d\n",
                     config, id, id);
    if (warning.size > 0)
        warning.data[--warning.size] = 0; /* the last newline */
    model->end_warning = warning.data;
}

int32_t model_end_of_text(const xlstm_model *constant) {
    xlstm_model *model = (xlstm_model *)(uintptr_t)constant; /* found when first asked for */
    (void)xlstm_model_tokenizer(model);
    pthread_mutex_lock(&model->tokenizer_lock);
    if (!model->end_known)
        find_end(model);
    model->end_known = true;
    pthread_mutex_unlock(&model->tokenizer_lock);
    return model->end_of_text;
}

const char *xlstm_model_warning(const xlstm_model *model) {
    (void)model_end_of_text(model);
    return model->end_warning;
}
