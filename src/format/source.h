/* Where a checkpoint is: a folder with config, tensors and tokenizer in files of their own, or one
 * GGUF file that holds them all (docs/GGUF.md). */
#ifndef FORMAT_SOURCE_H
#define FORMAT_SOURCE_H

#include "format/config.h"
#include "format/gguf.h"
#include "format/stored.h"

typedef struct checkpoint_source {
    char *path;       /* as given */
    char *place;      /* the folder, or the GGUF file: what errors name */
    bool one_file;    /* a GGUF file */
    bool passes_over; /* of one_file: .safetensors files beside it in the folder that was given */
    gguf_file gguf;   /* of one_file; its tensors are empty once they were taken */
} checkpoint_source;

/* `path`: a .gguf file, a folder, or a file in the folder. A folder with exactly one .gguf means
 * that file; with several and no config it is an error. A GGUF file is mapped and checked, and must
 * be one of an xLSTM. */
xlstm_status source_open(const char *path, checkpoint_source *source);
/* After the tensors that were taken. */
void source_close(checkpoint_source *source);

/* As config_open_folder. */
xlstm_status source_config(const checkpoint_source *source, model_config *config);
/* The text of the config as it is stored. */
xlstm_status source_config_text(const checkpoint_source *source, bool *yaml, buffer *text);
/* The tensors, which are the caller's then; once. */
xlstm_status source_take_tensors(checkpoint_source *source, stored_tensors *tensors);

/* Whether there is a tokenizer, be it sound or not. */
bool source_has_tokenizer(const checkpoint_source *source);
/* The text of its tokenizer.json, and what errors call it; an error if there is none. */
xlstm_status source_tokenizer_text(const checkpoint_source *source, buffer *text, buffer *name);

#endif
