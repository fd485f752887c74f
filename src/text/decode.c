/* Ids to text. Tokens stand for bytes, and a character may be spread over several tokens. */
#include "text/tokenizer.h"

#include "base/error.h"
#include "text/unicode.h"

#include <stdlib.h>
#include <string.h>

int32_t xlstm_tokenizer_size(const xlstm_tokenizer *tokenizer) {
    return tokenizer->size;
}

int32_t tokenizer_added_id(const xlstm_tokenizer *tokenizer, const char *content) {
    size_t length = strlen(content);
    for (size_t i = 0; i < tokenizer->added_count; i++) {
        const text_added_token *added = &tokenizer->added[i];
        if (added->length == length &&
            memcmp(tokenizer->bytes.data + added->offset, content, length) == 0)
            return added->id;
    }
    return -1;
}

bool tokenizer_is_special(const xlstm_tokenizer *tokenizer, int32_t id) {
    return id >= 0 && id < tokenizer->size && tokenizer->tokens[id].special;
}

const uint8_t *tokenizer_token_bytes(const xlstm_tokenizer *tokenizer, int32_t id, size_t *length) {
    if (id < 0 || id >= tokenizer->size || tokenizer->tokens[id].length == 0) {
        *length = 0;
        return (const uint8_t *)"";
    }
    *length = tokenizer->tokens[id].length;
    return (const uint8_t *)tokenizer->bytes.data + tokenizer->tokens[id].offset;
}

xlstm_status xlstm_decode(const xlstm_tokenizer *tokenizer, const int32_t *ids, int64_t count,
                          int flags, char **text, size_t *length) {
    *text = NULL;
    *length = 0;
    if (count < 0)
        return error_set(XLSTM_INVALID_ARGUMENT,
                         "cannot decode %lld ids: the count must not be negative",
                         (long long)count);
    if (flags & ~XLSTM_SKIP_SPECIAL)
        return error_set(XLSTM_INVALID_ARGUMENT, "unknown flags 0x%x for decoding",
                         (unsigned)flags);
    buffer out = {0};
    buffer_append(&out, "", 0); /* no ids are an empty text, not NULL */
    for (int64_t i = 0; i < count; i++) {
        if (ids[i] < 0) {
            buffer_free(&out);
            return error_set(XLSTM_INVALID_ARGUMENT, "id %ld at index %lld is negative",
                             (long)ids[i], (long long)i);
        }
        if ((flags & XLSTM_SKIP_SPECIAL) && tokenizer_is_special(tokenizer, ids[i]))
            continue;
        size_t size;
        const uint8_t *bytes = tokenizer_token_bytes(tokenizer, ids[i], &size);
        buffer_append(&out, bytes, size);
    }
    if (out.failed) {
        size_t size = out.size;
        buffer_free(&out);
        return error_memory(size, "decoded text");
    }
    *text = out.data;
    *length = out.size;
    return XLSTM_OK;
}

void xlstm_free(void *memory) {
    free(memory);
}

void text_stream_init(text_stream *stream, const xlstm_tokenizer *tokenizer, bool skip_special) {
    *stream = (text_stream){.tokenizer = tokenizer, .skip_special = skip_special};
}

/* Makes the bytes from `start` on well-formed. They begin and end between characters or what
 * stands for them: what is held back begins with a lead byte, which never continues anything. */
static void replace_from(size_t start, buffer *out) {
    const uint8_t *text = (const uint8_t *)out->data + start;
    size_t size = out->size - start;
    if (out->failed || utf8_valid_length(text, size) == size)
        return;
    buffer valid = {0};
    utf8_append_valid(text, size, &valid);
    out->size = start;
    buffer_append(out, valid.data, valid.size);
    out->failed |= valid.failed;
    buffer_free(&valid);
}

void text_stream_feed(text_stream *stream, int32_t id, buffer *out) {
    if (stream->skip_special && tokenizer_is_special(stream->tokenizer, id))
        return;
    size_t length, start = out->size;
    const uint8_t *bytes = tokenizer_token_bytes(stream->tokenizer, id, &length);
    /* The last three bytes, held ones included, decide what is held back next. */
    uint8_t window[6];
    size_t taken = length < 3 ? length : 3, held = stream->held_count;
    memcpy(window, stream->held, held);
    memcpy(window + held, bytes + length - taken, taken);
    size_t tail = utf8_incomplete_tail(window, held + taken);
    if (tail > length) { /* all of the token and some of what was held */
        size_t shown = held + length - tail;
        buffer_append(out, stream->held, shown);
    } else {
        buffer_append(out, stream->held, held);
        buffer_append(out, bytes, length - tail);
    }
    memcpy(stream->held, window + held + taken - tail, tail);
    stream->held_count = tail;
    if (stream->replace && out->size > start)
        replace_from(start, out);
}

void text_stream_flush(text_stream *stream, buffer *out) {
    size_t start = out->size;
    buffer_append(out, stream->held, stream->held_count);
    stream->held_count = 0;
    if (stream->replace && out->size > start)
        replace_from(start, out);
}
