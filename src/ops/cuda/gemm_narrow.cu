/* Gates of many tokens by themselves, as beside products of e4m3: up to 32 rows, which tiles of 256 would leave on a few
 * multiprocessors.
 *
 * A block takes 16 tokens and up to four tiles of eight rows, of whatever parts. Its eight warps share the width, each 32 of
 * it at a time, and multiply what they read from memory themselves; their sums are added at the end. A lane reads 16 bytes
 * of a row, its share of two products: which columns these are is the same for tokens and rows, and sums do not see it. */
#include "ops/cuda/gemm_ending.h"
#include "ops/cuda/mma.h"

enum {
    TOKENS = 16,
    EIGHT = 8, /* rows of a product; values that a lane reads together */
    WARPS = 8,
    DEPTH = 4 * EIGHT, /* columns of a step */
    AHEAD = 4          /* steps whose loads go out together */
};

/* Eight rows of a part, from `row` on. */
struct narrow_tile {
    int part, row;
};
enum { MOST_TILES = GEMM_PARTS * GEMM_NARROW_ROWS / EIGHT };

struct narrow_arguments {
    gemm g;
    int tiles; /* a block along y takes TILES of them */
    narrow_tile tile[MOST_TILES];
};

/* Eight values of row `row` of [count][stride] from `column` on, or zeros. */
static __device__ __forceinline__ uint4 narrow_eight(const uint16_t *rows, int64_t stride, int row,
                                                     int count, int column, int width) {
    return row < count && column < width ? *(const uint4 *)(rows + row * stride + column)
                                         : make_uint4(0, 0, 0, 0);
}

static __device__ __forceinline__ void narrow_multiply(float (&sum)[4], uint4 low, uint4 high,
                                                       uint4 w) {
    const uint32_t first[4] = {low.x, high.x, low.y, high.y}, first_w[2] = {w.x, w.y};
    const uint32_t second[4] = {low.z, high.z, low.w, high.w}, second_w[2] = {w.z, w.w};
    mma_bf16(sum, first, first_w);
    mma_bf16(sum, second, second_w);
}

template <int TILES>
static __device__ __forceinline__ narrow_tile narrow_tile_at(const narrow_arguments &a, int j) {
    const int i = (int)blockIdx.y * TILES + j;
    return a.tile[i < a.tiles ? i : a.tiles - 1];
}

/* This warp's part of the sums of TILES tiles; those past the last are the last once more. */
template <int TILES>
static __device__ __forceinline__ void narrow_sums(const narrow_arguments &a,
                                                   float (&sum)[TILES][4]) {
    const gemm &g = a.g;
    const int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    const int row = lane / 4, token = (int)blockIdx.x * TOKENS + row;
    for (int first = warp * DEPTH; first < g.width; first += AHEAD * WARPS * DEPTH) {
        uint4 low[AHEAD], high[AHEAD], w[AHEAD][TILES];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int column = first + i * WARPS * DEPTH + lane % 4 * EIGHT;
            low[i] = narrow_eight(g.x, g.x_stride, token, g.tokens, column, g.width);
            high[i] = narrow_eight(g.x, g.x_stride, token + EIGHT, g.tokens, column, g.width);
#pragma unroll
            for (int j = 0; j < TILES; j++) {
                const narrow_tile t = narrow_tile_at<TILES>(a, j);
                const gemm_part &p = g.part[t.part];
                w[i][j] =
                    narrow_eight(p.weight, p.weight_stride, t.row + row, p.rows, column, g.width);
            }
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
#pragma unroll
            for (int j = 0; j < TILES; j++)
                narrow_multiply(sum[j], low[i], high[i], w[i][j]);
    }
}

template <int TILES>
static __global__ void __launch_bounds__(WARPS *WARP)
    multiply_narrow(const __grid_constant__ struct narrow_arguments a) {
    enum { ROWS = TILES * EIGHT };
    __shared__ float parts[WARPS][TOKENS][ROWS];
    const gemm &g = a.g;
    const int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    float sum[TILES][4] = {};
    cuda_wait();
    cuda_release();
    narrow_sums<TILES>(a, sum);
#pragma unroll
    for (int j = 0; j < TILES; j++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            parts[warp][lane / 4 + i / 2 * EIGHT][j * EIGHT + lane % 4 * 2 + i % 2] = sum[j][i];
    __syncthreads();
    for (int i = (int)threadIdx.x; i < TOKENS * ROWS; i += WARPS * WARP) {
        const int token = (int)blockIdx.x * TOKENS + i / ROWS;
        const int tile = (int)blockIdx.y * TILES + i % ROWS / EIGHT;
        float z = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++)
            z += parts[w][i / ROWS][i % ROWS];
        if (token < g.tokens && tile < a.tiles)
            gemm_store(g.part[a.tile[tile].part], token, a.tile[tile].row + i % EIGHT, z, 0.0f);
    }
}

bool gemm_takes_narrow(const gemm *g) {
    for (int i = 0; i < g->parts; i++)
        if (g->part[i].rows > GEMM_NARROW_ROWS || g->part[i].ending == CUDA_GATED)
            return false;
    return true;
}

void gemm_run_narrow(cuda_stream *s, const gemm *g) {
    struct narrow_arguments a = {};
    a.g = *g;
    for (int i = 0; i < g->parts; i++)
        for (int row = 0; row < g->part[i].rows; row += EIGHT)
            a.tile[a.tiles++] = {i, row};
    const int each = a.tiles > 2 ? 4 : 2;
    const dim3 grid((unsigned)((g->tokens + TOKENS - 1) / TOKENS),
                    (unsigned)((a.tiles + each - 1) / each));
    cuda_run(s, "multiply_narrow", each > 2 ? multiply_narrow<4> : multiply_narrow<2>, grid,
             WARPS * WARP, 0, a);
}
