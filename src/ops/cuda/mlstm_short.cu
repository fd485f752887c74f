/* The mLSTM of short prompts in one kernel: sequences of 64 to 128 tokens (mlstm_chunkwise.h), which the chunkwise kernels
 * would do in seven, one behind the other.
 *
 * A block has 64 values of a head of a sequence, and all of its tokens as one chunk; the blocks of a head are a cluster.
 * What is computed is what chunkwise_parts.h says of a chunk: every block makes gates and scores for itself. Warpgroup g has
 * tokens 64 g and on, and a half of the keys of C, which stays in registers in f32 from its reading to its writing, and goes
 * to shared memory as bf16 for what the tokens read of it. */
#include "ops/cuda/batch.h"
#include "ops/cuda/chunkwise_scores.h"
#include "ops/cuda/mlstm_chunkwise.h"
#include "ops/cuda/special.h"

enum {
    TOKENS = MLSTM_SHORT_MOST,
    GROUPS = 2,
    THREADS = GROUPS * WARPGROUP,
    VALUES = TILE_COLUMNS, /* of a block */
    GATE_WARPS = WARPGROUP / WARP,
    WIDE_BYTES = TOKENS * TILE_ROW_BYTES, /* a tile of all tokens */
    TILE_BYTES = 64 * TILE_ROW_BYTES,
    LEAST_SLICES = 2,
    MOST_SLICES = 8,
    MOST_KEYS = 256 / LEAST_SLICES /* of n, of a block */
};

struct short_arguments {
    tile_map q, k, v;
    cuda_batch batch;
    chunkwise_array h, input, forget;
    chunkwise_state state;
    int d_v;
    float eps, scale, log2_scale;
};

/* Of each token, as struct chunk_gates and struct chunk_factors have them, but for row and column, which are exponents of 2,
 * the row's with the scale of q . k. */
struct short_shared {
    float row[TOKENS], column[TOKENS], m[TOKENS], read[TOKENS], write[TOKENS];
    float dot[TOKENS];                     /* q . n */
    float sums[THREADS / WARP][MOST_KEYS]; /* of n, of each warp's tokens */
    float keep, after;
    float floats[GATE_WARPS];
    int integers[GATE_WARPS];
    uint64_t full;
};

/* Tiles in shared memory: q and k [keys / 64][TOKENS][64], v and what is stored of it [TOKENS][64], C [keys / 64][64][64]. */
template <int KEYS> struct short_form {
    static constexpr int tiles = KEYS / TILE_COLUMNS;
    static constexpr int k_at = tiles * WIDE_BYTES, v_at = 2 * k_at, stored_at = v_at + WIDE_BYTES,
                         c_at = stored_at + WIDE_BYTES, n_at = c_at + tiles * TILE_BYTES,
                         shared_at = n_at + KEYS * (int)sizeof(float);
    static constexpr size_t bytes = shared_at + sizeof(struct short_shared);
};

#if CUDA_WGMMA

/* ---- Gates: the first warpgroup, a thread a token ---- */

/* A value of each warp of the warpgroup, to all. */
template <class T>
static __device__ __forceinline__ void share_warps(T *shared, T value, T (&all)[GATE_WARPS]) {
    threads_sync(1, WARPGROUP); /* the values of before have been read */
    if (threadIdx.x % WARP == WARP - 1)
        shared[threadIdx.x / WARP] = value;
    threads_sync(1, WARPGROUP);
#pragma unroll
    for (int i = 0; i < GATE_WARPS; i++)
        all[i] = shared[i];
}

/* The largest of the warpgroup. */
static __device__ __forceinline__ float group_largest(struct short_shared *s, float x) {
    float all[GATE_WARPS];
    for (int step = WARP / 2; step > 0; step /= 2)
        x = larger(x, __shfl_xor_sync(ALL_LANES, x, step));
    share_warps(s->floats, x, all);
#pragma unroll
    for (int i = 0; i < GATE_WARPS; i++)
        x = larger(x, all[i]);
    return x;
}

static __device__ __forceinline__ float gate_at(const chunkwise_array &gate, int64_t token,
                                                int head) {
    return ((const float *)gate.data)[token * gate.token + head * gate.head];
}

