/* Memory of the GPU. Weights are copied there: they go through two windows of page-locked memory, of which one is
 * filled while the other travels. Behind every buffer there is room to read on, up to a whole unit of alignment. */
#include "base/error.h"
#include "ops/cuda/host.h"
#include "ops/gather.h"

#include <stdatomic.h>
#include <string.h>

enum { ALIGNMENT = OPS_PIECE_ALIGNMENT, WINDOW_BYTES = 32 << 20 };

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

static xlstm_status take(ops_device *self, size_t size, ops_buffer *buffer) {
    cuda_gpu *gpu;
    void *memory = NULL;
    *buffer = (ops_buffer){0};
    xlstm_status status = cuda_gpu_get(self, &gpu);
    if (status != XLSTM_OK)
        return status;
    if (size > SIZE_MAX - ALIGNMENT)
        return error_memory(size, "a buffer of the GPU");
    cudaError_t error = cudaMalloc(&memory, size + ALIGNMENT);
    if (error == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        return no_room(size);
    }
    if (error != cudaSuccess)
        return cuda_status(error, "cudaMalloc");
    *buffer = (ops_buffer){.device = self, .size = size, .handle = memory};
    return XLSTM_OK;
}

void cuda_buffer_free(ops_buffer *buffer) {
    cuda_gpu *gpu;
    if (buffer->handle && cuda_gpu_get(buffer->device, &gpu) == XLSTM_OK) {
        atomic_fetch_add(&freed, 1);
        cudaFree(buffer->handle);
    }
    *buffer = (ops_buffer){0};
}

static xlstm_status done(xlstm_status status, ops_buffer *buffer) {
    if (status != XLSTM_OK)
        cuda_buffer_free(buffer);
    return status;
}

xlstm_status cuda_buffer_create(ops_device *self, size_t size, ops_buffer *buffer) {
    xlstm_status status = take(self, size, buffer);
    if (status != XLSTM_OK)
        return status;
    status = cuda_status(cudaMemset(buffer->handle, 0, size), "cudaMemset");
    if (status == XLSTM_OK)
        status = cuda_status(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    return done(status, buffer);
}

/* ---- Copying ---- */

typedef struct windows {
    void *memory[2];
    cudaEvent_t sent[2];
    cudaStream_t stream;
} windows;

static void windows_free(windows *w) {
    for (int i = 0; i < 2; i++) {
        if (w->memory[i])
            cudaFreeHost(w->memory[i]);
        if (w->sent[i])
            cudaEventDestroy(w->sent[i]);
    }
    if (w->stream)
        cudaStreamDestroy(w->stream);
}

static xlstm_status windows_make(windows *w, size_t size) {
    *w = (windows){0};
    xlstm_status status = cuda_status(cudaStreamCreateWithFlags(&w->stream, cudaStreamNonBlocking),
                                      "cudaStreamCreateWithFlags");
    for (int i = 0; i < 2 && status == XLSTM_OK; i++) {
        status = cuda_status(cudaMallocHost(&w->memory[i], size), "cudaMallocHost");
        if (status == XLSTM_OK)
            status = cuda_status(cudaEventCreateWithFlags(&w->sent[i], cudaEventDisableTiming),
                                 "cudaEventCreateWithFlags");
    }
    return status;
}

/* The `size` bytes of the buffer at `to`, a window at a time. */
static xlstm_status send(windows *w, char *to, size_t size, size_t window, const ops_piece *pieces,
                         size_t count) {
    xlstm_status status = XLSTM_OK;
    size_t next = 0;
    int turn = 0;
    for (size_t at = 0; at < size && status == XLSTM_OK; at += window, turn = !turn) {
        size_t part = size - at < window ? size - at : window;
        status = cuda_status(cudaEventSynchronize(w->sent[turn]), "cudaEventSynchronize");
        if (status != XLSTM_OK)
            break;
        ops_lay_pieces(pieces, count, &next, at, part, w->memory[turn]);
        status = cuda_status(
            cudaMemcpyAsync(to + at, w->memory[turn], part, cudaMemcpyHostToDevice, w->stream),
            "cudaMemcpyAsync");
        if (status == XLSTM_OK)
            status = cuda_status(cudaEventRecord(w->sent[turn], w->stream), "cudaEventRecord");
    }
    if (status == XLSTM_OK)
        status = cuda_status(cudaStreamSynchronize(w->stream), "cudaStreamSynchronize");
    return status;
}

xlstm_status cuda_buffer_gather(ops_device *self, size_t size, const ops_piece *pieces,
                                size_t count, ops_buffer *buffer) {
    windows w;
    size_t window = size < WINDOW_BYTES ? size : WINDOW_BYTES;
    xlstm_status status = take(self, size, buffer);
    if (status != XLSTM_OK || size == 0)
        return status;
    status = windows_make(&w, window);
    if (status == XLSTM_OK)
        status = send(&w, buffer->handle, size, window, pieces, count);
    windows_free(&w);
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
