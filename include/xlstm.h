/* libxlstm: load xLSTM models, run them, keep and restore their state.
 *
 * Two objects carry everything. A model is immutable after loading and may be used from any number
 * of threads; a session is one timeline of one model, owned by one caller at a time. A session's
 * memory does not grow with its length.
 *
 * Every function that can fail returns an xlstm_status; xlstm_last_error() then tells, for the
 * calling thread, what was wrong, where, and what would be right. On failure, output parameters
 * are set to NULL or left untouched. When an evaluation fails or is cancelled, the position of the
 * session tells what it has taken in; after XLSTM_DEVICE_ERROR or XLSTM_OUT_OF_MEMORY it must be
 * reset or loaded.
 *
 * Pointers must not be NULL unless it is said that they may. Callbacks run while the model is in
 * use: they must not call functions of the same model or its sessions.
 *
 * Token ids are int32_t. Logits are float after the model's soft cap, one row of vocab_size values
 * a position. Paths and text are UTF-8; text is (pointer, length) and may hold any byte.
 */
#ifndef XLSTM_H
#define XLSTM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define XLSTM_API __attribute__((visibility("default")))
#else
#define XLSTM_API
#endif

typedef enum xlstm_status {
    XLSTM_OK = 0,
    XLSTM_INVALID_ARGUMENT, /* the call was wrong: an id out of range, a NULL, a bad option */
    XLSTM_IO_ERROR,         /* a file could not be opened, read or written */
    XLSTM_FORMAT_ERROR,     /* a file was read, and its content is wrong */
    XLSTM_UNSUPPORTED,      /* right, but not available in this build or on this device */
    XLSTM_OUT_OF_MEMORY,
    XLSTM_DEVICE_ERROR, /* the device failed while working */
    XLSTM_CANCELLED,    /* a callback asked to stop */
    XLSTM_BUSY          /* all sessions of the model are in use */
} xlstm_status;

/* The message of the last failure in this thread; lines are separated by '\n'. Never NULL. Valid
 * until the next call of the library in this thread. */
XLSTM_API const char *xlstm_last_error(void);

/* "0.1.0", and the same with commit and the devices built in. */
XLSTM_API const char *xlstm_version(void);
XLSTM_API const char *xlstm_build(void);

/* ---- Models ---- */

typedef struct xlstm_model xlstm_model;
typedef struct xlstm_session xlstm_session;
typedef struct xlstm_tokenizer xlstm_tokenizer;
typedef struct xlstm_sampler xlstm_sampler;

typedef struct xlstm_model_options {
    const char
        *device; /* "cpu" (default), "cuda", "metal", "reference" (plain, slow), "reference:f64" */
    const char *profile;  /* "fast" (default), "exact" */
    int threads;          /* 0: one for every processor this process may use */
    int max_sessions;     /* slots of the state pool; 0: 4. More sessions than slots is an error */
    int max_batch_tokens; /* most tokens that go through the layers at once; 0: 512, on cuda 8192.
                             Rounded up to a multiple of the chunk length. Bounds the memory. */
    bool
        pin; /* device "cpu" on Linux: each thread stays on its own processor; elsewhere an error */
    const char *state_dtype; /* of the mLSTM's C and n: "f32" (default), "bf16", "f16" */
    int deferred; /* tokens that wait before they are folded into C: a power of two from 2 to 64; -1:
                     none does; 0: the default */
    const char *prefill; /* how matrices are multiplied by more than 128 tokens at once: "profile"
                            (default), as the profile says; "fp8": factors in e4m3, device "cuda" on
                            an H100 or H200, profile "fast" */
} xlstm_model_options;

/* Loads a Hugging Face folder, an official xlstm folder, a GGUF file (or a folder with exactly one),
 * or a single .safetensors file with a config beside it. Weights stay mapped. `options` may be NULL. All faults of a checkpoint are
 * reported at once, one a line. */
XLSTM_API xlstm_status xlstm_model_load(const char *path, const xlstm_model_options *options,
                                        xlstm_model **model);
/* All sessions of the model must have been freed before. NULL is allowed. */
XLSTM_API void xlstm_model_free(xlstm_model *model);

