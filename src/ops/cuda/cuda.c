/* The CUDA device: its table, and streams, which are a stream of the GPU and a block of scratch memory.
 *
 * Ops and copies are enqueued in order; only reads and waits block. What a kernel finds wrong while it runs comes out
 * of the next read or wait, as does what could not be enqueued. */
#include "ops/cuda/cuda.h"

#include "base/error.h"
#include "ops/cuda/beside.h"
#include "ops/cuda/fp8.h"
#include "ops/cuda/host.h"
#include "ops/cuda/kernel_call.h"

#include <stdlib.h>
#include <string.h>

/* ---- Copies ---- */

static bool may_enqueue(cuda_stream *s, const char *what, const ops_buffer *buffer, size_t offset,
                        size_t size) {
    if (ops_failed(&s->check) || !ops_expect_span(&s->check, what, buffer, offset, size) ||
        size == 0)
        return false;
    if (cuda_enter(s->gpu) != XLSTM_OK)
        return ops_fail(&s->check, XLSTM_DEVICE_ERROR, "%s", xlstm_last_error());
    cuda_flush(s);
    return !s->rehearsing && !ops_failed(&s->check);
}

static bool ready(cuda_stream *s, const char *what, const ops_buffer *buffer, size_t offset,
                  size_t size) {
    if (!may_enqueue(s, what, buffer, offset, size))
        return false;
    cuda_flush_writes(s);
    return !ops_failed(&s->check);
}

static char *address(const ops_buffer *buffer, size_t offset) {
    return (char *)buffer->handle + offset;
}

static void write_bytes(ops_stream *stream, ops_buffer *buffer, size_t offset, const void *source,
                        size_t size) {
    cuda_stream *s = (cuda_stream *)stream;
    const bool small = size <= CUDA_MOST_PUT;
    if (!(small ? may_enqueue : ready)(s, "write", buffer, offset, size))
        return;
    cuda_reads_forget(s->reads, address(buffer, offset), size);
    if (small)
        cuda_put(s, address(buffer, offset), source, size);
    else
        cuda_upload(s, address(buffer, offset), source, size);
}

static void copy_bytes(ops_stream *stream, ops_buffer *to, size_t to_offset, const ops_buffer *from,
                       size_t from_offset, size_t size) {
    cuda_stream *s = (cuda_stream *)stream;
    if (!ready(s, "copy", to, to_offset, size) || !ready(s, "copy", from, from_offset, size))
        return;
    cuda_reads_forget(s->reads, address(to, to_offset), size);
    s->enqueued++;
    cuda_check(s,
               cudaMemcpyAsync(address(to, to_offset), address(from, from_offset), size,
                               cudaMemcpyDeviceToDevice, s->stream),
               "cudaMemcpyAsync");
}

static void zero_bytes(ops_stream *stream, ops_buffer *buffer, size_t offset, size_t size) {
    cuda_stream *s = (cuda_stream *)stream;
    if (!may_enqueue(s, "zero", buffer, offset, size))
        return;
    cuda_reads_forget(s->reads, address(buffer, offset), size);
    cuda_zero(s, address(buffer, offset), size);
}

static xlstm_status wait_all(ops_stream *stream) {
    cuda_stream *s = (cuda_stream *)stream;
    if (cuda_enter(s->gpu) != XLSTM_OK)
        return XLSTM_DEVICE_ERROR;
    cuda_finish(s);
    return ops_check_take(&s->check);
}

static xlstm_status read_bytes(ops_stream *stream, const ops_buffer *buffer, size_t offset,
                               void *target, size_t size) {
    cuda_stream *s = (cuda_stream *)stream;
    if (ready(s, "read", buffer, offset, size) &&
        cuda_read(s, target, address(buffer, offset), size) && !cuda_has_faults(s))
        return ops_check_take(&s->check);
    return s->rehearsing ? ops_check_take(&s->check) : wait_all(stream);
}

/* ---- Streams ---- */

static void carve_all(cuda_carver *c, const ops_stream_options *options, cuda_scratch *s) {
    s->faults = cuda_carve(c, DTYPE_I32, 1, (int64_t[]){CUDA_FAULTS});
    cuda_place_project(c, options, s);
    cuda_place_products(c, options, s);
    cuda_place_chain(c, options, s);
    cuda_place_mlstm(c, options, s);
    cuda_place_sample(c, options, s);
}

static int64_t scratch_size(ops_device *self, const ops_stream_options *options) {
    (void)self;
    cuda_carver count = {0};
    cuda_scratch scratch = {0};
    carve_all(&count, options, &scratch);
    return count.overflow ? INT64_MAX : (int64_t)count.used;
}

