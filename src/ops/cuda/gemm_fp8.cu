/* Products of e4m3 on tensor cores, warpgroup by warpgroup (compute capability 9.0), in the way of gemm.cu.
 *
 * Two blocks make a cluster: tiles of 128 tokens each and the same 256 rows. Each fetches its own tokens and one half of
 * the rows, which goes to both, so that a multiprocessor asks the L2 cache for two thirds of what it multiplies; at the
 * rate of these products all of it would be more than the cache gives. A stage is filled again when the multipliers of
 * both blocks have left it.
 *
 * The tensor cores keep some 14 bits of a sum of e4m3 products. So a warpgroup multiplies 256 of the width at a time,
 * 64 tokens by 128 rows, into sums that begin at 0, and adds them to others in f32. While one warpgroup adds, the other
 * multiplies. Where the width ends at an odd step, one more comes, of zeros.
 *
 * Every token and every row of weights has a scale, with which sums are multiplied before anything else is done. */
#include "ops/cuda/beside.h"
#include "ops/cuda/fp8.h"
#include "ops/cuda/gemm_wide.h"

enum {
    CLUSTER = 2,
    BAND = 8,               /* pairs of tiles along the tokens */
    DEPTH = TILE_ROW_BYTES, /* values of a step */
    SLICE = 32,             /* values that are multiplied at a time */
    STEPS = 2,              /* that the tensor cores add up */
    PARTIAL = SUMS / 2
};

struct fp8_arguments {
    tile_map x, weight[GEMM_PARTS], up[GEMM_PARTS], out[GEMM_PARTS], residual;
    gemm_fp8 f;
    int first_tile[GEMM_PARTS + 1]; /* of each part, along the rows */
    int token_pairs, pairs;         /* of tiles: along the tokens; in all */
    bool asks;                      /* for the residual, of the only part that there is */
};

#if CUDA_WGMMA

/* This block's tile of a pair. */
static __device__ __forceinline__ wide_tile fp8_tile_at(const fp8_arguments &a, int pair) {
    const int row_tiles = a.first_tile[a.f.g.parts], band = pair / (BAND * row_tiles);
    const int left = a.token_pairs - band * BAND, width = left < BAND ? left : BAND;
    const int within = pair - band * BAND * row_tiles;
    return wide_tile_of(a.f.g, a.first_tile, within / width,
                        (band * BAND + within % width) * CLUSTER + (int)cluster_rank());
}

/* Calls f with every tile of this block. */
template <class F>
static __device__ __forceinline__ void fp8_each_tile(const fp8_arguments &a, F f) {
    for (int i = (int)blockIdx.x / CLUSTER; i < a.pairs; i += (int)gridDim.x / CLUSTER)
        f(fp8_tile_at(a, i));
}

static __device__ void fp8_fetch(const fp8_arguments &a, unsigned char *stages, uint64_t *full,
                                 uint64_t *empty) {
    const int rank = (int)cluster_rank();
    wide_ring r = {0, 0};
    fp8_each_tile(a, [&](const wide_tile &t) {
        const bool gated = a.f.g.part[t.part].ending == CUDA_GATED;
        const tile_map *rows = gated && rank == 1 ? &a.up[t.part] : &a.weight[t.part];
        const int row = t.row + (gated ? 0 : rank * TILE_ROWS / 2);
        for (int k = 0; k < a.f.g.width || r.stage % STEPS != 0; k += DEPTH) {
            unsigned char *to = stages + r.stage * STAGE_BYTES;
            uint64_t *barrier = &full[r.stage];
            barrier_wait(&empty[r.stage], r.parity ^ 1);
            barrier_arrive_for(barrier, STAGE_BYTES);
            tile_load(to, &a.x, k, t.token, 0, 0, barrier);
            tile_load_shared(to + X_BYTES + rank * HALF_BYTES, rows, k, row, 0, 0, barrier,
                             (1u << CLUSTER) - 1);
            if (a.asks)
                wide_ask(&a.residual, t, TILE_ROWS, (a.f.g.width - k) / DEPTH);
            wide_next(&r);
        }
    });
}

/* The products of a step with one half of the rows, which are begun. */
static __device__ __forceinline__ void fp8_step(uint64_t x, uint64_t rows, bool add,
                                                float (&partial)[PARTIAL]) {
    wgmma_begin();
#pragma unroll
    for (int i = 0; i < DEPTH / SLICE; i++)
        wgmma_e4m3(partial, tile_advance(x, (unsigned)(i * SLICE)),
                   tile_advance(rows, (unsigned)(i * SLICE)), add || i > 0);
    wgmma_commit();
}

