/* The added tokens of a tokenizer.json: strings that are cut out of the text before anything else.
 *
 * The `tokenizers` package does not believe the ids in this list: a token that is in the vocabulary
 * has its id there, and the others are numbered after the vocabulary in the order of the list.
 * Files say the same, and one that does not is refused, since either reading would be wrong for
 * somebody. */
#include "text/tokenizer_json.h"

#include "base/error.h"
#include "format/printable.h"
#include "text/normalize.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct added_entry {
    char where[48]; /* "added_tokens[12]" */
    const char *content;
    size_t length;
    json_int_t id;
    bool normalized, special;
} added_entry;

static xlstm_status read_flags(added_entry *entry, const json_t *item) {
    static const char *const must_be_false[] = {"single_word", "lstrip", "rstrip"};
    xlstm_status status = XLSTM_OK;
    for (size_t i = 0; i < 3 && status == XLSTM_OK; i++) {
        bool value = false;
        status = tokenizer_read_bool(item, entry->where, must_be_false[i], true, &value);
        if (status == XLSTM_OK && value)
            status = error_set(XLSTM_UNSUPPORTED,
                               "%s.%s true (\"%s\") is not supported; it must be false",
                               entry->where, must_be_false[i], printable_of(entry->content).text);
    }
    if (status == XLSTM_OK)
        status = tokenizer_read_bool(item, entry->where, "normalized", true, &entry->normalized);
    if (status == XLSTM_OK)
        status = tokenizer_read_bool(item, entry->where, "special", true, &entry->special);
    return status;
}

static xlstm_status read_entry(added_entry *entry, const json_t *item, size_t index) {
    snprintf(entry->where, sizeof entry->where, "added_tokens[%zu]", index);
    if (!json_is_object(item))
        return error_set(XLSTM_FORMAT_ERROR, "%s must be an object, but is %s", entry->where,
                         tokenizer_kind(item));
    const json_t *content = json_object_get(item, "content");
    entry->content = json_string_value(content);
    entry->length = json_string_length(content);
    if (!entry->content)
        return error_set(XLSTM_FORMAT_ERROR, "%s.content must be a string, but is %s", entry->where,
                         tokenizer_kind(content));
    if (entry->length == 0 || entry->length > ADDED_LENGTH_MAX)
        return error_set(XLSTM_UNSUPPORTED, "%s.content has %zu bytes; 1 to %d are possible",
                         entry->where, entry->length, ADDED_LENGTH_MAX);
    const json_t *id = json_object_get(item, "id");
    entry->id = json_integer_value(id);
    if (!json_is_integer(id) || entry->id < 0 || entry->id >= TOKENIZER_ID_LIMIT)
        return error_set(XLSTM_FORMAT_ERROR, "%s.id must be an integer from 0 to %d", entry->where,
                         TOKENIZER_ID_LIMIT - 1);
    return read_flags(entry, item);
}

/* The id must be the one that the package gives; `*next` is what the next new token gets. */
static xlstm_status check_numbering(const xlstm_tokenizer *tokenizer, const added_entry *entry,
                                    const json_t *vocabulary, json_int_t *next) {
    const json_t *known = strlen(entry->content) == entry->length
                              ? json_object_get(vocabulary, entry->content)
                              : NULL;
    json_int_t expected = known ? json_integer_value(known) : (*next)++;
    if (entry->id != expected)
        return error_set(
            XLSTM_FORMAT_ERROR, "%s.id of \"%s\" is %lld, but must be %lld: %s", entry->where,
            printable_of(entry->content).text, (long long)entry->id, (long long)expected,
            known ? "model.vocab says so" : "new tokens are numbered after model.vocab, in order");
    /* Where the ids of the vocabulary have holes, their number is the id of one of them. */
    if (!known && entry->id < tokenizer->size && tokenizer->tokens[entry->id].known)
        return error_set(XLSTM_FORMAT_ERROR,
                         "%s.id of \"%s\" is %lld, which another token of model.vocab has too",
                         entry->where, printable_of(entry->content).text, (long long)entry->id);
    return XLSTM_OK;
}

