/* Pieces of the sweep of the chunkwise mLSTM (chunkwise_sweep.cu): the forms of the kernel, a block's task, its state
 * in memory, and what is done with accumulators and tiles. */
#ifndef OPS_CUDA_CHUNKWISE_SWEEP_H
#define OPS_CUDA_CHUNKWISE_SWEEP_H

#include "ops/cuda/chunkwise_scores.h"

enum {
    COMPUTING = 2 * WARPGROUP,
    SWEEP_THREADS = COMPUTING + WARPGROUP,
    TILE_BYTES = CHUNK * TILE_ROW_BYTES,
    FACTOR_BYTES = 1344, /* struct chunk_factors, up to a multiple of 64 */
    SHARED_MOST = 227 << 10,
    BARRIER_BYTES = 256,
    MOST_SLOTS = 8,
    MOST_STAGES = 4,
    COMPUTING_WARPS = COMPUTING / WARP,
    BORDER_THREADS = 1024, /* divides every size of a state */
    NORMALIZER_WARPS = 2,
    REGISTERS_FETCHING = 24,
    REGISTERS_COMPUTING = 240,
    REGISTERS_CARRYING = 40, /* where no O is wanted; and of the others then: */
    REGISTERS_BESIDE = 232
};

/* What a sweep does besides. Where a block has all values of a head, it can make the scores itself, of X and Y that it
 * has anyway. */
enum sweep_kind {
    SWEEP_READS,   /* O alone, with scores that were made before */
    SWEEP_PASSES,  /* no O: the state is passed on */
    SWEEP_CARRIES, /* the same, and the normalizer with it */
    SWEEP_H,       /* makes P, and carries the normalizer along */
    SWEEP_DOTS, /* scores that were made before; multiplies the rows of O with those of another array */
    SWEEP_DQ /* the same, and makes dS, which it leaves in memory */
};

/* What a block that makes the scores needs of a chunk; the first three come by a bulk copy. */
struct sweep_scores {
    float row[CHUNK], column[CHUNK], m[CHUNK]; /* of struct chunk_gates */
    float vector[CHUNK];                       /* q . n; in dQ the denominators */
    float read[CHUNK];                         /* factors.read times rho */
};

/* A form of the kernel: KEYS of the state; ROWS times 64 values a warpgroup; SPLIT: the keys are; KIND: enum sweep_kind. */
template <int KEYS, int ROWS, bool SPLIT, int KIND> struct sweep_form {
    static constexpr bool reads = KIND != SWEEP_PASSES && KIND != SWEEP_CARRIES;
    static constexpr bool scores = KIND == SWEEP_H || KIND == SWEEP_DQ; /* are made here */
    static constexpr bool late =
        KIND == SWEEP_H; /* weighs values behind P Z: fewer registers at a time */
    static constexpr bool dots = KIND == SWEEP_DOTS || KIND == SWEEP_DQ;
    static constexpr bool carries = KIND == SWEEP_H || KIND == SWEEP_CARRIES; /* the normalizer */
    static constexpr bool bulk = scores || (dots && !SPLIT); /* the copy engine takes O away */
    static constexpr int width = SPLIT ? KEYS / 2 : KEYS;    /* keys of a warpgroup */
    static constexpr int value_tiles = SPLIT ? 1 : 2 * ROWS;
    static constexpr int values = 64 * value_tiles; /* of a block */
    static constexpr int slot_bytes = KEYS / TILE_COLUMNS * TILE_BYTES;
    static constexpr int score_at = value_tiles * TILE_BYTES; /* in a stage: behind Z */
    static constexpr int other_at = score_at + TILE_BYTES;
    static constexpr int stage_bytes = /* Z, P, the rows to multiply with */
        (value_tiles * (dots ? 2 : 1) + (reads ? 1 : 0)) * TILE_BYTES;
    static constexpr int factor_bytes = FACTOR_BYTES + (scores ? (int)sizeof(sweep_scores) : 0);
    static constexpr int stages = !reads ? 4 : KEYS <= 128 ? 3 : 2;
    static constexpr int beside = BARRIER_BYTES + (carries ? 2 * KEYS * 4 : 0);
    static constexpr int wanted =
        (SHARED_MOST - stages * (stage_bytes + factor_bytes) - beside) / slot_bytes;
    static constexpr int slots = wanted < MOST_SLOTS ? wanted : MOST_SLOTS;
    static constexpr size_t shared_bytes =
        slots * slot_bytes + stages * (stage_bytes + factor_bytes) + beside;
};

