/* Products on tensor cores, warpgroup by warpgroup (compute capability 9.0).
 *
 * Two blocks make a cluster: tiles of 128 tokens each and the same 256 rows, one after the other, in steps of 64 along the
 * width. A thread fetches: the copy engine brings a step's tokens (128 x 64) and rows (256 x 64) into one of four
 * stages of shared memory, also those of the next tile while this one is ended. Each block fetches its own tokens and one
 * half of the rows, which goes to both, so that the L2 cache is asked for two thirds of what is multiplied. A stage is filled again when the multipliers of both blocks have left it.
 *
 * Two warpgroups multiply, 64 tokens each, with sums in registers. Of a gate and what it gates a tile has 128 rows each,
 * one after the other, so that a thread has both values of an output. Outputs go through shared memory, 128 bytes of 64
 * tokens at a time, from where the copy engine writes them while the next ones, and the next tile, are computed.
 *
 * Tiles go in bands of 2048 tokens, so that the tokens of a band stay in the L2 cache while the weights pass by. Those
 * that are left when every cluster has had as many as all others are split along the rows, where that gives none of them
 * more than a part. Narrow parts, the gates of cells, share tiles by twos, which come last, where multiprocessors are
 * idle. */
#include "ops/cuda/beside.h"
#include "ops/cuda/gemm_wide.h"

enum {
    CLUSTER = 2,
    DEPTH = TILE_COLUMNS,
    BAND = 8, /* pairs of tiles along the tokens */
    BOX = 64, /* rows that come together; a tile has no fewer */
    BOX_BYTES = BOX * TILE_ROW_BYTES
};

/* Tiles are counted by pairs, one for each block of a cluster. */
struct wide_arguments {
    tile_map x, weight[GEMM_PARTS], up[GEMM_PARTS], out[GEMM_PARTS], residual;
    gemm g;
    int first_tile[GEMM_PARTS + 1]; /* of each part that is not narrow, along the rows */
    int token_pairs;                /* of tiles along the tokens */
    bool asks;                      /* for the residual, of the only part that there is */
    int whole, split, pieces; /* tiles done whole; those behind them, and in how many pieces */
    int narrow_part, narrow;  /* the first narrow part; tiles of all of them */
    int narrow_first, narrow_clusters; /* who does them */
};

#if CUDA_WGMMA

/* This block's tile of a pair. */
static __device__ __forceinline__ wide_tile wide_tile_at(const wide_arguments &a, int pair) {
    const int row_tiles = a.first_tile[a.narrow_part], band = pair / (BAND * row_tiles);
    const int left = a.token_pairs - band * BAND, width = left < BAND ? left : BAND;
    const int within = pair - band * BAND * row_tiles;
    return wide_tile_of(a.g, a.first_tile, within / width,
                        (band * BAND + within % width) * CLUSTER + (int)cluster_rank());
}

/* Rows of weights that a tile has: of a gate half as many, of two narrow parts BOX each. */
struct wide_item {
    wide_tile tile;
    int rows;
    bool narrow;
};

/* How many items this cluster has, and of these how many are not narrow. */
static __device__ __forceinline__ int wide_items(const wide_arguments &a, int *others) {
    const int clusters = (int)gridDim.x / CLUSTER, cluster = (int)blockIdx.x / CLUSTER;
    const int all = a.whole + a.split * a.pieces, place = cluster - a.narrow_first;
    *others = (all - cluster + clusters - 1) / clusters;
    return *others + (place < 0 || a.narrow == 0
                          ? 0
                          : (a.narrow - place + a.narrow_clusters - 1) / a.narrow_clusters);
}

static __device__ __forceinline__ wide_item wide_narrow_at(const wide_arguments &a, int i) {
    const int part = a.narrow_part + i / a.token_pairs * 2;
    const int token = (i % a.token_pairs * CLUSTER + (int)cluster_rank()) * TILE_TOKENS;
    return {{part, 0, token}, 2 * BOX, true};
}

static __device__ __forceinline__ wide_item wide_item_at(const wide_arguments &a, int n,
                                                         int others) {
    const int clusters = (int)gridDim.x / CLUSTER, cluster = (int)blockIdx.x / CLUSTER;
    if (n >= others)
        return wide_narrow_at(a, cluster - a.narrow_first + (n - others) * a.narrow_clusters);
    const int i = cluster + n * clusters, behind = i - a.whole;
    if (behind < 0)
        return {wide_tile_at(a, i), TILE_ROWS, false};
    wide_item item = {wide_tile_at(a, a.whole + behind / a.pieces), TILE_ROWS / a.pieces, false};
    const int gates = a.g.part[item.tile.part].ending == CUDA_GATED;
    item.tile.row += behind % a.pieces * (item.rows >> gates);
    return item;
}

