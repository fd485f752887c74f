/* What the families of the reference device share: the stream with its scratch, access to tensors,
 * and the checks of shapes.
 *
 * One body serves f32 and f64 alike: values are widened to double when they are read, every sum and
 * every function is computed in double, and a result is rounded once, when it is stored in the type
 * of its tensor. With f64 tensors that is plain double arithmetic; with f32 tensors it is f32
 * storage (activations, and the states after every step or chunk) with the errors of f32 arithmetic
 * left out. */
#ifndef OPS_REFERENCE_INTERNAL_H
#define OPS_REFERENCE_INTERNAL_H

#include "ops/kernels.h"
#include "ops/ops.h"

enum { REFERENCE_MAX_CHUNK = 128 };

typedef struct reference_stream {
    ops_stream base;
    xlstm_status status; /* the first error since the last wait, and its message */
    char error[400];
    void *arena;    /* holds everything below */
    double *rows;   /* [tokens][width]: the input of a projection */
    double *weight; /* [2][width]: the row of a weight (two for a gated projection) */
    double *c, *n;  /* [d_qk][d_v], [d_qk]: the state of one head */
    double *q;      /* [d_qk] */
    double *k;      /* [chunk][d_qk] */
    double *v;      /* [chunk][d_v] */
    double *h;      /* [d_v] */
    double *cell;   /* [8][d_v]: states and gates of one head of the sLSTM */
    double *logits; /* [vocab] */
    struct candidate {
        double logit, probability;
        int32_t id;
    } * candidates; /* [vocab] */
} reference_stream;

/* The stream if it has had no error, else NULL: an op then does nothing. */
reference_stream *reference_begin(ops_stream *stream);
/* Makes an error stick to the stream; returns false. */
bool reference_fail(reference_stream *s, xlstm_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Whether t is there, holds floating-point values, has this shape and innermost stride 1, and ends
 * inside its buffer. If not, the stream fails with a message that names op and tensor. */
bool reference_shaped(reference_stream *s, const char *op, const char *name, const ops_tensor *t,
                      int rank, const int64_t *shape);
/* The same for a matrix of weights, which may be in blocks. */
bool reference_matrix(reference_stream *s, const char *op, const char *name, const ops_tensor *t,
                      int64_t rows, int64_t columns);
/* The same for a vector of i32 or i64. */
bool reference_integers(reference_stream *s, const char *op, const char *name, const ops_tensor *t,
                        dtype type, int64_t count);
/* Whether the batch is as ops_batch says, for states of `slots` slots. */
bool reference_batch_fits(reference_stream *s, const char *op, const ops_batch *batch,
                          int64_t slots);
/* Whether `value` is within what the stream was created for. */
bool reference_within(reference_stream *s, const char *op, const char *what, int64_t value,
                      int64_t limit);

/* Element numbers, in a tensor of rank 1 to 3, of [i], [i][j] and [i][j][0]. */
double reference_get(const ops_tensor *t, int64_t element);
void reference_set(const ops_tensor *t, int64_t element, double value);
/* `count` values from element `element` on. */
void reference_load(const ops_tensor *t, int64_t element, int64_t count, double *values);
void reference_store(const ops_tensor *t, int64_t element, int64_t count, const double *values);
int32_t reference_index(const ops_tensor *t, int64_t i);

double reference_dot(const double *a, const double *b, int64_t count);
double reference_sigmoid(double x);
double reference_log_sigmoid(double x);
/* Whether it is one of enum ops_activation; act(z). */
bool reference_activation_fits(reference_stream *s, const char *op, enum ops_activation activation);
double reference_activate(enum ops_activation activation, double z);
/* The larger one; NaN if either is. */
double reference_larger(double a, double b);
/* m as its type holds it, rounded up: what is weighed by exp(-m) is weighed by what is stored, and
 * no exponent argument becomes positive. */
double reference_storable_maximum(double m, dtype type);
/* Checks a norm over `width` values, and applies it to one row, in place. */
bool reference_norm_fits(reference_stream *s, const char *op, const ops_norm *norm, int64_t width);
void reference_norm(const ops_norm *norm, int64_t width, double *x);

void reference_embed(ops_stream *stream, const struct ops_embed *op);
void reference_take_rows(ops_stream *stream, const struct ops_take_rows *op);
void reference_sum(ops_stream *stream, const struct ops_sum *op);
void reference_normalize(ops_stream *stream, const struct ops_normalize *op);
void reference_norm_project(ops_stream *stream, const struct ops_norm_project *op);
void reference_norm_project_gated(ops_stream *stream, const struct ops_norm_project_gated *op);
void reference_project_add(ops_stream *stream, const struct ops_project_add *op);
void reference_mlstm_output(ops_stream *stream, const struct ops_mlstm_output *op);
void reference_mlstm(ops_stream *stream, const struct ops_mlstm *op);
void reference_causal_conv(ops_stream *stream, const struct ops_causal_conv *op);
void reference_headwise(ops_stream *stream, const struct ops_headwise *op);
void reference_slstm(ops_stream *stream, const struct ops_slstm *op);
void reference_sample(ops_stream *stream, const struct ops_sample *op);
void reference_retire(ops_stream *stream, const struct ops_retire *op);

xlstm_status reference_kernel_mlstm(const kernel_call *call);
xlstm_status reference_kernel_slstm(const kernel_call *call);
xlstm_status reference_kernel_conv1d(const kernel_call *call);
xlstm_status reference_kernel_headwise(const kernel_call *call);
xlstm_status reference_kernel_rms_norm(const kernel_call *call);
xlstm_status reference_kernel_layer_norm(const kernel_call *call);
xlstm_status reference_kernel_soft_cap(const kernel_call *call);
xlstm_status reference_kernel_swiglu(const kernel_call *call);
xlstm_status reference_kernel_gelu_gate(const kernel_call *call);
xlstm_status reference_kernel_cross_entropy(const kernel_call *call);

extern const kernel_table reference_kernel_table;

#endif
