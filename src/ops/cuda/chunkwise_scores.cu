/* The chunkwise mLSTM: the scores of every chunk, all chunks side by side (chunkwise_parts.h).
 *
 * A block is a warpgroup and has a chunk of a head. Forward: A = q, B = k, and besides q . n; P and the denominators
 * come out. Backward: A = dh, B = v, and in the exact form dh . h besides; dS and e come out. The operands come in tiles of
 * 64 columns, four pairs of tiles on their way at a time. */
#include "ops/cuda/chunkwise_scores.h"

enum { SCORE_STAGES = 4, TILE_BYTES = CHUNK * TILE_ROW_BYTES };

struct scores_arguments {
    tile_map a, b, other; /* other: h, where dh . h is wanted */
    struct chunk_shape shape;
    int stages; /* as many as there are steps, up to SCORE_STAGES */
    int tiles;  /* of a stage: 2, with other's 3 */
    uint16_t *out;
    bool keeps; /* P goes to memory, besides what h takes */
};

struct scores_shared {
    float vector[CHUNK]; /* of each row: q . n or dh . h */
    float normalizer[512];
    uint64_t full[SCORE_STAGES];
};

#if CUDA_WGMMA
/* The tiles of one step of the contraction come to the stage. */
static __device__ __forceinline__ void fetch(const scores_arguments &a, unsigned char *stage,
                                             uint64_t *full, int step, int token, int head,
                                             int batch) {
    barrier_arrive_for(full, (unsigned)a.tiles * TILE_BYTES);
    tile_load(stage, &a.a, step * TILE_COLUMNS, token, head, batch, full);
    tile_load(stage + TILE_BYTES, &a.b, step * TILE_COLUMNS, token, head, batch, full);
    if (a.tiles > 2)
        tile_load(stage + 2 * TILE_BYTES, &a.other, step * TILE_COLUMNS, token, head, batch, full);
}

/* Half a row of a tile (row t / 2, half t % 2) with half a row of another one, or with 32 floats. */
static __device__ __forceinline__ float dot_tiles(const unsigned char *x, const unsigned char *y) {
    unsigned row = threadIdx.x / 2, half = threadIdx.x % 2;
    float sum = 0.0f;
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
        unsigned at = tile_offset(row, (half * 4 + i) * 8);
        sum += dot_eight(*(const uint4 *)(x + at), *(const uint4 *)(y + at));
    }
    return sum;
}
static __device__ __forceinline__ float dot_vector(const unsigned char *x, const float *y) {
    unsigned row = threadIdx.x / 2, half = threadIdx.x % 2;
    float sum = 0.0f;
#pragma unroll
    for (unsigned i = 0; i < 4; i++)
        sum += dot_eight_floats(*(const uint4 *)(x + tile_offset(row, (half * 4 + i) * 8)),
                                y + (half * 4 + i) * 8);
    return sum;
}

/* P of a row from q . k and q . n, for h into one tile and as it is into the next: its denominator is the sum before rho. */
static __device__ __forceinline__ void end_scores(const scores_arguments &a,
                                                  const struct scores_shared *shared,
                                                  float (&x)[CHUNK / 2], int half, int row,
                                                  bool there, int64_t at, unsigned char *tiles) {
    const struct chunk_gates *gates = a.shape.at.gates + at;
    struct chunk_factors *factors = a.shape.at.factors + at;
    float read = factors->read[row];
    struct score_row r = finish_scores(a.shape, x, half, row, there, gates->row[row], gates->column,
                                       gates->m[row], read * shared->vector[row]);
    __syncwarp(); /* all of the row have read */
    if (threadIdx.x % 4 == 0) {
        a.shape.at.denominator[at * CHUNK + row] = r.denominator;
        factors->read[row] = read * r.reciprocal;
        factors->before[row] = read / r.top;
        factors->after[row] = r.reciprocal * r.top;
    }
    lay_scores(x, 1.0f / r.top, half, row, 0, CHUNK / 8, tiles);
    if (a.keeps)
        lay_scores(x, r.reciprocal, half, row, 0, CHUNK / 8, tiles + TILE_BYTES);
}

/* dS of a row from dh . v and, in the exact form, dh . h, into a tile. */
static __device__ __forceinline__ void end_dscores(const scores_arguments &a,
                                                   const struct scores_shared *shared,
                                                   float (&x)[CHUNK / 2], int half, int row,
                                                   bool there, int64_t at, unsigned char *tile) {
    const struct chunk_gates *gates = a.shape.at.gates + at;
    float d = a.shape.at.denominator[at * CHUNK + row], m = gates->m[row],
          delta = shared->vector[row];
    float reciprocal = reciprocal_of(a.shape, d, m);
    bool held = !a.shape.exact || (a.shape.sigmoid && !a.shape.normalize);
    float share = there && !held && fabsf(d) > expf(-m) ? (d > 0.0f ? -delta : delta) : 0.0f;
    weigh(x, half, row, there, gates->row[row], gates->column, a.shape.scale * reciprocal,
          a.shape.scale * reciprocal * share);
    if (a.shape.exact && threadIdx.x % 4 == 0) {
        a.shape.at.delta[at * CHUNK + row] = delta;
        a.shape.at.factors[at].share[row] = share;
    }
    lay_scores(x, 1.0f, half, row, 0, CHUNK / 8, tile);
}

static __device__ __forceinline__ void copy_tile(uint16_t *to, const unsigned char *tile) {
#pragma unroll
    for (int i = 0; i < TILE_BYTES / 16 / WARPGROUP; i++)
        ((uint4 *)to)[i * WARPGROUP + threadIdx.x] =
            ((const uint4 *)tile)[i * WARPGROUP + threadIdx.x];
}