struct sweep_barriers {
    uint64_t slot_full[MOST_SLOTS], slot_empty[MOST_SLOTS];
    uint64_t stage_full[MOST_STAGES], stage_empty[MOST_STAGES];
    uint64_t vector_full[MOST_STAGES];
};

struct sweep_arguments {
    tile_map x, y, z, other, o; /* other: what dots are made with; o: out */
    struct chunk_shape shape;
    chunkwise_array out;
    uint16_t *scores;
    bool keeps;  /* scores that are made here go to memory, with the denominators */
    float *dots; /* [place][head][values / 64][CHUNK]: of 64 values each */
    const void *first_normalizer;
    void *last_normalizer;
    int64_t first_normalizer_slot, first_normalizer_head;
    int64_t last_normalizer_slot, last_normalizer_head;
    const float *vectors; /* [place][head][values]: added to X S after weighing; NULL: none */
    bool weigh_vectors;   /* by factors.share */
    bool backward;        /* chunks from the last to the first; read and write change roles */
    int sharing;  /* blocks of a cluster: the slices of a head, which have X and Y in common */
    int segments; /* of every sequence; the grid has those that are wanted */
    int values;   /* all */
    int64_t key_stride, value_stride; /* of a state in memory */
    const void *first;                /* the state before the first chunk */
    void *last;                       /* and after the last one */
    int first_type, last_type;
    int64_t first_slot, first_head, last_slot, last_head;
    float *borders;            /* [segment][sequence][head]: the state before the segment */
    float *normalizer_borders; /* [segment][sequence][head][keys] */
};

/* A block's task. */
struct sweep_task {
    struct chunk_sequence sequence;
    int index, head, first_value, segment, from, to; /* chunks in the order of the sweep */
    bool backward;
};

template <int VALUES>
static __device__ __forceinline__ struct sweep_task task_of(const sweep_arguments &a) {
    struct sweep_task t;
    t.first_value = (int)blockIdx.x % (a.values / VALUES) * VALUES;
    t.segment = (int)blockIdx.x / (a.values / VALUES);
    t.head = (int)blockIdx.y;
    t.index = (int)blockIdx.z;
    t.sequence = sequence_at(a.shape, t.index);
    t.from = (int)((int64_t)t.sequence.chunks * t.segment / a.segments);
    t.to = (int)((int64_t)t.sequence.chunks * (t.segment + 1) / a.segments);
    t.backward = a.backward;
    return t;
}

static_assert(sizeof(struct chunk_factors) <= FACTOR_BYTES &&
                  sizeof(struct sweep_barriers) <= BARRIER_BYTES,
              "room in shared memory");

#if CUDA_WGMMA
/* The chunk that is the i-th of the sweep. */
static __device__ __forceinline__ int chunk_of(const sweep_task &t, int i) {
    return t.backward ? t.sequence.chunks - 1 - i : i;
}

/* Where states are soon forgotten, the state behind a segment hangs on its last chunks alone: the sweep that makes it goes
 * through as many as it takes until what was before them is multiplied by less than FORGOTTEN. A warp, together. */
