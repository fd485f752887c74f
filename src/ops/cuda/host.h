/* What the CUDA device's own files share: GPUs, memory, reads of the host. Ops need internal.h only. */
#ifndef OPS_CUDA_HOST_H
#define OPS_CUDA_HOST_H

#include "ops/cuda/internal.h"
#include "ops/facts.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- GPUs (gpu.c) ---- */

/* The GPU of a device of the seam, made the calling thread's; "no CUDA device: …" where there is none. */
xlstm_status cuda_gpu_get(ops_device *device, cuda_gpu **gpu);
void cuda_describe(ops_device *self, char *text, size_t size);
xlstm_status cuda_tell_facts(ops_device *self, ops_profile profile, ops_fact *facts, int *count);

/* Dense products of bf16, operations a second, by matrices in `room` bytes (product_limit.cu). */
xlstm_status cuda_product_limit(cuda_gpu *gpu, size_t room, double *rate);
/* The entry `limit` (limits.cu). */
xlstm_status cuda_limit(ops_device *self, int kind, double *rate);

/* ---- Times of kernels, for developers (times.cu) ---- */

/* Whether the environment has XLSTM_CUDA_TIMES=1; read once. */
bool cuda_times_wanted(void);
/* cuda_enqueue, waited for, its time counted for a table at the end of the process. */
xlstm_status cuda_enqueue_timed(cudaStream_t stream, const cuda_launch *launch);

/* ---- Memory (memory.c) ---- */

xlstm_status cuda_buffer_create(ops_device *self, size_t size, ops_buffer *buffer);
xlstm_status cuda_buffer_gather(ops_device *self, size_t size, const ops_piece *pieces,
                                size_t count, ops_buffer *buffer);
void cuda_buffer_free(ops_buffer *buffer);
/* Rises with every buffer that is freed: addresses remembered before may be another's now. */
unsigned cuda_buffers_freed(void);

/* ---- Chains (chain.cu) ---- */

xlstm_status cuda_chain_create(struct cuda_chain **chain);
void cuda_chain_free(struct cuda_chain *chain);

/* ---- Between host and GPU (transfer.cu, reads.c) ---- */

/* Enqueue writes; `source` is free again when they return. Small ones (CUDA_MOST_PUT) and zeros are gathered, and written by
 * a kernel each before the next thing that is enqueued: a session has three tensors of states a layer, a batch a handful of
 * numbers a sequence. Behind cuda_flush. */
void cuda_put(cuda_stream *s, void *to, const void *source, size_t size);
void cuda_upload(cuda_stream *s, void *to, const void *source, size_t size);
void cuda_zero(cuda_stream *s, void *to, size_t size);
void cuda_flush_writes(cuda_stream *s);

typedef struct cuda_reads cuda_reads;
xlstm_status cuda_reads_create(cuda_reads **reads);
void cuda_reads_free(cuda_reads *reads);
/* These bytes are being written by other means than those that were expected. */
void cuda_reads_forget(cuda_reads *reads, const void *address, size_t size);
/* Waits for what wrote these bytes, and copies them; false where the stream failed. */
bool cuda_read(cuda_stream *s, void *to, const void *from, size_t size);
/* Whether kernels have found anything wrong, as far as the last read or wait could see. */
bool cuda_has_faults(const cuda_stream *s);
/* Waits for everything; what kernels found wrong fails the stream, and is forgotten. */
void cuda_finish(cuda_stream *s);

#ifdef __cplusplus
}
#endif

#endif
