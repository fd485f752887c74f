/* Text to ids, in the order of the Hugging Face `tokenizers` package:
 *
 *   1. cut out added tokens that are looked for literally (special ones);
 *   2. normalize what lies between them, each piece for itself;
 *   3. cut out added tokens that are looked for after normalization (runs of spaces);
 *   4. cut the rest by the GPT-2 pattern;
 *   5. turn each piece into the tokens of its bytes, and merge.
 *
 * Natural text repeats its words, so the ids of short pieces are kept in a small cache for the
 * length of the call. Everything that changes lives in the call: a tokenizer serves any number of
 * threads. */
#include "text/tokenizer.h"

#include "base/error.h"
#include "base/hash.h"
#include "text/normalize.h"
#include "text/pretokenize.h"

#include <stdlib.h>
#include <string.h>

enum { CACHED_BYTES = 24, CACHED_IDS = 9, CACHE_MOST = 1 << 14 };

typedef struct cache_entry {
    uint64_t key[CACHED_BYTES / 8]; /* the bytes of the piece, then zeros */
    uint16_t length;                /* of the piece; 0: an empty entry */
    uint16_t count;
    int32_t ids[CACHED_IDS];
} cache_entry;

typedef struct encoder {
    const xlstm_tokenizer *tokenizer;
    bool plain; /* special tokens are ordinary text */
    int32_t *ids;
    size_t count, capacity;
    bpe_scratch scratch;
    cache_entry *cache;
    size_t cache_mask;
    buffer normalized, prefixed;
} encoder;

static xlstm_status reserve_ids(encoder *e, size_t more) {
    if (e->capacity - e->count >= more)
        return XLSTM_OK;
    size_t most = SIZE_MAX / sizeof *e->ids;
    if (more > most - e->count)
        return error_memory(SIZE_MAX, "token ids");
    size_t needed = e->count + more;
    size_t capacity = e->capacity > most / 2 ? most : 2 * e->capacity;
    capacity = capacity < needed ? needed : capacity;
    int32_t *ids = realloc(e->ids, capacity * sizeof *ids);
    if (!ids)
        return error_memory(capacity * sizeof *ids, "token ids");
    e->ids = ids;
    e->capacity = capacity;
    return XLSTM_OK;
}

static xlstm_status push_id(encoder *e, int32_t id) {
    xlstm_status status = reserve_ids(e, 1);
    if (status == XLSTM_OK)
        e->ids[e->count++] = id;
    return status;
}

/* The token whose text is the whole piece, or -1. */
static int32_t whole_piece(const xlstm_tokenizer *t, const uint8_t *piece, size_t size) {
    for (uint64_t at = hash64_of(piece, size, 0) & t->pieces_mask; t->pieces[at] >= 0;
         at = (at + 1) & t->pieces_mask) {
        const text_token *token = &t->tokens[t->pieces[at]];
        if (token->length == size && memcmp(t->bytes.data + token->offset, piece, size) == 0)
            return t->pieces[at];
    }
    return -1;
}

/* Writes the tokens of the bytes to `ids` (room for `size`); `*count` is how many. */
static xlstm_status byte_tokens(const xlstm_tokenizer *t, const uint8_t *piece, size_t size,
                                int32_t *ids, size_t *count) {
    size_t written = 0;
    bool after_unknown = false;
    for (size_t i = 0; i < size; i++) {
        int32_t id = t->byte_ids[piece[i]];
        if (id < 0) {
            if (t->unknown_id < 0)
                return error_set(
                    XLSTM_INVALID_ARGUMENT,
                    "the text has the byte 0x%02X, for which the tokenizer has neither a "
                    "token nor an unk_token",
                    piece[i]);
            bool fused = after_unknown && t->fuse_unknown;
            after_unknown = true;
            if (fused)
                continue;
            id = t->unknown_id;
        } else {
            after_unknown = false;
        }
        ids[written++] = id;
    }
    *count = written;
    return XLSTM_OK;
}

static xlstm_status encode_bytes(encoder *e, const uint8_t *piece, size_t size) {
    if (size > BPE_MOST_SYMBOLS)
        return error_set(XLSTM_INVALID_ARGUMENT,
                         "a piece of the text has %zu bytes without a place to cut it; at most %d "
                         "are possible",
                         size, BPE_MOST_SYMBOLS);
    xlstm_status status = reserve_ids(e, size);
    if (status != XLSTM_OK)
        return status;
    int32_t *ids = e->ids + e->count;
    size_t count = 0;
    status = byte_tokens(e->tokenizer, piece, size, ids, &count);
    if (status != XLSTM_OK)
        return status;
    size_t merged = bpe_merge_all(&e->tokenizer->merges, &e->scratch, ids, count);
    if (merged == SIZE_MAX)
        return error_memory(size * 28, "merging a long word");
    e->count += merged;
    return XLSTM_OK;
}

/* Where the piece may be in the cache; fills `key`. */
static cache_entry *cache_place(const encoder *e, const uint8_t *piece, size_t size,
                                uint64_t key[CACHED_BYTES / 8]) {
    memset(key, 0, CACHED_BYTES);
    memcpy(key, piece, size);
    uint64_t h = (key[0] ^ size) * 0x9E3779B97F4A7C15u;
    h = (h ^ h >> 32 ^ key[1]) * 0xC2B2AE3D27D4EB4Fu;
    h = (h ^ h >> 32 ^ key[2]) * 0x165667B19E3779F9u;
    return &e->cache[(h ^ h >> 32) & e->cache_mask];
}

