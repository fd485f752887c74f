/* Reading tokenizer.json: helpers shared by the files that read its parts. Not used elsewhere. */
#ifndef TEXT_TOKENIZER_JSON_H
#define TEXT_TOKENIZER_JSON_H

#include "text/tokenizer.h"

#include <jansson.h>

/* The field, or NULL if it is missing or null. */
json_t *tokenizer_field(const json_t *object, const char *key);
/* "an object", "a string" …, for messages. */
const char *tokenizer_kind(const json_t *value);
/* Reads a boolean; `where` is the path of `object`. Missing: `*value` stays, unless it is required.
 */
xlstm_status tokenizer_read_bool(const json_t *object, const char *where, const char *key,
                                 bool required, bool *value);

/* Reads "model": vocabulary and merges. */
xlstm_status tokenizer_read_model(xlstm_tokenizer *tokenizer, const json_t *model);
/* Reads "added_tokens" (may be NULL), after the model and the normalizer. */
xlstm_status tokenizer_read_added(xlstm_tokenizer *tokenizer, const json_t *vocabulary,
                                  const json_t *list);

/* Makes room for ids up to `id`. */
xlstm_status tokenizer_reserve(xlstm_tokenizer *tokenizer, json_int_t id);
/* Appends bytes to the tokenizer's and returns where they begin; a failure sticks to the buffer. */
uint32_t tokenizer_store(xlstm_tokenizer *tokenizer, const void *bytes, size_t size);

#endif
