/* Products of bf16 rows on tensor cores: what products.cu asks for, and the kernels share. */
#ifndef OPS_CUDA_GEMM_H
#define OPS_CUDA_GEMM_H

#include "ops/cuda/project.h"

enum {
    GEMM_PARTS = 6,        /* q, k, v, the output gate, and two gates */
    GEMM_ALIGNMENT = 8,    /* elements: rows begin at multiples of 16 bytes */
    GEMM_NARROW_ROWS = 32, /* at most: of gates, which come behind other parts */
    GEMM_FEW_TOKENS = 128  /* at most, for gemm_few.cu */
};

/* One matrix of weights, or a gate and what it gates, and what is done to its outputs. */
typedef struct gemm_part {
    const uint16_t *weight, *up; /* bf16 [rows][stride] */
    int64_t weight_stride, up_stride;
    int rows;
    int ending, activation; /* enum cuda_ending, enum ops_activation */
    float sign, soft_cap;
    const void *bias, *up_bias, *residual; /* NULL: none */
    int bias_type, up_bias_type, residual_type, out_type;
    void *out; /* [tokens][out_stride], f32 or bf16 */
    int64_t out_stride, residual_stride;
    bool
        paired; /* two neighbouring outputs, and their residuals, which are f32, are moved together */
} gemm_part;

/* Parts are of one kind: all CUDA_GATED, or none. Narrow ones are the last. The width is a multiple of GEMM_ALIGNMENT. */
typedef struct gemm {
    const uint16_t *x; /* bf16 [tokens][x_stride] */
    int64_t x_stride;
    int tokens, width, parts;
    bool constant; /* no kernel writes the weights */
    gemm_part part[GEMM_PARTS];
} gemm;

/* At most GEMM_FEW_TOKENS tokens, compute capability 9.0 (gemm_few.cu). */
typedef struct gemm_few_plan {
    int rows;    /* of a tile (of a gate: and as many of what it gates) */
    int cluster; /* blocks that share a tile */
} gemm_few_plan;
bool gemm_takes_few(const cuda_stream *s, const gemm *g);
gemm_few_plan gemm_plan_few(const cuda_stream *s, const gemm *g);
void gemm_run_few(cuda_stream *s, const gemm *g, gemm_few_plan plan);
/* Warpgroup by warpgroup, for compute capability 9.0 and many tokens (gemm.cu); the caps of parts that are not narrow are
 * all 0, or none. */
bool gemm_takes_wide(const cuda_stream *s, const gemm *g);
void gemm_run_wide(cuda_stream *s, const gemm *g);
/* Of `least` to `most` multiprocessors the fewest by which one part of so many rows is done soonest. */
int gemm_wide_share(int tokens, int rows, int least, int most);
/* Of narrow parts alone, on any GPU: for many tokens (gemm_narrow.cu). */
bool gemm_takes_narrow(const gemm *g);
void gemm_run_narrow(cuda_stream *s, const gemm *g);
/* Warp by warp, on any GPU (gemm_plain.cu). */
void gemm_run_plain(cuda_stream *s, const gemm *g);

#endif