static xlstm_status encode_piece(encoder *e, const uint8_t *piece, size_t size) {
    if (e->tokenizer->ignore_merges) {
        int32_t id = whole_piece(e->tokenizer, piece, size);
        if (id >= 0)
            return push_id(e, id);
    }
    if (size > CACHED_BYTES)
        return encode_bytes(e, piece, size);

    uint64_t key[CACHED_BYTES / 8];
    cache_entry *entry = cache_place(e, piece, size, key);
    if (entry->length == size && memcmp(entry->key, key, sizeof key) == 0) {
        xlstm_status status = reserve_ids(e, CACHED_IDS);
        if (status != XLSTM_OK)
            return status;
        memcpy(e->ids + e->count, entry->ids, sizeof entry->ids);
        e->count += entry->count;
        return XLSTM_OK;
    }
    size_t before = e->count;
    xlstm_status status = encode_bytes(e, piece, size);
    if (status == XLSTM_OK && e->count - before <= CACHED_IDS) {
        memcpy(entry->key, key, sizeof key);
        entry->length = (uint16_t)size;
        entry->count = (uint16_t)(e->count - before);
        memcpy(entry->ids, e->ids + before, entry->count * sizeof *entry->ids);
    }
    return status;
}

/* Steps 4 and 5, on text without added tokens. */
static xlstm_status encode_words(encoder *e, const uint8_t *text, size_t size) {
    if (e->tokenizer->add_prefix_space && text[0] != ' ') {
        buffer_clear(&e->prefixed);
        buffer_append(&e->prefixed, " ", 1);
        buffer_append(&e->prefixed, text, size);
        if (e->prefixed.failed)
            return error_memory(size + 1, "text to encode");
        text = (const uint8_t *)e->prefixed.data;
        size++;
    }
    if (!e->tokenizer->use_pattern)
        return encode_piece(e, text, size);
    xlstm_status status = XLSTM_OK;
    for (size_t at = 0; at < size && status == XLSTM_OK;) {
        size_t length = pretokenize_next(text + at, size - at);
        status = encode_piece(e, text + at, length);
        at += length;
    }
    return status;
}

typedef xlstm_status (*encode_rest)(encoder *e, const uint8_t *text, size_t size);

/* Cuts out the tokens of `trie`; what lies between them (never empty) goes to `rest`. Special
 * tokens that are to be plain text still hide the tokens that overlap them, as in `tokenizers`. */
static xlstm_status split(encoder *e, const added_trie *trie, const uint8_t *text, size_t size,
                          encode_rest rest) {
    xlstm_status status = XLSTM_OK;
    for (size_t begin = 0, from = 0; begin < size && status == XLSTM_OK;) {
        added_match match = added_trie_find(trie, text, size, from);
        from = match.end;
        if (match.id >= 0 && e->plain && e->tokenizer->tokens[match.id].special)
            continue;
        if (match.start > begin)
            status = rest(e, text + begin, match.start - begin);
        if (status == XLSTM_OK && match.id >= 0)
            status = push_id(e, match.id);
        begin = match.end;
    }
    return status;
}

/* Steps 2 and 3. */
static xlstm_status encode_normalized(encoder *e, const uint8_t *text, size_t size) {
    if (e->tokenizer->normalize_nfc && normalize_first_needed(text, size) < size) {
        buffer_clear(&e->normalized);
        if (!normalize_nfc(text, size, &e->normalized))
            return error_memory(size, "normalized text");
        text = (const uint8_t *)e->normalized.data;
        size = e->normalized.size;
    }
    return split(e, &e->tokenizer->normalized, text, size, encode_words);
}

static xlstm_status create_cache(encoder *e, size_t length) {
    size_t entries = 16;
    while (entries < CACHE_MOST && entries < length / 16)
        entries *= 2;
    e->cache = calloc(entries, sizeof *e->cache);
    e->cache_mask = entries - 1;
    return e->cache ? XLSTM_OK : error_memory(entries * sizeof *e->cache, "cache of words");
}

xlstm_status xlstm_encode(const xlstm_tokenizer *tokenizer, const char *text, size_t length,
                          int flags, int32_t **ids, int64_t *count) {
    *ids = NULL;
    *count = 0;
    if (flags & ~XLSTM_PLAIN_TEXT)
        return error_set(XLSTM_INVALID_ARGUMENT, "unknown flags 0x%x for encoding",
                         (unsigned)flags);
    encoder e = {.tokenizer = tokenizer, .plain = (flags & XLSTM_PLAIN_TEXT) != 0};
    /* Room for text of about four bytes a token. */
    xlstm_status status = reserve_ids(&e, length / 4 + 16);
    if (status == XLSTM_OK)
        status = create_cache(&e, length);
    if (status == XLSTM_OK)
        status = split(&e, &tokenizer->literal, (const uint8_t *)text, length, encode_normalized);
    bpe_scratch_free(&e.scratch);
    buffer_free(&e.normalized);
    buffer_free(&e.prefixed);
    free(e.cache);
    if (status != XLSTM_OK) {
        free(e.ids);
        return status;
    }
    *ids = e.ids;
    *count = (int64_t)e.count;
    return XLSTM_OK;
}
