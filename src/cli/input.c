/* Models and prompts from the options. */
#include "cli/input.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cli/terminal.h"
#include "engine/session.h"
#include "format/npy.h"
#include "model/model.h"

static const size_t text_limit = (size_t)1 << 31; /* ids and offsets of a text fit in 32 bits */

xlstm_model_options input_model_options(const options *o, int sessions) {
    int deferred = (int)option_integer(o, OPTION_DEFERRED, 0);
    return (xlstm_model_options){
        .device = option_text(o, OPTION_DEVICE, NULL),
        .profile = option_text(o, OPTION_PROFILE, NULL),
        .threads = (int)option_integer(o, OPTION_THREADS, 0),
        .max_sessions = sessions,
        .max_batch_tokens = (int)option_integer(o, OPTION_BATCH_TOKENS, 0),
        .pin = option_given(o, OPTION_PIN),
        .state_dtype = option_text(o, OPTION_STATE_DTYPE, NULL),
        .prefill = option_text(o, OPTION_PREFILL, NULL),
        .deferred = deferred == 0 && option_given(o, OPTION_DEFERRED) ? -1 : deferred,
    };
}

xlstm_status input_load_model(const options *o, int sessions, xlstm_model **model) {
    xlstm_model_options wanted = input_model_options(o, sessions);
    xlstm_status status = xlstm_model_load(option_text(o, OPTION_MODEL, ""), &wanted, model);
    if (status == XLSTM_OK)
        input_warn_source(&(*model)->source);
    return status;
}

void input_warn_source(const checkpoint_source *source) {
    if (source->passes_over)
        cli_warn("%s is used, and not the .safetensors files beside it", source->place);
}

xlstm_status input_stdin(buffer *text) {
    char block[16384];
    for (;;) {
        errno = 0;
        size_t count = fread(block, 1, sizeof block, stdin);
        if (count == 0 && ferror(stdin))
            return errno == EINTR && interrupt_signal() != 0
                       ? error_set(XLSTM_CANCELLED, "stopped while reading standard input")
                       : error_system("read", "standard input");
        if (count == 0)
            return XLSTM_OK;
        if (count > text_limit - text->size)
            return error_set(XLSTM_INVALID_ARGUMENT,
                             "standard input is too large: at most %zu bytes", text_limit);
        buffer_append(text, block, count);
        if (text->failed)
            return error_memory(text->size + count, "standard input");
    }
}

xlstm_status input_text(const options *o, buffer *text, bool *given) {
    enum option_id file_id = option_given(o, OPTION_TEXT_FILE) ? OPTION_TEXT_FILE : OPTION_FILE;
    const char *prompt = option_text(o, OPTION_PROMPT, NULL), *path = option_text(o, file_id, NULL);
    *given = prompt || path;
    if (!*given)
        return XLSTM_OK;
    if (strcmp(prompt ? prompt : path, "-") == 0)
        return input_stdin(text);
    if (path)
        return file_read(path, text_limit, text);
    buffer_append(text, prompt, strlen(prompt));
    return text->failed ? error_memory(strlen(prompt), "the prompt") : XLSTM_OK;
}

xlstm_status input_ids_file(const char *path, int32_t **ids, int64_t *rows, int64_t *columns) {
    npy_array array;
    xlstm_status status = npy_open(path, &array);
    if (status != XLSTM_OK)
        return status;
    if (array.rank < 1 || array.rank > 2)
        status = error_set(XLSTM_FORMAT_ERROR,
                           "%s has %d dimensions: ids have the shape [T] or [windows, T]", path,
                           array.rank);
    else if (array.count < 1)
        status = error_set(XLSTM_FORMAT_ERROR, "%s holds no ids", path);
    else
        status = npy_to_ids(&array, path, ids);
    *rows = array.rank == 2 ? array.shape[0] : 1;
    *columns = array.rank == 2 ? array.shape[1] : array.count;
    npy_close(&array);
    return status;
}

static xlstm_status read_ids(const options *o, input_prompt *prompt) {
    const char *path = option_text(o, OPTION_IDS_FILE, NULL);
    if (path) {
        int64_t rows, columns;
        xlstm_status status = input_ids_file(path, &prompt->ids, &rows, &columns);
        if (status == XLSTM_OK && rows != 1)
            return error_set(XLSTM_FORMAT_ERROR,
                             "%s holds %" PRId64 " rows of ids: a prompt is one row, shape [T]",
                             path, rows);
        prompt->count = columns;
        return status;
    }
    const option_value *value = &o->values[OPTION_IDS];
    size_t size = sizeof(int32_t) * (size_t)value->id_count;
    prompt->ids = malloc(size);
    if (!prompt->ids)
        return error_memory(size, "the ids");
    memcpy(prompt->ids, value->ids, size);
    prompt->count = value->id_count;
    return XLSTM_OK;
}