/* `f` and `i`: pre-activations of this thread's token, if it is there. `given`: m before. f = -inf and m = -inf as
 * chunkwise_gates.cu says. */
static __device__ __forceinline__ void make_gates(const short_arguments &a, struct short_shared *s,
                                                  bool there, float f, float i, float given) {
    const int token = (int)threadIdx.x, warp = token / WARP, lane = token % WARP;
    const float before = given < LOWEST_MAXIMUM ? LOWEST_MAXIMUM : given;
    const float log_f = there ? log_sigmoid(f) : 0.0f;
    float b = log_f < LOWEST_LOG ? LOWEST_LOG : log_f, sums[GATE_WARPS], total = 0.0f;
#pragma unroll 1
    for (int step = 1; step < WARP; step *= 2) {
        const float other = __shfl_up_sync(ALL_LANES, b, step);
        b += lane >= step ? other : 0.0f;
    }
    share_warps(s->floats, b, sums);
#pragma unroll
    for (int w = 0; w < GATE_WARPS; w++) {
        b += w < warp ? sums[w] : 0.0f;
        total += sums[w];
    }
    const float column = there ? i - b : -INFINITY;
    float most = column, tops[GATE_WARPS];
#pragma unroll 1
    for (int step = 1; step < WARP; step *= 2) {
        const float other = __shfl_up_sync(ALL_LANES, most, step);
        most = lane >= step ? larger(most, other) : most;
    }
    share_warps(s->floats, most, tops);
    float highest = -INFINITY, so_far = larger(before, most);
#pragma unroll
    for (int w = 0; w < GATE_WARPS; w++) {
        so_far = w < warp ? larger(so_far, tops[w]) : so_far;
        highest = larger(highest, tops[w]);
    }
    /* What the chunk does to m. */
    const unsigned lanes = __ballot_sync(ALL_LANES, log_f == -INFINITY);
    int last = -1, forgotten[GATE_WARPS];
    share_warps(s->integers, lanes ? warp * (int)WARP + 31 - __clz((int)lanes) : -1, forgotten);
#pragma unroll
    for (int w = 0; w < GATE_WARPS; w++)
        last = forgotten[w] > last ? forgotten[w] : last;
    if (last >= 0 && highest < INFINITY) /* +inf and NaN stay */
        highest = group_largest(s, token >= last ? column : -INFINITY);
    const float after = larger(before + (last < 0 ? total : LOWEST_MAXIMUM), total + highest);
    const bool stored = is_something(after);
    const float m = b + so_far, row = b - m;
    s->row[token] = there ? fmaf(row, LOG2_E, a.log2_scale) : -INFINITY;
    s->column[token] = column * LOG2_E;
    s->m[token] = there ? m : 0.0f;
    s->read[token] = there ? a.scale * expf(row + before) : 0.0f;
    s->write[token] = there && stored ? expf(total + column - after) : 0.0f;
    if (token == 0) {
        s->keep = stored && last < 0 ? expf(total + before - after) : 0.0f;
        s->after = stored ? after : -INFINITY;
    }
}

/* ---- Tiles ---- */

/* Rows from `tokens` on belong to others, or to nobody: they become 0, whatever they are. */
static __device__ __forceinline__ void clear_rows(unsigned char *tile, int tokens) {
#pragma unroll 1
    for (int i = tokens * 8 + (int)threadIdx.x; i < TOKENS * 8; i += THREADS)
        *(uint4 *)(tile + i * 16) = make_uint4(0, 0, 0, 0);
}

/* Values of v take the order of accumulators, in place; and in the same order, times their weights, go to `stored`. A thread takes
 * 16 values of a token. */
