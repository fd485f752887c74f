/* The generation loop: a prompt goes in, ids and text come out, until an end is reached. */
#ifndef ENGINE_GENERATE_H
#define ENGINE_GENERATE_H

#include "base/buffer.h"
#include "xlstm.h"

/* ---- Prompts ---- */

enum prompt_bos { PROMPT_BOS_AUTO, PROMPT_BOS_ALWAYS, PROMPT_BOS_NEVER };

/* The ids of a text. BOS goes in front if the config has force_bos_token_insert (or always, or
 * never, as asked), unless the first id already is BOS or `continues` (a state was loaded, a later
 * turn of a chat); an empty text that does not continue starts from BOS. Released with xlstm_free.
 */
xlstm_status prompt_encode(const xlstm_model *model, const xlstm_tokenizer *tokenizer,
                           const char *text, size_t length, enum prompt_bos bos, bool continues,
                           int32_t **ids, int64_t *count);

/* The id that ends a text: eos_token of tokenizer_config.json or special_tokens_map.json, else the
 * added token
 * <|endoftext|>, else the config's eos_token_id; -1: none. `warning` (may be NULL): a text owned by
 * the model where the config says otherwise, else NULL. */
int32_t prompt_end_of_text(const xlstm_model *model, const char **warning);

/* ---- Generation ---- */

enum generate_end {
    GENERATE_LENGTH,   /* max_tokens were made */
    GENERATE_EOS,      /* the end of text */
    GENERATE_STOP,     /* a stop id or stop string */
    GENERATE_CANCELLED /* a callback returned false */
};

typedef struct generate_options {
    int64_t max_tokens; /* -1: until something ends it */
    bool ignore_eos;
    const int32_t *stop_ids;
    int stop_id_count;
    const char *const
        *stop_strings; /* NUL-terminated, not empty; not part of the text that comes out */
    int stop_string_count;
    xlstm_progress prefill_progress; /* may be NULL; returning false cancels */
    /* Each new id, the end of text and stop ids excepted; returning false cancels. May be NULL. */
    bool (*on_id)(void *context, int32_t id);
    /* The next bytes of text: never half a character, never the beginning of a stop string that may
     * still complete. Needs a tokenizer. May be NULL; returning false cancels. */
    bool (*on_text)(void *context, const char *bytes, size_t count);
    void *context;
} generate_options;

typedef struct generate_result {
    enum generate_end end;
    int64_t prompt_tokens, new_tokens;
    double prefill_seconds, decode_seconds; /* decode: new_tokens - 1 evaluations */
    int32_t last_id; /* the last sampled id, not yet taken in by the session; -1: none */
} generate_result;

/* Feeds `ids` (at least one) to the session, then samples and feeds one id at a time. The last
 * sampled id is not taken in, as in the reference: going on means feeding it. Ids are told to the
 * sampler as they become part of the text. */
xlstm_status generate(xlstm_session *session, xlstm_sampler *sampler,
                      const xlstm_tokenizer *tokenizer, const int32_t *ids, int64_t count,
                      const generate_options *options, generate_result *result);

#endif
