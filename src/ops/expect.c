/* Checks of ops' arguments, and failures that stick to a stream. */
#include "ops/expect.h"

#include "base/error.h"
#include "base/shape.h"

#include <stdarg.h>
#include <stdio.h>

bool ops_fail(ops_check *c, xlstm_status status, const char *format, ...) {
    if (c->status == XLSTM_OK) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(c->message, sizeof c->message, format, arguments);
        va_end(arguments);
        c->status = status;
    }
    return false;
}

xlstm_status ops_check_take(ops_check *c) {
    xlstm_status status = c->status;
    c->status = XLSTM_OK;
    return status == XLSTM_OK ? XLSTM_OK : error_set(status, "%s", c->message);
}

int ops_wide(const ops_check *c) {
    bool narrow = c->stream->device->narrow_from > 0 && c->stream->options.profile == OPS_FAST;
    return OPS_F32 | (narrow ? 1 << DTYPE_BF16 : 0);
}

bool ops_expect(ops_check *c, const char *op, const char *name, const ops_tensor *t, int types,
                int rank, const int64_t *shape) {
    if (!ops_present(t))
        return ops_fail(c, XLSTM_INVALID_ARGUMENT, "%s: %s is missing", op, name);
    if (!(types >> t->dtype & 1))
        return ops_fail(c, XLSTM_INVALID_ARGUMENT,
                        "%s: %s is %s, which the %s device does not take", op, name,
                        dtype_name(t->dtype), c->stream->device->name);
    bool right = t->rank == rank;
    for (int i = 0; right && i < rank; i++)
        right = t->shape[i] >= 1 && (shape[i] < 0 || t->shape[i] == shape[i]);
    if (!right) {
        char is[128], must[128];
        return ops_fail(c, XLSTM_INVALID_ARGUMENT, "%s: %s is %s, must be %s", op, name,
                        shape_text(t->rank, t->shape, is, sizeof is),
                        shape_text(rank, shape, must, sizeof must));
    }
    if (t->stride[rank - 1] != 1)
        return ops_fail(c, XLSTM_INVALID_ARGUMENT, "%s: the innermost stride of %s must be 1", op,
                        name);
    if (!ops_tensor_fits(t))
        return ops_fail(c, XLSTM_INVALID_ARGUMENT,
                        "%s: %s does not lie within its buffer, or its rows are not whole blocks",
                        op, name);
    return true;
}

bool ops_expect1(ops_check *c, const char *op, const char *name, const ops_tensor *t, int types,
                 int64_t size) {
    return ops_expect(c, op, name, t, types, 1, &size);
}

bool ops_expect2(ops_check *c, const char *op, const char *name, const ops_tensor *t, int types,
                 int64_t rows, int64_t columns) {
    return ops_expect(c, op, name, t, types, 2, (int64_t[]){rows, columns});
}

bool ops_expect_optional(ops_check *c, const char *op, const char *name, const ops_tensor *t,
                         int64_t size) {
    return !ops_present(t) || ops_expect1(c, op, name, t, OPS_FLOATS, size);
}

bool ops_expect_limits(ops_check *c, const char *op, int64_t tokens, int64_t width) {
    const ops_limits *limits = &c->stream->options.limits;
    if (tokens > limits->tokens || width > limits->width)
        return ops_fail(c, XLSTM_INVALID_ARGUMENT,
                        "%s: %lld tokens of width %lld are more than the stream was created for "
                        "(%lld of width %lld)",
                        op, (long long)tokens, (long long)width, (long long)limits->tokens,
                        (long long)limits->width);
    return true;
}

bool ops_expect_batch(ops_check *c, const char *op, const ops_batch *batch, int64_t slots) {
    int most = c->stream->options.limits.sequences;
    if (batch->sequences < 1 || batch->sequences > most)
        return ops_fail(c, XLSTM_INVALID_ARGUMENT, "%s: %d sequences, must be 1 to %d", op,
                        batch->sequences, most);
    if (!ops_expect1(c, op, "the batch's slots", &batch->slot, OPS_I32, batch->sequences) ||
        !ops_expect1(c, op, "the batch's starts", &batch->start, OPS_I32, batch->sequences + 1) ||
        !ops_expect1(c, op, "the batch's positions", &batch->position, OPS_I64, batch->sequences))
        return false;
    bool seen =
        batch->slot.buffer->host && batch->start.buffer->host && batch->position.buffer->host;
    const char *fault = seen ? ops_batch_fault(batch, slots) : NULL;
    return !fault || ops_fail(c, XLSTM_INVALID_ARGUMENT, "%s: wrong batch: %s", op, fault);
}

bool ops_expect_activation(ops_check *c, const char *op, enum ops_activation activation) {
    return (activation >= OPS_SILU && activation <= OPS_IDENTITY) ||
           ops_fail(c, XLSTM_INVALID_ARGUMENT, "%s: no activation has number %d", op,
                    (int)activation);
}

bool ops_expect_norm(ops_check *c, const char *op, const ops_norm *norm, int64_t width) {
    if (norm->kind == OPS_NORM_NONE)
        return true;
    if (norm->groups < 1 || width % norm->groups != 0)
        return ops_fail(c, XLSTM_INVALID_ARGUMENT, "%s: a norm of %lld values in %d groups", op,
                        (long long)width, norm->groups);
    return ops_expect1(c, op, "the norm's weight", &norm->weight, OPS_FLOATS, width) &&
           ops_expect_optional(c, op, "the norm's bias", &norm->bias, width);
}

bool ops_expect_span(ops_check *c, const char *what, const ops_buffer *buffer, size_t offset,
                     size_t size) {
    if (offset <= buffer->size && size <= buffer->size - offset)
        return true;
    return ops_fail(c, XLSTM_INVALID_ARGUMENT,
                    "%s: %zu bytes at %zu do not lie within a buffer of %zu bytes", what, size,
                    offset, buffer->size);
}

xlstm_status ops_check_options(const ops_device *device, const ops_stream_options *options) {
    const ops_limits *l = &options->limits;
    if (l->activation != DTYPE_F32)
        return error_set(XLSTM_UNSUPPORTED, "the %s device computes in f32, not in %s",
                         device->name, dtype_name(l->activation));
    const int64_t most = INT32_MAX;
    const int64_t sizes[] = {l->tokens,      l->sequences,  l->width, l->heads,
                             l->head_dim_qk, l->head_dim_v, l->vocab};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i] < 1 || sizes[i] > most)
            return error_set(XLSTM_INVALID_ARGUMENT,
                             "a limit of a stream is %lld: 1 to %lld are possible",
                             (long long)sizes[i], (long long)most);
    if (l->deferred < 0 || l->deferred > OPS_MAX_DEFERRED)
        return error_set(XLSTM_INVALID_ARGUMENT, "%d deferred tokens: 0 to %d are possible",
                         l->deferred, OPS_MAX_DEFERRED);
    if (options->threads < 0)
        return error_set(XLSTM_INVALID_ARGUMENT, "%d threads are not possible: 0 means all",
                         options->threads);
    return XLSTM_OK;
}
