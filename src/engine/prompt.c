/* From text to the ids of a prompt. */
#include "engine/prompt.h"

#include <stdlib.h>
#include <string.h>

#include "model/model.h"

xlstm_status prompt_put_bos(int32_t bos, int32_t **ids, int64_t *count) {
    if (*count > 0 && (*ids)[0] == bos)
        return XLSTM_OK;
    size_t size = ((size_t)*count + 1) * sizeof **ids;
    int32_t *all = realloc(*ids, size);
    if (!all)
        return error_memory(size, "a prompt");
    memmove(all + 1, all, (size_t)*count * sizeof *all);
    all[0] = bos;
    *ids = all;
    ++*count;
    return XLSTM_OK;
}

xlstm_status xlstm_encode_prompt(const xlstm_model *model, const char *text, size_t length,
                                 xlstm_bos bos, bool continues, int32_t **ids, int64_t *count) {
    int32_t *all, bos_id = model->config.bos_token_id;
    int64_t tokens;
    *ids = NULL;
    *count = 0;
    const xlstm_tokenizer *tokenizer = xlstm_model_tokenizer(model);
    if (!tokenizer)
        return error_prefix(XLSTM_UNSUPPORTED, "text needs a tokenizer");
    xlstm_status status = xlstm_encode(tokenizer, text, length, 0, &all, &tokens);
    if (status != XLSTM_OK)
        return status;
    bool wanted =
        bos == XLSTM_BOS_ALWAYS || (bos == XLSTM_BOS_AUTO && model->config.force_bos_token_insert);
    bool empty = tokens == 0 && bos != XLSTM_BOS_NEVER;
    if (!continues && (wanted || empty))
        status =
            bos_id >= 0
                ? prompt_put_bos(bos_id, &all, &tokens)
                : error_set(XLSTM_INVALID_ARGUMENT,
                            "a BOS token is wanted, but the model's config has no bos_token_id");
    if (status != XLSTM_OK) {
        xlstm_free(all);
        return status;
    }
    *ids = all;
    *count = tokens;
    return XLSTM_OK;
}
