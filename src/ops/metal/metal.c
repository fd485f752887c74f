/* The Metal device: its table, its memory, which processor and GPU share, and streams, which are commands
 * under way and a block of scratch memory.
 *
 * Reading and writing from the processor waits for those commands only that touch the same bytes. What a
 * command finds wrong while it runs comes out of the next wait, as does what could not be enqueued. */
#include "ops/metal/metal.h"

#include "base/error.h"
#include "ops/metal/hazards.h"
#include "ops/metal/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Memory ---- */

/* Of a buffer's tensors. */
static size_t longest_of(const metal_memory *memory, size_t size) {
    size_t longest = metal_memory_longest(memory);
    return longest < size ? longest - METAL_ALIGNMENT : 0;
}

static xlstm_status keep(ops_device *self, xlstm_status status, metal_memory *memory, size_t size,
                         ops_buffer *buffer) {
    *buffer = (ops_buffer){0};
    if (status == XLSTM_OK)
        *buffer = (ops_buffer){.device = self,
                               .host = metal_memory_host(memory),
                               .size = size,
                               .longest = longest_of(memory, size),
                               .handle = memory};
    return status;
}

static xlstm_status buffer_create(ops_device *self, size_t size, ops_buffer *buffer) {
    metal_gpu *gpu;
    metal_memory *memory = NULL;
    xlstm_status status = metal_gpu_get(&gpu);
    if (status == XLSTM_OK)
        status = metal_memory_create(gpu, size, &memory);
    return keep(self, status, memory, size, buffer);
}

static xlstm_status buffer_wrap(ops_device *self, void *host, size_t size, ops_buffer *buffer) {
    metal_gpu *gpu;
    metal_memory *memory = NULL;
    xlstm_status status = metal_gpu_get(&gpu);
    if (status == XLSTM_OK)
        status = metal_memory_wrap(gpu, host, size, &memory);
    return keep(self, status, memory, size, buffer);
}

static void buffer_free(ops_buffer *buffer) {
    metal_memory_free(buffer->handle);
    *buffer = (ops_buffer){0};
}

/* ---- What is under way ---- */

static uint64_t commit(metal_stream *s) {
    uint64_t serial = metal_commands_commit(s->commands);
    metal_hazards_commit(s->hazards, serial);
    return serial;
}

static bool wait_for(metal_stream *s, uint64_t serial) {
    xlstm_status status = metal_commands_wait(s->commands, serial);
    metal_hazards_done(s->hazards, serial);
    return status == XLSTM_OK || ops_fail(&s->check, status, "%s", xlstm_last_error());
}

bool metal_finish(metal_stream *s) {
    commit(s);
    bool fine = wait_for(s, UINT64_MAX);
    metal_hazards_clear(s->hazards);
    return fine;
}

/* Until the processor may touch these bytes. */
static bool settle(metal_stream *s, const ops_buffer *buffer, size_t offset, size_t size,
                   bool written) {
    metal_span span = {buffer->handle, offset, offset + size, written};
    uint64_t serial;
    if (!metal_hazards_pending(s->hazards, &span, &serial))
        return true;
    uint64_t last = commit(s); /* the GPU goes on with it while the processor waits */
    return wait_for(s, serial ? serial : last);
}

static bool ready(metal_stream *s, const char *what, const ops_buffer *buffer, size_t offset,
                  size_t size, bool written) {
    return !ops_failed(&s->check) && ops_expect_span(&s->check, what, buffer, offset, size) &&
           settle(s, buffer, offset, size, written);
}

static void write_bytes(ops_stream *stream, ops_buffer *buffer, size_t offset, const void *source,
                        size_t size) {
    metal_stream *s = (metal_stream *)stream;
    commit(s); /* a token begins with what it is given: the one before need not wait */
    if (ready(s, "write", buffer, offset, size, true))
        memcpy((char *)buffer->host + offset, source, size);
}

static void copy_bytes(ops_stream *stream, ops_buffer *to, size_t to_offset, const ops_buffer *from,
                       size_t from_offset, size_t size) {
    metal_stream *s = (metal_stream *)stream;
    if (ready(s, "copy", to, to_offset, size, true) &&
        ready(s, "copy", from, from_offset, size, false))
        memmove((char *)to->host + to_offset, (const char *)from->host + from_offset, size);
}

static void zero_bytes(ops_stream *stream, ops_buffer *buffer, size_t offset, size_t size) {
    if (ready((metal_stream *)stream, "zero", buffer, offset, size, true))
        memset((char *)buffer->host + offset, 0, size);
}

static xlstm_status wait_all(ops_stream *stream) {
    metal_stream *s = (metal_stream *)stream;
    metal_finish(s);
    metal_take_faults(s);
    return ops_check_take(&s->check);
}

