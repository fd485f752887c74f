/* xlstm tokenize: text to ids, and back. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "cli/commands.h"
#include "cli/input.h"
#include "cli/terminal.h"
#include "format/config.h"

/* ---- Ids to text ---- */

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
    char *folder = file_is_folder(path) ? strdup(path) : path_folder(path);
    if (!folder)
        return error_memory(strlen(path), "a path");
    xlstm_large_config config;
    xlstm_status status = config_open_folder(folder, &config);
    free(folder);
    if (status != XLSTM_OK)
        return error_prefix(status, "--bos needs the config");
    *bos = config.bos_token_id;
    config_free(&config);
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
    int32_t bos = -1, *plain = NULL;
    int64_t count = 0;
    xlstm_status status = input_text(o, &text, &given);
    if (status == XLSTM_OK && option_given(o, OPTION_BOS))
        status = find_bos(option_text(o, OPTION_MODEL, ""), &bos);
    if (status == XLSTM_OK)
        status = xlstm_encode(tokenizer, text.data ? text.data : "", text.size,
                              option_given(o, OPTION_PLAIN) ? XLSTM_PLAIN_TEXT : 0, &plain, &count);
    buffer_free(&text);
    if (status != XLSTM_OK)
        return status;
    bool insert = bos >= 0 && !(count > 0 && plain[0] == bos);
    size_t size = sizeof(int32_t) * ((size_t)count + 1);
    int32_t *ids = malloc(size);
    if (!ids) {
        xlstm_free(plain);
        return error_memory(size, "the ids");
    }
    ids[0] = bos;
    if (count > 0)
        memcpy(ids + insert, plain, sizeof(int32_t) * (size_t)count);
    xlstm_free(plain);
    count += insert;
    status =
        option_given(o, OPTION_JSON) ? print_json(tokenizer, ids, count) : print_ids(ids, count);
    free(ids);
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