/* Calls f with every tile of this block. */
template <class F>
static __device__ __forceinline__ void wide_each_tile(const wide_arguments &a, F f) {
    int others;
    const int count = wide_items(a, &others);
#pragma unroll 1
    for (int n = 0; n < count; n++)
        f(wide_item_at(a, n, others));
}

/* The second of two narrow parts; where there is but one, that once more. */
static __device__ __forceinline__ int wide_narrow_part(const wide_arguments &a, int part) {
    return part < a.g.parts ? part : part - 1;
}

/* This block's share of the rows of a step, for both. */
static __device__ __forceinline__ void wide_fetch_rows(const wide_arguments &a,
                                                       const wide_item &item, int k,
                                                       unsigned char *to, uint64_t *full) {
    const wide_tile &t = item.tile;
    const int gates = a.g.part[t.part].ending == CUDA_GATED ? item.rows / 2 : item.rows;
    const int share = item.rows > BOX ? item.rows / CLUSTER : BOX;
    const int first = (int)cluster_rank() * share;
    for (int i = first; i < first + share && i < item.rows; i += BOX) {
        const tile_map *map = item.narrow ? &a.weight[wide_narrow_part(a, t.part + i / BOX)]
                              : i < gates ? &a.weight[t.part]
                                          : &a.up[t.part];
        const int row = item.narrow ? 0 : t.row + (i < gates ? i : i - gates);
        tile_load_shared(to + i * TILE_ROW_BYTES, map, k, row, 0, 0, full, (1u << CLUSTER) - 1);
    }
}

/* All steps of all tiles of this block. */
static __device__ void wide_fetch(const wide_arguments &a, unsigned char *stages, uint64_t *full,
                                  uint64_t *empty) {
    wide_ring r = {0, 0};
    wide_each_tile(a, [&](const wide_item &item) {
        for (int k = 0; k < a.g.width; k += DEPTH) {
            unsigned char *to = stages + r.stage * STAGE_BYTES;
            uint64_t *barrier = &full[r.stage];
            barrier_wait(&empty[r.stage], r.parity ^ 1);
            barrier_arrive_for(barrier, (unsigned)(X_BYTES + item.rows * TILE_ROW_BYTES));
            tile_load(to, &a.x, k, item.tile.token, 0, 0, barrier);
            wide_fetch_rows(a, item, k, to + X_BYTES, barrier);
            if (a.asks)
                wide_ask(&a.residual, item.tile, item.rows, (a.g.width - k) / DEPTH);
            wide_next(&r);
        }
    });
}

/* The products of 16 along the width. */
static __device__ __forceinline__ void wide_wgmma(float (&sums)[128], uint64_t x, uint64_t rows,
                                                  int add) {
    wgmma_shared<0, 0>(sums, x, rows, add);
}
static __device__ __forceinline__ void wide_wgmma(float (&sums)[64], uint64_t x, uint64_t rows,
                                                  int add) {
    wgmma_shared<0, 0>(sums, x, rows, add);
}
static __device__ __forceinline__ void wide_wgmma(float (&sums)[32], uint64_t x, uint64_t rows,
                                                  int add) {
    wgmma_shared<0, 0>(sums, x, rows, add);
}

/* This warpgroup's sums of a tile. */
template <int sums_of_thread>
static __device__ __forceinline__ void wide_multiply(const wide_arguments &a, unsigned char *stages,
                                                     uint64_t *full, uint64_t *empty, int group,
                                                     wide_ring *r, float (&sums)[sums_of_thread]) {
    const unsigned thread = threadIdx.x % WARPGROUP;
    const bool tells = thread < CLUSTER;
    const uint64_t x = tile_straight(stages + group * (X_BYTES / 2)),
                   rows = tile_straight(stages + X_BYTES);
    int before = -1;
    for (int k = 0; k < a.g.width; k += DEPTH) {
        barrier_wait(&full[r->stage], r->parity);
        wgmma_begin();
#pragma unroll
        for (int i = 0; i < DEPTH / 16; i++) {
            const unsigned at = (unsigned)(r->stage * STAGE_BYTES + i * 32);
            wide_wgmma(sums, tile_advance(x, at), tile_advance(rows, at), k + i > 0);
        }
        wgmma_commit();
        wgmma_wait<1>();
        if (before >= 0 && tells)
            barrier_arrive_at(&empty[before], thread);
        before = r->stage;
        wide_next(r);
    }
    wgmma_wait<0>();
    wgmma_settle(sums);
    if (tells)
        barrier_arrive_at(&empty[before], thread);
}