static __device__ __forceinline__ void order_values(unsigned char *v, unsigned char *stored,
                                                    const float *weight) {
#pragma unroll 1
    for (unsigned i = threadIdx.x; i < TOKENS * (VALUES / 16); i += THREADS) {
        const unsigned token = i / (VALUES / 16), column = i % (VALUES / 16) * 16;
        const unsigned at[2] = {tile_offset(token, column), tile_offset(token, column + 8)};
        const uint4 low = *(const uint4 *)(v + at[0]), high = *(const uint4 *)(v + at[1]);
        const uint32_t words[2][4] = {{low.x, low.z, high.x, high.z},
                                      {low.y, low.w, high.y, high.w}};
        const float w = weight[token];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t weighed[4];
#pragma unroll
            for (int k = 0; k < 4; k++)
                weighed[k] = pack_bf16(w * from_bf16((uint16_t)words[half][k]),
                                       w * from_bf16((uint16_t)(words[half][k] >> 16)));
            *(uint4 *)(v + at[half]) =
                make_uint4(words[half][0], words[half][1], words[half][2], words[half][3]);
            *(uint4 *)(stored + at[half]) =
                make_uint4(weighed[0], weighed[1], weighed[2], weighed[3]);
        }
    }
}

/* ---- C: a warpgroup has KEYS / GROUPS keys, 64 at a time ----
 * A thread's accumulators of 16 columns are 4 neighbours in memory: value 4 q + 2 b + e of 16 is column 8 b + 2 q + e, q the
 * thread's place of four. */

/* Of this thread's first accumulator. */
static __device__ __forceinline__ int key_of(int group, int tiles) {
    return group * tiles * 64 + (int)threadIdx.x % WARPGROUP / WARP * 16 +
           (int)threadIdx.x % WARP / 4;
}
static __device__ __forceinline__ int value_of_thread(void) {
    return (int)threadIdx.x % 4 * 4;
}

static __device__ __forceinline__ float half_of(int type, uint16_t bits) {
    return type == DTYPE_BF16 ? from_bf16(bits) : from_f16(bits);
}

static __device__ __forceinline__ uint32_t halves_of(int type, float low, float high) {
    return type == DTYPE_BF16 ? pack_bf16(low, high)
                              : (uint32_t)to_f16(low) | (uint32_t)to_f16(high) << 16;
}

/* Calls f with four neighbouring elements of C at a time: this thread's values of them, and where they are from `at` on. */
template <int TILES, class F>
static __device__ __forceinline__ void each_four(const short_arguments &a, int64_t at, int group,
                                                 float (&c)[TILES][32], F f) {
    const int64_t first = at + (int64_t)key_of(group, TILES) * a.d_v + value_of_thread();
#pragma unroll
    for (int row = 0; row < TILES * 2; row++) {
        const int64_t here = first + (int64_t)(row / 2 * 64 + row % 2 * 8) * a.d_v;
#pragma unroll
        for (int i = 0; i < VALUES / 16; i++) {
            float *x = &c[row / 2][8 * i + 2 * (row % 2)];
            f(x[0], x[1], x[4], x[5], here + 16 * i);
        }
    }
}

template <int TILES>
static __device__ __forceinline__ void load_c(const short_arguments &a, int64_t at, int group,
                                              float (&c)[TILES][32]) {
    const void *from = a.state.c;
    const int type = a.state.type;
    if (type == DTYPE_F32)
        each_four(a, at, group, c, [&](float &x, float &y, float &z, float &w, int64_t i) {
            const float4 four = *(const float4 *)((const float *)from + i);
            x = four.x;
            y = four.y;
            z = four.z;
            w = four.w;
        });
    else
        each_four(a, at, group, c, [&](float &x, float &y, float &z, float &w, int64_t i) {
            const uint2 four = *(const uint2 *)((const uint16_t *)from + i);
            x = half_of(type, (uint16_t)four.x);
            y = half_of(type, (uint16_t)(four.x >> 16));
            z = half_of(type, (uint16_t)four.y);
            w = half_of(type, (uint16_t)(four.y >> 16));
        });
}

template <int TILES>
static __device__ __forceinline__ void store_c(const short_arguments &a, int64_t at, int group,
                                               float (&c)[TILES][32]) {
    void *to = a.state.c;
    const int type = a.state.type;
    if (type == DTYPE_F32)
        each_four(a, at, group, c, [&](float &x, float &y, float &z, float &w, int64_t i) {
            *(float4 *)((float *)to + i) = make_float4(x, y, z, w);
        });
    else
        each_four(a, at, group, c, [&](float &x, float &y, float &z, float &w, int64_t i) {
            *(uint2 *)((uint16_t *)to + i) =
                make_uint2(halves_of(type, x, y), halves_of(type, z, w));
        });
}

