/* The reference device itself: its table of ops, memory, streams, and the access to tensors that
 * all its families use. Everything runs at once, on the calling thread. */
#include "ops/reference/reference.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/shape.h"
#include "ops/reference/internal.h"

/* ---- Errors and checks ---- */

reference_stream *reference_begin(ops_stream *stream) {
    reference_stream *s = (reference_stream *)stream;
    return s->status == XLSTM_OK ? s : NULL;
}

bool reference_fail(reference_stream *s, xlstm_status status, const char *format, ...) {
    if (s->status == XLSTM_OK) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(s->error, sizeof s->error, format, arguments);
        va_end(arguments);
        s->status = status;
    }
    return false;
}

static bool has_shape(reference_stream *s, const char *op, const char *name, const ops_tensor *t,
                      int rank, const int64_t *shape) {
    if (!ops_present(t))
        return reference_fail(s, XLSTM_INVALID_ARGUMENT, "reference %s: %s is absent", op, name);
    bool same = t->rank == rank;
    for (int i = 0; same && i < rank; i++)
        same = t->shape[i] == shape[i];
    if (!same) {
        char is[100], must[100];
        shape_text(t->rank, t->shape, is, sizeof is);
        shape_text(rank, shape, must, sizeof must);
        return reference_fail(s, XLSTM_INVALID_ARGUMENT, "reference %s: %s is %s, must be %s", op,
                              name, is, must);
    }
    return true;
}

bool reference_matrix(reference_stream *s, const char *op, const char *name, const ops_tensor *t,
                      int64_t rows, int64_t columns) {
    if (!has_shape(s, op, name, t, 2, (int64_t[]){rows, columns}))
        return false;
    if (!dtype_is_weight(t->dtype) || t->stride[1] != 1 || !ops_tensor_fits(t))
        return reference_fail(
            s, XLSTM_INVALID_ARGUMENT,
            "reference %s: %s (%s) must hold floating-point values or whole blocks "
            "in each row, with innermost stride 1 inside its buffer",
            op, name, dtype_name(t->dtype));
    return true;
}

bool reference_shaped(reference_stream *s, const char *op, const char *name, const ops_tensor *t,
                      int rank, const int64_t *shape) {
    if (!has_shape(s, op, name, t, rank, shape))
        return false;
    if (!dtype_is_float(t->dtype) || t->stride[rank - 1] != 1 || !ops_tensor_fits(t))
        return reference_fail(
            s, XLSTM_INVALID_ARGUMENT,
            "reference %s: %s (%s) must hold floating-point values with innermost "
            "stride 1 inside its buffer",
            op, name, dtype_name(t->dtype));
    return true;
}

bool reference_integers(reference_stream *s, const char *op, const char *name, const ops_tensor *t,
                        dtype type, int64_t count) {
    if (!ops_present(t) || t->dtype != type || t->rank != 1 || t->shape[0] != count ||
        t->stride[0] != 1 || !ops_tensor_fits(t))
        return reference_fail(s, XLSTM_INVALID_ARGUMENT,
                              "reference %s: %s must be %s [%lld], inside its buffer", op, name,
                              dtype_name(type), (long long)count);
    return true;
}

bool reference_within(reference_stream *s, const char *op, const char *what, int64_t value,
                      int64_t limit) {
    if (value <= limit)
        return true;
    return reference_fail(s, XLSTM_INVALID_ARGUMENT,
                          "reference %s: %lld %s, the stream was created for %lld", op,
                          (long long)value, what, (long long)limit);
}

bool reference_batch_fits(reference_stream *s, const char *op, const ops_batch *batch,
                          int64_t slots) {
    int64_t count = batch->sequences;
    if (count < 1)
        return reference_fail(s, XLSTM_INVALID_ARGUMENT, "reference %s: %d sequences", op,
                              batch->sequences);
    if (!reference_within(s, op, "sequences", count, s->base.options.limits.sequences) ||
        !reference_integers(s, op, "slot", &batch->slot, DTYPE_I32, count) ||
        !reference_integers(s, op, "start", &batch->start, DTYPE_I32, count + 1) ||
        !reference_integers(s, op, "position", &batch->position, DTYPE_I64, count))
        return false;
    const char *fault = ops_batch_fault(batch, slots);
    return !fault ||
           reference_fail(s, XLSTM_INVALID_ARGUMENT, "reference %s: wrong batch: %s", op, fault);
}

