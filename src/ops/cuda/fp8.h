/* Products of fp8 (e4m3), which a stream of the option `fp8` has of more than 128 tokens (products.cu): weights in
 * e4m3, and products of them. Rows of tokens and of weights have a scale each: the largest magnitude is 448. */
#ifndef OPS_CUDA_FP8_H
#define OPS_CUDA_FP8_H

#include "ops/cuda/gemm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Elements: rows begin at multiples of 16 bytes. */
enum { FP8_ALIGNMENT = 16, FP8_LEAST_TOKENS = 129 };

/* ---- Weights (fp8_weights.cu) ---- */

/* A matrix in e4m3: values [rows][stride], zeros past the width. */
typedef struct fp8_matrix {
    const unsigned char *values;
    int64_t stride;
    const float *scale; /* [rows] */
} fp8_matrix;

/* The copies of a stream. */
typedef struct fp8_weights fp8_weights;
xlstm_status fp8_weights_create(fp8_weights **weights);
void fp8_weights_free(fp8_weights *weights);
/* The copy of a matrix. While the stream rehearses it is noted that one will be wanted; else it is there, or the stream
 * fails. */
bool fp8_weights_find(cuda_stream *s, const ops_tensor *weight, fp8_matrix *found);
/* After a rehearsal: takes memory for all copies that are wanted, at once, and makes them. */
void fp8_weights_make(cuda_stream *s);
/* Whether this GPU has such products; else an error that says what has. */
xlstm_status cuda_has_fp8(ops_device *self);

/* ---- Rows of tokens (product_rows.cu) ---- */

/* The rows of `in`, normed or gated as it says, in e4m3: out [T][stride] bytes, zeros past the width; scale [T]. In bf16,
 * too, where `halves` is not NULL, as cuda_lay_halves has them. */
void cuda_lay_fp8(cuda_stream *s, const cuda_input *in, unsigned char *out, int64_t stride,
                  float *scale, const ops_tensor *halves);

/* ---- Products (gemm_fp8.cu) ---- */

/* Where `g` has bf16, there is e4m3, and strides count its bytes; the width is one of FP8_ALIGNMENT. */
typedef struct gemm_fp8 {
    gemm g;
    const float *x_scale;                                         /* [tokens] */
    const float *weight_scale[GEMM_PARTS], *up_scale[GEMM_PARTS]; /* [rows] */
} gemm_fp8;
/* For what gemm_takes_wide takes, without soft caps. */
void gemm_run_fp8(cuda_stream *s, const gemm_fp8 *f);

#ifdef __cplusplus
}
#endif

#endif