#define FORGOTTEN 0x1p-100f
static __device__ __forceinline__ void skip_forgotten(const sweep_arguments &a,
                                                      struct sweep_task *t) {
    int lane = (int)threadIdx.x % WARP;
    float kept = 1.0f;
    for (int to = t->to; to > t->from; to -= WARP) {
        int i = to - 1 - lane; /* the lane's chunk; its product is that of all from it on */
        int64_t place = t->sequence.place + chunk_of(*t, i);
        float product =
            i >= t->from ? a.shape.at.factors[place * a.shape.heads + t->head].keep : 1.0f;
        for (int step = 1; step < WARP; step *= 2) {
            float later = __shfl_up_sync(ALL_LANES, product, step);
            product *= lane >= step ? later : 1.0f;
        }
        product *= kept;
        unsigned lanes = __ballot_sync(ALL_LANES, product < FORGOTTEN);
        if (lanes) {
            t->from = to - __ffs((int)lanes);
            return;
        }
        kept = __shfl_sync(ALL_LANES, product, WARP - 1);
    }
}

/* ---- The state in memory ---- */

/* Element of this thread's accumulators of S^T. */
template <class FORM>
static __device__ __forceinline__ int64_t state_element(const sweep_arguments &a,
                                                        const sweep_task &t, int group,
                                                        int row_tile, int i, bool split, int rows) {
    int thread = (int)threadIdx.x % WARPGROUP;
    int value = t.first_value + (split ? 0 : (group * rows + row_tile) * 64) + thread / WARP * 16 +
                thread % WARP / 4 + 8 * (i / 2 % 2);
    int key = (split ? group * FORM::width : 0) + 8 * (i / 4) + 2 * (thread % 4) + i % 2;
    return key * a.key_stride + value * a.value_stride;
}

/* Where the state before a segment is between launches: segment 0 stands there too, so that the first and the last
 * state may be the same memory. */
static __device__ __forceinline__ float *border_of(const sweep_arguments &a, const sweep_task &t,
                                                   int segment, int keys) {
    int64_t head = ((int64_t)segment * a.shape.sequences + t.index) * a.shape.heads + t.head;
    return a.borders + head * keys * a.values;
}

static __device__ __forceinline__ float *
normalizer_border_of(const sweep_arguments &a, const sweep_task &t, int segment, int keys) {
    int64_t head = ((int64_t)segment * a.shape.sequences + t.index) * a.shape.heads + t.head;
    return a.normalizer_borders + head * keys;
}

/* The state of a thread from or to memory. */
template <int ROWS, int N, class PLACE>
static __device__ __forceinline__ void load_all(float (&state)[ROWS][N], const void *from, int type,
                                                PLACE place) {
    if (type == DTYPE_F32) {
#pragma unroll
        for (int i = 0; i < ROWS * N; i++)
            state[i / N][i % N] = ((const float *)from)[place(i / N, i % N)];
    } else {
#pragma unroll
        for (int i = 0; i < ROWS * N; i++)
            state[i / N][i % N] = load_as(from, type, place(i / N, i % N));
    }
}
template <int ROWS, int N, class PLACE>
static __device__ __forceinline__ void store_all(const float (&state)[ROWS][N], void *to, int type,
                                                 PLACE place) {
    if (type == DTYPE_F32) {
#pragma unroll
        for (int i = 0; i < ROWS * N; i++)
            ((float *)to)[place(i / N, i % N)] = state[i / N][i % N];
    } else {
#pragma unroll
        for (int i = 0; i < ROWS * N; i++)
            store_as(to, type, place(i / N, i % N), state[i / N][i % N]);
    }
}