typedef struct xlstm_model_info {
    const char *architecture; /* "xlstm-large" or "xlstm-neurips" */
    const char *device, *profile;
    int32_t vocab_size; /* rows of the embedding; the logits have this length */
    /* xlstm-neurips: heads of its mLSTM, else of its sLSTM, which have no keys; ffn_dim may be 0. */
    int32_t embedding_dim, num_heads, head_dim_qk, head_dim_v, num_blocks, ffn_dim;
    int32_t bos_id; /* -1: none */
    int32_t eos_id; /* where generation ends: the tokenizer's end of text, else the config's; -1:
                       none */
    bool force_bos; /* the config asks for BOS in front of every text */
    int threads, max_sessions, max_batch_tokens;
    int64_t parameters;
    int64_t weight_bytes; /* as stored */
    int64_t state_bytes;  /* of one session, independent of its length */
    const char *state_dtype;
    int deferred; /* 0: off */
    const char *prefill;
} xlstm_model_info;

XLSTM_API void xlstm_model_get_info(const xlstm_model *model, xlstm_model_info *info);
/* A text where the model's files disagree on the end of text (and what was done), else NULL. Owned
 * by the model. */
XLSTM_API const char *xlstm_model_warning(const xlstm_model *model);
/* The model's own tokenizer, or NULL with the reason in xlstm_last_error(). Owned by the model. */
XLSTM_API const xlstm_tokenizer *xlstm_model_tokenizer(const xlstm_model *model);

/* ---- Sessions ---- */

/* A new session at position 0. XLSTM_BUSY if the pool has no free slot. */
XLSTM_API xlstm_status xlstm_session_create(xlstm_model *model, xlstm_session **session);
XLSTM_API void xlstm_session_free(xlstm_session *session);
/* Back to position 0. */
XLSTM_API xlstm_status xlstm_session_reset(xlstm_session *session);
/* An independent copy at the same position. */
XLSTM_API xlstm_status xlstm_session_clone(const xlstm_session *session, xlstm_session **copy);
/* The number of tokens taken in. */
XLSTM_API int64_t xlstm_session_position(const xlstm_session *session);
/* Takes the last `tokens` back, exactly. Only those that still wait to be folded in can be: position
 * modulo `deferred` of them, of models whose blocks have no other state. Else XLSTM_UNSUPPORTED. */
XLSTM_API xlstm_status xlstm_session_rewind(xlstm_session *session, int64_t tokens);
/* Writes or reads a state file (docs/STATE.md). Saving writes a temporary file beside `path` and
 * renames it: `path` is either complete or untouched. Loading checks version, model, sizes and
 * checksum before the session is changed. */
XLSTM_API xlstm_status xlstm_session_save(const xlstm_session *session, const char *path);
XLSTM_API xlstm_status xlstm_session_load(xlstm_session *session, const char *path);

/* Called between pieces of a long evaluation with the tokens done so far; returning false stops it.
 */
typedef bool (*xlstm_progress)(void *context, int64_t done, int64_t total);

/* Takes in `count` >= 1 ids. `logits`: room for vocab_size floats, the row of the last position, or
 * NULL. When cancelled, the session is at the position that the callback was told last. */
XLSTM_API xlstm_status xlstm_eval(xlstm_session *session, const int32_t *ids, int64_t count,
                                  float *logits, xlstm_progress progress, void *context);

/* Called with the logits of positions [first, first + rows), in order; returning false stops. */
typedef bool (*xlstm_logits_sink)(void *context, int64_t first, int64_t rows, const float *logits);

/* As xlstm_eval, handing out the logits of every position in pieces of bounded size. */
XLSTM_API xlstm_status xlstm_eval_all(xlstm_session *session, const int32_t *ids, int64_t count,
                                      xlstm_logits_sink sink, void *context);

/* Several sessions of one model at once, each with its own number of ids. */
typedef struct xlstm_batch_item {
    xlstm_session *session;
    const int32_t *ids;
    int64_t count;
    float *logits; /* [vocab_size], last position, or NULL */
    /* Where both are given, the id that follows is chosen on the device; the sampler is not told of ids. */
    const xlstm_sampler *sampler;
    int32_t *next;
} xlstm_batch_item;

XLSTM_API xlstm_status xlstm_eval_batch(xlstm_batch_item *items, int count);

/* ---- Text ---- */

/* Loads a tokenizer.json of the GPT-NeoX kind (byte-level BPE), or that of a folder or GGUF file. */
XLSTM_API xlstm_status xlstm_tokenizer_load(const char *path, xlstm_tokenizer **tokenizer);
XLSTM_API void xlstm_tokenizer_free(xlstm_tokenizer *tokenizer);
/* One more than the highest id. */
XLSTM_API int32_t xlstm_tokenizer_size(const xlstm_tokenizer *tokenizer);

enum { XLSTM_PLAIN_TEXT = 1 }; /* encode: the strings of special tokens are ordinary text */

/* Encodes text without adding BOS. `*ids` is allocated and released with xlstm_free. */
XLSTM_API xlstm_status xlstm_encode(const xlstm_tokenizer *tokenizer, const char *text,
                                    size_t length, int flags, int32_t **ids, int64_t *count);

