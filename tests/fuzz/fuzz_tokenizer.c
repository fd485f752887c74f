/* Any bytes as a tokenizer.json. Where it loads, what follows the JSON's first NUL byte, or else
 * the JSON itself, is encoded and decoded: the ids must be the tokenizer's, the stream must give
 * what decoding gives, and text of plain ASCII with a token for each byte must come back. */
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

enum { TEXT_MOST = 192 }; /* more text makes runs slow and finds nothing new */

static void require(bool condition) {
    if (!condition)
        abort();
}

static void check_stream(const xlstm_tokenizer *tokenizer, const int32_t *ids, int64_t count,
                         const char *text, size_t size) {
    text_stream stream;
    buffer out = {0};
    text_stream_init(&stream, tokenizer, false);
    for (int64_t i = 0; i < count; i++) {
        require(ids[i] >= 0 && ids[i] < xlstm_tokenizer_size(tokenizer));
        text_stream_feed(&stream, ids[i], &out);
    }
    text_stream_flush(&stream, &out);
    require(out.size == size && (size == 0 || memcmp(out.data, text, size) == 0));
    buffer_free(&out);
}

static void check_text(const xlstm_tokenizer *tokenizer, const char *text, size_t size, int flags) {
    int32_t *ids;
    int64_t count;
    if (xlstm_encode(tokenizer, text, size, flags, &ids, &count) != XLSTM_OK)
        return;
    char *decoded;
    size_t decoded_size;
    require(xlstm_decode(tokenizer, ids, count, 0, &decoded, &decoded_size) == XLSTM_OK);
    check_stream(tokenizer, ids, count, decoded, decoded_size);
    bool ascii = true;
    for (size_t i = 0; i < size; i++)
        ascii = ascii && (unsigned char)text[i] < 0x80;
    if (ascii && tokenizer->unknown_id < 0 && !tokenizer->add_prefix_space)
        require(decoded_size == size && memcmp(decoded, text, size) == 0);
    xlstm_free(decoded);
    xlstm_free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    const char *json = (const char *)bytes;
    const uint8_t *end = size > 0 ? memchr(bytes, 0, size) : NULL;
    size_t json_size = end ? (size_t)(end - bytes) : size;
    xlstm_tokenizer *tokenizer;
    if (tokenizer_load_memory(json, json_size, "input", &tokenizer) != XLSTM_OK)
        return 0;
    const char *text = end ? json + json_size + 1 : json;
    size_t text_size = end ? size - json_size - 1 : size;
    text_size = text_size < TEXT_MOST ? text_size : TEXT_MOST;
    check_text(tokenizer, text, text_size, 0);
    check_text(tokenizer, text, text_size, XLSTM_PLAIN_TEXT);
    xlstm_tokenizer_free(tokenizer);
    return 0;
}
