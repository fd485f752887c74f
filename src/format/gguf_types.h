/* Inside src/format: the numbers of types in GGUF files. */
#ifndef FORMAT_GGUF_TYPES_H
#define FORMAT_GGUF_TYPES_H

#include "format/gguf.h"

/* Bytes of a scalar; 0: text, array, or no type. */
size_t gguf_scalar_size(uint32_t type);

/* The number of a tensor's type; -1: GGUF has none for it. */
int gguf_tensor_type(dtype type);
/* False: a type that this program does not have; *name is then what it is called, or NULL. */
bool gguf_tensor_dtype(uint32_t number, dtype *type, const char **name);

#endif
