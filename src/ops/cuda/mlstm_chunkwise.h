/* The op mlstm for prompts in the profile fast: the chunkwise kernels on tensor cores (chunkwise.h), on the op's packed
 * arrays and with its states in place. */
#ifndef OPS_CUDA_MLSTM_CHUNKWISE_H
#define OPS_CUDA_MLSTM_CHUNKWISE_H

#include "ops/cuda/batch.h"
#include "ops/cuda/chunkwise.h"

/* From so many tokens of the longest sequence on: a whole chunk. Fewer would leave most rows of the tensor cores' tiles
 * empty, and C is still read and written once. */
enum { MLSTM_CHUNKWISE_FROM = 64 };
enum { MLSTM_SHORT_MOST = 128 }; /* tokens of the longest sequence, for mlstm_short.cu */

/* Whether the op, which is as it should be, was enqueued. It is not where it takes the other kernels: fewer tokens, a ring,
 * chunks of another length, arrays that are not bf16 or not aligned to 16 bytes, heads of other widths, another GPU. Single
 * tokens beside a prompt go with it. */
bool cuda_mlstm_chunkwise(cuda_stream *s, const struct ops_mlstm *op);
/* The same call in one kernel, where no sequence is longer than MLSTM_SHORT_MOST; false: it is not for it. c->start, positions and
 * slot are not read, `batch` is. */
bool cuda_mlstm_short(cuda_stream *s, const cuda_chunkwise *c, const cuda_batch *batch,
                      int64_t longest);
void cuda_place_mlstm_chunkwise(cuda_carver *c, const ops_stream_options *o, cuda_scratch *s);

#endif
