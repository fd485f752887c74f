/* The option table of the command line: what commands there are, which options each takes, and what
 * values those have. Parsing, --help, the man page and the shell completions are all made from it,
 * so that they cannot disagree. */
#ifndef CLI_OPTIONS_H
#define CLI_OPTIONS_H

#include "base/buffer.h"
#include "xlstm.h"

enum option_id {
    OPTION_NONE, /* ends a list */
    OPTION_MODEL,
    OPTION_PROMPT,
    OPTION_FILE,
    OPTION_TEXT_FILE,
    OPTION_IDS,
    OPTION_IDS_FILE,
    OPTION_WINDOWS_FILE,
    OPTION_WINDOW,
    OPTION_DECODE,
    OPTION_BOS,
    OPTION_NO_BOS,
    OPTION_PLAIN,
    OPTION_PREFIX,
    OPTION_SUFFIX,
    OPTION_LOAD_STATE,
    OPTION_SAVE_STATE,
    OPTION_MAX_TOKENS,
    OPTION_STOP,
    OPTION_STOP_ID,
    OPTION_IGNORE_EOS,
    OPTION_TEMPERATURE,
    OPTION_TOP_K,
    OPTION_TOP_P,
    OPTION_MIN_P,
    OPTION_REPETITION_PENALTY,
    OPTION_SEED,
    OPTION_ECHO,
    OPTION_PRINT_IDS,
    OPTION_LAST,
    OPTION_OUTPUT_NPY,
    OPTION_WIRING,
    OPTION_CONFIG,
    OPTION_OUTPUT_FOLDER,
    OPTION_DTYPE,
    OPTION_INIT_SEED,
    OPTION_SHARD_SIZE,
    OPTION_FUSED,
    OPTION_CONVERT_OUTPUT,
    OPTION_CONVERT_TYPE,
    OPTION_EMBEDDING_TYPE,
    OPTION_HEAD_TYPE,
    OPTION_CALIBRATE,
    OPTION_FORCE,
    OPTION_PROMPT_TOKENS,
    OPTION_TOKENS,
    OPTION_BATCH,
    OPTION_REPEAT,
    OPTION_COMPARE,
    OPTION_IN_FOLDER,
    OPTION_OUT_FOLDER,
    OPTION_BACKWARD,
    OPTION_CHUNK_SIZE,
    OPTION_EPS,
    OPTION_NORMALIZE,
    OPTION_ACCUMULATE,
    OPTION_ALL_STATES,
    OPTION_GROUPS,
    OPTION_SOFT_CAP,
    OPTION_FORWARD_CLIP,
    OPTION_RECURRENT_CLIP,
    OPTION_RECURRENT_CUT,
    OPTION_IGNORE_INDEX,
    OPTION_JSON,
    OPTION_THREADS,
    OPTION_PIN,
    OPTION_DEVICE,
    OPTION_PROFILE,
    OPTION_BATCH_TOKENS,
    OPTION_PREFILL,
    OPTION_STATE_DTYPE,
    OPTION_DEFERRED,
    OPTION_HELP,
    OPTION_COUNT
};

enum option_kind {
    OPTION_FLAG,     /* takes no value */
    OPTION_STRING,   /* any text, also an empty one */
    OPTION_NONEMPTY, /* text or path, not empty */
    OPTION_INTEGER,  /* within [minimum, maximum] */
    OPTION_NUMBER,   /* finite, within [minimum, maximum] */
    OPTION_UINT64,   /* any uint64 */
    OPTION_BYTES,    /* "5GB", "300 MB", "1000000" */
    OPTION_CHOICE,   /* one of `choices`, separated by | */
    OPTION_ID_LIST   /* numbers within [minimum, maximum], separated by commas or spaces */
};

typedef struct option_spec {
    enum option_kind kind;
    char letter; /* 0: there is no short form */
    const char *name;
    const char *value; /* its name in help: "FILE" */
    const char *choices;
    double minimum, maximum;
    bool repeatable; /* else the last one given counts */
    bool or_stdin;   /* of lists: may be empty, and - stands for standard input */
    const char *section, *help;
} option_spec;

enum { COMMAND_OPTIONS = 40, COMMAND_GROUP = 8, COMMAND_EXAMPLES = 4, COMMAND_OPERANDS = 2 };

struct options;

typedef struct command_spec {
    const char *name, *summary;
    const char *description; /* paragraphs, separated by an empty line */
    const char *examples[COMMAND_EXAMPLES];
    enum option_id options[COMMAND_OPTIONS];
    enum option_id required[COMMAND_GROUP];
    enum option_id exclusive[COMMAND_GROUP][COMMAND_GROUP]; /* of each group at most one is given */
    int (*run)(const struct options *options);              /* returns the exit status */
    const char *operands; /* words that belong to no option, as help shows them; NULL: none */
} command_spec;

extern const option_spec option_table[OPTION_COUNT]; /* [0] is empty */
extern const command_spec command_table[];
extern const int command_count;

const command_spec *command_find(const char *name);
/* Writes how an option is spelled, "-m/--model" or "--top-k". */
void option_print_name(enum option_id id, buffer *out);

/* ---- Parsing ---- */

typedef struct option_value {
    bool given;
    const char *text; /* as given, or NULL */
    int64_t integer;
    uint64_t unsigned_integer;
    double number;
    const char **texts; /* of repeatable ones, all that were given: [count] */
    int count;
    int32_t *ids; /* of lists; the ids of repeated lists follow each other: [id_count] */
    int64_t id_count;
} option_value;

typedef struct options {
    const command_spec *command;
    option_value values[OPTION_COUNT];
    const char *operands[COMMAND_OPERANDS];
    int operand_count;
} options;

/* Parses what follows the command's name. On failure the error says which option, which value, and
 * what would be right; `result` needs no freeing then. */
xlstm_status options_parse(const command_spec *command, int count, char *const *arguments,
                           options *result);
void options_free(options *o);

static inline bool option_given(const options *o, enum option_id id) {
    return o->values[id].given;
}
/* The value as given, or `fallback`. */
const char *option_text(const options *o, enum option_id id, const char *fallback);
int64_t option_integer(const options *o, enum option_id id, int64_t fallback);
double option_number(const options *o, enum option_id id, double fallback);

/* Appends the whole numbers of `text`, separated by commas or white space, to ids[count]. The error
 * says what is wrong with which of them. `*ids` is released with free. */
xlstm_status ids_parse(const char *text, int64_t minimum, int64_t maximum, int32_t **ids,
                       int64_t *count);

/* Of `names` the one nearest to a mistyped `word`, or NULL if none is near. */
const char *options_nearest(const char *word, const char *const *names, int count);
/* The error for a word that is no command: names the nearest one, or all. */
xlstm_status options_unknown_command(const char *word);

/* ---- What is made from the table ---- */

void manual_overview(buffer *out);                             /* xlstm --help */
void manual_command(const command_spec *command, buffer *out); /* xlstm COMMAND --help */
void manual_roff(buffer *out);                                 /* xlstm(1) */
void manual_bash(buffer *out);
void manual_zsh(buffer *out);

#endif