/* As bf16, in the order of accumulators. */
template <int TILES>
static __device__ __forceinline__ void lay_c(unsigned char *tiles, int group,
                                             const float (&c)[TILES][32]) {
    const unsigned key = (unsigned)key_of(group, TILES), column = threadIdx.x % 4 * 2;
    unsigned char *first = tiles + key / 64 * TILE_BYTES;
#pragma unroll
    for (unsigned i = 0; i < VALUES / 8; i++) {
        unsigned char *at = first + tile_offset(key % 64, 8 * i + column);
#pragma unroll
        for (int row = 0; row < TILES * 2; row++) {
            const float *from = &c[row / 2][4 * (int)i + 2 * (row % 2)];
            *(uint32_t *)(at + row / 2 * TILE_BYTES + row % 2 * 8 * TILE_ROW_BYTES) =
                pack_bf16(from[0], from[1]);
        }
    }
}

/* ---- n ---- */

/* q . n of the tokens of this warpgroup, two threads each. */
template <int KEYS>
static __device__ __forceinline__ void make_dots(const unsigned char *q, const float *n,
                                                 struct short_shared *s) {
    const unsigned token = threadIdx.x / 2, half = threadIdx.x % 2;
    float sum = 0.0f;
#pragma unroll 1
    for (int tile = 0; tile < KEYS / TILE_COLUMNS; tile++)
#pragma unroll 2
        for (unsigned i = 0; i < 4; i++)
            sum += dot_eight_floats(
                *(const uint4 *)(q + tile * WIDE_BYTES + tile_offset(token, (half * 4 + i) * 8)),
                n + tile * TILE_COLUMNS + (half * 4 + i) * 8);
    sum += __shfl_xor_sync(ALL_LANES, sum, 1);
    if (half == 0)
        s->dot[token] = sum;
}

/* What the tokens of each warp add to n: every block of a head has some of its keys, 32 at a time. */
template <int KEYS>
static __device__ __forceinline__ void add_keys(const unsigned char *k, struct short_shared *s) {
    enum { OF_WARP = TOKENS / (THREADS / WARP) };
    const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
#pragma unroll 1
    for (int set = 0; set * gridDim.x + blockIdx.x < KEYS / WARP; set++) {
        const unsigned key = (set * gridDim.x + blockIdx.x) * WARP + lane;
        const unsigned char *tile = k + key / TILE_COLUMNS * WIDE_BYTES;
        float sum = 0.0f;
#pragma unroll 4
        for (unsigned i = 0; i < OF_WARP; i++) {
            const unsigned token = warp * OF_WARP + i;
            sum += s->write[token] *
                   from_bf16(*(const uint16_t *)(tile + tile_offset(token, key % TILE_COLUMNS)));
        }
        s->sums[warp][set * WARP + (int)lane] = sum;
    }
}

/* n after the tokens, of the keys of this block, a thread each. */
template <int KEYS>
static __device__ __forceinline__ void store_n(const short_arguments &a, int64_t at, const float *n,
                                               const struct short_shared *s) {
    const unsigned thread = threadIdx.x,
                   key = (thread / WARP * gridDim.x + blockIdx.x) * WARP + thread % WARP;
    if (key >= KEYS)
        return;
    float next = s->keep * n[key];
#pragma unroll
    for (int i = 0; i < THREADS / WARP; i++)
        next += s->sums[i][thread];
    store_as(a.state.n, a.state.type, at + key, next);
}

/* ---- Scores ---- */

/* This thread's scores of two rows, x from q . k: weighed, as P / top; read / top of the rows to `reads`, and what outputs
 * are multiplied by to `ends`. Rows that are not there have some, which nobody takes. */
