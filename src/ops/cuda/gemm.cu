/* Products on tensor cores, warpgroup by warpgroup (compute capability 9.0).
 *
 * A block makes tiles of 128 tokens by 256 rows, one after the other, in steps of 64 along the width. A warp fetches:
 * the copy engine brings a step's tokens (128 x 64) and rows (256 x 64) into one of four stages of shared memory, also
 * those of the next tile while this one is ended. Two warpgroups multiply, 64 tokens each, with sums in registers. Of
 * a gate and what it gates a tile has 128 rows each, one after the other, so that a thread has both values of an
 * output. Outputs go through shared memory, 128 bytes of 64 tokens at a time, from where the copy engine writes them
 * while the next ones, and the next tile, are computed.
 *
 * Tiles go in bands of 2048 tokens, so that the tokens of a band stay in the L2 cache while the weights pass by. */
#include "ops/cuda/gemm_ending.h"
#include "ops/cuda/wgmma.h"

enum {
    TILE_TOKENS = 128,
    GROUP_TOKENS = 64,
    TILE_ROWS = 256,
    DEPTH = TILE_COLUMNS,
    STAGES = 4,
    MULTIPLIERS = 2, /* warpgroups */
    THREADS = (1 + MULTIPLIERS) * WARPGROUP,
    BAND = 16, /* tiles along the tokens */
    X_BYTES = TILE_TOKENS * TILE_ROW_BYTES,
    HALF_BYTES = TILE_ROWS / 2 * TILE_ROW_BYTES,
    STAGE_BYTES = X_BYTES + 2 * HALF_BYTES,
    OUT_BYTES = GROUP_TOKENS * TILE_ROW_BYTES, /* of which a warpgroup has two, in turn */
    SUMS = GROUP_TOKENS * TILE_ROWS / WARPGROUP
};

struct wide_arguments {
    tile_map x, weight[GEMM_PARTS], up[GEMM_PARTS], out[GEMM_PARTS];
    gemm g;
    int first_tile[GEMM_PARTS + 1]; /* of each part, along the rows */
    int token_tiles, tiles;         /* along the tokens; in all */
};

