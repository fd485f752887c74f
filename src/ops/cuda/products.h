/* What products of many tokens are made of (products.cu), but for the products. */
#ifndef OPS_CUDA_PRODUCTS_H
#define OPS_CUDA_PRODUCTS_H

#include "ops/cuda/project.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The rows of `in`, normed or gated as it says, in bf16: halves [T][stride], zeros past the width (product_rows.cu). */
void cuda_lay_halves(cuda_stream *s, const cuda_input *in, const ops_tensor *halves);
/* Rows [first, first + count) of a matrix of any type in bf16: to [count][stride], zeros past the width
 * (product_weights.cu). */
void cuda_unpack(cuda_stream *s, const ops_tensor *weight, int64_t first, int64_t count,
                 const ops_tensor *to);

#ifdef __cplusplus
}
#endif

#endif
