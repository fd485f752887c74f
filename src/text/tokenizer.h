/* The tokenizer inside the library: what a loaded one consists of, lookups, and decoding id by id.
 *
 * A loaded tokenizer never changes, so any number of threads may use it at once. */
#ifndef TEXT_TOKENIZER_H
#define TEXT_TOKENIZER_H

#include "base/buffer.h"
#include "format/source.h"
#include "text/added.h"
#include "text/bpe.h"
#include "xlstm.h"

enum { TOKENIZER_ID_LIMIT = 1 << 22 }; /* ids are below this */

typedef struct text_token {
    uint32_t offset, length; /* its bytes within the tokenizer's; without text the length is 0 */
    bool known;              /* a vocabulary entry or an added token has this id */
    bool byte_level;         /* a vocabulary entry written in the alphabet of bytes */
    bool special;
} text_token;

typedef struct text_added_token {
    int32_t id;
    uint32_t offset, length; /* its content as written in the file */
} text_added_token;

struct xlstm_tokenizer {
    text_token *tokens; /* [size] */
    int32_t size;       /* one more than the highest id */
    buffer bytes;       /* the texts of all tokens, one after the other */

    int32_t byte_ids[256]; /* the token of each byte, or -1 */
    int32_t unknown_id;    /* for bytes without a token, or -1 */
    bool fuse_unknown;     /* one unknown token for a run of such bytes */
    bpe_merges merges;
    bool ignore_merges; /* a piece that is a token becomes it, whatever the merges say */
    int32_t *pieces;    /* hash table for ignore_merges: text of a token to its id; -1: empty */
    uint64_t pieces_mask;

    text_added_token *added; /* [added_count] */
    size_t added_count;
    added_trie literal;    /* added tokens that are looked for in the text as it is */
    added_trie normalized; /* added tokens that are looked for after normalization */

    bool normalize_nfc;
    bool add_prefix_space;
    bool use_pattern; /* cut by the GPT-2 pattern */
};

/* Loads the JSON of a tokenizer.json from memory; `name` stands for it in errors. */
xlstm_status tokenizer_load_memory(const char *json, size_t size, const char *name,
                                   xlstm_tokenizer **tokenizer);

/* That of a checkpoint. */
xlstm_status tokenizer_load_source(const checkpoint_source *source, xlstm_tokenizer **tokenizer);

/* The id of the added token with this content, or -1. */
int32_t tokenizer_added_id(const xlstm_tokenizer *tokenizer, const char *content);
/* False for ids that the tokenizer does not have. */
bool tokenizer_is_special(const xlstm_tokenizer *tokenizer, int32_t id);
/* The bytes that the id stands for; `*length` 0 (and a valid pointer) for ids without text. */
const uint8_t *tokenizer_token_bytes(const xlstm_tokenizer *tokenizer, int32_t id, size_t *length);

/* Decoding id by id for output that is read while it is written. What comes out is, put together,
 * exactly what xlstm_decode gives, but at no moment does it end within a UTF-8 character: up to
 * three bytes are held back until the character is complete, or turns out not to be one, or the
 * text ends. With `replace`, what turns out not to be a character comes out as U+FFFD, as
 * utf8_append_valid makes it of the whole text. */
typedef struct text_stream {
    const xlstm_tokenizer *tokenizer;
    bool skip_special;
    bool replace; /* false after text_stream_init */
    uint8_t held[3];
    size_t held_count;
} text_stream;

void text_stream_init(text_stream *stream, const xlstm_tokenizer *tokenizer, bool skip_special);
/* Appends to `out` what can be shown after this id, often nothing. A failed allocation is marked in
 * `out`. */
void text_stream_feed(text_stream *stream, int32_t id, buffer *out);
/* Appends what was held back; the stream is as before its first id. */
void text_stream_flush(text_stream *stream, buffer *out);

#endif