template <int KEYS, int ROWS, bool SPLIT, int KIND>
static __device__ void
load_state(const sweep_arguments &a, const sweep_task &t, int group,
           float (&state)[ROWS][sweep_form<KEYS, ROWS, SPLIT, KIND>::width / 2]) {
    using form = sweep_form<KEYS, ROWS, SPLIT, KIND>;
    const int count = form::width / 2;
    int64_t slot = a.shape.slot ? a.shape.slot[t.index] : t.index;
    int64_t given = slot * a.first_slot + t.head * a.first_head;
    float *border = border_of(a, t, t.segment, KEYS);
    auto at = [&](int r, int i) { return state_element<form>(a, t, group, r, i, SPLIT, ROWS); };
    auto at_given = [&](int r, int i) { return given + at(r, i); };
#pragma unroll
    for (int i = 0; i < ROWS * count; i++)
        state[i / count][i % count] = 0.0f;
    if (form::reads && a.segments > 1)
        load_all(state, border, DTYPE_F32, at);
    else if (a.first && t.segment == 0 && slot >= 0)
        load_all(state, a.first, a.first_type, at_given);
    if (!form::reads && t.segment == 0)
        store_all(state, border, DTYPE_F32, at);
}

template <int KEYS, int ROWS, bool SPLIT, int KIND>
static __device__ void
store_state(const sweep_arguments &a, const sweep_task &t, int group,
            const float (&state)[ROWS][sweep_form<KEYS, ROWS, SPLIT, KIND>::width / 2]) {
    using form = sweep_form<KEYS, ROWS, SPLIT, KIND>;
    int64_t slot = a.shape.slot ? a.shape.slot[t.index] : t.index;
    int64_t given = slot * a.last_slot + t.head * a.last_head;
    auto at = [&](int r, int i) { return state_element<form>(a, t, group, r, i, SPLIT, ROWS); };
    auto at_given = [&](int r, int i) { return given + at(r, i); };
    if (!form::reads)
        store_all(state, border_of(a, t, t.segment + 1, KEYS), DTYPE_F32, at);
    else if (a.last && t.segment == a.segments - 1 && slot >= 0)
        store_all(state, a.last, a.last_type, at_given);
}

/* ---- Computing ---- */

/* o = S^T X^T: the operand is made from the accumulators, 64 keys at a time, while the last 64 are multiplied. `x` is
 * the tile of the first of these keys. Committed, not waited for. */
template <int N>
static __device__ __forceinline__ void read_state(const float (&state)[N], float (&o)[CHUNK / 2],
                                                  const unsigned char *x) {
    const int tiles = N / 32;
    uint32_t a[2][16];
#pragma unroll
    for (int tile = 0; tile < tiles; tile++) {
        if (tile >= 2)
            wgmma_wait<1>();
#pragma unroll
        for (int i = 0; i < 16; i++)
            a[tile % 2][i] = pack_bf16(state[32 * tile + 2 * i], state[32 * tile + 2 * i + 1]);
        if (tiles == 2 && tile == 0)
            continue; /* both at once */
        wgmma_begin();
#pragma unroll
        for (int j = tiles == 2 ? 0 : tile; j <= tile; j++) {
            uint64_t b = tile_straight(x + j * TILE_BYTES);
#pragma unroll
            for (unsigned i = 0; i < 4; i++)
                wgmma_registers<0>(o, a[j % 2] + 4 * i, tile_advance(b, 32 * i), j || i);
        }
        wgmma_commit();
    }
}

/* Z^T as operand A: 64 values by 16 tokens, from token 16 step on. */
static __device__ __forceinline__ void load_values(uint32_t (&z)[4], const unsigned char *tile,
                                                   unsigned step) {
    unsigned lane = threadIdx.x % WARP, warp = threadIdx.x % WARPGROUP / WARP;
    matrices_load_transposed(
        z, tile + tile_offset(16 * step + lane / 16 * 8 + lane % 8, 16 * warp + lane / 8 % 2 * 8));
}

/* The same of all 64 tokens, each times its weight. */
static __device__ __forceinline__ void weigh_values(uint32_t (&to)[4][4], const unsigned char *tile,
                                                    const float *weights) {
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
        uint32_t z[4];
        load_values(z, tile, i);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float2 w = *(const float2 *)(weights + 16 * i + 8 * half + 2 * (threadIdx.x % 4));
#pragma unroll
            for (int j = 0; j < 2; j++) {
                uint32_t two = z[2 * half + j];
                to[i][2 * half + j] = pack_bf16(from_bf16((uint16_t)two) * w.x,
                                                from_bf16((uint16_t)(two >> 16)) * w.y);
            }
        }
    }
}