/* A warpgroup, and where it stands. */
struct wide_group {
    unsigned char *stages, *room;
    uint64_t *full, *empty;
    int index;
    wide_ring ring;
    unsigned turn; /* of its two rooms */
};

/* Outputs of `rows` rows of part t.part from the sums that this warpgroup has of them. */
template <int kind, int rows>
static __device__ __forceinline__ void wide_store(const wide_arguments &a, const wide_tile &t,
                                                  wide_group *w, float (&sums)[rows / 2]) {
    const gemm_part &p = a.g.part[t.part];
    gemm_add_biases<rows>(p, t.row, sums);
    if (p.out_type == DTYPE_F32)
        wide_end<kind, float, rows>(a.g, &a.out[t.part], t, w->index, w->room, &w->turn, sums);
    else
        wide_end<kind, uint16_t, rows>(a.g, &a.out[t.part], t, w->index, w->room, &w->turn, sums);
}

/* All tiles use the same registers. */
template <int kind, int rows>
static __device__ __forceinline__ void wide_make(const wide_arguments &a, const wide_tile &t,
                                                 wide_group *w, float (&all)[SUMS]) {
    float(&sums)[rows / 2] = *(float(*)[rows / 2]) all;
    wide_multiply(a, w->stages, w->full, w->empty, w->index, &w->ring, sums);
    wide_store<kind, rows>(a, t, w, sums);
}

/* Of one or two narrow parts, which may have caps. */
static __device__ __forceinline__ void wide_make_narrow(const wide_arguments &a, wide_tile t,
                                                        wide_group *w, float (&all)[SUMS]) {
    float(&sums)[BOX] = *(float(*)[BOX])all;
    wide_multiply(a, w->stages, w->full, w->empty, w->index, &w->ring, sums);
    wide_store<END_CAPPED, BOX>(a, t, w, *(float(*)[BOX / 2]) all);
    t.part++;
    if (t.part < a.g.parts)
        wide_store<END_CAPPED, BOX>(a, t, w, *(float(*)[BOX / 2])(all + BOX / 2));
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
            wide_fetch(a, stages, full, empty);
    } else {
        registers_more<232>();
        unsigned char *room = stages + STAGES * STAGE_BYTES + group * 2 * OUT_BYTES;
        wide_group w = {stages, room, full, empty, group, {0, 0}, 0};
        float sums[SUMS];
        wide_each_tile(a, [&](const wide_item &item) {
            if (item.narrow) {
                if (kind == END_PLAIN || kind == END_CAPPED)
                    wide_make_narrow(a, item.tile, &w, sums);
            } else if (item.rows == TILE_ROWS) {
                wide_make<kind, TILE_ROWS>(a, item.tile, &w, sums);
            } else if (item.rows == TILE_ROWS / 2) {
                wide_make<kind, TILE_ROWS / 2>(a, item.tile, &w, sums);
            } else if (kind != END_SILU) {
                wide_make<kind, TILE_ROWS / 4>(a, item.tile, &w, sums);
            }
        });
        tile_stores_wait<0>();
    }
    __syncwarp();
    cluster_sync(); /* nobody writes into this block any more */
#endif
}

typedef void wide_kernel(struct wide_arguments);

static bool is_narrow(const gemm_part *p) {
    return p->rows <= GEMM_NARROW_ROWS && p->ending == CUDA_CAP;
}

