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
#include "ops/cuda/gemm_wide.h"

enum { DEPTH = TILE_COLUMNS, BAND = 16 /* tiles along the tokens */ };

struct wide_arguments {
    tile_map x, weight[GEMM_PARTS], up[GEMM_PARTS], out[GEMM_PARTS];
    gemm g;
    int first_tile[GEMM_PARTS + 1]; /* of each part, along the rows */
    int token_tiles, tiles;         /* along the tokens; in all */
};

#if CUDA_WGMMA

static __device__ __forceinline__ wide_tile wide_tile_at(const wide_arguments &a, int index) {
    const int row_tiles = a.first_tile[a.g.parts], band = index / (BAND * row_tiles);
    const int left = a.token_tiles - band * BAND, width = left < BAND ? left : BAND;
    const int within = index - band * BAND * row_tiles;
    return wide_tile_of(a.g, a.first_tile, within / width, band * BAND + within % width);
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

#endif

template <int kind>
static __global__ void __launch_bounds__(THREADS, 1)
    multiply_wide(const __grid_constant__ struct wide_arguments a) {
#if CUDA_WGMMA
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
                wide_end<kind, float>(a.g, &a.out[t.part], t, group, room, sums);
            else
                wide_end<kind, uint16_t>(a.g, &a.out[t.part], t, group, room, sums);
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
    a->first_tile[i + 1] = a->first_tile[i] + wide_row_tiles(p);
    return wide_map_rows(s, &a->weight[i], p->weight, false, p->weight_stride, p->rows, g->width,
                         TILE_ROWS / 2) &&
           (p->ending != CUDA_GATED || wide_map_rows(s, &a->up[i], p->up, false, p->up_stride,
                                                     p->rows, g->width, TILE_ROWS / 2)) &&
           wide_map_out(s, &a->out[i], p, g->tokens);
}

void gemm_run_wide(cuda_stream *s, const gemm *g) {
    struct wide_arguments a = {};
    a.g = *g;
    if (!wide_map_rows(s, &a.x, g->x, false, g->x_stride, g->tokens, g->width, TILE_TOKENS))
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
