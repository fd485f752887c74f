/* The vocabulary, the merges and the added tokens of a tokenizer.json.
 *
 * A vocabulary entry is written with one printable character for each byte (GPT-2's alphabet:
 * printable ASCII and Latin-1 stand for themselves, the other 68 bytes, in order, for U+0100 to
 * U+0143). An entry with any other character stands, as in `tokenizers`, for its own UTF-8. */
#include "text/tokenizer_json.h"

#include "base/error.h"
#include "base/hash.h"
#include "format/printable.h"
#include "text/normalize.h"

#include <stdlib.h>
#include <string.h>

enum { ALPHABET_SIZE = 0x144 };

/* Whether the byte stands for the character of the same number. */
static bool stands_for_itself(unsigned byte) {
    return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD && byte <= 0xFF);
}

/* The byte of every character of the alphabet; -1 for the others below ALPHABET_SIZE. */
static void make_alphabet(int16_t alphabet[ALPHABET_SIZE]) {
    for (int i = 0; i < ALPHABET_SIZE; i++)
        alphabet[i] = -1;
    unsigned next = 0x100;
    for (unsigned byte = 0; byte < 256; byte++)
        alphabet[stands_for_itself(byte) ? byte : next++] = (int16_t)byte;
}

/* Turns an entry into bytes, written to `out` (room for `size`); returns how many, or SIZE_MAX if
 * the entry is not written in the alphabet. */
static size_t alphabet_to_bytes(const int16_t alphabet[ALPHABET_SIZE], const uint8_t *text,
                                size_t size, uint8_t *out) {
    size_t count = 0;
    for (size_t at = 0; at < size;) {
        uint32_t c;
        size_t length = utf8_decode(text + at, size - at, &c);
        if (length == 0 || c >= ALPHABET_SIZE || alphabet[c] < 0)
            return SIZE_MAX;
        out[count++] = (uint8_t)alphabet[c];
        at += length;
    }
    return count;
}

static xlstm_status check_id(const json_t *id, const char *where, const char *token) {
    if (!json_is_integer(id))
        return error_set(XLSTM_FORMAT_ERROR, "%s: the id of \"%s\" must be an integer, but is %s",
                         where, printable_of(token).text, tokenizer_kind(id));
    json_int_t value = json_integer_value(id);
    if (value < 0 || value >= TOKENIZER_ID_LIMIT)
        return error_set(XLSTM_FORMAT_ERROR,
                         "%s: the id of \"%s\" is %lld; ids must be from 0 to %d", where,
                         printable_of(token).text, (long long)value, TOKENIZER_ID_LIMIT - 1);
    return XLSTM_OK;
}

/* Makes room for all ids at once and checks them. */
static xlstm_status reserve_vocabulary(xlstm_tokenizer *tokenizer, json_t *vocabulary) {
    const char *token;
    json_t *id;
    json_int_t highest = -1;
    json_object_foreach(vocabulary, token, id) {
        xlstm_status status = check_id(id, "model.vocab", token);
        if (status != XLSTM_OK)
            return status;
        if (json_integer_value(id) > highest)
            highest = json_integer_value(id);
    }
    return highest < 0 ? XLSTM_OK : tokenizer_reserve(tokenizer, highest);
}

static xlstm_status read_vocabulary(xlstm_tokenizer *tokenizer, json_t *vocabulary) {
    if (!json_is_object(vocabulary))
        return error_set(XLSTM_FORMAT_ERROR, "model.vocab must be an object, but is %s",
                         tokenizer_kind(vocabulary));
    xlstm_status status = reserve_vocabulary(tokenizer, vocabulary);
    if (status != XLSTM_OK)
        return status;
    int16_t alphabet[ALPHABET_SIZE];
    make_alphabet(alphabet);
    const char *name;
    json_t *value;
    json_object_foreach(vocabulary, name, value) {
        int32_t id = (int32_t)json_integer_value(value);
        text_token *token = &tokenizer->tokens[id];
        if (token->known)
            return error_set(XLSTM_FORMAT_ERROR,
                             "model.vocab: \"%s\" has id %ld, which another token has too",
                             printable_of(name).text, (long)id);
        size_t size = strlen(name);
        uint32_t offset = tokenizer_store(tokenizer, name, size);
        if (tokenizer->bytes.failed)
            return error_memory(size, "token texts");
        uint8_t *stored = (uint8_t *)tokenizer->bytes.data + offset;
        size_t bytes = alphabet_to_bytes(alphabet, (const uint8_t *)name, size, stored);
        bool byte_level = bytes != SIZE_MAX;
        if (!byte_level)
            memcpy(stored, name, size);
        *token = (text_token){.offset = offset,
                              .length = (uint32_t)(byte_level ? bytes : size),
                              .known = true,
                              .byte_level = byte_level};
        if (byte_level && bytes == 1)
            tokenizer->byte_ids[stored[0]] = id;
    }
    return XLSTM_OK;
}