static __device__ __forceinline__ void make_scores(const short_arguments &a,
                                                   const struct short_shared *s,
                                                   float (&x)[TOKENS / 2], float (&reads)[2],
                                                   float (&ends)[2]) {
    const int first = (int)threadIdx.x / WARP * 16 + (int)threadIdx.x % WARP / 4;
    const int quad = (int)threadIdx.x % 4 * 2;
    float sum[2] = {0.0f, 0.0f}, top[2] = {LEAST_TOP, LEAST_TOP};
    const float of_row[2] = {s->row[first], s->row[first + 8]};
#pragma unroll
    for (int i = 0; i < TOKENS / 8; i++) {
        const float2 of_column = *(const float2 *)(s->column + 8 * i + quad);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int half = j / 2;
            const float decay = special_exp2(of_row[half] + (j % 2 ? of_column.y : of_column.x));
            const bool sees = 8 * i + quad + j % 2 <= first + 8 * half;
            float *at = &x[4 * i + j];
            *at = sees ? *at * decay : 0.0f;
            sum[half] += *at;
            top[half] = fmaxf(top[half], fabsf(*at));
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = first + 8 * half;
#pragma unroll
        for (int lanes = 1; lanes <= 2; lanes *= 2) {
            sum[half] += __shfl_xor_sync(ALL_LANES, sum[half], lanes);
            top[half] = fmaxf(top[half], __shfl_xor_sync(ALL_LANES, top[half], lanes));
        }
        const float d = sum[half] + s->read[row] * s->dot[row];
        ends[half] = top[half] / (larger(fabsf(d), expf(-s->m[row])) + a.eps);
        reads[half] = s->read[row] / top[half];
        top[half] = 1.0f / top[half];
    }
#pragma unroll
    for (int i = 0; i < TOKENS / 2; i++)
        x[i] *= top[i / 2 % 2];
}

static __device__ __forceinline__ void store_h(const short_arguments &a, int first, int tokens,
                                               int column, const float (&o)[VALUES / 2],
                                               const float (&ends)[2]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = (int)threadIdx.x / WARP * 16 + (int)threadIdx.x % WARP / 4 + 8 * half;
        uint16_t *to =
            (uint16_t *)a.h.data + (int64_t)(first + row) * a.h.token + column + value_of_thread();
        if (row >= tokens)
            continue;
#pragma unroll
        for (int i = 0; i < VALUES / 16; i++) {
            const float *y = &o[8 * i + 2 * half];
            *(uint2 *)(to + 16 * i) = make_uint2(pack_bf16(y[0] * ends[half], y[1] * ends[half]),
                                                 pack_bf16(y[4] * ends[half], y[5] * ends[half]));
        }
    }
}

/* ---- The kernel ---- */

/* One warp, a box for each lane. */
template <int KEYS>
static __device__ __forceinline__ void fetch(const short_arguments &a, unsigned char *tiles,
                                             struct short_shared *s, int first, int head,
                                             int column) {
    using form = short_form<KEYS>;
    const int lane = (int)threadIdx.x % WARP, box = lane / 2, row = first + lane % 2 * 64;
    unsigned char *to = tiles + lane * TILE_BYTES;
    if (lane == 0)
        barrier_arrive_for(&s->full, (unsigned)(2 * form::tiles + 1) * WIDE_BYTES);
    __syncwarp();
    if (box < form::tiles)
        tile_load(to, &a.q, box * TILE_COLUMNS, row, head, 0, &s->full);
    else if (box < 2 * form::tiles)
        tile_load(to, &a.k, (box - form::tiles) * TILE_COLUMNS, row, head, 0, &s->full);
    else if (box == 2 * form::tiles)
        tile_load(to, &a.v, column, row, head, 0, &s->full);
}