/* This warpgroup's sums of a tile. */
static __device__ __forceinline__ void fp8_multiply(const fp8_arguments &a, unsigned char *stages,
                                                    uint64_t *full, uint64_t *empty, int group,
                                                    wide_ring *r, float (&sums)[SUMS]) {
    const unsigned thread = threadIdx.x % WARPGROUP;
    const uint64_t x = tile_straight(stages + group * (X_BYTES / 2)),
                   rows = tile_straight(stages + X_BYTES);
#pragma unroll
    for (int i = 0; i < SUMS; i++)
        sums[i] = 0.0f;
    for (int k = 0; k < a.f.g.width; k += STEPS * DEPTH) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float partial[PARTIAL];
#pragma unroll
            for (int j = 0; j < STEPS; j++) {
                const unsigned stage = (unsigned)((r->stage + j) * STAGE_BYTES);
                if (half == 0)
                    barrier_wait(&full[r->stage + j], r->parity);
                fp8_step(tile_advance(x, stage),
                         tile_advance(rows, stage + (unsigned)(half * HALF_BYTES)), j > 0, partial);
                if (half == 1 && j > 0) {
                    wgmma_wait<1>();
                    if (thread < CLUSTER)
                        barrier_arrive_at(&empty[r->stage + j - 1], thread);
                }
            }
            wgmma_wait<0>();
            wgmma_settle(partial);
            if (half == 1 && thread < CLUSTER)
                barrier_arrive_at(&empty[r->stage + STEPS - 1], thread);
#pragma unroll
            for (int i = 0; i < PARTIAL; i++)
                sums[half * PARTIAL + i] += partial[i];
        }
        for (int j = 0; j < STEPS; j++)
            wide_next(r);
    }
}

/* The scales of two rows of the tile that this thread fetches for its warpgroup, and of its two tokens. */
struct fp8_scales {
    float2 rows;
    float low, high;
};

template <int kind>
static __device__ __forceinline__ fp8_scales fp8_fetch_scales(const gemm_fp8 &f, const wide_tile &t,
                                                              int group) {
    const gemm_part &p = f.g.part[t.part];
    const int thread = (int)threadIdx.x % WARPGROUP,
              columns = TILE_ROWS / (kind == END_SILU ? 2 : 1);
    const int row = t.row + 2 * thread % columns;
    const int token = t.token + group * GROUP_TOKENS + thread / WARP * 16 + thread % WARP / 4;
    const float *scale = 2 * thread < columns ? f.weight_scale[t.part] : f.up_scale[t.part];
    fp8_scales s;
    s.rows = row < p.rows ? *(const float2 *)(scale + row) : make_float2(0.0f, 0.0f);
    s.low = token < f.g.tokens ? f.x_scale[token] : 0.0f;
    s.high = token + 8 < f.g.tokens ? f.x_scale[token + 8] : 0.0f;
    return s;
}

/* Sums times the scales of their tokens and rows; `room`: of all rows of the tile. */
static __device__ __forceinline__ void fp8_scale(const fp8_scales &s, int group, float2 *room,
                                                 float (&sums)[SUMS]) {
    const int thread = (int)threadIdx.x % WARPGROUP;
    threads_sync(1 + group, WARPGROUP);
    room[thread] = s.rows;
    threads_sync(1 + group, WARPGROUP);
#pragma unroll
    for (int i = 0; i < SUMS; i += 4) {
        const float2 rows = room[i + thread % 4]; /* column 8 (i / 4) + 2 (thread % 4) */
        sums[i] *= s.low * rows.x;
        sums[i + 1] *= s.low * rows.y;
        sums[i + 2] *= s.high * rows.x;
        sums[i + 3] *= s.high * rows.y;
    }
}

#endif

