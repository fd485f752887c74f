/* What a checkpoint is besides its tensors, for whoever writes it anew: as metadata of a GGUF file
 * (docs/GGUF.md), or as the files of a folder. The model need only be opened (model_open), from
 * whichever format. */
#ifndef MODEL_DESCRIBE_H
#define MODEL_DESCRIBE_H

#include "format/gguf.h"
#include "model/model.h"

/* Adds everything but general.alignment: architecture, dimensions, the whole config, and the
 * tokenizer where there is one, with the id that ends a text. `name` is general.name; NULL: the
 * last part of the model's path. `type` is what most weights are stored in. A tokenizer that is
 * there but cannot be read is an error. */
xlstm_status describe_as_gguf(const xlstm_model *model, const char *name, dtype type,
                              gguf_metadata *metadata);

/* Writes config.json or config.yaml (as it was), tokenizer.json and, where the end of a text is
 * known, tokenizer_config.json into an existing folder, over what is there. With them and the
 * tensors under their names the folder is the same checkpoint. */
xlstm_status describe_as_files(const xlstm_model *model, const char *folder);

#endif