/* Stores what is looked for in the text (the normalized form of a normalized token) as the text of
 * the id, so that decoding gives back what was encoded. */
static xlstm_status store_entry(xlstm_tokenizer *tokenizer, const added_entry *entry) {
    const uint8_t *pattern = (const uint8_t *)entry->content;
    size_t size = entry->length;
    buffer normal = {0};
    xlstm_status status = XLSTM_OK;
    if (entry->normalized && tokenizer->normalize_nfc) {
        if (!normalize_nfc(pattern, size, &normal))
            status = error_memory(size, "added tokens");
        pattern = (const uint8_t *)normal.data;
        size = normal.size;
    }
    if (status == XLSTM_OK)
        status = tokenizer_reserve(tokenizer, entry->id);
    if (status == XLSTM_OK) {
        int32_t id = (int32_t)entry->id, existing;
        text_token *token = &tokenizer->tokens[id];
        token->offset = tokenizer_store(tokenizer, pattern, size);
        token->length = (uint32_t)size;
        token->known = true;
        token->special = entry->special;
        added_trie *trie = entry->normalized ? &tokenizer->normalized : &tokenizer->literal;
        if (!added_trie_add(trie, pattern, size, id, &existing))
            status = error_memory(size * sizeof(added_node), "added tokens");
        else if (existing >= 0)
            status = error_set(XLSTM_FORMAT_ERROR,
                               "%s: \"%s\" is matched by the same text as the token with id %ld",
                               entry->where, printable_of(entry->content).text, (long)existing);
    }
    buffer_free(&normal);
    return status;
}

/* Reads entry `index`; `contents` holds the contents of those before it. */
static xlstm_status read_one(xlstm_tokenizer *tokenizer, const json_t *vocabulary,
                             const json_t *item, size_t index, added_trie *contents,
                             json_int_t *next) {
    added_entry entry = {0};
    xlstm_status status = read_entry(&entry, item, index);
    if (status != XLSTM_OK)
        return status;
    int32_t existing;
    if (!added_trie_add(contents, (const uint8_t *)entry.content, entry.length, (int32_t)index,
                        &existing))
        return error_memory(entry.length * sizeof(added_node), "added tokens");
    if (existing >= 0)
        return error_set(XLSTM_FORMAT_ERROR, "%s: \"%s\" is also added_tokens[%ld]", entry.where,
                         printable_of(entry.content).text, (long)existing);
    status = check_numbering(tokenizer, &entry, vocabulary, next);
    if (status == XLSTM_OK)
        status = store_entry(tokenizer, &entry);
    if (status != XLSTM_OK)
        return status;
    tokenizer->added[index] =
        (text_added_token){.id = (int32_t)entry.id,
                           .offset = tokenizer_store(tokenizer, entry.content, entry.length),
                           .length = (uint32_t)entry.length};
    tokenizer->added_count = index + 1;
    return tokenizer->bytes.failed ? error_memory(entry.length, "added tokens") : XLSTM_OK;
}

xlstm_status tokenizer_read_added(xlstm_tokenizer *tokenizer, const json_t *vocabulary,
                                  const json_t *list) {
    if (!list)
        return XLSTM_OK;
    if (!json_is_array(list))
        return error_set(XLSTM_FORMAT_ERROR, "added_tokens must be an array, but is %s",
                         tokenizer_kind(list));
    size_t count = json_array_size(list);
    if (count == 0)
        return XLSTM_OK;
    tokenizer->added = calloc(count, sizeof *tokenizer->added);
    if (!tokenizer->added)
        return error_memory(count * sizeof *tokenizer->added, "added tokens");
    added_trie contents;
    added_trie_init(&contents);
    json_int_t next = (json_int_t)json_object_size(vocabulary);
    xlstm_status status = XLSTM_OK;
    for (size_t i = 0; i < count && status == XLSTM_OK; i++)
        status = read_one(tokenizer, vocabulary, json_array_get(list, i), i, &contents, &next);
    added_trie_free(&contents);
    return status;
}