/* Scores of this warpgroup's tokens and what they read of C; waited for. */
template <int KEYS>
static __device__ __forceinline__ void multiply_rows(const unsigned char *tiles, int group,
                                                     float (&x)[TOKENS / 2], float (&o)[VALUES / 2],
                                                     struct short_shared *s) {
    using form = short_form<KEYS>;
    const uint64_t q = tile_straight(tiles + group * TILE_BYTES),
                   k = tile_straight(tiles + form::k_at),
                   c = tile_transposed(tiles + form::c_at, TILE_BYTES);
    wgmma_begin();
#pragma unroll 1
    for (unsigned tile = 0; tile < KEYS / TILE_COLUMNS; tile++)
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            const unsigned at = tile * WIDE_BYTES + i * 32;
            wgmma_shared<0, 0>(x, tile_advance(q, at), tile_advance(k, at), tile + i > 0);
            wgmma_shared<0, 1>(o, tile_advance(q, at),
                               tile_advance(c, tile * TILE_BYTES + i * 2048), tile + i > 0);
        }
    wgmma_commit();
    make_dots<KEYS>(tiles, (const float *)(tiles + form::n_at), s);
    add_keys<KEYS>(tiles + form::k_at, s);
    __syncthreads();
    wgmma_wait<0>();
    wgmma_settle(x);
    wgmma_settle(o);
}

/* o += P v, and C += k^T (weighed v), whose sums begin with what is kept of C. */
template <int KEYS>
static __device__ __forceinline__ void
multiply_values(const unsigned char *tiles, int group, const float (&x)[TOKENS / 2],
                float (&o)[VALUES / 2], float (&c)[KEYS / 128][32]) {
    using form = short_form<KEYS>;
    const uint64_t v = tile_transposed(tiles + form::v_at, TILE_BYTES),
                   stored = tile_transposed(tiles + form::stored_at, TILE_BYTES);
    uint32_t p[TOKENS / 4];
#pragma unroll
    for (int i = 0; i < TOKENS / 4; i++)
        p[i] = pack_bf16(x[2 * i], x[2 * i + 1]);
    wgmma_begin();
#pragma unroll
    for (unsigned i = 0; i < TOKENS / 16; i++)
        wgmma_registers<1>(o, p + 4 * i, tile_advance(v, i * 2048), 1);
#pragma unroll
    for (int tile = 0; tile < KEYS / 128; tile++) {
        const uint64_t k = tile_transposed(
            tiles + form::k_at + (group * (KEYS / 128) + tile) * WIDE_BYTES, TILE_BYTES);
#pragma unroll 1
        for (unsigned i = 0; i < TOKENS / 16; i++)
            wgmma_shared<1, 1>(c[tile], tile_advance(k, i * 2048), tile_advance(stored, i * 2048),
                               1);
    }
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_settle(o);
#pragma unroll
    for (int tile = 0; tile < KEYS / 128; tile++)
        wgmma_settle(c[tile]);
}

#endif