/* ---- Access to tensors ---- */

double reference_get(const ops_tensor *t, int64_t element) {
    return dtype_load(t->dtype, ops_data(t), element);
}

void reference_set(const ops_tensor *t, int64_t element, double value) {
    dtype_store(t->dtype, ops_data(t), element, value);
}

void reference_load(const ops_tensor *t, int64_t element, int64_t count, double *values) {
    const char *first = (const char *)ops_data(t) + dtype_bytes(t->dtype, element);
    dtype_convert(t->dtype, first, DTYPE_F64, values, count);
}

void reference_store(const ops_tensor *t, int64_t element, int64_t count, const double *values) {
    char *first = (char *)ops_data(t) + (size_t)element * dtype_size(t->dtype);
    dtype_convert(DTYPE_F64, values, t->dtype, first, count);
}

int32_t reference_index(const ops_tensor *t, int64_t i) {
    return ((const int32_t *)ops_data(t))[i];
}

/* ---- Memory ---- */

static xlstm_status buffer_create(ops_device *device, size_t size, ops_buffer *buffer) {
    void *memory = calloc(size ? size : 1, 1);
    if (!memory)
        return error_memory(size, "a buffer of the reference device");
    *buffer = (ops_buffer){.device = device, .host = memory, .size = size, .handle = memory};
    return XLSTM_OK;
}

static xlstm_status buffer_wrap(ops_device *device, void *host, size_t size, ops_buffer *buffer) {
    *buffer = (ops_buffer){.device = device, .host = host, .size = size};
    return XLSTM_OK;
}

static void buffer_free(ops_buffer *buffer) {
    free(buffer->handle); /* NULL for wrapped memory */
    *buffer = (ops_buffer){0};
}

static bool span_fits(reference_stream *s, const char *op, const ops_buffer *buffer, size_t offset,
                      size_t size) {
    if (offset <= buffer->size && size <= buffer->size - offset)
        return true;
    return reference_fail(s, XLSTM_INVALID_ARGUMENT,
                          "reference %s: bytes %zu to %zu of a buffer of %zu bytes", op, offset,
                          offset + size, buffer->size);
}

static void write_bytes(ops_stream *stream, ops_buffer *buffer, size_t offset, const void *source,
                        size_t size) {
    reference_stream *s = reference_begin(stream);
    if (s && span_fits(s, "write", buffer, offset, size) && size)
        memcpy((char *)buffer->host + offset, source, size);
}

static void copy_bytes(ops_stream *stream, ops_buffer *to, size_t to_offset, const ops_buffer *from,
                       size_t from_offset, size_t size) {
    reference_stream *s = reference_begin(stream);
    if (s && span_fits(s, "copy", to, to_offset, size) &&
        span_fits(s, "copy", from, from_offset, size) && size)
        memmove((char *)to->host + to_offset, (const char *)from->host + from_offset, size);
}

static void zero_bytes(ops_stream *stream, ops_buffer *buffer, size_t offset, size_t size) {
    reference_stream *s = reference_begin(stream);
    if (s && span_fits(s, "zero", buffer, offset, size) && size)
        memset((char *)buffer->host + offset, 0, size);
}

/* ---- Streams ---- */

static xlstm_status wait_all(ops_stream *stream) {
    reference_stream *s = (reference_stream *)stream;
    xlstm_status status = s->status;
    s->status = XLSTM_OK;
    return status == XLSTM_OK ? status : error_set(status, "%s", s->error);
}

static xlstm_status read_bytes(ops_stream *stream, const ops_buffer *buffer, size_t offset,
                               void *target, size_t size) {
    reference_stream *s = (reference_stream *)stream;
    if (s->status == XLSTM_OK && span_fits(s, "read", buffer, offset, size)) {
        if (size)
            memcpy(target, (const char *)buffer->host + offset, size);
        return XLSTM_OK;
    }
    return wait_all(stream);
}

/* Scratch memory, laid out twice: first counted, then handed out. A count that overflows stays at
 * the maximum, and its allocation fails. */