struct wide_tile {
    int part, row, token; /* its first */
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

static __device__ __forceinline__ wide_tile wide_tile_at(const wide_arguments &a, int index) {
    const int row_tiles = a.first_tile[a.g.parts], band = index / (BAND * row_tiles);
    const int left = a.token_tiles - band * BAND, width = left < BAND ? left : BAND;
    const int within = index - band * BAND * row_tiles, row = within / width;
    wide_tile t;
    t.part = 0;
    while (row >= a.first_tile[t.part + 1])
        t.part++;
    const bool gated = a.g.part[t.part].ending == CUDA_GATED;
    t.row = (row - a.first_tile[t.part]) * (gated ? TILE_ROWS / 2 : TILE_ROWS);
    t.token = (band * BAND + within % width) * TILE_TOKENS;
    return t;
}

/* A place in the ring of stages. */
struct wide_ring {
    int stage;
    unsigned parity;
};
static __device__ __forceinline__ void wide_next(wide_ring *r) {
    if (++r->stage == STAGES) {
        r->stage = 0;
        r->parity ^= 1;
    }
}

/* All steps of all tiles of this block. */
static __device__ void wide_fetch(const wide_arguments &a, unsigned char *stages, uint64_t *full,
                                  uint64_t *empty) {
    wide_ring r = {0, 0};
    for (int i = (int)blockIdx.x; i < a.tiles; i += (int)gridDim.x) {
        const wide_tile t = wide_tile_at(a, i);
        const bool gated = a.g.part[t.part].ending == CUDA_GATED;
        const tile_map *second = gated ? &a.up[t.part] : &a.weight[t.part];
        const int second_row = t.row + (gated ? 0 : TILE_ROWS / 2);
        for (int k = 0; k < a.g.width; k += DEPTH) {
            unsigned char *to = stages + r.stage * STAGE_BYTES;
            uint64_t *barrier = &full[r.stage];
            barrier_wait(&empty[r.stage], r.parity ^ 1);
            barrier_arrive_for(barrier, STAGE_BYTES);
            tile_load(to, &a.x, k, t.token, 0, 0, barrier);
            tile_load(to + X_BYTES, &a.weight[t.part], k, t.row, 0, 0, barrier);
            tile_load(to + X_BYTES + HALF_BYTES, second, k, second_row, 0, 0, barrier);
            wide_next(&r);
        }
    }
}

/* This warpgroup's sums of a tile. */
static __device__ __forceinline__ void wide_multiply(const wide_arguments &a, unsigned char *stages,
                                                     uint64_t *full, uint64_t *empty, int group,
                                                     wide_ring *r, float (&sums)[SUMS]) {
    const bool tells = threadIdx.x % WARPGROUP == 0;
    const uint64_t x = tile_straight(stages + group * (X_BYTES / 2)),
                   rows = tile_straight(stages + X_BYTES);
    int before = -1;
    for (int k = 0; k < a.g.width; k += DEPTH) {
        barrier_wait(&full[r->stage], r->parity);
        wgmma_begin();
#pragma unroll
        for (int i = 0; i < DEPTH / 16; i++) {
            const unsigned at = (unsigned)(r->stage * STAGE_BYTES + i * 32);
            wgmma_shared<0, 0>(sums, tile_advance(x, at), tile_advance(rows, at), k + i > 0);
        }
        wgmma_commit();
        wgmma_wait<1>();
        if (before >= 0 && tells)
            barrier_arrive(&empty[before]);
        before = r->stage;
        wide_next(r);
    }
    wgmma_wait<0>();
    wgmma_settle(sums);
    if (tells)
        barrier_arrive(&empty[before]);
}

/* ---- Endings ---- */

/* What the outputs of a piece are added to; `half`: tokens 8 further. */
template <int fours>
static __device__ __forceinline__ void wide_residual(const gemm &g, const gemm_part &p, int token,
                                                     int row, float2 (&residual)[2 * fours]) {
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
        for (int j = 0; j < fours; j++)
            residual[half * fours + j] = token + half * 8 < g.tokens
                                             ? gemm_residual(p, token + half * 8, row + j * 8)
                                             : make_float2(0.0f, 0.0f);
}

/* Outputs of type O, 128 bytes of each token at a time. */
template <int kind, class O>
static __device__ __forceinline__ void wide_end(const wide_arguments &a, const wide_tile &t,
                                                int group, unsigned char *room,
                                                const float (&sums)[SUMS]) {
    enum {
        COLUMNS = TILE_ROW_BYTES / (int)sizeof(O),
        EIGHTS = COLUMNS / 8,
        PIECES = (kind == END_SILU ? TILE_ROWS / 2 : TILE_ROWS) / COLUMNS
    };
    const gemm_part &p = a.g.part[t.part];
    const int thread = (int)threadIdx.x % WARPGROUP, column = thread % 4 * 2;
    const int line = thread / WARP * 16 + thread % WARP / 4;
    const int token = t.token + group * GROUP_TOKENS + line;
    float2 residual[2 * EIGHTS] = {};
#pragma unroll
    for (int piece = 0; piece < PIECES; piece++) {
        const int row = t.row + piece * COLUMNS;
        unsigned char *to = room + piece % 2 * OUT_BYTES;
        if (kind == END_ADD)
            wide_residual<EIGHTS>(a.g, p, token, row + column, residual);
        if (thread == 0)
            tile_stores_wait<1>(); /* the one before the last has been read */
        threads_sync(1 + group, WARPGROUP);
#pragma unroll
        for (int i = 0; i < 2 * EIGHTS; i++) {
            const int half = i / EIGHTS, j = i % EIGHTS;
            const float *z = sums + (piece * EIGHTS + j) * 4 + half * 2;
            const float *up = kind == END_SILU ? z + SUMS / 2 : z;
            const float2 y = make_float2(gemm_end<kind>(p, z[0], up[0], residual[i].x),
                                         gemm_end<kind>(p, z[1], up[1], residual[i].y));
            unsigned char *at =
                to + tile_offset((unsigned)(line + half * 8),
                                 (unsigned)(j * 8 + column) * (unsigned)(sizeof(O) / 2));
            if (sizeof(O) == 4)
                *(float2 *)at = y;
            else
                *(uint32_t *)at = pack_bf16(y.x, y.y);
        }
        fence_async();
        threads_sync(1 + group, WARPGROUP);
        if (thread == 0) {
            tile_store(&a.out[t.part], to, row * (int)(sizeof(O) / 2),
                       t.token + group * GROUP_TOKENS, 0, 0);
            tile_stores_commit();
        }
    }
}

#endif

template <int kind>
static __global__ void __launch_bounds__(THREADS, 1)
    multiply_wide(const __grid_constant__ struct wide_arguments a) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    extern __shared__ __align__(1024) unsigned char stages[];
    __shared__ uint64_t full[STAGES], empty[STAGES];
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_make(&full[i], 1);
            barrier_make(&empty[i], MULTIPLIERS);
        }
        barrier_made();
    }
    __syncthreads();
    cuda_wait();
    cuda_release();
    const int group = (int)threadIdx.x / WARPGROUP - 1;
    if (group < 0) {
        registers_fewer<40>();
        if (threadIdx.x == 0)
            wide_fetch(a, stages, full, empty);
    } else {
        registers_more<232>();
        unsigned char *room = stages + STAGES * STAGE_BYTES + group * 2 * OUT_BYTES;
        float sums[SUMS];
        wide_ring r = {0, 0};
        for (int i = (int)blockIdx.x; i < a.tiles; i += (int)gridDim.x) {
            const wide_tile t = wide_tile_at(a, i);
            wide_multiply(a, stages, full, empty, group, &r, sums);
            gemm_add_biases<TILE_ROWS>(a.g.part[t.part], t.row, sums);
            if (a.g.part[t.part].out_type == DTYPE_F32)
                wide_end<kind, float>(a, t, group, room, sums);
            else
                wide_end<kind, uint16_t>(a, t, group, room, sums);
        }
        tile_stores_wait<0>();
    }
