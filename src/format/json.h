/* JSON by jansson, with limits: the nesting depth and size are bounded, duplicate keys are an
 * error, and errors name the file, line and column. */
#ifndef FORMAT_JSON_H
#define FORMAT_JSON_H

#include <jansson.h>
#include "base/error.h"

/* NUL in strings is allowed: use json_string_length. */
xlstm_status json_parse(const char *text, size_t size, const char *name, json_t **value);
xlstm_status json_open(const char *path, size_t limit, json_t **value);

#endif