/* o's columns times the weights of the tokens; `shares` (NULL: 1) times `vector`, this thread's two values, is added
 * before. */
static __device__ __forceinline__ void weigh_tokens(float (&o)[CHUNK / 2], const float *weights,
                                                    const float *shares, float2 vector) {
#pragma unroll
    for (int i = 0; i < CHUNK / 8; i++) {
        float2 w = *(const float2 *)(weights + 8 * i + 2 * (threadIdx.x % 4));
        float2 s = make_float2(1.0f, 1.0f);
        if (shares)
            s = *(const float2 *)(shares + 8 * i + 2 * (threadIdx.x % 4));
        o[4 * i] = w.x * (o[4 * i] + s.x * vector.x);
        o[4 * i + 1] = w.y * (o[4 * i + 1] + s.y * vector.x);
        o[4 * i + 2] = w.x * (o[4 * i + 2] + s.x * vector.y);
        o[4 * i + 3] = w.y * (o[4 * i + 3] + s.y * vector.y);
    }
}

/* o's columns times the weights of the tokens. */
static __device__ __forceinline__ void multiply_tokens(float (&o)[CHUNK / 2],
                                                       const float *weights) {
#pragma unroll
    for (int i = 0; i < CHUNK / 8; i++) {
        float2 w = *(const float2 *)(weights + 8 * i + 2 * (threadIdx.x % 4));
#pragma unroll
        for (int j = 0; j < 4; j++)
            o[4 * i + j] *= j % 2 ? w.y : w.x;
    }
}

/* This thread's two values of the vector of a chunk that goes with X S. */
static __device__ __forceinline__ float2 vector_of(const sweep_arguments &a, int64_t at,
                                                   int first_value) {
    int thread = (int)threadIdx.x % WARPGROUP;
    const float *v =
        a.vectors + at * a.values + first_value + thread / WARP * 16 + thread % WARP / 4;
    return make_float2(v[0], v[8]);
}

/* o^T as bf16 rows of a tile: TOKENS of them. */
template <int TOKENS>
static __device__ __forceinline__ void lay_out(const float (&o)[TOKENS / 2], unsigned char *tile) {
    unsigned lane = threadIdx.x % WARP, warp = threadIdx.x % WARPGROUP / WARP;
#pragma unroll
    for (unsigned i = 0; i < TOKENS / 8; i += 2)
        matrices_store_transposed(
            tile + tile_offset(8 * i + lane / 16 * 8 + lane % 8, 16 * warp + lane / 8 % 2 * 8),
            pack_bf16(o[4 * i], o[4 * i + 1]), pack_bf16(o[4 * i + 2], o[4 * i + 3]),
            pack_bf16(o[4 * i + 4], o[4 * i + 5]), pack_bf16(o[4 * i + 6], o[4 * i + 7]));
}

/* `rows` rows of a tile to device memory; one warpgroup. */
static __device__ __forceinline__ void store_rows(const unsigned char *tile, uint16_t *out,
                                                  int64_t stride, int rows, int most) {
    int thread = (int)threadIdx.x % WARPGROUP;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int row = i * (WARPGROUP / 8) + thread / 8, piece = thread % 8;
        if (row < most && row < rows)
            *(uint4 *)(out + row * stride + piece * 8) =
                *(const uint4 *)(tile + tile_offset((unsigned)row, (unsigned)piece * 8));
    }
}

/* Sums over the warp's 16 values of o times those of `other`, a tile of the same tokens (from `first` on) and values: one of
 * each token. They take the place of what the warp has read there. */
