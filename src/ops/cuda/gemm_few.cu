/* Products of at most 128 tokens on tensor cores (compute capability 9.0): as fast as the weights come.
 *
 * A tile is all tokens by up to 256 rows; where there are fewer tiles than multiprocessors, a cluster of blocks shares
 * one, each with a part of the width. Tiles have as many rows as give every block the same to read. A warp fetches:
 * the copy engine brings the weights and the tokens' values, in steps of 64 along the width, into a ring of stages,
 * and begins with the weights while the kernel before still runs. A warpgroup for every 64 tokens multiplies, with
 * sums in registers. The two blocks of a cluster send each other the sums of half of the rows, and each ends the other
 * half: sums of two numbers, whose bits do not depend on who is first. */
#include "ops/cuda/beside.h"
#include "ops/cuda/gemm_ending.h"
#include "ops/cuda/wgmma.h"

enum { DEPTH = TILE_COLUMNS, MOST_STAGES = 8, FEW_CLUSTER = 2, GROUP_TOKENS = 64 };
/* Shared memory of a block: with room for the next kernel's beside it, or, with many tokens, for more stages. */
enum { TWO_BLOCKS = 111 << 10, ONE_BLOCK = 200 << 10 };

struct few_arguments {
    tile_map x, weight[GEMM_PARTS], up[GEMM_PARTS];
    gemm g;
    int first_tile[GEMM_PARTS + 1];
    int rows; /* of a tile, of each of a gate and what it gates */
    int cluster, stages;
    int x_bytes, stage_bytes; /* of a stage: the tokens, and with the weights behind them */
    int sent;                 /* bytes from the first stage to where the other block's sums come */
    bool constant;            /* the weights: they may be fetched at once */
};

/* A stage has room for the tokens and rows that there are, in eights. wgmma reads on to 64 tokens and to `rows` rows:
 * what it finds there makes sums that nobody takes. */
template <int groups, int rows> struct few_sizes {
    enum { SUMS = GROUP_TOKENS * rows / WARPGROUP, THREADS = groups * WARPGROUP + WARP };
};

/* Bytes for the sums that a block is sent: pairs, [half of the outputs of a thread][threads], and of a gate as many of what it
 * gates. */