typedef struct layout {
    char *memory; /* NULL: only count */
    size_t used;
} layout;

static void *take(layout *l, int64_t a, int64_t b, size_t size) {
    size_t bytes = 0;
    if (a < 0 || b < 0 || __builtin_mul_overflow((size_t)a, (size_t)b, &bytes) ||
        __builtin_mul_overflow(bytes, size, &bytes) ||
        __builtin_add_overflow(l->used, bytes, &bytes)) {
        l->used = SIZE_MAX;
        return NULL;
    }
    void *place = l->memory ? l->memory + l->used : NULL;
    l->used = bytes;
    return place;
}

static void lay_out(reference_stream *s, layout *l) {
    const ops_limits *limits = &s->base.options.limits;
    int64_t d_qk = limits->head_dim_qk, d_v = limits->head_dim_v;
    /* candidates first: every part is a multiple of 8 bytes, which is all the alignment they need
     */
    s->candidates = take(l, limits->vocab, 1, sizeof *s->candidates);
    s->logits = take(l, limits->vocab, 1, sizeof(double));
    s->rows = take(l, limits->tokens > 0 ? limits->tokens : 1, limits->width, sizeof(double));
    s->weight = take(l, 2, limits->width, sizeof(double));
    s->c = take(l, d_qk, d_v, sizeof(double));
    s->n = take(l, d_qk, 1, sizeof(double));
    s->q = take(l, d_qk, 1, sizeof(double));
    s->k = take(l, REFERENCE_MAX_CHUNK, d_qk, sizeof(double));
    s->v = take(l, REFERENCE_MAX_CHUNK, d_v, sizeof(double));
    s->h = take(l, d_v, 1, sizeof(double));
    s->cell = take(l, 8, d_v, sizeof(double));
}

static int64_t scratch_size(ops_device *device, const ops_stream_options *options) {
    reference_stream s = {.base = {.device = device, .options = *options}};
    layout l = {0};
    lay_out(&s, &l);
    return (int64_t)l.used;
}

static xlstm_status stream_create(ops_device *device, const ops_stream_options *options,
                                  ops_stream **stream) {
    *stream = NULL;
    reference_stream *s = calloc(1, sizeof *s);
    if (!s)
        return error_memory(sizeof *s, "a stream");
    s->base = (ops_stream){.device = device, .options = *options};
    layout l = {0};
    lay_out(s, &l);
    s->arena = l.used == SIZE_MAX ? NULL : malloc(l.used ? l.used : 1);
    if (!s->arena) {
        free(s);
        return error_memory(l.used, "the scratch memory of a stream of the reference device");
    }
    l = (layout){.memory = s->arena};
    lay_out(s, &l);
    *stream = &s->base;
    return XLSTM_OK;
}

static void stream_free(ops_stream *stream) {
    if (!stream)
        return;
    free(((reference_stream *)stream)->arena);
    free(stream);
}

static int stream_threads(const ops_stream *stream) {
    (void)stream;
    return 1;
}

static void describe(ops_device *device, char *text, size_t size) {
    (void)device;
    snprintf(text, size, "plain C on one thread; every sum and function in f64, stored as asked");
}

ops_device *reference_device(void) {
    static ops_device device = {
        .name = "reference",
        .ops = {.embed = reference_embed,
                .take_rows = reference_take_rows,
                .sum = reference_sum,
                .normalize = reference_normalize,
                .norm_project = reference_norm_project,
                .norm_project_gated = reference_norm_project_gated,
                .project_add = reference_project_add,
                .mlstm_output = reference_mlstm_output,
                .mlstm = reference_mlstm,
                .causal_conv = reference_causal_conv,
                .headwise = reference_headwise,
                .slstm = reference_slstm,
                .sample = reference_sample,
                .retire = reference_retire},
        .f64 = true,
        .chunk_size = 1,
        .state_types = 1u << DTYPE_F64 | 1u << DTYPE_F32 | 1u << DTYPE_BF16 | 1u << DTYPE_F16,
        .most_deferred = OPS_MAX_DEFERRED,
        .kernels = &reference_kernel_table,
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
    };
    return &device;
}
