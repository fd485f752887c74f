/* What products by warpgroups of many tokens share, of bf16 (gemm.cu) and of e4m3 (gemm_fp8.cu): tiles of 128 tokens by
 * 256 rows, the ring of stages that bring 128 bytes of each along the width, outputs through shared memory. */
#ifndef OPS_CUDA_GEMM_WIDE_H
#define OPS_CUDA_GEMM_WIDE_H

#include "ops/cuda/gemm_ending.h"
#include "ops/cuda/wgmma.h"

enum {
    TILE_TOKENS = 128,
    GROUP_TOKENS = 64,
    TILE_ROWS = 256,
    STAGES = 4,
    MULTIPLIERS = 2, /* warpgroups */
    THREADS = (1 + MULTIPLIERS) * WARPGROUP,
    X_BYTES = TILE_TOKENS * TILE_ROW_BYTES,
    HALF_BYTES = TILE_ROWS / 2 * TILE_ROW_BYTES,
    STAGE_BYTES = X_BYTES + 2 * HALF_BYTES,
    OUT_BYTES = GROUP_TOKENS * TILE_ROW_BYTES, /* of which a warpgroup has two, in turn */
    SUMS = GROUP_TOKENS * TILE_ROWS / WARPGROUP
};

struct wide_tile {
    int part, row, token; /* its first */
};

#if CUDA_WGMMA