xlstm_status input_prompt_read(const options *o, input_prompt *prompt) {
    *prompt = (input_prompt){0};
    prompt->has_ids = option_given(o, OPTION_IDS) || option_given(o, OPTION_IDS_FILE);
    xlstm_status status =
        prompt->has_ids ? read_ids(o, prompt) : input_text(o, &prompt->text, &prompt->has_text);
    if (status != XLSTM_OK)
        input_prompt_free(prompt);
    return status;
}

void input_prompt_free(input_prompt *prompt) {
    buffer_free(&prompt->text);
    free(prompt->ids);
    *prompt = (input_prompt){0};
}

xlstm_bos input_bos(const options *o) {
    return option_given(o, OPTION_BOS)      ? XLSTM_BOS_ALWAYS
           : option_given(o, OPTION_NO_BOS) ? XLSTM_BOS_NEVER
                                            : XLSTM_BOS_AUTO;
}

xlstm_status input_prompt_ids(const options *o, const input_prompt *prompt,
                              const xlstm_model *model, bool continues, int32_t **ids,
                              int64_t *count) {
    if (prompt->has_ids) {
        xlstm_status status = session_check_ids(model, prompt->ids, prompt->count);
        if (status != XLSTM_OK)
            return status;
        size_t size = sizeof(int32_t) * (size_t)prompt->count;
        *ids = malloc(size);
        if (!*ids)
            return error_memory(size, "the ids");
        memcpy(*ids, prompt->ids, size);
        *count = prompt->count;
        return XLSTM_OK;
    }
    const xlstm_tokenizer *tokenizer = xlstm_model_tokenizer(model);
    if (!tokenizer)
        return error_prefix(XLSTM_UNSUPPORTED,
                            "a text needs a tokenizer (ids can be given with --ids)");
    xlstm_status status =
        xlstm_encode_prompt(model, prompt->text.data ? prompt->text.data : "", prompt->text.size,
                            input_bos(o), continues, ids, count);
    if (status == XLSTM_OK && *count == 0) {
        xlstm_free(*ids);
        *ids = NULL;
        return error_set(XLSTM_INVALID_ARGUMENT,
                         "the prompt is empty: there is nothing to start from");
    }
    return status;
}

xlstm_sampling input_sampling(const options *o) {
    return (xlstm_sampling){
        .temperature = (float)option_number(o, OPTION_TEMPERATURE, 0),
        .top_k = (int32_t)option_integer(o, OPTION_TOP_K, 0),
        .top_p = (float)option_number(o, OPTION_TOP_P, 1),
        .min_p = (float)option_number(o, OPTION_MIN_P, 0),
        .repetition_penalty = (float)option_number(o, OPTION_REPETITION_PENALTY, 1),
        .seed = o->values[OPTION_SEED].unsigned_integer,
    };
}

xlstm_generate_options input_generate_options(const options *o) {
    return (xlstm_generate_options){
        .max_tokens = option_integer(o, OPTION_MAX_TOKENS, 128),
        .ignore_eos = option_given(o, OPTION_IGNORE_EOS),
        .stop_ids = o->values[OPTION_STOP_ID].ids,
        .stop_id_count = (int)o->values[OPTION_STOP_ID].id_count,
        .stop_strings = o->values[OPTION_STOP].texts,
        .stop_string_count = o->values[OPTION_STOP].count,
    };
}

xlstm_status input_check_stop_ids(const options *o, const xlstm_model *model) {
    const option_value *stop = &o->values[OPTION_STOP_ID];
    if (stop->id_count == 0)
        return XLSTM_OK;
    xlstm_status status = session_check_ids(model, stop->ids, stop->id_count);
    return status == XLSTM_OK ? status : error_prefix(status, "--stop-id");
}

void input_warn_loaded(const options *o) {
    double penalty = option_number(o, OPTION_REPETITION_PENALTY, 1);
    if (penalty != 0 && penalty != 1)
        cli_warn("the repetition penalty counts only ids from here on: a saved state does not hold "
                 "the text");
}