static size_t few_sent_bytes(int groups, int rows) {
    return (size_t)(rows / 8 * groups * WARPGROUP) * sizeof(float2);
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

struct few_tile {
    int part, row;  /* its first */
    int first, end; /* steps of this block */
};

static __device__ __forceinline__ few_tile few_tile_of(const few_arguments &a) {
    const int index = (int)blockIdx.x / a.cluster, rank = (int)blockIdx.x % a.cluster;
    const int steps = (a.g.width + DEPTH - 1) / DEPTH;
    few_tile t;
    t.part = 0;
    while (index >= a.first_tile[t.part + 1])
        t.part++;
    t.row = (index - a.first_tile[t.part]) * a.rows;
    t.first = steps * rank / a.cluster;
    t.end = steps * (rank + 1) / a.cluster;
    return t;
}

template <int rows>
static __device__ void few_fetch_weights(const few_arguments &a, const few_tile &t, int step,
                                         unsigned char *stage, uint64_t *full) {
    const bool gated = a.g.part[t.part].ending == CUDA_GATED;
    unsigned char *to = stage + a.x_bytes;
    const int bytes = (a.g.tokens + (gated ? 2 : 1) * a.rows) * TILE_ROW_BYTES;
    barrier_arrive_for(full, (unsigned)bytes);
    tile_load(to, &a.weight[t.part], step * DEPTH, t.row, 0, 0, full);
    if (gated)
        tile_load(to + rows / 2 * TILE_ROW_BYTES, &a.up[t.part], step * DEPTH, t.row, 0, 0, full);
}

template <int rows>
static __device__ void few_fetch(const few_arguments &a, const few_tile &t, unsigned char *stages,
                                 uint64_t *full, uint64_t *empty) {
    const int bytes = a.stage_bytes;
    int ahead = t.first;
    if (a.constant)
        for (; ahead < t.end && ahead - t.first < a.stages; ahead++)
            few_fetch_weights<rows>(a, t, ahead, stages + (ahead - t.first) * bytes,
                                    &full[ahead - t.first]);
    cuda_wait();
    int stage = 0;
    unsigned parity = 1;
    for (int step = t.first; step < t.end; step++) {
        if (step >= ahead) {
            barrier_wait(&empty[stage], parity);
            few_fetch_weights<rows>(a, t, step, stages + stage * bytes, &full[stage]);
        }
        tile_load(stages + stage * bytes, &a.x, step * DEPTH, 0, 0, 0, &full[stage]);
        if (++stage == a.stages) {
            stage = 0;
            parity ^= 1;
        }
    }
}

/* The products of 16 along the width. */
static __device__ __forceinline__ void few_wgmma(float (&sums)[32], uint64_t x, uint64_t rows,
                                                 int add) {
    wgmma_shared<0, 0>(sums, x, rows, add);
}
static __device__ __forceinline__ void few_wgmma(float (&sums)[64], uint64_t x, uint64_t rows,
                                                 int add) {
    wgmma_shared<0, 0>(sums, x, rows, add);
}
static __device__ __forceinline__ void few_wgmma(float (&sums)[96], uint64_t x, uint64_t rows,
                                                 int add) {
    wgmma_shared<0, 0>(*(float(*)[64])sums, x, rows, add);
    wgmma_shared<0, 0>(*(float(*)[32])(sums + 64), x, tile_advance(rows, 128 * TILE_ROW_BYTES),
                       add);
}
static __device__ __forceinline__ void few_wgmma(float (&sums)[128], uint64_t x, uint64_t rows,
                                                 int add) {
    wgmma_shared<0, 0>(sums, x, rows, add);
}

template <int groups, int rows>
static __device__ __forceinline__ void
few_multiply(const few_arguments &a, const few_tile &t, unsigned char *stages, uint64_t *full,
             uint64_t *empty, float (&sums)[few_sizes<groups, rows>::SUMS]) {
    const int group = (int)threadIdx.x / WARPGROUP;
    const uint64_t x = tile_straight(stages + group * GROUP_TOKENS * TILE_ROW_BYTES),
                   weights = tile_straight(stages + a.x_bytes);
    int stage = 0, before = -1;
    unsigned parity = 0;
    for (int step = t.first; step < t.end; step++) {
        barrier_wait(&full[stage], parity);
        wgmma_begin();
#pragma unroll
        for (int i = 0; i < DEPTH / 16; i++) {
            const unsigned at = (unsigned)(stage * a.stage_bytes + i * 32);
            few_wgmma(sums, tile_advance(x, at), tile_advance(weights, at), step + i > t.first);
        }
        wgmma_commit();
        wgmma_wait<1>();
        if (before >= 0 && threadIdx.x % WARPGROUP == 0)
            barrier_arrive(&empty[before]);
        before = stage;
        if (++stage == a.stages) {
            stage = 0;
            parity ^= 1;
        }
    }
    wgmma_wait<0>();
    wgmma_settle(sums);
}

/* Where thread t of a warpgroup has its sums i and i + 1, i = 4 j + 2 half. */
static __device__ __forceinline__ int few_token(int half) {
    return (int)threadIdx.x / WARP * 16 + (int)threadIdx.x % WARP / 4 + half * 8;
}
static __device__ __forceinline__ int few_row(int j) {
    return j * 8 + (int)threadIdx.x % 4 * 2;
}

/* From registers, of a block that has all of the width. What is written out here for all of a thread's sums is so long that
 * blocks wait for their instructions: the less of it a tile goes through the better. */
template <int kind, int rows, int type>
static __device__ __forceinline__ void few_end_as(const few_arguments &a, const few_tile &t,
                                                  const float *sums) {
    const gemm_part &p = a.g.part[t.part];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int token = few_token(half);
        if (token >= a.g.tokens)
            continue;
#pragma unroll
        for (int j = 0; j < (kind == END_SILU ? rows / 16 : rows / 8); j++) {
            const float *z = sums + j * 4 + half * 2;
            const float *up = kind == END_SILU ? z + rows / 4 : z;
            if (t.row + j * 8 >= p.rows)
                break;
            if (few_row(j) < a.rows)
                gemm_store_pair<kind, type>(p, token, t.row + few_row(j), make_float2(z[0], z[1]),
                                            make_float2(up[0], up[1]),
                                            kind == END_ADD
                                                ? gemm_residual(p, token, t.row + few_row(j))
                                                : make_float2(0.0f, 0.0f));
        }
    }
}
template <int kind, int rows>
static __device__ __forceinline__ void few_end(const few_arguments &a, const few_tile &t,
                                               const float *sums) {
    if (a.g.part[t.part].out_type == DTYPE_F32)
        few_end_as<kind, rows, DTYPE_F32>(a, t, sums);
    else
        few_end_as<kind, rows, DTYPE_BF16>(a, t, sums);
}

/* Block `rank` of two: sends the sums that the other one ends, those of every second eight rows, and ends its own. Pair i of
 * a thread is that of token i % 2 and of its eight i / 2. */
