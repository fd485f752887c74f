/* Work that goes on beside that of the stream: on a stream of its own, on a part of the multiprocessors.
 *
 * Products whose outputs the next op does not read (ops_projection.later) run while the mLSTM of a prompt does, whose small
 * kernels leave most multiprocessors idle. Whatever is enqueued behind the mLSTM waits for both (cuda_flush). */
#ifndef OPS_CUDA_BESIDE_H
#define OPS_CUDA_BESIDE_H

#include "ops/cuda/internal.h"

#ifdef __cplusplus
extern "C" {
#endif

xlstm_status cuda_beside_create(struct cuda_beside **beside);
void cuda_beside_free(struct cuda_beside *beside);

/* Whether there are multiprocessors enough for two. */
bool cuda_beside_possible(const cuda_stream *s);
/* What is launched between the two begins when all before it has ended, and goes on beside what comes behind. */
void cuda_beside_begin(cuda_stream *s, int processors);
void cuda_beside_end(cuda_stream *s);
/* Between the two, launches do not wait for what goes on beside them. */
void cuda_beside_hold(cuda_stream *s);
void cuda_beside_release(cuda_stream *s);
/* What is enqueued behind this waits for both. */
void cuda_beside_join(cuda_stream *s);

/* Where launches go, and how many multiprocessors they are meant for. */
cudaStream_t cuda_beside_stream(const cuda_stream *s);
int cuda_beside_processors(const cuda_stream *s);

#ifdef __cplusplus
}
#endif

#endif