static xlstm_status take_arena(cuda_stream *s) {
    ops_device *self = s->base.device;
    int64_t size = scratch_size(self, &s->base.options);
    if (size == INT64_MAX)
        return error_memory(SIZE_MAX, "the scratch memory of a stream");
    xlstm_status status = self->buffer_create(self, (size_t)size, &s->arena);
    if (status != XLSTM_OK)
        return error_prefix(status, "scratch memory for %lld tokens (max_batch_tokens)",
                            (long long)s->base.options.limits.tokens);
    cuda_carver c = {.buffer = &s->arena};
    carve_all(&c, &s->base.options, &s->scratch);
    return XLSTM_OK;
}

static void stream_free(ops_stream *stream) {
    cuda_stream *s = (cuda_stream *)stream;
    if (!s)
        return;
    if (cuda_enter(s->gpu) == XLSTM_OK && s->stream) {
        cuda_beside_free(s->beside);
        cudaStreamSynchronize(s->stream);
        cudaStreamDestroy(s->stream);
    }
    cuda_chain_free(s->chain);
    cuda_reads_free(s->reads);
    fp8_weights_free(s->fp8);
    if (s->arena.device)
        s->base.device->buffer_free(&s->arena);
    free(s);
}

static xlstm_status stream_create(ops_device *self, const ops_stream_options *options,
                                  ops_stream **stream) {
    *stream = NULL;
    cuda_gpu *gpu;
    xlstm_status status = ops_check_options(self, options);
    if (status == XLSTM_OK)
        status = options->fp8 ? cuda_has_fp8(self) : XLSTM_OK;
    if (status == XLSTM_OK)
        status = cuda_gpu_get(self, &gpu);
    if (status != XLSTM_OK)
        return status;
    cuda_stream *s = calloc(1, sizeof *s);
    if (!s)
        return error_memory(sizeof *s, "a stream");
    s->base = (ops_stream){.device = self, .options = *options};
    s->gpu = gpu;
    s->check.stream = &s->base;
    status = cuda_status(cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking),
                         "cudaStreamCreateWithFlags");
    if (status == XLSTM_OK)
        status = cuda_chain_create(&s->chain);
    if (status == XLSTM_OK)
        status = cuda_beside_create(&s->beside);
    if (status == XLSTM_OK)
        status = cuda_reads_create(&s->reads);
    if (status == XLSTM_OK && options->fp8)
        status = fp8_weights_create(&s->fp8);
    if (status == XLSTM_OK)
        status = take_arena(s);
    if (status != XLSTM_OK) {
        stream_free(&s->base);
        return status;
    }
    *stream = &s->base;
    return XLSTM_OK;
}

static void rehearse(ops_stream *stream, bool on) {
    cuda_stream *s = (cuda_stream *)stream;
    cuda_flush(s);
    cuda_flush_writes(s);
    s->rehearsing = on;
    if (!on)
        fp8_weights_make(s);
}

/* Of the processor: the caller's. */
static int stream_threads(const ops_stream *stream) {
    (void)stream;
    return 1;
}

static bool uses_tiles(ops_device *self, ops_profile profile) {
    (void)self;
    return profile == OPS_FAST;
}

/* ---- The device ---- */

static cuda_gpu first = {
    .base =
        {
            .name = "cuda",
            .ops =
                {
                    .embed = cuda_embed,
                    .take_rows = cuda_take_rows,
                    .sum = cuda_sum,
                    .normalize = cuda_normalize,
                    .norm_project = cuda_norm_project,
                    .norm_project_gated = cuda_norm_project_gated,
                    .project_add = cuda_project_add,
                    .mlstm_output = cuda_mlstm_output,
                    .mlstm = cuda_mlstm,
                    .causal_conv = cuda_causal_conv,
                    .headwise = cuda_headwise,
                    .slstm = cuda_slstm,
                    .sample = cuda_sample,
                    .retire = cuda_retire,
                },
            .ahead = true,
            .narrow_from = 2,
            .batch_tokens = 8192,
            .chunk_size = 64,
            .state_types = 1u << DTYPE_F32 | 1u << DTYPE_BF16 | 1u << DTYPE_F16,
            .most_deferred = OPS_MAX_DEFERRED,
            .buffer_create = cuda_buffer_create,
            .buffer_gather = cuda_buffer_gather,
            .buffer_free = cuda_buffer_free,
            .scratch_size = scratch_size,
            .stream_create = stream_create,
            .stream_free = stream_free,
            .rehearse = rehearse,
            .stream_threads = stream_threads,
            .wait = wait_all,
            .write = write_bytes,
            .read = read_bytes,
            .copy = copy_bytes,
            .zero = zero_bytes,
            .describe = cuda_describe,
            .facts = cuda_tell_facts,
            .kernels = &cuda_kernel_table,
            .uses_tiles = uses_tiles,
            .fp8 = cuda_has_fp8,
            .limit = cuda_limit,
        },
};

ops_device *cuda_device(void) {
    return &first.base;
}