/* NULL: no kernel is made for this ending. */
static wide_kernel *kernel_for(const gemm_part *p) {
    if (p->ending == CUDA_ADD)
        return multiply_wide<END_ADD>;
    if (p->ending == CUDA_GATED)
        return p->activation == OPS_SILU ? multiply_wide<END_SILU> : NULL;
    return p->soft_cap == 0.0f || is_narrow(p) ? multiply_wide<END_PLAIN>
                                               : multiply_wide<END_CAPPED>;
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

/* The maps of part i. */
static bool add_part(cuda_stream *s, wide_arguments *a, int i) {
    const gemm *g = &a->g;
    const gemm_part *p = &g->part[i];
    return wide_map_rows(s, &a->weight[i], p->weight, false, p->weight_stride, p->rows, g->width,
                         BOX) &&
           (p->ending != CUDA_GATED ||
            wide_map_rows(s, &a->up[i], p->up, false, p->up_stride, p->rows, g->width, BOX)) &&
           wide_map_out(s, &a->out[i], p, g->tokens);
}

/* In how many pieces each of `tiles` is done, so that `clusters` do them at once: 64 rows at least, of a gate as many of
 * what it gates. */
static int pieces_of(int tiles, int clusters, bool gated) {
    for (int pieces = TILE_ROWS / BOX / (gated ? 2 : 1); pieces > 1; pieces /= 2)
        if (tiles * pieces <= clusters)
            return pieces;
    return 1;
}

/* In whole tiles; pieces of one take longer than their share, since each needs all of the tokens. */
static double rounds_of(int tiles, int clusters) {
    const int left = tiles % clusters, pieces = pieces_of(left, clusters, false);
    return tiles / clusters + (left == 0 ? 0.0 : 1.0 / pieces + (pieces - 1) * 0.075);
}

int gemm_wide_share(int tokens, int rows, int least, int most) {
    const int pairs = (tokens + CLUSTER * TILE_TOKENS - 1) / (CLUSTER * TILE_TOKENS);
    const int tiles = pairs * ((rows + TILE_ROWS - 1) / TILE_ROWS);
    int best = least / CLUSTER;
    for (int clusters = best + 1; clusters <= most / CLUSTER; clusters++)
        if (rounds_of(tiles, clusters) < rounds_of(tiles, best))
            best = clusters;
    return best * CLUSTER;
}

/* Narrow tiles take nearly as long as whole ones, waiting for what they multiply: one each for clusters that are idle at
 * the end, or for all. */
static void share_narrow(wide_arguments *a, int items, int clusters) {
    const int idle = (clusters - items % clusters) % clusters;
    a->narrow_clusters = a->narrow <= idle ? idle : clusters;
    if (a->narrow_clusters > a->narrow)
        a->narrow_clusters = a->narrow;
    a->narrow_first = clusters - a->narrow_clusters;
}

/* Who does what; returns how many clusters there are. */
static int share_out(wide_arguments *a, int most) {
    const gemm *g = &a->g;
    for (int i = 0; i < g->parts && !is_narrow(&g->part[i]); i++) {
        a->first_tile[i + 1] = a->first_tile[i] + wide_row_tiles(&g->part[i]);
        a->narrow_part = i + 1;
    }
    a->token_pairs = (g->tokens + CLUSTER * TILE_TOKENS - 1) / (CLUSTER * TILE_TOKENS);
    const int tiles = a->token_pairs * a->first_tile[a->narrow_part];
    a->split = tiles % most;
    a->whole = tiles - a->split;
    a->pieces = pieces_of(a->split, most, g->part[0].ending == CUDA_GATED);
    const int items = a->whole + a->split * a->pieces;
    a->narrow = a->token_pairs * ((g->parts - a->narrow_part + 1) / 2);
    const int clusters = items + a->narrow < most ? items + a->narrow : most;
    share_narrow(a, items, clusters);
    return clusters;
}

void gemm_run_wide(cuda_stream *s, const gemm *g) {
    struct wide_arguments a = {};
    a.g = *g;
    if (!wide_map_rows(s, &a.x, g->x, false, g->x_stride, g->tokens, g->width, TILE_TOKENS))
        return;
    for (int i = 0; i < g->parts; i++)
        if (!add_part(s, &a, i))
            return;
    a.asks = g->parts == 1 && wide_map_residual(s, &a.residual, &g->part[0], g->tokens);
    const int room = cuda_beside_processors(s) / CLUSTER, most = room > 0 ? room : 1;
    cuda_launch launch = {};
    launch.name = "multiply_wide";
    launch.kernel = (const void *)kernel_for(&g->part[0]);
    launch.arguments = &a;
    launch.grid[0] = (unsigned)(share_out(&a, most) * CLUSTER);
    launch.threads = THREADS;
    launch.shared = STAGES * STAGE_BYTES + MULTIPLIERS * 2 * OUT_BYTES;
    launch.cluster = CLUSTER;
    cuda_run_launch(s, &launch);
}