template <int TOKENS>
static __device__ __forceinline__ void multiply_rows(const float (&o)[TOKENS / 2],
                                                     unsigned char *other, unsigned first) {
    unsigned lane = threadIdx.x % WARP, warp = threadIdx.x % WARPGROUP / WARP;
    float sums[TOKENS / 4]; /* of tokens 2 (lane % 4) and the next of each eight */
#pragma unroll
    for (unsigned step = 0; step < TOKENS / 16; step++) {
        uint32_t x[4];
        load_values(x, other, first / 16 + step);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float *own = o + 8 * step + 4 * half;
            uint32_t low = x[2 * half], high = x[2 * half + 1]; /* of both values */
            sums[4 * step + 2 * half] =
                own[0] * from_bf16((uint16_t)low) + own[2] * from_bf16((uint16_t)high);
            sums[4 * step + 2 * half + 1] = own[1] * from_bf16((uint16_t)(low >> 16)) +
                                            own[3] * from_bf16((uint16_t)(high >> 16));
        }
    }
    /* Over the 8 lanes of the same tokens, each of which keeps an eighth. */
#pragma unroll
    for (int width = TOKENS / 8, bit = WARP / 2; bit >= 4; width /= 2, bit /= 2)
#pragma unroll
        for (int i = 0; i < width; i++) {
            bool upper = lane & (unsigned)bit;
            float give = upper ? sums[i] : sums[i + width];
            sums[i] = (upper ? sums[i + width] : sums[i]) + __shfl_xor_sync(ALL_LANES, give, bit);
        }
#pragma unroll
    for (unsigned i = 0; i < TOKENS / 32; i++) {
        unsigned kept = lane / 4 * (TOKENS / 32) + i;
        unsigned token = first + kept / 2 * 8 + 2 * (lane % 4) + kept % 2;
        *(float *)(other + tile_offset(token, 16 * warp + token / 8 * 2)) = sums[i];
    }
}
/* The sums of the warps, added: one warpgroup, behind a barrier of it. */
template <int TOKENS>
static __device__ __forceinline__ void add_dots(const unsigned char *other, unsigned first,
                                                float *out) {
    unsigned thread = threadIdx.x % WARPGROUP, token = first + thread;
    if (thread >= TOKENS)
        return;
    float sum = 0.0f;
#pragma unroll
    for (unsigned warp = 0; warp < WARPGROUP / WARP; warp++)
        sum += *(const float *)(other + tile_offset(token, 16 * warp + token / 8 * 2));
    out[token] = sum;
}

/* Both warpgroups have a part of all of o: each gives one half of the tokens away and gets the other's part of the
 * half that it keeps. `give` and `get`: a tile each. */
static __device__ __forceinline__ void exchange(const float (&o)[CHUNK / 2],
                                                float (&kept)[CHUNK / 4], int group, float *give,
                                                const float *get) {
    int thread = (int)threadIdx.x % WARPGROUP;
    threads_sync(3, COMPUTING);
#pragma unroll
    for (int i = 0; i < CHUNK / 4; i++)
        give[i * WARPGROUP + thread] = group ? o[i] : o[CHUNK / 4 + i];
    threads_sync(3, COMPUTING);
#pragma unroll
    for (int i = 0; i < CHUNK / 4; i++)
        kept[i] = (group ? o[CHUNK / 4 + i] : o[i]) + get[i * WARPGROUP + thread];
    threads_sync(1 + group, WARPGROUP);
}

/* A warp's arrival at the barriers of all blocks that fetch into this one's slots. */
static __device__ __forceinline__ void warp_arrive_shared(uint64_t *barrier, int sharing) {
    int lane = (int)threadIdx.x % WARP;
    __syncwarp();
    if (sharing == 1 && warp_speaker())
        barrier_arrive(barrier);
    if (sharing > 1 && lane < sharing && !CUDA_RACECHECK)
        barrier_arrive_at(barrier, (unsigned)lane);
    for (int rank = 0; CUDA_RACECHECK && sharing > 1 && rank < sharing; rank++)
        barrier_arrive_at(barrier, (unsigned)rank);
}

#endif

#endif
