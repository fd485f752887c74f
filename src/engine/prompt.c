/* From text to the ids of a prompt. */
#include <stdlib.h>
#include <string.h>

#include "model/model.h"

xlstm_status xlstm_encode_prompt(const xlstm_model *model, const char *text, size_t length,
                                 xlstm_bos bos, bool continues, int32_t **ids, int64_t *count) {
    int32_t *plain, bos_id = model->config.bos_token_id;
    int64_t tokens;
    *ids = NULL;
    *count = 0;
    const xlstm_tokenizer *tokenizer = xlstm_model_tokenizer(model);
    if (!tokenizer)
        return error_prefix(XLSTM_UNSUPPORTED, "text needs a tokenizer");
    xlstm_status status = xlstm_encode(tokenizer, text, length, 0, &plain, &tokens);
    if (status != XLSTM_OK)
        return status;
    bool wanted =
        bos == XLSTM_BOS_ALWAYS || (bos == XLSTM_BOS_AUTO && model->config.force_bos_token_insert);
    bool already = tokens > 0 && plain[0] == bos_id;
    bool empty = tokens == 0 && bos != XLSTM_BOS_NEVER;
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
