/* Inside src/model: the tokenizer's part of describe_as_gguf. */
#ifndef MODEL_DESCRIBE_TOKENIZER_H
#define MODEL_DESCRIBE_TOKENIZER_H

#include "format/gguf.h"
#include "model/model.h"

xlstm_status describe_tokenizer(const xlstm_model *model, gguf_metadata *metadata);

#endif
