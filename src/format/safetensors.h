/* safetensors: 8 bytes of header length (little-endian), a JSON header {name: {dtype, shape,
 * data_offsets}}, then the data. Reading maps the file; nothing is copied. */
#ifndef FORMAT_SAFETENSORS_H
#define FORMAT_SAFETENSORS_H

#include "base/error.h"
#include "format/stored.h"

/* Every fault of every file is reported, a line each. */
xlstm_status safetensors_open(const char *const *paths, int count, stored_tensors *out);
/* The weight files of a folder: model.safetensors, shards named by model.safetensors.index.json,
 * shards model-XXXXX-of-XXXXX.safetensors without an index, or model_0.safetensors,
 * model_1.safetensors, …; a path to a .safetensors file opens that file. The index, where there is
 * one, must agree with the files. */
xlstm_status safetensors_open_folder(const char *folder, stored_tensors *out);
/* The header and data of one file in memory (not copied, not owned): for tests and fuzzing. */
xlstm_status safetensors_parse(const uint8_t *bytes, size_t size, const char *path,
                               stored_tensors *out);

/* Writing: the layout is known before the data, so that checkpoints larger than memory can be
 * streamed. Tensors are laid out in the order given, each aligned to 64 bytes through the header's
 * length and padding-free offsets as the format demands (offsets contiguous). */
typedef struct safetensors_writer safetensors_writer;
xlstm_status safetensors_writer_open(const char *path, const stored_entry *entries, size_t count,
                                     safetensors_writer **writer);
/* The next bytes of the data, in order. */
void safetensors_writer_write(safetensors_writer *writer, const void *bytes, size_t size);
/* Fails unless exactly the announced bytes were written; frees the writer either way. */
xlstm_status safetensors_writer_commit(safetensors_writer *writer);
void safetensors_writer_cancel(safetensors_writer *writer);

#endif
