/* The CPU device: its table, its memory (the process's own), and streams, which are a pool of
 * threads and a block of scratch memory. */
#include "ops/cpu/cpu.h"

#include "base/error.h"
#include "ops/cpu/internal.h"
#include "ops/cpu/mlstm_core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64 };

/* ---- Memory ---- */

static void *align(void *p) {
    uintptr_t address = (uintptr_t)p;
    return (char *)p + (ALIGNMENT - address % ALIGNMENT) % ALIGNMENT;
}

/* calloc leaves large blocks to the system, which zeroes a page when it is first touched. */
static xlstm_status buffer_create(ops_device *self, size_t size, ops_buffer *buffer) {
    void *block = size <= SIZE_MAX - ALIGNMENT ? calloc(1, size + ALIGNMENT) : NULL;
    if (!block)
        return error_memory(size, "a buffer");
    *buffer = (ops_buffer){.device = self, .host = align(block), .size = size, .handle = block};
    return XLSTM_OK;
}

static xlstm_status buffer_wrap(ops_device *self, void *host, size_t size, ops_buffer *buffer) {
    *buffer = (ops_buffer){.device = self, .host = host, .size = size};
    return XLSTM_OK;
}

static void buffer_free(ops_buffer *buffer) {
    free(buffer->handle);
    *buffer = (ops_buffer){0};
}

static void write_bytes(ops_stream *stream, ops_buffer *buffer, size_t offset, const void *source,
                        size_t size) {
    cpu_stream *s = (cpu_stream *)stream;
    if (!ops_failed(&s->check) && ops_expect_span(&s->check, "write", buffer, offset, size))
        memcpy((char *)buffer->host + offset, source, size);
}

static void copy_bytes(ops_stream *stream, ops_buffer *to, size_t to_offset, const ops_buffer *from,
                       size_t from_offset, size_t size) {
    cpu_stream *s = (cpu_stream *)stream;
    if (!ops_failed(&s->check) && ops_expect_span(&s->check, "copy", to, to_offset, size) &&
        ops_expect_span(&s->check, "copy", from, from_offset, size))
        memmove((char *)to->host + to_offset, (const char *)from->host + from_offset, size);
}

static void zero_bytes(ops_stream *stream, ops_buffer *buffer, size_t offset, size_t size) {
    cpu_stream *s = (cpu_stream *)stream;
    if (!ops_failed(&s->check) && ops_expect_span(&s->check, "zero", buffer, offset, size))
        memset((char *)buffer->host + offset, 0, size);
}

static xlstm_status wait_all(ops_stream *stream) {
    return ops_check_take(&((cpu_stream *)stream)->check);
}

static xlstm_status read_bytes(ops_stream *stream, const ops_buffer *buffer, size_t offset,
                               void *target, size_t size) {
    cpu_stream *s = (cpu_stream *)stream;
    if (!ops_failed(&s->check) && ops_expect_span(&s->check, "read", buffer, offset, size))
        memcpy(target, (const char *)buffer->host + offset, size);
    return wait_all(stream);
}

/* ---- Streams ---- */

/* Hands out pieces of the arena; with no memory yet it only counts. */
typedef struct carver {
    char *base;
    size_t used;
    bool overflow;
} carver;

static void *carve(carver *c, size_t element, int64_t a, int64_t b, int64_t d) {
    size_t bytes, count;
    if (__builtin_mul_overflow((size_t)a, (size_t)b, &count) ||
        __builtin_mul_overflow(count, (size_t)d, &count) ||
        __builtin_mul_overflow(count, element, &bytes) || bytes > SIZE_MAX / 2 - ALIGNMENT ||
        c->used > SIZE_MAX / 2 - bytes) {
        c->overflow = true;
        return NULL;
    }
    void *piece = c->base ? c->base + c->used : NULL;
    c->used += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return piece;
}