/* Sums of all steps in `sums`; of each row q . n or dh . h (or 0) in shared->vector. */
template <bool BACKWARD>
static __device__ __forceinline__ void multiply(const scores_arguments &a, float (&sums)[CHUNK / 2],
                                                unsigned char *stages, struct scores_shared *shared,
                                                int steps, int token, int head, int batch) {
    const unsigned stage_bytes = (unsigned)a.tiles * TILE_BYTES;
    float dot = 0.0f;
    for (int step = 0; step < steps; step++) {
        unsigned char *stage = stages + step % SCORE_STAGES * stage_bytes;
        uint64_t *full = shared->full + step % SCORE_STAGES;
        barrier_wait(full, (unsigned)(step / SCORE_STAGES & 1));
        uint64_t rows = tile_straight(stage), columns = tile_straight(stage + TILE_BYTES);
        wgmma_begin();
#pragma unroll
        for (unsigned i = 0; i < 4; i++)
            wgmma_shared<0, 0>(sums, tile_advance(rows, 32 * i), tile_advance(columns, 32 * i),
                               step || i);
        wgmma_commit();
        if (!BACKWARD)
            dot += dot_vector(stage, shared->normalizer + step * TILE_COLUMNS);
        else if (a.tiles > 2)
            dot += dot_tiles(stage, stage + 2 * TILE_BYTES);
        wgmma_wait<0>();
        wgmma_settle(sums);
        __syncthreads();
        if (threadIdx.x == 0 && step + SCORE_STAGES < steps)
            fetch(a, stage, full, step + SCORE_STAGES, token, head, batch);
    }
    dot += __shfl_xor_sync(ALL_LANES, dot, 1);
    if (threadIdx.x % 2 == 0)
        shared->vector[threadIdx.x / 2] = dot;
    __syncthreads();
}

#endif

template <bool BACKWARD>
static __global__
__launch_bounds__(WARPGROUP) void chunkwise_scores(const __grid_constant__ scores_arguments a) {
#if CUDA_WGMMA
    extern __shared__ __align__(1024) unsigned char stages[];
    const unsigned stage_bytes = (unsigned)a.tiles * TILE_BYTES;
    struct scores_shared *shared = (struct scores_shared *)(stages + a.stages * stage_bytes);
    int head = (int)blockIdx.y, place = (int)blockIdx.x, thread = (int)threadIdx.x;
    int steps = (BACKWARD ? a.shape.d_v : a.shape.d_qk) / TILE_COLUMNS;
    if (thread == 0) {
        for (int i = 0; i < SCORE_STAGES; i++)
            barrier_make(shared->full + i, 1);
        barrier_made();
    }
    __syncwarp(); /* for racecheck: to it, another lane has made them */
    cuda_wait();
    struct chunk_sequence s = sequence_at(a.shape, sequence_of(a.shape, place));
    if (place - s.place >= s.chunks)
        return;
    struct chunk c = chunk_at(s, place - s.place);
    int64_t at = (int64_t)place * a.shape.heads + head;
    if (thread == 0)
        for (int i = 0; i < SCORE_STAGES && i < steps; i++)
            fetch(a, stages + i * stage_bytes, shared->full + i, i, s.first + c.first, head,
                  s.batch);
    for (int d = thread; d < a.shape.d_qk && !BACKWARD; d += WARPGROUP)
        shared->normalizer[d] = a.shape.at.normalizer[at * a.shape.d_qk + d];
    __syncthreads();

    float sums[CHUNK / 2];
    multiply<BACKWARD>(a, sums, stages, shared, steps, s.first + c.first, head, s.batch);
    int lane = thread % WARP;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = thread / WARP * 16 + lane / 4 + 8 * half;
        if (BACKWARD)
            end_dscores(a, shared, sums, half, row, row < c.tokens, at, stages);
        else
            end_scores(a, shared, sums, half, row, row < c.tokens, at, stages);
    }
    __syncthreads();
    copy_tile(a.out + at * SCORES, stages);
    if (a.keeps)
        copy_tile(a.shape.at.scores + at * SCORES, stages + TILE_BYTES);
#endif
}

static xlstm_status run(const cuda_chunkwise *c, bool backward) {
    struct scores_arguments a = {};
    a.shape = chunkwise_shape(c);
    xlstm_status status =
        chunkwise_map(&a.a, c, backward ? &c->dh : &c->q, backward ? c->d_v : c->d_qk);
    if (status == XLSTM_OK)
        status = chunkwise_map(&a.b, c, backward ? &c->v : &c->k, backward ? c->d_v : c->d_qk);
    a.tiles = backward && c->exact ? 3 : 2;
    a.out = backward ? a.shape.at.dscores : chunkwise_h_scores(c, &a.shape.at);
    a.keeps = !backward && c->dh.data;
    if (status == XLSTM_OK && a.tiles > 2)
        status = chunkwise_map(&a.other, c, &c->h, c->d_v);
    if (status != XLSTM_OK)
        return status;
    int steps = (backward ? c->d_v : c->d_qk) / TILE_COLUMNS, most = SCORE_STAGES;
    a.stages = steps < most ? steps : most;
    size_t shared = (size_t)(a.stages * a.tiles) * TILE_BYTES + sizeof(struct scores_shared);
    return chunkwise_launch(c, backward ? "chunkwise_dscores" : "chunkwise_scores",
                            backward ? chunkwise_scores<true> : chunkwise_scores<false>,
                            dim3((unsigned)a.shape.places, (unsigned)c->heads), WARPGROUP, shared,
                            a);
}

xlstm_status chunkwise_run_scores(const cuda_chunkwise *c) {
    return run(c, false);
}

xlstm_status chunkwise_run_dscores(const cuda_chunkwise *c) {
    return run(c, true);
}
