/* From text to the ids of a prompt: beginning and end of text. */
#include <stdlib.h>
#include <string.h>

#include "engine/generate.h"
#include "model/model.h"
#include "text/tokenizer.h"

enum { SIDE_FILE_LIMIT = 1 << 20 };

/* ---- Beginning ---- */

xlstm_status prompt_encode(const xlstm_model *model, const xlstm_tokenizer *tokenizer,
                           const char *text, size_t length, enum prompt_bos bos, bool continues,
                           int32_t **ids, int64_t *count) {
    int32_t *plain, bos_id = model->config.bos_token_id;
    int64_t tokens;
    *ids = NULL;
    *count = 0;
    xlstm_status status = xlstm_encode(tokenizer, text, length, 0, &plain, &tokens);
    if (status != XLSTM_OK)
        return status;
    bool wanted = bos == PROMPT_BOS_ALWAYS ||
                  (bos == PROMPT_BOS_AUTO && model->config.force_bos_token_insert);
    bool already = tokens > 0 && plain[0] == bos_id;
    bool empty = tokens == 0 && bos != PROMPT_BOS_NEVER;
    bool insert = !continues && !already && (wanted || empty);
    if (insert && bos_id < 0) {
        xlstm_free(plain);
        return error_set(XLSTM_INVALID_ARGUMENT,
                         "a BOS token is wanted, but the model's config has no bos_token_id");
    }
    int32_t *all = malloc(((size_t)tokens + 1) * sizeof *all);
    if (!all) {
        xlstm_free(plain);
        return error_memory((size_t)tokens * sizeof *all, "a prompt");
    }
    if (insert)
        all[0] = bos_id;
    if (tokens > 0)
        memcpy(all + insert, plain, (size_t)tokens * sizeof *all);
    xlstm_free(plain);
    *ids = all;
    *count = tokens + insert;
    return XLSTM_OK;
}

/* ---- End ---- */

/* The token that `eos_token` of a JSON file beside the model names: a string, or an object with
 * "content". The id, or -1. */
static int32_t end_from_file(const xlstm_model *model, const char *name) {
    int32_t id = -1;
    json_t *value = NULL;
    char *path = path_join(model->folder, name);
    if (path && file_exists(path) && json_open(path, SIDE_FILE_LIMIT, &value) == XLSTM_OK) {
        const json_t *token = json_object_get(value, "eos_token");
        const json_t *content = json_is_object(token) ? json_object_get(token, "content") : token;
        if (json_is_string(content))
            id = tokenizer_added_id(model->tokenizer, json_string_value(content));
    }
    json_decref(value);
    free(path);
    return id;
}

static void find_end(xlstm_model *model) {
    int32_t config = model->config.eos_token_id, id = -1;
    if (model->tokenizer) {
        id = end_from_file(model, "tokenizer_config.json");
        if (id < 0)
            id = end_from_file(model, "special_tokens_map.json");
        if (id < 0)
            id = tokenizer_added_id(model->tokenizer, "<|endoftext|>");
    }
    model->end_of_text = id >= 0 ? id : config;
    if (id >= 0 && config >= 0 && config != id) {
        buffer text = {0};
        buffer_print(&text,
                     "the config's eos_token_id is %d, but the tokenizer's end of text is %d; "
                     "generation stops at %d",
                     config, id, id);
        model->end_warning = text.data;
    }
}

int32_t prompt_end_of_text(const xlstm_model *constant, const char **warning) {
    xlstm_model *model = (xlstm_model *)(uintptr_t)constant; /* found when first asked for */
    (void)xlstm_model_tokenizer(model);
    pthread_mutex_lock(&model->tokenizer_lock);
    if (!model->end_known)
        find_end(model);
    model->end_known = true;
    pthread_mutex_unlock(&model->tokenizer_lock);
    if (warning)
        *warning = model->end_warning;
    return model->end_of_text;
}