static void carve_worker(carver *c, const cpu_stream *s, cpu_worker *w) {
    const ops_limits *limits = &s->base.options.limits;
    w->product = carve(c, sizeof(float), CPU_PRODUCT_SCRATCH, 1, 1);
    w->z = carve(c, sizeof(float), CPU_PANEL_TOKENS, CPU_PANEL_ROWS, 1);
    w->z_up = carve(c, sizeof(float), CPU_PANEL_TOKENS, CPU_PANEL_ROWS, 1);
    w->bias = carve(c, sizeof(float), CPU_PANEL_ROWS, 1, 1);
    w->bias_up = carve(c, sizeof(float), CPU_PANEL_ROWS, 1, 1);
    if (s->base.options.profile == OPS_FAST) {
        w->panel = carve(c, s->kernels->tiles->panel_bytes, 1, 1, 1);
        w->sums = carve(c, sizeof(float), CPU_TASK_ROWS, CPU_PASS_TOKENS, 1);
        w->sums_up = carve(c, sizeof(float), CPU_TASK_ROWS, CPU_PASS_TOKENS, 1);
        w->tile_z = carve(c, sizeof(float), CPU_TILE_TOKENS, CPU_TASK_ROWS, 1);
        w->tile_z_up = carve(c, sizeof(float), CPU_TILE_TOKENS, CPU_TASK_ROWS, 1);
        w->tile_bias = carve(c, sizeof(float), CPU_TASK_ROWS, 1, 1);
        w->tile_bias_up = carve(c, sizeof(float), CPU_TASK_ROWS, 1, 1);
    }
    w->cell = carve(c, sizeof(float), CPU_CELL_SEQUENCES, 5, limits->head_dim_v);
    w->taps = carve(c, sizeof(float), OPS_MAX_TAPS, CPU_PANEL_ROWS, 1);
    w->candidates = carve(c, sizeof(cpu_candidate), limits->vocab, 1, 1);
}

static void carve_all(carver *c, cpu_stream *s, int threads) {
    const ops_limits *limits = &s->base.options.limits;
    s->rows = carve(c, sizeof(float), limits->tokens, cpu_row_stride(limits->width), 1);
    if (s->base.options.profile == OPS_FAST) {
        const cpu_tiles *tiles = s->kernels->tiles;
        s->packed =
            carve(c, tiles->block_bytes, (limits->tokens + tiles->tokens - 1) / tiles->tokens,
                  (limits->width + tiles->depth - 1) / tiles->depth, 1);
        s->quantised = carve(c, 1, cpu_quantised_size(limits->width), 1, 1);
    }
    s->norm_weight = carve(c, sizeof(float), limits->width, 1, 1);
    s->norm_bias = carve(c, sizeof(float), limits->width, 1, 1);
    s->sequences = carve(c, sizeof(cpu_sequence), limits->sequences, 1, 1);
    s->mlstm = carve(c, 1, cpu_mlstm_scratch(s->kernels->f32, limits, threads), 1, 1);
    cpu_worker *workers = carve(c, sizeof(cpu_worker), threads, 1, 1);
    if (c->base)
        s->workers = workers;
    for (int i = 0; i < threads && !c->overflow; i++) {
        cpu_worker unused;
        carve_worker(c, s, c->base ? &workers[i] : &unused);
    }
}

static int64_t scratch_size(ops_device *self, const ops_stream_options *options) {
    const cpu_kernels *kernels = cpu_kernels_choose();
    if (!kernels)
        return INT64_MAX; /* there will be no stream */
    cpu_stream s = {.base = {.device = self, .options = *options}, .kernels = kernels};
    carver count = {0};
    carve_all(&count, &s, options->threads > 0 ? options->threads : threads_available());
    return count.overflow ? INT64_MAX : (int64_t)count.used;
}

