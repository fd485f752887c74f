/* Products on tensor cores, warp by warp (mma.sync): for GPUs before compute capability 9.0, and for what the
 * faster ones cannot take.
 *
 * A block makes 128 tokens by 128 rows; eight warps share it as 64 by 32. Per step of 32 along the width, both
 * operands are copied into shared memory two steps ahead. Of a gate and what it gates a block takes 64 rows each,
 * placed so that a thread has both values of an output. */
#include "ops/cuda/gemm_ending.h"
#include "ops/cuda/mma.h"

enum {
    TILE = 128,
    DEPTH = 32,
    STRIDE = DEPTH + 8, /* of rows in shared memory: matrices of 8 rows lie in all banks */
    STAGES = 3,
    THREADS = 256,
    WARP_TOKENS = 64,
    WARP_ROWS = 32
};

struct plain_arguments {
    gemm g;
    int first_tile[GEMM_PARTS + 1]; /* of each part, along the rows */
};

struct plain_stage {
    uint16_t tokens[TILE][STRIDE], weights[TILE][STRIDE];
};

/* The row of the weights that lies at `line` of a tile of weights, and whether it is one of `up`. */
static __device__ __forceinline__ int plain_row(bool gated, int tile, int line, bool *is_up) {
    *is_up = gated && line % WARP_ROWS >= WARP_ROWS / 2;
    return gated ? tile * (TILE / 2) + line / WARP_ROWS * (WARP_ROWS / 2) + line % (WARP_ROWS / 2)
                 : tile * TILE + line;
}

static __device__ __forceinline__ void plain_fetch(const gemm &g, const gemm_part &p, int tile,
                                                   int step, plain_stage *to) {
    const bool gated = p.ending == CUDA_GATED;
    for (int i = (int)threadIdx.x; i < TILE * DEPTH / 8; i += THREADS) {
        int line = i / (DEPTH / 8), at = i % (DEPTH / 8) * 8, column = step * DEPTH + at;
        int token = (int)blockIdx.x * TILE + line;
        bool there = token < g.tokens && column < g.width;
        copy_16(&to->tokens[line][at], g.x + (there ? token * g.x_stride + column : 0), there);
        bool is_up;
        int row = plain_row(gated, tile, line, &is_up);
        there = row < p.rows && column < g.width;
        const uint16_t *weights = is_up ? p.up : p.weight;
        copy_16(&to->weights[line][at],
                weights + (there ? row * (is_up ? p.up_stride : p.weight_stride) + column : 0),
                there);
    }
    copies_commit();
}

/* The products of one step, of this warp. */
static __device__ __forceinline__ void plain_multiply(const plain_stage *from, int token, int row,
                                                      float sums[4][4][4]) {
    const int lane = (int)threadIdx.x % WARP;
    for (int k = 0; k < DEPTH; k += 16) {
        uint32_t a[4][4], b[2][4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            load_matrices(a[i], &from->tokens[token + i * 16 + lane % 16][k + lane / 16 * 8]);
#pragma unroll
        for (int j = 0; j < 2; j++)
            load_matrices(
                b[j],
                &from->weights[row + j * 16 + lane / 16 * 8 + lane % 8][k + lane / 8 % 2 * 8]);
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                mma_bf16(sums[i][j], a[i], &b[j / 2][j % 2 * 2]);
    }
}

static __device__ __forceinline__ void plain_end(const gemm &g, const gemm_part &p, int tile,
                                                 int token, int row, float sums[4][4][4]) {
    const int lane = (int)threadIdx.x % WARP;
    const bool gated = p.ending == CUDA_GATED;
    const int first = gated ? tile * (TILE / 2) + row / 2 : tile * TILE + row;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        int t = (int)blockIdx.x * TILE + token + i * 8 + lane / 4, half = i % 2 * 2;
        if (t >= g.tokens)
            continue;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float *z = sums[i / 2][j] + half, *up = sums[i / 2][(j + 2) % 4] + half;
            if (gated && j >= 2)
                continue;
            const int to = first + j * 8 + lane % 4 * 2;
            gemm_store(p, t, to, z[0], up[0]);
            gemm_store(p, t, to + 1, z[1], up[1]);
        }
    }
}

static __global__ void __launch_bounds__(THREADS)
    multiply_plain(const __grid_constant__ struct plain_arguments a) {
    extern __shared__ __align__(16) unsigned char shared[];
    plain_stage *stages = (plain_stage *)shared;
    const gemm &g = a.g;
    int part = 0;
    while ((int)blockIdx.y >= a.first_tile[part + 1])
        part++;
    const gemm_part &p = g.part[part];
    const int tile = (int)blockIdx.y - a.first_tile[part], steps = (g.width + DEPTH - 1) / DEPTH;
    const int warp = (int)threadIdx.x / WARP;
    const int token = warp % 2 * WARP_TOKENS, row = warp / 2 * WARP_ROWS;
    float sums[4][4][4] = {};
    cuda_wait();
    cuda_release();
    for (int i = 0; i < STAGES - 1; i++)
        plain_fetch(g, p, tile, i, &stages[i]);
    for (int step = 0; step < steps; step++) {
        copies_wait<STAGES - 2>();
        __syncthreads();
        plain_fetch(g, p, tile, step + STAGES - 1, &stages[(step + STAGES - 1) % STAGES]);
        plain_multiply(&stages[step % STAGES], token, row, sums);
    }
    copies_wait<0>();
    plain_end(g, p, tile, token, row, sums);
}

void gemm_run_plain(cuda_stream *s, const gemm *g) {
    struct plain_arguments a = {};
    a.g = *g;
    for (int i = 0; i < g->parts; i++) {
        int rows = g->part[i].ending == CUDA_GATED ? TILE / 2 : TILE;
        a.first_tile[i + 1] = a.first_tile[i] + (g->part[i].rows + rows - 1) / rows;
    }
    cuda_run(s, "multiply_plain", multiply_plain,
             dim3((unsigned)((g->tokens + TILE - 1) / TILE), (unsigned)a.first_tile[g->parts]),
             THREADS, STAGES * sizeof(plain_stage), a);
}