static xlstm_status read_bytes(ops_stream *stream, const ops_buffer *buffer, size_t offset,
                               void *target, size_t size) {
    metal_stream *s = (metal_stream *)stream;
    if (!ready(s, "read", buffer, offset, size, false))
        return wait_all(stream);
    if (metal_has_faults(s))
        return wait_all(stream);
    memcpy(target, (const char *)buffer->host + offset, size);
    return ops_check_take(&s->check);
}

/* ---- Streams ---- */

static void carve_all(metal_carver *c, const ops_stream_options *options, metal_scratch *s) {
    metal_place_faults(c, s);
    metal_place_project(c, options, s);
    metal_place_mlstm(c, options, s);
    metal_place_sample(c, options, s);
}

static int64_t scratch_size(ops_device *self, const ops_stream_options *options) {
    (void)self;
    metal_carver count = {0};
    metal_scratch scratch = {0};
    carve_all(&count, options, &scratch);
    return count.overflow ? INT64_MAX : (int64_t)count.used;
}

static xlstm_status take_arena(metal_stream *s) {
    int64_t size = scratch_size(s->base.device, &s->base.options);
    if (size == INT64_MAX)
        return error_memory(SIZE_MAX, "the scratch memory of a stream");
    xlstm_status status = buffer_create(s->base.device, (size_t)size, &s->arena);
    if (status != XLSTM_OK)
        return error_prefix(status, "scratch memory for %lld tokens (max_batch_tokens)",
                            (long long)s->base.options.limits.tokens);
    metal_carver c = {.buffer = &s->arena};
    carve_all(&c, &s->base.options, &s->scratch);
    return XLSTM_OK;
}

static void stream_free(ops_stream *stream) {
    metal_stream *s = (metal_stream *)stream;
    if (!s)
        return;
    metal_commands_free(s->commands);
    buffer_free(&s->arena);
    free(s->hazards);
    free(s);
}

static xlstm_status stream_create(ops_device *self, const ops_stream_options *options,
                                  ops_stream **stream) {
    *stream = NULL;
    xlstm_status status = ops_check_options(self, options);
    if (status != XLSTM_OK)
        return status;
    metal_gpu *gpu;
    status = metal_gpu_get(&gpu);
    if (status != XLSTM_OK)
        return status;
    metal_stream *s = calloc(1, sizeof *s);
    if (s)
        s->hazards = calloc(1, sizeof *s->hazards);
    if (!s || !s->hazards) {
        free(s);
        return error_memory(sizeof *s + sizeof *s->hazards, "a stream");
    }
    s->base = (ops_stream){.device = self, .options = *options};
    s->gpu = gpu;
    s->check.stream = &s->base;
    status = metal_commands_create(gpu, &s->commands);
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
    ((metal_stream *)stream)->rehearsing = on;
}

/* Of the processor: the caller's. */
static int stream_threads(const ops_stream *stream) {
    (void)stream;
    return 1;
}

static void describe(ops_device *self, char *text, size_t size) {
    (void)self;
    metal_gpu *gpu;
    if (metal_gpu_get(&gpu) != XLSTM_OK) {
        snprintf(text, size, "no GPU: %s", xlstm_last_error());
        return;
    }
    const metal_facts *facts = metal_gpu_facts(gpu);
    snprintf(text, size,
             "%s, GPU family Apple %d, buffers up to %.1f GB, %.1f GB in all\n"
             "weights as stored (f32, bf16, f16, blocks), activations and accumulation f32; in "
             "profile fast products of many tokens are of f16",
             facts->name, facts->family, (double)facts->largest_buffer / 1e9,
             (double)facts->working_set / 1e9);
}

static ops_device device = {
    .name = "metal",
    .ops =
        {
            .embed = metal_embed,
            .take_rows = metal_take_rows,
            .sum = metal_sum,
            .normalize = metal_normalize,
            .norm_project = metal_norm_project,
            .norm_project_gated = metal_norm_project_gated,
            .project_add = metal_project_add,
            .mlstm_output = metal_mlstm_output,
            .mlstm = metal_mlstm,
            .causal_conv = metal_causal_conv,
            .headwise = metal_headwise,
            .slstm = metal_slstm,
            .sample = metal_sample,
            .retire = metal_retire,
        },
    .ahead = true,
    .chunk_size = 64,
    .state_types = 1u << DTYPE_F32 | 1u << DTYPE_BF16 | 1u << DTYPE_F16,
    .most_deferred = OPS_MAX_DEFERRED,
    .buffer_create = buffer_create,
    .buffer_wrap = buffer_wrap,
    .buffer_free = buffer_free,
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
    .describe = describe,
    .facts = metal_tell_facts,
};

ops_device *metal_device(void) {
    return &device;
}
