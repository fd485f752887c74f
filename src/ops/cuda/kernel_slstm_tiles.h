/* The sLSTM and the LSTM on tensor cores: what the way there (kernel_slstm_tiles.cu), the way back
 * (kernel_slstm_tiles_backward.cu) and the gradients of the weights (kernel_slstm_product.cu) share.
 *
 * A token is a product of the recurrent weights of a head with y of some sequences, and nothing else takes time; but
 * tokens wait for each other. So the weights stay in registers all the time, as operands of mma_bf16 (mma.h): 16 units by
 * 16 units of y. A head of up to 128 units is one block's; larger ones are spread over a cluster, whose blocks hand
 * each other their y. Warps have 16 units of all four gates; with PARTS > 1 that many warps share them, each with a part of
 * the sum. y of SEQS sequences are the 8 columns of a product: with 4 sequences each stands in two columns, which leaves a
 * thread half as many cells. The cells of a token lie in the threads that have their sums, and c, n and m stay in their
 * registers.
 *
 * With a backward, every thread leaves a record of each of its cells, and is the one to find it on the way back. */
#ifndef OPS_CUDA_KERNEL_SLSTM_TILES_H
#define OPS_CUDA_KERNEL_SLSTM_TILES_H

#include "ops/cuda/kernel_slstm.h"

typedef struct slstm_tiles {
    slstm_job job;
    uint4 *record;          /* [tokens][blocks][cells][2][threads] */
    uint16_t *y;            /* [batch][tokens][heads][size], bf16: y before each token */
    float *bias;            /* [batch][heads][gates][size]: the part of db of each sequence */
    float *weight;          /* [splits][heads][size][gates * size]: the parts of dR */
    int splits;             /* of the tokens, in dR's sum */
    int size, sequences;    /* of the tiling */
    int64_t groups, blocks; /* of sequences; of the grid */
} slstm_tiles;

/* Whether the call goes over tensor cores, and how. */
bool cuda_slstm_choose_tiling(const slstm_job *job, const cuda_kernel_gpu *gpu, slstm_tiles *tiles);
void cuda_slstm_place_tiles(slstm_tiles *tiles, cuda_workspace *w);
xlstm_status cuda_slstm_run_tiles(const kernel_call *call, const slstm_tiles *tiles);
xlstm_status cuda_slstm_back_tiles(const kernel_call *call, const slstm_tiles *tiles);
/* dR and db, from what the ways there and back have left. */
xlstm_status cuda_slstm_sum_weights(const kernel_call *call, const slstm_tiles *tiles);
int cuda_slstm_splits(const slstm_job *job);

#include "ops/cuda/async.h"
#include "ops/cuda/cell_fast.h"
#include "ops/cuda/cluster.h"
#include "ops/cuda/mma.h"

/* How a head is cut up. A thread's values are the sums that it has of its columns, its cells those of them that are its own
 * once the parts of sums are together. */
template <int SIZE, int CTAS, int PARTS, int SEQS> struct tiling {
    enum {
        size = SIZE,
        ctas = CTAS,
        parts = PARTS,
        sequences = SEQS,
        units = SIZE / CTAS, /* of a block */
        threads = units / 16 * PARTS * 32,
        values = SEQS / 2,
        cells = values / PARTS,
        y_pitch = SIZE + 8, /* elements from a sequence to the next in shared memory: other banks */
        x_pitch = 4 * units + 8,
        d_pitch = 4 * SIZE + 8,
        x_stages = 8,
        record_stages = SIZE == 128 && SEQS == 8 ? 5 : 6,
        y_bytes = 2 * SEQS * y_pitch * 2,
        x_bytes = x_stages * SEQS * x_pitch * 2,
        d_bytes = 2 * SEQS * d_pitch * 2,
        own_bytes = CTAS > 1 ? SEQS * 4 * units * 2 : 0, /* what a block gives to the others */
        part_bytes = PARTS > 1 ? threads *values * 16 : 0,
        record_bytes = record_stages * cells * 2 * threads * 16,
        dy_bytes = record_stages * SEQS * (units + 8) * 2,
        forward_bytes = 32 + y_bytes + x_bytes + own_bytes + part_bytes,
        backward_bytes = 32 + d_bytes + own_bytes + part_bytes + record_bytes + dy_bytes,
    };
};

/* Where a thread stands. */
typedef struct tile_place {
    int row, pair;   /* of the lane in a product */
    int tile, part;  /* of the warp: 16 units, and its part of their sums */
    int rank;        /* of the block in the cluster */
    int head, first; /* of the block; `first` sequence */
} tile_place;

template <class T> static __device__ __forceinline__ tile_place tile_here(const slstm_job *a) {
    tile_place p;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    p.row = lane / 4;
    p.pair = lane % 4;
    p.tile = warp / T::parts;
    p.part = warp % T::parts;
    p.rank = (int)(blockIdx.x % T::ctas);
    p.head = (int)(blockIdx.x / T::ctas % a->heads);
    p.first = (int)(blockIdx.x / T::ctas / a->heads) * T::sequences;
    return p;
}