/* Tile `row` along the rows of all parts, tile `token` along the tokens. */
static __device__ __forceinline__ wide_tile wide_tile_of(const gemm &g, const int *first_tile,
                                                         int row, int token) {
    wide_tile t;
    t.part = 0;
    while (row >= first_tile[t.part + 1])
        t.part++;
    const bool gated = g.part[t.part].ending == CUDA_GATED;
    t.row = (row - first_tile[t.part]) * (gated ? TILE_ROWS / 2 : TILE_ROWS);
    t.token = token * TILE_TOKENS;
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

/* What a tile of `rows` is added to comes into the L2 cache while the last of its steps are fetched, one box at each. */
static __device__ __forceinline__ void wide_ask(const tile_map *residual, const wide_tile &t,
                                                int rows, int steps_left) {
    enum { COLUMNS = TILE_ROW_BYTES / 4, BEFORE = 24 };
    const int box = BEFORE - steps_left;
    if (box >= 0 && box < rows / COLUMNS * (TILE_TOKENS / GROUP_TOKENS))
        tile_ask(residual, (t.row + box / 2 * COLUMNS) * 2, t.token + box % 2 * GROUP_TOKENS, 0, 0);
}

/* ---- Endings ---- */

/* What the outputs of a piece are added to; `half`: tokens 8 further. */
template <int eights>
static __device__ __forceinline__ void wide_residual(const gemm &g, const gemm_part &p, int token,
                                                     int row, float2 (&residual)[2 * eights]) {
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
        for (int j = 0; j < eights; j++)
            residual[half * eights + j] = token + half * 8 < g.tokens
                                              ? gemm_residual(p, token + half * 8, row + j * 8)
                                              : make_float2(0.0f, 0.0f);
}

/* Outputs of type O, 128 bytes of each token at a time, of a tile of `rows`; `out` maps them. Pieces go through the two
 * rooms of the warpgroup in turn. What a piece is added to is read while those before are ended. */
template <int kind, class O, int rows>
static __device__ __forceinline__ void wide_end(const gemm &g, const tile_map *out,
                                                const wide_tile &t, int group, unsigned char *room,
                                                unsigned *turn, const float (&sums)[rows / 2]) {
    enum {
        COLUMNS = TILE_ROW_BYTES / (int)sizeof(O),
        EIGHTS = COLUMNS / 8,
        PIECES = (kind == END_SILU ? rows / 2 : rows) / COLUMNS,
        AHEAD = kind != END_ADD ? 1 : 16 / EIGHTS - 1, /* pieces whose residual is on its way */
    };
    const gemm_part &p = g.part[t.part];
    const int thread = (int)threadIdx.x % WARPGROUP, column = thread % 4 * 2;
    const int line = thread / WARP * 16 + thread % WARP / 4;
    const int token = t.token + group * GROUP_TOKENS + line;
    float2 residual[AHEAD + 1][2 * EIGHTS] = {};
#pragma unroll
    for (int piece = 0; kind == END_ADD && piece < AHEAD && piece < PIECES; piece++)
        wide_residual<EIGHTS>(g, p, token, t.row + piece * COLUMNS + column, residual[piece]);
#pragma unroll
    for (int piece = 0; piece < PIECES; piece++) {
        const int row = t.row + piece * COLUMNS;
        unsigned char *to = room + *turn * OUT_BYTES;
        *turn ^= 1;
        if (kind == END_ADD && piece + AHEAD < PIECES)
            wide_residual<EIGHTS>(g, p, token, row + AHEAD * COLUMNS + column,
                                  residual[(piece + AHEAD) % (AHEAD + 1)]);
        if (thread == 0)
            tile_stores_wait<1>(); /* the one before the last has been read */
        threads_sync(1 + group, WARPGROUP);
#pragma unroll
        for (int i = 0; i < 2 * EIGHTS; i++) {
            const int half = i / EIGHTS, j = i % EIGHTS;
            const float *z = sums + (piece * EIGHTS + j) * 4 + half * 2;
            const float *up = kind == END_SILU ? z + rows / 4 : z;
            const float2 add = residual[piece % (AHEAD + 1)][i];
            const float2 y = make_float2(gemm_end<kind>(p, z[0], up[0], add.x),
                                         gemm_end<kind>(p, z[1], up[1], add.y));
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
            tile_store(out, to, row * (int)(sizeof(O) / 2), t.token + group * GROUP_TOKENS, 0, 0);
            tile_stores_commit();
        }
    }
}

#endif

/* ---- The host's part ---- */

/* Bytes: of e4m3, else bf16. */
static bool wide_map_rows(cuda_stream *s, tile_map *map, const void *rows, bool bytes,
                          int64_t stride, int count, int width, int box) {
    tile_tensor t = {};
    t.data = rows;
    t.bytes = bytes;
    t.size[0] = width;
    t.size[1] = count;
    t.size[2] = t.size[3] = 1;
    t.stride[0] = 1;
    t.stride[1] = stride;
    const xlstm_status status = tile_map_make(map, &t, box, bytes ? TILE_ROW_BYTES : TILE_COLUMNS);
    return status == XLSTM_OK || ops_fail(&s->check, status, "%s", xlstm_last_error());
}

/* Of part `p`: f32 outputs are mapped as twice as many bf16. */
static bool wide_map_out(cuda_stream *s, tile_map *map, const gemm_part *p, int tokens) {
    const int halves = p->out_type == DTYPE_F32 ? 2 : 1;
    return wide_map_rows(s, map, p->out, false, p->out_stride * halves, tokens, p->rows * halves,
                         GROUP_TOKENS);
}

/* What part `p` is added to, for wide_ask; false: there is nothing, or the copy engine cannot read it. */
static bool wide_map_residual(cuda_stream *s, tile_map *map, const gemm_part *p, int tokens) {
    return p->residual && (uintptr_t)p->residual % 16 == 0 && p->residual_stride % 4 == 0 &&
           wide_map_rows(s, map, p->residual, false, p->residual_stride * 2, tokens, p->rows * 2,
                         GROUP_TOKENS);
}

/* Tiles along the rows of a part. */
static inline int wide_row_tiles(const gemm_part *p) {
    const int rows = p->ending == CUDA_GATED ? TILE_ROWS / 2 : TILE_ROWS;
    return (p->rows + rows - 1) / rows;
}

#endif
