/* Between projections (project.cu) and products on tensor cores (products.cu): what goes in, and what is done to
 * each output on the way out. */
#ifndef OPS_CUDA_PROJECT_H
#define OPS_CUDA_PROJECT_H

#include "ops/cuda/internal.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The rows that are multiplied: norm(x), or act(gate) * (norm(x) + skip * skip_input) where there is a gate. */
typedef struct cuda_input {
    ops_tensor x; /* [T][K]; f32, or what ops_wide says */
    ops_norm norm;
    ops_tensor gate;                /* [T][K], the same types; may be absent */
    enum ops_activation activation; /* of the gate */
    ops_tensor skip, skip_input;    /* [K], [T][K], f32; may be absent */
} cuda_input;

enum cuda_ending {
    CUDA_CAP,  /* out = cap(z) */
    CUDA_ADD,  /* out = residual + sign * z */
    CUDA_GATED /* out = act(z) * (y U^T + bu) */
};

/* One product z = y W^T + b and its ending. */
typedef struct cuda_product {
    enum cuda_ending ending;
    const ops_tensor *weight, *bias;
    const ops_tensor *up_weight, *up_bias; /* CUDA_GATED */
    enum ops_activation activation;        /* CUDA_GATED */
    const ops_tensor *residual;            /* CUDA_ADD; may be absent */
    float sign;                            /* CUDA_ADD */
    float soft_cap;                        /* CUDA_CAP; 0: none */
    const ops_tensor *out;                 /* [T][N] */
    bool later;                            /* as ops_projection has it */
} cuda_product;

/* Whether the product goes over tensor cores (products.cu): profile fast, enough tokens and rows, layouts it can
 * take. Gates (a few rows) do where nothing must be unpacked. */
bool cuda_takes_product(const cuda_stream *s, const cuda_input *in, const ops_tensor *weight);
/* Runs products of the same input, one after the other; the input is laid out once. */
void cuda_run_products(cuda_stream *s, const cuda_input *in, const cuda_product *products,
                       int count);

#ifdef __cplusplus
}
#endif

#endif