#endif
}

typedef void wide_kernel(struct wide_arguments);

/* NULL: no kernel is made for this ending. */
static wide_kernel *kernel_for(const gemm_part *p) {
    if (p->ending == CUDA_ADD)
        return multiply_wide<END_ADD>;
    if (p->ending == CUDA_GATED)
        return p->activation == OPS_SILU ? multiply_wide<END_SILU> : NULL;
    return p->soft_cap == 0.0f ? multiply_wide<END_PLAIN> : multiply_wide<END_CAPPED>;
}

static bool map_rows(cuda_stream *s, tile_map *map, const void *rows, int64_t stride, int count,
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

/* The copy engine writes outputs: from multiples of 16 bytes on. */
static bool is_aligned(const gemm_part *p) {
    const int64_t size = p->out_type == DTYPE_F32 ? 4 : 2;
    return (uintptr_t)p->out % 16 == 0 && p->out_stride * size % 16 == 0;
}

bool gemm_takes_wide(const cuda_stream *s, const gemm *g) {
    bool takes = s->gpu->major == 9 && g->tokens > TILE_TOKENS && kernel_for(&g->part[0]);
    for (int i = 0; i < g->parts; i++)
        takes &= g->part[i].paired && is_aligned(&g->part[i]);
    return takes;
}

/* The maps of part i, and its tiles along the rows. */
static bool add_part(cuda_stream *s, wide_arguments *a, int i) {
    const gemm *g = &a->g;
    const gemm_part *p = &g->part[i];
    const bool gated = p->ending == CUDA_GATED;
    const int rows = gated ? TILE_ROWS / 2 : TILE_ROWS;
    const int halves = p->out_type == DTYPE_F32 ? 2 : 1; /* of an output, in elements of a map */
    a->first_tile[i + 1] = a->first_tile[i] + (p->rows + rows - 1) / rows;
    return map_rows(s, &a->weight[i], p->weight, p->weight_stride, p->rows, g->width,
                    TILE_ROWS / 2) &&
           (!gated ||
            map_rows(s, &a->up[i], p->up, p->up_stride, p->rows, g->width, TILE_ROWS / 2)) &&
           map_rows(s, &a->out[i], p->out, p->out_stride * halves, g->tokens, p->rows * halves,
                    GROUP_TOKENS);
}

void gemm_run_wide(cuda_stream *s, const gemm *g) {
    struct wide_arguments a = {};
    a.g = *g;
    if (!map_rows(s, &a.x, g->x, g->x_stride, g->tokens, g->width, TILE_TOKENS))
        return;
    for (int i = 0; i < g->parts; i++)
        if (!add_part(s, &a, i))
            return;
    a.token_tiles = (g->tokens + TILE_TOKENS - 1) / TILE_TOKENS;
    a.tiles = a.token_tiles * a.first_tile[g->parts];
    const int blocks = a.tiles < s->gpu->processors ? a.tiles : s->gpu->processors;
    cuda_run(s, "multiply_wide", kernel_for(&g->part[0]), dim3((unsigned)blocks), THREADS,
             STAGES * STAGE_BYTES + MULTIPLIERS * 2 * OUT_BYTES, a);
}