/* The unit within the block and the sequence within the group of a value, and its place among the sums. */
template <class T> static __device__ __forceinline__ int tile_unit(const tile_place &p, int value) {
    return 16 * p.tile + p.row + 8 * (T::sequences == 8 ? value / 2 : value);
}
template <class T>
static __device__ __forceinline__ int tile_sequence(const tile_place &p, int value) {
    return T::sequences == 8 ? 2 * p.pair + value % 2 : p.pair;
}
template <class T> static __device__ __forceinline__ constexpr int tile_sum(int value) {
    return T::sequences == 8 ? value : 2 * value;
}

/* Sequences that the last group lacks are read as its last one, and not written. */
template <class T>
static __device__ __forceinline__ int64_t tile_clamp(const slstm_job *a, int64_t sequence) {
    return sequence < a->batch ? sequence : a->batch - 1;
}

static __device__ __forceinline__ uint32_t tile_pair(const uint16_t *low, const uint16_t *high) {
    return (uint32_t)*low | (uint32_t)*high << 16;
}

/* The line that this lane gives to load_matrices: of sequence lane % 8 (or half of it), 8 values on for each matrix. */
template <class T>
static __device__ __forceinline__ const uint16_t *tile_line(const uint16_t *rows, int pitch) {
    int lane = threadIdx.x % 32, column = lane % 8;
    return rows + (T::sequences == 8 ? column : column / 2) * pitch + lane / 8 * 8;
}

/* Sums of products: `tiles` of 16 columns of each of `count` rows of weights, with the values of all sequences. */
template <int COUNT, int TILES>
static __device__ __forceinline__ void
tile_multiply(float (*sum)[4], const uint32_t (*weight)[TILES][4], const uint16_t *line) {
#pragma unroll
    for (int k = 0; k < TILES; k += 2) {
        uint32_t y[4];
        load_matrices(y, line + 16 * k);
#pragma unroll
        for (int i = 0; i < COUNT; i++)
            mma_bf16(sum[i], weight[i][k], y);
#pragma unroll
        for (int i = 0; i < COUNT; i++)
            mma_bf16(sum[i], weight[i][k + 1], y + 2);
    }
}

/* Puts the parts of sums together: what comes back are the thread's own cells, of COUNT rows each. */
template <class T, int COUNT>
static __device__ __forceinline__ void tile_gather(const tile_place &p, const float (*sum)[4],
                                                   float *parts, float (*own)[COUNT]) {
    if (T::parts == 1) {
#pragma unroll
        for (int v = 0; v < T::cells; v++)
#pragma unroll
            for (int i = 0; i < COUNT; i++)
                own[v][i] = sum[i][tile_sum<T>(v)];
        return;
    }
    /* parts [tile][from][value][row][lane] */
    float *mine = parts + (int64_t)(threadIdx.x / 32) * T::values * COUNT * 32 + threadIdx.x % 32;
#pragma unroll
    for (int v = 0; v < T::values; v++)
#pragma unroll
        for (int i = 0; i < COUNT; i++)
            mine[(v * COUNT + i) * 32] = sum[i][tile_sum<T>(v)];
    __syncthreads();
    const float *all =
        parts + (int64_t)p.tile * T::parts * T::values * COUNT * 32 + threadIdx.x % 32;
#pragma unroll
    for (int c = 0; c < T::cells; c++)
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            float total = 0.0f;
#pragma unroll
            for (int q = 0; q < T::parts; q++)
                total += all[((q * T::values + p.part * T::cells + c) * COUNT + i) * 32];
            own[c][i] = total;
        }
}

/* Gives this block's values [sequences][PIECES][units] to every block of the cluster, where a sequence has `pitch` values,
 * and a piece those of all blocks. */
template <class T, int PIECES>
static __device__ __forceinline__ void tile_give(const uint16_t *own, uint16_t *to, int pitch,
                                                 uint64_t *barrier, int rank) {
    enum {
        LINE = T::units / 8,
        COUNT = T::sequences * PIECES * LINE,
        AT_ONCE = T::threads / COUNT
    };
    static_assert(T::ctas == 1 || T::threads % COUNT == 0, "a thread has one place");
    int i = threadIdx.x % COUNT, sequence = i / (PIECES * LINE), piece = i / LINE % PIECES;
    uint4 x = *(const uint4 *)(own + i * 8);
    to += sequence * pitch + piece * T::size + rank * T::units + i % LINE * 8;
#pragma unroll
    for (int j = 0; j < T::ctas; j += AT_ONCE) {
        int target = (int)threadIdx.x / COUNT + j;
        if (target < T::ctas)
            cluster_store(to, x, barrier, (unsigned)target);
    }
}

#endif
