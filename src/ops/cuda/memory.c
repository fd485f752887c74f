/* Memory of the GPU. Weights are copied there: a mapped file goes through two pieces of page-locked memory, of which one
 * is filled while the other travels. Behind every buffer there is room to read on, up to a whole unit of alignment. */
#include "base/error.h"
#include "ops/cuda/host.h"

#include <stdatomic.h>
#include <string.h>

enum { ALIGNMENT = 256, PIECE_BYTES = 32 << 20 };

static atomic_uint freed;

unsigned cuda_buffers_freed(void) {
    return atomic_load(&freed);
}

/* ---- Taking ---- */

static xlstm_status no_room(size_t size) {
    size_t free_bytes = 0, total = 0;
    if (cudaMemGetInfo(&free_bytes, &total) != cudaSuccess)
        (void)cudaGetLastError();
    return error_set(XLSTM_OUT_OF_MEMORY,
                     "out of memory of the GPU: %zu bytes (%.2f GB) were asked for, %.2f GB of "
                     "%.2f GB are free",
                     size, (double)size / 1e9, (double)free_bytes / 1e9, (double)total / 1e9);
}

/* `size` bytes of which number `first` is aligned. */
static xlstm_status take(ops_device *self, size_t size, size_t first, ops_buffer *buffer) {
    cuda_gpu *gpu;
    void *memory = NULL;
    size_t shift = (ALIGNMENT - first % ALIGNMENT) % ALIGNMENT;
    *buffer = (ops_buffer){0};
    xlstm_status status = cuda_gpu_get(self, &gpu);
    if (status != XLSTM_OK)
        return status;
    if (size > SIZE_MAX - 2 * ALIGNMENT)
        return error_memory(size, "a buffer of the GPU");
    cudaError_t error = cudaMalloc(&memory, size + shift + ALIGNMENT);
    if (error == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        return no_room(size);
    }
    if (error != cudaSuccess)
        return cuda_status(error, "cudaMalloc");
    *buffer = (ops_buffer){.device = self, .size = size, .handle = (char *)memory + shift};
    return XLSTM_OK;
}

void cuda_buffer_free(ops_buffer *buffer) {
    cuda_gpu *gpu;
    if (buffer->handle && cuda_gpu_get(buffer->device, &gpu) == XLSTM_OK) {
        atomic_fetch_add(&freed, 1);
        cudaFree((char *)buffer->handle - (uintptr_t)buffer->handle % ALIGNMENT);
    }
    *buffer = (ops_buffer){0};
}

static xlstm_status done(xlstm_status status, ops_buffer *buffer) {
    if (status != XLSTM_OK)
        cuda_buffer_free(buffer);
    return status;
}

xlstm_status cuda_buffer_create(ops_device *self, size_t size, ops_buffer *buffer) {
    xlstm_status status = take(self, size, 0, buffer);
    if (status != XLSTM_OK)
        return status;
    status = cuda_status(cudaMemset(buffer->handle, 0, size), "cudaMemset");
    if (status == XLSTM_OK)
        status = cuda_status(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    return done(status, buffer);
}

/* ---- Copying ---- */

typedef struct pieces {
    void *memory[2];
    cudaEvent_t sent[2];
    cudaStream_t stream;
} pieces;

static void pieces_free(pieces *p) {
    for (int i = 0; i < 2; i++) {
        if (p->memory[i])
            cudaFreeHost(p->memory[i]);
        if (p->sent[i])
            cudaEventDestroy(p->sent[i]);
    }
    if (p->stream)
        cudaStreamDestroy(p->stream);
}

static xlstm_status pieces_make(pieces *p, size_t size) {
    *p = (pieces){0};
    xlstm_status status = cuda_status(cudaStreamCreateWithFlags(&p->stream, cudaStreamNonBlocking),
                                      "cudaStreamCreateWithFlags");
    for (int i = 0; i < 2 && status == XLSTM_OK; i++) {
        status = cuda_status(cudaMallocHost(&p->memory[i], size), "cudaMallocHost");
        if (status == XLSTM_OK)
            status = cuda_status(cudaEventCreateWithFlags(&p->sent[i], cudaEventDisableTiming),
                                 "cudaEventCreateWithFlags");
    }
    return status;
}

static xlstm_status send(pieces *p, char *to, const char *from, size_t size, size_t piece) {
    xlstm_status status = XLSTM_OK;
    int turn = 0;
    for (size_t at = 0; at < size && status == XLSTM_OK; at += piece, turn = !turn) {
        size_t part = size - at < piece ? size - at : piece;
        status = cuda_status(cudaEventSynchronize(p->sent[turn]), "cudaEventSynchronize");
        if (status != XLSTM_OK)
            break;
        memcpy(p->memory[turn], from + at, part);
        status = cuda_status(
            cudaMemcpyAsync(to + at, p->memory[turn], part, cudaMemcpyHostToDevice, p->stream),
            "cudaMemcpyAsync");
        if (status == XLSTM_OK)
            status = cuda_status(cudaEventRecord(p->sent[turn], p->stream), "cudaEventRecord");
    }
    if (status == XLSTM_OK)
        status = cuda_status(cudaStreamSynchronize(p->stream), "cudaStreamSynchronize");
    return status;
}

xlstm_status cuda_buffer_wrap(ops_device *self, void *host, size_t size, size_t first,
                              ops_buffer *buffer) {
    pieces p;
    size_t piece = size < PIECE_BYTES ? size : PIECE_BYTES;
    xlstm_status status = take(self, size, first, buffer);
    if (status != XLSTM_OK || size == 0)
        return status;
    status = pieces_make(&p, piece);
    if (status == XLSTM_OK)
        status = send(&p, buffer->handle, host, size, piece);
    pieces_free(&p);
    return done(status, buffer);
}

/* ---- Scratch memory ---- */

ops_tensor cuda_carve(cuda_carver *c, dtype type, int rank, const int64_t *shape) {
    size_t bytes = dtype_size(type);
    for (int i = 0; i < rank; i++)
        if (shape[i] < 0 || __builtin_mul_overflow(bytes, (size_t)shape[i], &bytes))
            c->overflow = true;
    if (c->overflow || bytes > SIZE_MAX / 2 - ALIGNMENT || c->used > SIZE_MAX / 2 - bytes) {
        c->overflow = true;
        return (ops_tensor){0};
    }
    ops_tensor t = ops_tensor_make(c->buffer, c->used, type, rank, shape);
    c->used += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return t;
}
