/* JSON by jansson. Its parser bounds the nesting (JSON_PARSER_MAX_DEPTH, 2048), refuses NaN and
 * numbers that overflow; what is added here is the file's name, and duplicate keys being an error,
 * since for a config "the last one wins" hides a mistake. */
#include "format/json.h"

#include "base/file.h"
#include "format/printable.h"

xlstm_status json_parse(const char *text, size_t size, const char *name, json_t **value) {
    json_error_t error;
    *value = NULL;
    if (size == 0)
        return error_set(XLSTM_FORMAT_ERROR, "%s: not valid JSON: it is empty", name);
    json_t *parsed = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (parsed == NULL) {
        if (json_error_code(&error) == json_error_out_of_memory)
            return error_memory(size, name);
        return error_set(XLSTM_FORMAT_ERROR, "%s: not valid JSON: line %d, column %d: %s", name,
                         error.line, error.column, printable_of(error.text).text);
    }
    *value = parsed;
    return XLSTM_OK;
}

xlstm_status json_open(const char *path, size_t limit, json_t **value) {
    buffer text = {0};
    *value = NULL;
    xlstm_status status = file_read_regular(path, limit, &text);
    if (status == XLSTM_OK)
        status = json_parse(text.data != NULL ? text.data : "", text.size, path, value);
    buffer_free(&text);
    return status;
}