/* The id of a token of the vocabulary, or -1. `size` tells names with a NUL, which no token has. */
static int32_t find_token(const json_t *vocabulary, const char *name, size_t size) {
    const json_t *id = strlen(name) == size ? json_object_get(vocabulary, name) : NULL;
    return id ? (int32_t)json_integer_value(id) : -1;
}

/* The two halves of a merge, "a b" or ["a", "b"]. Returns whether there are two. */
static bool split_merge(const json_t *merge, const char *half[2], size_t size[2]) {
    if (json_is_array(merge)) {
        for (size_t i = 0; i < 2; i++) {
            const json_t *item = json_array_get(merge, i);
            half[i] = json_string_value(item);
            size[i] = json_string_length(item);
        }
        return json_array_size(merge) == 2 && half[0] && half[1];
    }
    half[0] = json_string_value(merge);
    size_t total = json_string_length(merge);
    const char *space = half[0] ? memchr(half[0], ' ', total) : NULL;
    if (!space)
        return false;
    size[0] = (size_t)(space - half[0]);
    half[1] = space + 1;
    size[1] = total - size[0] - 1;
    return memchr(half[1], ' ', size[1]) == NULL;
}

typedef struct merge_reader {
    xlstm_tokenizer *tokenizer;
    const json_t *vocabulary;
    buffer name; /* a half, and then the whole */
} merge_reader;

/* Looks up what the buffer holds. */
static xlstm_status find_named(merge_reader *reader, size_t index, int32_t *id) {
    if (reader->name.failed)
        return error_memory(reader->name.size, "merges");
    *id = find_token(reader->vocabulary, reader->name.data, reader->name.size);
    if (*id < 0)
        return error_set(XLSTM_FORMAT_ERROR, "model.merges[%zu]: \"%s\" is not in model.vocab",
                         index, printable_of(reader->name.data).text);
    return XLSTM_OK;
}

static xlstm_status read_merge(merge_reader *reader, const json_t *merge, size_t index) {
    const char *half[2];
    size_t size[2];
    if (!split_merge(merge, half, size))
        return error_set(XLSTM_FORMAT_ERROR,
                         "model.merges[%zu] must be two tokens, as \"a b\" or [\"a\", \"b\"]",
                         index);
    int32_t ids[3];
    xlstm_status status = XLSTM_OK;
    for (size_t i = 0; i < 2 && status == XLSTM_OK; i++) {
        buffer_clear(&reader->name);
        buffer_append(&reader->name, half[i], size[i]);
        status = find_named(reader, index, &ids[i]);
    }
    if (status != XLSTM_OK)
        return status;
    buffer_clear(&reader->name);
    buffer_append(&reader->name, half[0], size[0]);
    buffer_append(&reader->name, half[1], size[1]);
    status = find_named(reader, index, &ids[2]);
    if (status == XLSTM_OK)
        bpe_merges_add(&reader->tokenizer->merges, ids[0], ids[1], (uint32_t)index, ids[2]);
    return status;
}

static xlstm_status read_merges(xlstm_tokenizer *tokenizer, const json_t *vocabulary,
                                const json_t *merges) {
    if (!json_is_array(merges))
        return error_set(XLSTM_FORMAT_ERROR, "model.merges must be an array, but is %s",
                         tokenizer_kind(merges));
    size_t count = json_array_size(merges);
    if (!bpe_merges_create(&tokenizer->merges, count))
        return error_memory(count * 2 * sizeof(bpe_merge), "merges");
    merge_reader reader = {.tokenizer = tokenizer, .vocabulary = vocabulary};
    xlstm_status status = XLSTM_OK;
    for (size_t i = 0; i < count && status == XLSTM_OK; i++) {
        const json_t *merge = json_array_get(merges, i);
        if (json_typeof(merge) != json_typeof(json_array_get(merges, 0))) {
            status =
                error_set(XLSTM_FORMAT_ERROR, "model.merges[%zu] is %s, but the first merge is %s",
                          i, tokenizer_kind(merge), tokenizer_kind(json_array_get(merges, 0)));
            break;
        }
        /* A list of strings may carry the heading of a merges.txt file. */
        const char *text = json_string_value(merge);
        if (text && strncmp(text, "#version", 8) == 0)
            continue;
        status = read_merge(&reader, merge, i);
    }
    buffer_free(&reader.name);
    return status;
}