static xlstm_status take_arena(cpu_stream *s, int threads) {
    carver count = {0};
    carve_all(&count, s, threads);
    if (count.overflow)
        return error_memory(SIZE_MAX, "the scratch memory of a stream");
    s->arena = calloc(1, count.used + ALIGNMENT);
    if (!s->arena)
        return error_memory(count.used, "the scratch memory of a stream");
    carver c = {.base = align(s->arena)};
    carve_all(&c, s, threads);
    return XLSTM_OK;
}

static void stream_free(ops_stream *stream) {
    cpu_stream *s = (cpu_stream *)stream;
    if (!s)
        return;
    thread_pool_free(s->pool);
    free(s->arena);
    free(s);
}

static xlstm_status stream_create(ops_device *self, const ops_stream_options *options,
                                  ops_stream **stream) {
    *stream = NULL;
    xlstm_status status = ops_check_options(self, options);
    if (status != XLSTM_OK)
        return status;
    const cpu_kernels *kernels = cpu_kernels_choose();
    if (!kernels)
        return XLSTM_UNSUPPORTED;
    cpu_stream *s = calloc(1, sizeof *s);
    if (!s)
        return error_memory(sizeof *s, "a stream");
    s->base = (ops_stream){.device = self, .options = *options};
    s->check.stream = &s->base;
    s->kernels = kernels;
    int threads = options->threads > 0 ? options->threads : threads_available();
    status = options->pin ? thread_pool_create_pinned(threads, &s->pool)
                          : thread_pool_create(threads, &s->pool);
    if (status == XLSTM_OK)
        status = take_arena(s, threads);
    if (status != XLSTM_OK) {
        stream_free(&s->base);
        return status;
    }
    *stream = &s->base;
    return XLSTM_OK;
}

static int stream_threads(const ops_stream *stream) {
    return thread_pool_size(((const cpu_stream *)stream)->pool);
}

static void describe(ops_device *self, char *text, size_t size) {
    (void)self;
    const cpu_kernels *kernels = cpu_kernels_choose();
    snprintf(text, size,
             "instruction set %s, vectors of %d floats\n"
             "weights as stored (f64, f32, bf16, f16, blocks), activations and accumulation f32%s",
             kernels ? kernels->name : "none", kernels ? kernels->lanes : 0,
             kernels && kernels->tiles->bf16
                 ? "; in profile fast products of many tokens are of bf16 (AMX)"
                 : "");
}

static bool uses_tiles(ops_device *self, ops_profile profile) {
    (void)self;
    const cpu_kernels *kernels = cpu_kernels_choose();
    return profile == OPS_FAST && kernels && kernels->tiles->bf16;
}

static ops_device device = {
    .name = "cpu",
    .ops =
        {
            .embed = cpu_embed,
            .take_rows = cpu_take_rows,
            .sum = cpu_sum,
            .normalize = cpu_normalize,
            .norm_project = cpu_norm_project,
            .norm_project_gated = cpu_norm_project_gated,
            .project_add = cpu_project_add,
            .mlstm_output = cpu_mlstm_output,
            .mlstm = cpu_mlstm,
            .causal_conv = cpu_causal_conv,
            .headwise = cpu_headwise,
            .slstm = cpu_slstm,
            .sample = cpu_sample,
            .retire = cpu_retire,
        },
    .chunk_size = CPU_CHUNK,
    .state_types = 1u << DTYPE_F32 | 1u << DTYPE_BF16 | 1u << DTYPE_F16,
    .most_deferred = OPS_MAX_DEFERRED,
    .kernels = &cpu_kernel_table,
    .buffer_create = buffer_create,
    .buffer_wrap = buffer_wrap,
    .buffer_free = buffer_free,
    .scratch_size = scratch_size,
    .stream_create = stream_create,
    .stream_free = stream_free,
    .stream_threads = stream_threads,
    .wait = wait_all,
    .write = write_bytes,
    .read = read_bytes,
    .copy = copy_bytes,
    .zero = zero_bytes,
    .describe = describe,
    .uses_tiles = uses_tiles,
};

ops_device *cpu_device(void) {
    return &device;
}
