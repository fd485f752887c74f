/* What the tests of reading and of writing GGUF expect of a file; the running test fails otherwise. */
#ifndef FORMAT_EXPECT_GGUF_H
#define FORMAT_EXPECT_GGUF_H

#include "format/gguf.h"

void gguf_expect_integer(const gguf_file *f, const char *key, gguf_type type, int64_t expected);
/* There is such a tensor; the file owns it. */
const stored_tensor *gguf_expect_tensor(const gguf_file *f, const char *name, dtype type, int rank);

#endif