template <int kind, int groups, int rows, int rank>
static __device__ __forceinline__ void few_end_together(const few_arguments &a, const few_tile &t,
                                                        float2 *sent, const float *sums) {
    enum { THREADS = groups * WARPGROUP, UP = rows / 4 };
    enum { PAIRS = kind == END_SILU ? rows / 16 : rows / 8 };
    const gemm_part &p = a.g.part[t.part];
    float2 *to = (float2 *)cluster_at((float *)sent, 1 - rank) + threadIdx.x;
    const float2 *from = sent + threadIdx.x;
    float2 residual[PAIRS];
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
        const float *z = sums + (i / 2 * 2 + 1 - rank) * 4 + i % 2 * 2;
        to[i * THREADS] = make_float2(z[0], z[1]);
        if (kind == END_SILU)
            to[(PAIRS + i) * THREADS] = make_float2(z[UP], z[UP + 1]);
    }
#pragma unroll
    for (int i = 0; i < PAIRS;
         i++) /* all of them are asked for before the other block is waited for */
        residual[i] = kind == END_ADD && few_token(i % 2) < a.g.tokens
                          ? gemm_residual(p, few_token(i % 2), t.row + few_row(i / 2 * 2 + rank))
                          : make_float2(0.0f, 0.0f);
    cluster_sync();
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
        const int token = few_token(i % 2), row = few_row(i / 2 * 2 + rank);
        const float *z = sums + (i / 2 * 2 + rank) * 4 + i % 2 * 2;
        const float *up = kind == END_SILU ? z + UP : z;
        const float2 v = from[i * THREADS];
        const float2 w = kind == END_SILU ? from[(PAIRS + i) * THREADS] : v;
        if (token < a.g.tokens && row < a.rows)
            gemm_store_pair<kind>(p, token, t.row + row, make_float2(z[0] + v.x, z[1] + v.y),
                                  make_float2(up[0] + w.x, up[1] + w.y), residual[i]);
    }
}

#endif

template <int kind, int groups, int rows>
static __global__ void __launch_bounds__(few_sizes<groups, rows>::THREADS)
    multiply_few(const __grid_constant__ struct few_arguments a) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    extern __shared__ __align__(1024) unsigned char stages[];
    __shared__ uint64_t full[MOST_STAGES], empty[MOST_STAGES];
    const few_tile t = few_tile_of(a);
    const bool fetches = (int)threadIdx.x >= groups * WARPGROUP;
    if (threadIdx.x == 0) {
        for (int i = 0; i < MOST_STAGES; i++) {
            barrier_make(&full[i], 1);
            barrier_make(&empty[i], groups);
        }
        barrier_made();
    }
    __syncthreads();
    cuda_release();
    if (a.cluster > 1)
        cluster_sync(); /* the other block is there */
    if (fetches) {
        if (threadIdx.x == groups * WARPGROUP)
            few_fetch<rows>(a, t, stages, full, empty);
        __syncwarp();
        cuda_wait();
    } else {
        float sums[few_sizes<groups, rows>::SUMS];
        cuda_wait();
        few_multiply<groups, rows>(a, t, stages, full, empty, sums);
        if ((int)blockIdx.x % a.cluster == 0)
            gemm_add_biases<rows>(a.g.part[t.part], t.row, sums);
        float2 *sent = (float2 *)(stages + a.sent);
        if (a.cluster == 1 && kind == END_CAPPED && a.g.part[t.part].soft_cap == 0.0f)
            few_end<END_PLAIN, rows>(a, t, sums);
        else if (a.cluster == 1)
            few_end<kind, rows>(a, t, sums);
        else if (cluster_rank() == 0)
            few_end_together<kind, groups, rows, 0>(a, t, sent, sums);
        else
            few_end_together<kind, groups, rows, 1>(a, t, sent, sums);
        return;
    }
    if (a.cluster > 1)
        cluster_sync();
#endif
}

typedef void few_kernel(struct few_arguments);

template <int kind, int groups> static few_kernel *kernel_of(int rows) {
    return rows == 64    ? multiply_few<kind, groups, 64>
           : rows == 128 ? multiply_few<kind, groups, 128>
           : rows == 192 ? multiply_few<kind, groups, 192>
                         : multiply_few<kind, groups, 256>;
}
template <int kind> static few_kernel *kernel_of(int groups, int rows) {
    return groups == 1 ? kernel_of<kind, 1>(rows) : kernel_of<kind, 2>(rows);
}

static few_kernel *kernel_for(const gemm_part *p, int groups, int rows) {
    if (p->ending == CUDA_ADD)
        return kernel_of<END_ADD>(groups, rows);
    if (p->ending == CUDA_GATED)
        return kernel_of<END_SILU>(groups, rows);
    return kernel_of<END_CAPPED>(groups, rows);
}

bool gemm_takes_few(const cuda_stream *s, const gemm *g) {
    bool takes = s->gpu->major == 9 && g->tokens <= GEMM_FEW_TOKENS &&
                 (g->part[0].ending != CUDA_GATED || g->part[0].activation == OPS_SILU);
    for (int i = 0; i < g->parts; i++)
        takes &= g->part[i].paired;
    return takes;
}