/* The table of whole pieces, for ignore_merges. */
static xlstm_status index_pieces(xlstm_tokenizer *tokenizer, size_t vocabulary_size) {
    size_t places = 16;
    while (places / 2 < vocabulary_size)
        places *= 2;
    tokenizer->pieces = malloc(places * sizeof *tokenizer->pieces);
    if (!tokenizer->pieces)
        return error_memory(places * sizeof *tokenizer->pieces, "token texts");
    tokenizer->pieces_mask = places - 1;
    for (size_t i = 0; i < places; i++)
        tokenizer->pieces[i] = -1;
    for (int32_t id = 0; id < tokenizer->size; id++) {
        const text_token *token = &tokenizer->tokens[id];
        if (!token->byte_level)
            continue;
        uint64_t at = hash64_of(tokenizer->bytes.data + token->offset, token->length, 0);
        while (tokenizer->pieces[at & tokenizer->pieces_mask] >= 0)
            at++;
        tokenizer->pieces[at & tokenizer->pieces_mask] = id;
    }
    return XLSTM_OK;
}

static xlstm_status read_unknown(xlstm_tokenizer *tokenizer, const json_t *vocabulary,
                                 const json_t *unknown) {
    tokenizer->unknown_id = -1;
    if (!unknown)
        return XLSTM_OK;
    const char *name = json_string_value(unknown);
    if (!name)
        return error_set(XLSTM_FORMAT_ERROR, "model.unk_token must be a string or null, but is %s",
                         tokenizer_kind(unknown));
    tokenizer->unknown_id = find_token(vocabulary, name, json_string_length(unknown));
    return tokenizer->unknown_id >= 0
               ? XLSTM_OK
               : error_set(XLSTM_FORMAT_ERROR, "model.unk_token \"%s\" is not in model.vocab",
                           printable_of(name).text);
}

/* Options that would change ids in ways this library does not have. */
static xlstm_status check_options(const json_t *model) {
    const json_t *dropout = tokenizer_field(model, "dropout");
    if (dropout && !(json_is_number(dropout) && !(json_number_value(dropout) != 0)))
        return error_set(XLSTM_UNSUPPORTED, "model.dropout is not supported; it must be null");
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < 2; i++) {
        const json_t *affix = tokenizer_field(model, affixes[i]);
        if (affix && !(json_is_string(affix) && json_string_length(affix) == 0))
            return error_set(XLSTM_UNSUPPORTED, "model.%s is not supported; it must be null",
                             affixes[i]);
    }
    bool byte_fallback = false;
    xlstm_status status = XLSTM_OK;
    if (tokenizer_field(model, "byte_fallback"))
        status = tokenizer_read_bool(model, "model", "byte_fallback", true, &byte_fallback);
    if (status == XLSTM_OK && byte_fallback)
        status = error_set(XLSTM_UNSUPPORTED,
                           "model.byte_fallback true is not supported; it must be false");
    return status;
}

xlstm_status tokenizer_read_model(xlstm_tokenizer *tokenizer, const json_t *model) {
    if (!json_is_object(model))
        return error_set(XLSTM_FORMAT_ERROR, "model must be an object, but is %s",
                         tokenizer_kind(model));
    const json_t *type = json_object_get(model, "type"); /* missing in old files */
    if (type && (!json_is_string(type) || strcmp(json_string_value(type), "BPE") != 0))
        return error_set(XLSTM_UNSUPPORTED,
                         "model.type \"%s\" is not supported; it must be \"BPE\"",
                         json_is_string(type) ? printable_of(json_string_value(type)).text
                                              : tokenizer_kind(type));
    for (int i = 0; i < 256; i++)
        tokenizer->byte_ids[i] = -1;
    json_t *vocabulary = json_object_get(model, "vocab");
    xlstm_status status = check_options(model);
    if (status == XLSTM_OK)
        status = read_vocabulary(tokenizer, vocabulary);
    if (status == XLSTM_OK)
        status = read_merges(tokenizer, vocabulary, json_object_get(model, "merges"));
    if (status == XLSTM_OK)
        status = read_unknown(tokenizer, vocabulary, tokenizer_field(model, "unk_token"));
    if (status == XLSTM_OK && tokenizer_field(model, "fuse_unk"))
        status = tokenizer_read_bool(model, "model", "fuse_unk", true, &tokenizer->fuse_unknown);
    if (status == XLSTM_OK && tokenizer_field(model, "ignore_merges"))
        status =
            tokenizer_read_bool(model, "model", "ignore_merges", true, &tokenizer->ignore_merges);
    if (status == XLSTM_OK && tokenizer->ignore_merges)
        status = index_pieces(tokenizer, json_object_size(vocabulary));
    return status;
}
