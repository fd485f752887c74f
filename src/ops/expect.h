/* Checks of ops' arguments, the same on every device that computes in f32, and the failure that sticks to a
 * stream. A check that fails records why, naming op and tensor, and returns false. */
#ifndef OPS_EXPECT_H
#define OPS_EXPECT_H

#include "ops/ops.h"

/* Part of a device's stream. */
typedef struct ops_check {
    const ops_stream *stream; /* whose device is named, and whose limits count */
    xlstm_status status;      /* the first failure since the last wait */
    char message[512];
} ops_check;

/* Records the first failure; false, so that checks can return it. */
bool ops_fail(ops_check *c, xlstm_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static inline bool ops_failed(const ops_check *c) {
    return c->status != XLSTM_OK;
}
/* The failure, which is then forgotten. */
xlstm_status ops_check_take(ops_check *c);

enum { OPS_F32 = 1 << DTYPE_F32, OPS_I32 = 1 << DTYPE_I32, OPS_I64 = 1 << DTYPE_I64 };
enum { OPS_FLOATS = 1 << DTYPE_F64 | 1 << DTYPE_F32 | 1 << DTYPE_BF16 | 1 << DTYPE_F16 };
/* What a matrix of weights may be stored in. */
enum {
    OPS_MATRICES = OPS_FLOATS | 1 << DTYPE_Q8_0 | 1 << DTYPE_Q5_0 | 1 << DTYPE_Q5_1 |
                   1 << DTYPE_Q4_0 | 1 << DTYPE_Q4_1 | 1 << DTYPE_IQ4_NL
};
/* Types of what lies between the ops of a layer: f32, and bf16 where the device takes it (narrow_from). */
int ops_wide(const ops_check *c);
/* Whether `t` has one of `types`, this rank and shape (-1: any) and lies within its buffer,
 * innermost stride 1. */
bool ops_expect(ops_check *c, const char *op, const char *name, const ops_tensor *t, int types,
                int rank, const int64_t *shape);
/* The same for one and two dimensions, and for a tensor that may be absent. */
bool ops_expect1(ops_check *c, const char *op, const char *name, const ops_tensor *t, int types,
                 int64_t size);
bool ops_expect2(ops_check *c, const char *op, const char *name, const ops_tensor *t, int types,
                 int64_t rows, int64_t columns);
bool ops_expect_optional(ops_check *c, const char *op, const char *name, const ops_tensor *t,
                         int64_t size);
/* Whether a batch of this size fits in the scratch memory. */
bool ops_expect_limits(ops_check *c, const char *op, int64_t tokens, int64_t width);
/* Whether the batch is as ops_batch says, for states of `slots` slots. Where the host cannot see its values, kernels
 * have to look at them. */
bool ops_expect_batch(ops_check *c, const char *op, const ops_batch *batch, int64_t slots);
bool ops_expect_activation(ops_check *c, const char *op, enum ops_activation activation);
bool ops_expect_norm(ops_check *c, const char *op, const ops_norm *norm, int64_t width);
/* Whether these bytes lie within the buffer. */
bool ops_expect_span(ops_check *c, const char *what, const ops_buffer *buffer, size_t offset,
                     size_t size);

/* Whether all of the op is as its struct says (expect_ops.c): tensors, chunk length, ring, batch. */
bool ops_expect_mlstm(ops_check *c, const struct ops_mlstm *op);
bool ops_expect_slstm(ops_check *c, const struct ops_slstm *op);
/* All of mlstm_output but the product: norm, weight, bias, residual and out are the caller's. */
bool ops_expect_mlstm_output(ops_check *c, const struct ops_mlstm_output *op);
/* `types`: what the device takes of weights and biases, or of the source of embed and take_rows. */
bool ops_expect_take(ops_check *c, const char *name, const ops_tensor *source, int types,
                     const ops_tensor *index, const ops_tensor *out);
bool ops_expect_sum(ops_check *c, const struct ops_sum *op);
bool ops_expect_causal_conv(ops_check *c, const struct ops_causal_conv *op, int types);
bool ops_expect_headwise(ops_check *c, const struct ops_headwise *op, int types);
/* The logits themselves are not looked at. */
bool ops_expect_sample(ops_check *c, const struct ops_sample *op);
bool ops_expect_retire(ops_check *c, const struct ops_retire *op);

/* Whether a stream of a device that computes in f32 can have these options. */
xlstm_status ops_check_options(const ops_device *device, const ops_stream_options *options);

#endif