enum { XLSTM_SKIP_SPECIAL = 1 }; /* decode: leave out special tokens */

typedef enum xlstm_bos { XLSTM_BOS_AUTO, XLSTM_BOS_ALWAYS, XLSTM_BOS_NEVER } xlstm_bos;

/* The ids of a prompt. BOS goes in front if the config has force_bos_token_insert (or always, or
 * never, as asked), unless the first id already is BOS or the text `continues` another (a loaded
 * state, a later turn); an empty text that does not continue starts from BOS. `*ids` as in
 * xlstm_encode. */
XLSTM_API xlstm_status xlstm_encode_prompt(const xlstm_model *model, const char *text,
                                           size_t length, xlstm_bos bos, bool continues,
                                           int32_t **ids, int64_t *count);

/* Decodes to bytes; ids without text give nothing. `*text` ends with a NUL that `*length` does not
 * count, and is released with xlstm_free. */
XLSTM_API xlstm_status xlstm_decode(const xlstm_tokenizer *tokenizer, const int32_t *ids,
                                    int64_t count, int flags, char **text, size_t *length);
XLSTM_API void xlstm_free(void *memory);

/* ---- Generation ---- */

typedef struct xlstm_sampling {
    float temperature; /* <= 0: greedy, the default */
    int32_t top_k;     /* 0: off */
    float top_p;       /* 1 or 0: off; the token that crosses is kept */
    float min_p;       /* 0: off; relative to the most probable token */
    float
        repetition_penalty; /* 1 or 0: off; > 1: ids that the sampler was told of are less likely */
    uint64_t seed;
} xlstm_sampling;

/* What a sampler draws depends on the seed, the logits and the position alone. */
XLSTM_API xlstm_status xlstm_sampler_create(const xlstm_model *model,
                                            const xlstm_sampling *sampling,
                                            xlstm_sampler **sampler);
XLSTM_API void xlstm_sampler_free(xlstm_sampler *sampler);
/* Tells the sampler of an id that is part of the text (for the repetition penalty). */
XLSTM_API void xlstm_sampler_accept(xlstm_sampler *sampler, int32_t id);
/* Chooses the id that follows; `position` is the position it will have. Ids that the tokenizer does
 * not know are never chosen. */
XLSTM_API xlstm_status xlstm_sample(xlstm_sampler *sampler, const float *logits, int64_t position,
                                    int32_t *id);

typedef enum xlstm_end {
    XLSTM_END_LENGTH,   /* max_tokens were made */
    XLSTM_END_OF_TEXT,  /* the model ended the text */
    XLSTM_END_STOP,     /* a stop id or stop string */
    XLSTM_END_CANCELLED /* a callback returned false */
} xlstm_end;

typedef struct xlstm_generate_options {
    int64_t max_tokens; /* -1: until something ends it */
    bool ignore_eos;
    const int32_t *stop_ids;
    int stop_id_count;
    const char *const *stop_strings; /* UTF-8, not empty; not part of the text that comes out */
    int stop_string_count;
    xlstm_progress prefill_progress; /* may be NULL */
    /* The next bytes of text, always UTF-8 (U+FFFD stands for bytes that are no character): never
     * half a character, never the beginning of a stop string that may still complete. Needs a
     * tokenizer. May be NULL; returning false cancels. */
    bool (*on_text)(void *context, const char *bytes, size_t count);
    /* Each new id after its text, the end of text and stop ids excepted. May be NULL; false
     * cancels. */
    bool (*on_id)(void *context, int32_t id);
    void *context;
} xlstm_generate_options;

typedef struct xlstm_generate_result {
    xlstm_end end;
    int64_t prompt_tokens; /* taken in: all, unless cancelled on the way */
    int64_t new_tokens;
    double prefill_seconds, decode_seconds; /* decode: new_tokens - 1 evaluations */
    /* The last sampled id, not yet taken in by the session. -1: none, or it was taken in: where a
     * device works ahead, a cancelled text is in the session as far as it came out. */
    int32_t last_id;
} xlstm_generate_result;

/* Feeds `ids` (at least one) to the session, then samples and feeds one id at a time. The last
 * sampled id is not taken in, as in the reference (but see last_id): going on means feeding it. The
 * sampler is told of all ids. */
XLSTM_API xlstm_status xlstm_generate(xlstm_session *session, xlstm_sampler *sampler,
                                      const int32_t *ids, int64_t count,
                                      const xlstm_generate_options *options,
                                      xlstm_generate_result *result);

#ifdef __cplusplus
}
#endif
#endif