template <int KEYS>
static __global__ void __launch_bounds__(THREADS, 1)
    mlstm_short(const __grid_constant__ struct short_arguments a) {
#if CUDA_WGMMA
    using form = short_form<KEYS>;
    extern __shared__ __align__(1024) unsigned char tiles[];
    struct short_shared *s = (struct short_shared *)(tiles + form::shared_at);
    float *n = (float *)(tiles + form::n_at);
    const int slice = (int)blockIdx.x, head = (int)blockIdx.y, sequence = (int)blockIdx.z;
    const int group = (int)threadIdx.x / WARPGROUP, column = slice * VALUES;
    if (threadIdx.x == 0) {
        tile_map_prefetch(&a.q);
        tile_map_prefetch(&a.k);
        tile_map_prefetch(&a.v);
        barrier_make(&s->full, 1);
        barrier_made();
    }
    cuda_wait();
    cuda_release();
    const int first = a.batch.start[sequence], tokens = a.batch.start[sequence + 1] - first;
    const int64_t slot = a.batch.slot[sequence];
    if (!batch_is_sound(a.batch)) /* all blocks find the same */
        return;
    const chunkwise_state &state = a.state;
    const int64_t c_at = slot * state.c_slot + head * state.c_head + column,
                  n_at = slot * state.n_slot + head * state.n_head;
    float *m = state.m + slot * state.m_slot + head * state.m_head;
    if (threadIdx.x / WARP == THREADS / WARP - 1)
        fetch<KEYS>(a, tiles, s, first, head, column);
    const bool there = (int)threadIdx.x < tokens;
    const int64_t token = first + (int)threadIdx.x;
    const float f = there ? gate_at(a.forget, token, head) : 0.0f,
                i = there ? gate_at(a.input, token, head) : 0.0f;
    float c[KEYS / 128][32];
    load_c(a, c_at, group, c);
    for (int d = (int)threadIdx.x; d < KEYS; d += THREADS)
        n[d] = load_as(state.n, state.type, n_at + d);
    if (group == 0)
        make_gates(a, s, there, f, i, *m);
    lay_c(tiles + form::c_at, group, c);
    barrier_wait(&s->full, 0);
    __syncthreads();
    order_values(tiles + form::v_at, tiles + form::stored_at, s->write);
    if (tokens < TOKENS) {
        __syncthreads();
        clear_rows(tiles + form::v_at, tokens);
        clear_rows(tiles + form::stored_at, tokens);
#pragma unroll 1
        for (int i = 0; i < form::tiles; i++)
            clear_rows(tiles + form::k_at + i * WIDE_BYTES, tokens);
    }
    fence_async();
    cluster_sync(); /* all blocks of the head have read n and m */

    float x[TOKENS / 2], o[VALUES / 2], reads[2], ends[2];
    multiply_rows<KEYS>(tiles, group, x, o, s);
    make_scores(a, s, x, reads, ends);
#pragma unroll
    for (int i = 0; i < VALUES / 2; i++)
        o[i] *= reads[i / 2 % 2];
#pragma unroll
    for (int i = 0; i < KEYS / 128 * 32; i++)
        c[i / 32][i % 32] *= s->keep;
    multiply_values<KEYS>(tiles, group, x, o, c);
    store_h(a, first, tokens, head * (int)a.h.head + column, o, ends);
    store_c(a, c_at, group, c);
    store_n<KEYS>(a, n_at, n, s);
    if (slice == 0 && threadIdx.x == 0)
        *m = s->after;
#endif
}

/* ---- The host's part ---- */

typedef void short_kernel(struct short_arguments);

/* Whether four neighbours of C can be moved together. */
static bool is_wide(const chunkwise_state *s) {
    return (uintptr_t)s->c % (4 * dtype_size(s->type)) == 0 && s->c_slot % 4 == 0 &&
           s->c_head % 4 == 0;
}

bool cuda_mlstm_short(cuda_stream *s, const cuda_chunkwise *c, const cuda_batch *batch,
                      int64_t longest) {
    const int slices = c->d_v / VALUES;
    if (longest > TOKENS || c->d_qk > 256 || !is_wide(&c->initial) || slices < LEAST_SLICES ||
        slices > MOST_SLICES || c->gate_type != DTYPE_F32 ||
        2 * c->tokens < c->sequences * (int64_t)MLSTM_CHUNKWISE_FROM)
        return false;
    struct short_arguments a = {};
    a.batch = *batch;
    a.h = c->h;
    a.input = c->input_gate;
    a.forget = c->forget_gate;
    a.state = c->initial;
    a.d_v = c->d_v;
    a.eps = (float)c->eps;
    a.scale = (float)(1.0 / sqrt((double)c->d_qk));
    a.log2_scale = (float)(-0.5 * log2((double)c->d_qk));
    xlstm_status status = chunkwise_map(&a.q, c, &c->q, c->d_qk);
    if (status == XLSTM_OK)
        status = chunkwise_map(&a.k, c, &c->k, c->d_qk);
    if (status == XLSTM_OK)
        status = chunkwise_map(&a.v, c, &c->v, c->d_v);
    if (status != XLSTM_OK)
        return !ops_fail(&s->check, status, "mlstm: %s", xlstm_last_error());
    short_kernel *kernel = c->d_qk == 128 ? mlstm_short<128> : mlstm_short<256>;
    const size_t shared = c->d_qk == 128 ? short_form<128>::bytes : short_form<256>::bytes;
    cuda_launch launch = cuda_launch_of(
        "mlstm_short", kernel, dim3((unsigned)slices, (unsigned)c->heads, (unsigned)c->sequences),
        THREADS, shared, a);
    launch.cluster = (unsigned)slices;
    cuda_run_launch(s, &launch);
    return true;
}