/* ---- How the work is shared ---- */

static int tiles_of(const gemm *g, int rows) {
    int tiles = 0;
    for (int i = 0; i < g->parts; i++)
        tiles += (g->part[i].rows + rows - 1) / rows;
    return tiles;
}

/* The fewest rows of a tile, in fours, by which all tiles are within `most`. */
static int rows_for(const gemm *g, int most, int limit) {
    for (int rows = 8; rows <= limit; rows += 4)
        if (tiles_of(g, rows) <= most)
            return rows;
    return 0;
}

enum { LEAST_ROWS = 64 };
/* Measured on an H100: where a tile of a block would have fewer than LEAST_ROWS rows, reading the tokens' values for it takes
 * longer than what two blocks lose by adding up; more than two lose more. */
gemm_few_plan gemm_plan_few(const cuda_stream *s, const gemm *g) {
    const bool gated = g->part[0].ending == CUDA_GATED;
    const int limit = gated ? 128 : 256, processors = cuda_beside_processors(s),
              pairs = processors / FEW_CLUSTER;
    int clusters = 0;
    gemm_few_plan plan = {0, 1};
    for (int waves = 1; plan.rows == 0; waves++)
        plan.rows = rows_for(g, waves * processors, limit);
    if (plan.rows * (gated ? 2 : 1) >= LEAST_ROWS || pairs == 0 || g->width <= DEPTH ||
        cudaDeviceGetAttribute(&clusters, cudaDevAttrClusterLaunch, s->gpu->ordinal) !=
            cudaSuccess ||
        !clusters)
        return plan;
    const int together = rows_for(g, pairs, limit);
    if (together > 0) {
        plan.rows = together;
        plan.cluster = FEW_CLUSTER;
    }
    return plan;
}

static bool map_rows(cuda_stream *s, tile_map *map, const uint16_t *rows, int64_t stride, int count,
                     int width, int box) {
    tile_tensor t = {};
    t.data = rows;
    t.size[0] = width;
    t.size[1] = count;
    t.size[2] = t.size[3] = 1;
    t.stride[0] = 1;
    t.stride[1] = stride;
    const xlstm_status status = tile_map_make(map, &t, box, DEPTH);
    return status == XLSTM_OK || ops_fail(&s->check, status, "%s", xlstm_last_error());
}

void gemm_run_few(cuda_stream *s, const gemm *g, gemm_few_plan plan) {
    const bool gated = g->part[0].ending == CUDA_GATED;
    const int groups = g->tokens > GROUP_TOKENS ? 2 : 1, taken = plan.rows * (gated ? 2 : 1);
    const int rows = taken <= 64 ? 64 : taken <= 128 ? 128 : taken <= 192 ? 192 : 256;
    const size_t budget = groups == 1 ? TWO_BLOCKS : ONE_BLOCK;
    struct few_arguments a = {};
    a.g = *g;
    a.rows = plan.rows;
    a.cluster = plan.cluster;
    a.constant = g->constant;
    a.x_bytes = (g->tokens + 7) / 8 * 8 * TILE_ROW_BYTES;
    const int room = ((gated ? rows / 2 : 0) + (plan.rows + 7) / 8 * 8) * TILE_ROW_BYTES;
    a.stage_bytes = a.x_bytes + room;
    const int slack = rows * TILE_ROW_BYTES - room; /* what wgmma reads behind the last stage */
    const size_t sent = plan.cluster > 1 ? few_sent_bytes(groups, rows) : 0;
    const int fit = (int)((budget - slack - sent) / a.stage_bytes);
    a.stages = fit < MOST_STAGES ? fit : MOST_STAGES;
    a.sent = a.stages * a.stage_bytes + slack;
    const size_t shared = (size_t)a.sent + sent;
    if (!map_rows(s, &a.x, g->x, g->x_stride, g->tokens, g->width, g->tokens))
        return;
    for (int i = 0; i < g->parts; i++) {
        const gemm_part *p = &g->part[i];
        a.first_tile[i + 1] = a.first_tile[i] + (p->rows + plan.rows - 1) / plan.rows;
        if (!map_rows(s, &a.weight[i], p->weight, p->weight_stride, p->rows, g->width, plan.rows) ||
            (gated && !map_rows(s, &a.up[i], p->up, p->up_stride, p->rows, g->width, plan.rows)))
            return;
    }
    cuda_launch launch = {};
    launch.kernel = (const void *)kernel_for(&g->part[0], groups, rows);
    launch.name = "multiply_few";
    launch.arguments = &a;
    launch.grid[0] = (unsigned)(a.first_tile[g->parts] * plan.cluster);
    launch.threads = (unsigned)(groups * WARPGROUP + WARP);
    launch.shared = shared;
    launch.cluster = (unsigned)plan.cluster;
    cuda_run_launch(s, &launch);
}