template <int kind>
static __global__ void __launch_bounds__(THREADS, 1)
    multiply_fp8(const __grid_constant__ struct fp8_arguments a) {
#if CUDA_WGMMA
    extern __shared__ __align__(1024) unsigned char stages[];
    __shared__ uint64_t full[STAGES], empty[STAGES];
    __shared__ float2 row_scales[MULTIPLIERS][TILE_ROWS / 2];
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_make(&full[i], 1);
            barrier_make(&empty[i], CLUSTER * MULTIPLIERS);
        }
        barrier_made();
    }
    cluster_sync();
    cuda_wait();
    cuda_release();
    const int group = (int)threadIdx.x / WARPGROUP - 1;
    if (group < 0) {
        registers_fewer<40>();
        if (threadIdx.x == 0)
            fp8_fetch(a, stages, full, empty);
    } else {
        registers_more<232>();
        unsigned char *room = stages + STAGES * STAGE_BYTES + group * 2 * OUT_BYTES;
        float sums[SUMS];
        wide_ring r = {0, 0};
        unsigned turn = 0;
        fp8_each_tile(a, [&](const wide_tile &t) {
            const gemm_part &p = a.f.g.part[t.part];
            /* Gates and what they gate are slower with their scales early. */
            fp8_scales scales = {};
            if (kind != END_SILU)
                scales = fp8_fetch_scales<kind>(a.f, t, group);
            fp8_multiply(a, stages, full, empty, group, &r, sums);
            if (kind == END_SILU)
                scales = fp8_fetch_scales<kind>(a.f, t, group);
            fp8_scale(scales, group, row_scales[group], sums);
            gemm_add_biases<TILE_ROWS>(p, t.row, sums);
            if (p.out_type == DTYPE_F32)
                wide_end<kind, float, TILE_ROWS>(a.f.g, &a.out[t.part], t, group, room, &turn,
                                                 sums);
            else
                wide_end<kind, uint16_t, TILE_ROWS>(a.f.g, &a.out[t.part], t, group, room, &turn,
                                                    sums);
        });
        tile_stores_wait<0>();
    }
    cluster_sync(); /* nobody writes into this block any more */
#endif
}

typedef void fp8_kernel(struct fp8_arguments);

static fp8_kernel *kernel_for(const gemm_part *p) {
    if (p->ending == CUDA_ADD)
        return multiply_fp8<END_ADD>;
    return p->ending == CUDA_GATED ? multiply_fp8<END_SILU> : multiply_fp8<END_PLAIN>;
}

/* The maps of part i, and its tiles along the rows. */
static bool add_part(cuda_stream *s, fp8_arguments *a, int i) {
    const gemm *g = &a->f.g;
    const gemm_part *p = &g->part[i];
    a->first_tile[i + 1] = a->first_tile[i] + wide_row_tiles(p);
    return wide_map_rows(s, &a->weight[i], p->weight, true, p->weight_stride, p->rows, g->width,
                         TILE_ROWS / 2) &&
           (p->ending != CUDA_GATED || wide_map_rows(s, &a->up[i], p->up, true, p->up_stride,
                                                     p->rows, g->width, TILE_ROWS / 2)) &&
           wide_map_out(s, &a->out[i], p, g->tokens);
}

/* While a rehearsal goes on there are no weights in e4m3 yet, and nothing to map. */
static bool make_maps(cuda_stream *s, fp8_arguments *a) {
    const gemm *g = &a->f.g;
    if (s->rehearsing)
        return true;
    if (!wide_map_rows(s, &a->x, g->x, true, g->x_stride, g->tokens, g->width, TILE_TOKENS))
        return false;
    for (int i = 0; i < g->parts; i++)
        if (!add_part(s, a, i))
            return false;
    a->asks = g->parts == 1 && wide_map_residual(s, &a->residual, &g->part[0], g->tokens);
    return true;
}

void gemm_run_fp8(cuda_stream *s, const gemm_fp8 *f) {
    struct fp8_arguments a = {};
    a.f = *f;
    if (!make_maps(s, &a))
        return;
    a.token_pairs = (f->g.tokens + CLUSTER * TILE_TOKENS - 1) / (CLUSTER * TILE_TOKENS);
    a.pairs = a.token_pairs * a.first_tile[f->g.parts];
    const int room = cuda_beside_processors(s) / CLUSTER, most = room > 0 ? room : 1;
    const int clusters = a.pairs < most ? a.pairs : most;
    cuda_launch launch = {};
    launch.name = "multiply_fp8";
    launch.kernel = (const void *)kernel_for(&f->g.part[0]);
    launch.arguments = &a;
    launch.grid[0] = (unsigned)(clusters * CLUSTER);
    launch.threads = THREADS;
    launch.shared = STAGES * STAGE_BYTES + MULTIPLIERS * 2 * OUT_BYTES;
    launch.cluster = CLUSTER;
    cuda_run_launch(s, &launch);
}
