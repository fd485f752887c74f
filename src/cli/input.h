/* What several commands begin with: a model, and the ids of a prompt, from the options. */
#ifndef CLI_INPUT_H
#define CLI_INPUT_H

#include "cli/options.h"
#include "format/source.h"

/* The machine options (--threads, --device, --profile, --batch-tokens) for a model of `sessions`.
 */
xlstm_model_options input_model_options(const options *o, int sessions);
xlstm_status input_load_model(const options *o, int sessions, xlstm_model **model);
/* Says which file is used where a folder holds the weights twice. */
void input_warn_source(const checkpoint_source *source);

/* The text of -p or -f, standard input for "-". `*given` tells whether there was one. */
xlstm_status input_text(const options *o, buffer *text, bool *given);
/* All of standard input. */
xlstm_status input_stdin(buffer *text);

/* A prompt: a text, or ids as they are. */
typedef struct input_prompt {
    buffer text;
    bool has_text, has_ids;
    int32_t *ids; /* of --ids or --ids-file */
    int64_t count;
} input_prompt;

/* What does not need the model is read first, so that its faults come up before a long load. */
xlstm_status input_prompt_read(const options *o, input_prompt *prompt);
void input_prompt_free(input_prompt *prompt);
/* The ids to feed: those given, or those of the text, with BOS as the options and the config say.
 * `continues`: a state was loaded. Checks the ids' range. Released with xlstm_free. */
xlstm_status input_prompt_ids(const options *o, const input_prompt *prompt,
                              const xlstm_model *model, bool continues, int32_t **ids,
                              int64_t *count);
/* The array of a .npy file of ids, at most two dimensions: [rows, columns]; [T] is one row.
 * Released with free. */
xlstm_status input_ids_file(const char *path, int32_t **ids, int64_t *rows, int64_t *columns);

/* --bos and --no-bos. */
xlstm_bos input_bos(const options *o);
xlstm_sampling input_sampling(const options *o);
/* The ends of a text; without callbacks. The options own the lists. */
xlstm_generate_options input_generate_options(const options *o);
/* XLSTM_OK if the model has every id of --stop-id. */
xlstm_status input_check_stop_ids(const options *o, const xlstm_model *model);
/* After a state was loaded: says what the sampling options miss of the text before. */
void input_warn_loaded(const options *o);

#endif
