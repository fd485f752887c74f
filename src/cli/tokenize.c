/* xlstm tokenize: text to ids, and back. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/input.h"
#include "cli/terminal.h"
#include "engine/prompt.h"
#include "format/source.h"
#include "text/tokenizer.h"

/* ---- Ids to text ---- */

/* The library gives ids without text no text; who asks for one here has mistyped it. */
static xlstm_status check_known(const xlstm_tokenizer *tokenizer, const int32_t *ids,
                                int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        size_t length;
        tokenizer_token_bytes(tokenizer, ids[i], &length);
        if (length == 0)
            return error_set(XLSTM_INVALID_ARGUMENT,
                             "id %" PRId32 " at index %" PRId64
                             " is not in the tokenizer, which has ids from 0 to %" PRId32,
                             ids[i], i, xlstm_tokenizer_size(tokenizer) - 1);
    }
    return XLSTM_OK;
}

static xlstm_status decode(const options *o, const xlstm_tokenizer *tokenizer) {
    const option_value *value = &o->values[OPTION_DECODE];
    int32_t *read = NULL;
    int64_t count = value->id_count;
    xlstm_status status = XLSTM_OK;
    if (strcmp(value->text, "-") == 0) {
        buffer text = {0};
        status = input_stdin(&text);
        if (status == XLSTM_OK && text.data) {
            status = ids_parse(text.data, 0, INT32_MAX, &read, &count);
            if (status == XLSTM_INVALID_ARGUMENT)
                error_prefix(status, "standard input");
        }
        buffer_free(&text);
    }
    char *text = NULL;
    size_t length;
    if (status == XLSTM_OK)
        status = check_known(tokenizer, read ? read : value->ids, count);
    if (status == XLSTM_OK)
        status = xlstm_decode(tokenizer, read ? read : value->ids, count, 0, &text, &length);
    free(read);
    if (status != XLSTM_OK)
        return status;
    if (option_given(o, OPTION_JSON)) {
        status = output_json(json_pack("{s:o}", "text", json_text(text, length)));
    } else {
        status = output_write(text, length);
        if (status == XLSTM_OK)
            status = output_flush();
    }
    xlstm_free(text);
    return status;
}

/* ---- Text to ids ---- */

static xlstm_status find_bos(const char *path, int32_t *bos) {
    checkpoint_source source;
    model_config config = {0};
    xlstm_status status = source_open(path, &source);
    if (status == XLSTM_OK)
        status = source_config(&source, &config);
    source_close(&source);
    *bos = config.bos_token_id;
    config_free(&config);
    if (status != XLSTM_OK)
        return error_prefix(status, "--bos needs the config");
    if (*bos < 0)
        return error_set(XLSTM_INVALID_ARGUMENT, "--bos: the config of %s has no bos_token_id",
                         path);
    return XLSTM_OK;
}

static xlstm_status print_ids(const int32_t *ids, int64_t count) {
    buffer line = {0};
    for (int64_t i = 0; i < count; i++)
        buffer_print(&line, "%s%" PRId32, i ? " " : "", ids[i]);
    buffer_append(&line, "\n", 1);
    return output_buffer(&line);
}

static xlstm_status print_json(const xlstm_tokenizer *tokenizer, const int32_t *ids,
                               int64_t count) {
    json_t *numbers = json_array(), *pieces = json_array();
    for (int64_t i = 0; i < count; i++) {
        char *text;
        size_t length;
        xlstm_status status = xlstm_decode(tokenizer, &ids[i], 1, 0, &text, &length);
        if (status != XLSTM_OK) {
            json_decref(numbers);
            json_decref(pieces);
            return status;
        }
        json_array_append_new(numbers, json_integer(ids[i]));
        json_array_append_new(pieces, json_text(text, length));
        xlstm_free(text);
    }
    return output_json(
        json_pack("{s:o, s:o, s:I}", "ids", numbers, "pieces", pieces, "count", (json_int_t)count));
}

static xlstm_status encode(const options *o, const xlstm_tokenizer *tokenizer) {
    buffer text = {0};
    bool given;
    int32_t bos = -1, *ids = NULL;
    int64_t count = 0;
    xlstm_status status = input_text(o, &text, &given);
    if (status == XLSTM_OK && option_given(o, OPTION_BOS))
        status = find_bos(option_text(o, OPTION_MODEL, ""), &bos);
    if (status == XLSTM_OK)
        status = xlstm_encode(tokenizer, text.data ? text.data : "", text.size,
                              option_given(o, OPTION_PLAIN) ? XLSTM_PLAIN_TEXT : 0, &ids, &count);
    buffer_free(&text);
    if (status != XLSTM_OK)
        return status;
    if (bos >= 0)
        status = prompt_put_bos(bos, &ids, &count);
    if (status == XLSTM_OK)
        status = option_given(o, OPTION_JSON) ? print_json(tokenizer, ids, count)
                                              : print_ids(ids, count);
    xlstm_free(ids);
    return status;
}

int command_tokenize(const options *o) {
    bool decodes = option_given(o, OPTION_DECODE);
    if (!decodes && !option_given(o, OPTION_PROMPT) && !option_given(o, OPTION_FILE))
        return cli_fail_usage("tokenize", "nothing to do: give -p TEXT, -f FILE or --decode IDS");
    xlstm_tokenizer *tokenizer;
    xlstm_status status = xlstm_tokenizer_load(option_text(o, OPTION_MODEL, ""), &tokenizer);
    if (status != XLSTM_OK)
        return cli_fail(status);
    status = decodes ? decode(o, tokenizer) : encode(o, tokenizer);
    xlstm_tokenizer_free(tokenizer);
    return status == XLSTM_OK ? 0 : cli_fail(status);
}
