/* The tensors of a state file, and the slot that they are to fill: checked, converted to the types of
 * the pool, and fitted to its ring where the file's is another. */
#ifndef ENGINE_STATE_RESTORE_H
#define ENGINE_STATE_RESTORE_H

#include "format/stored.h"
#include "model/state.h"

/* What a tensor is called in the file: "blocks.3.mlstm.c". NULL without memory; released with free. */
char *state_tensor_name(const char *node, const char *kind);

/* Whether the file holds exactly the tensors of the pool, in these shapes, with or without a ring;
 * the error names all that do not fit. `path` stands for the file. */
xlstm_status state_restore_check(const state_pool *pool, const stored_tensors *file,
                                 const char *path);
/* Tokens in the rings of the file; 0: there are none. */
int64_t state_file_ring(const state_pool *pool, const stored_tensors *file);
/* Fills a slot from a file that has been checked, of `position` tokens. After a failure the slot is
 * neither what it was nor what it should be. */
xlstm_status state_restore(const state_pool *pool, ops_stream *stream, int slot,
                           const stored_tensors *file, int64_t position);

#endif
