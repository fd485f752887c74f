/* What the kernels of the op mlstm share: arguments, how a block's threads divide C, which tokens it takes, checks of
 * the batch, and who may write what other blocks read.
 *
 * A head's C is cut into slices of columns, one a block. A wing of 256 threads takes a slice of 8 vectors of 16 bytes
 * (32 columns of f32, 64 of bf16 or f16): thread t has vector t % 8 of every 32nd row, from row t / 8 on. A block has
 * one wing or more side by side. The sums over rows do not depend on that: each thread in the order of its rows,
 * then the 4 row groups of a warp, then the 8 warps.
 *
 * Every block of a head needs n, m and the ring as they were, and reckons with copies of its own. The block that comes
 * last to say that it has read them (mlstm_arrive) writes what they become. */
#ifndef OPS_CUDA_MLSTM_H
#define OPS_CUDA_MLSTM_H

#include "ops/cuda/batch.h"
#include "ops/cuda/mlstm_gates.h"
#include "ops/cuda/streaming.h"

enum {
    MLSTM_WING = 256,                       /* threads */
    MLSTM_VECTORS = 8,                      /* of a row in a wing */
    MLSTM_GROUPS = 32,                      /* of rows */
    MLSTM_ROWS = 8,                         /* that a thread has in flight */
    MLSTM_KEYS = MLSTM_ROWS * MLSTM_GROUPS, /* rows of a wing: a pass */
    MLSTM_WARPS = MLSTM_WING / WARP,
    MLSTM_LONGEST_KEY = 4096
};

/* Rows of a tensor [T][heads][width], or of a state [slots][heads][rows][width]: strides in elements. */
struct mlstm_rows {
    char *data;
    int type;
    int64_t outer, head, row;
};

struct mlstm_arguments {
    int heads, d_qk, d_v;
    int ring;     /* R; 0: none */
    int interval; /* absolute positions between foldings */
    bool wide;    /* vectors of C lie at multiples of 16 bytes */
    bool hints;   /* C is fetched to level 2 early */
    float eps, scale;
    struct mlstm_rows q, k, v, h, i, f;
    struct mlstm_rows c, n, m, ring_k, ring_v, ring_i, ring_f;
    cuda_batch batch;
    unsigned *arrivals;           /* [sequences][heads], 0 between launches */
    struct mlstm_digest *digests; /* the same (mlstm_stream.h) */
    struct mlstm_folds *folds;    /* the same, with a ring */
    float *terms;                 /* with a ring: [sequences][heads][d_v] */
};

/* ---- Places ---- */

/* Element `index` of a row. */
static __device__ __forceinline__ float mlstm_load(const struct mlstm_rows &x, int64_t outer,
                                                   int head, int64_t row, int64_t index) {
    return load_as(x.data, x.type, outer * x.outer + head * x.head + row * x.row + index);
}
static __device__ __forceinline__ void mlstm_store(const struct mlstm_rows &x, int64_t outer,
                                                   int head, int64_t row, int64_t index,
                                                   float value) {
    store_as(x.data, x.type, outer * x.outer + head * x.head + row * x.row + index, value);
}

/* ---- Tokens ---- */

struct mlstm_tokens {
    int slot, first, count;
    int64_t position;
    int held; /* tokens in the ring before them */
    int64_t
        settled; /* the state in memory becomes that before this absolute position; at or before `position`: it
                        stays */
};

static __device__ __forceinline__ mlstm_tokens mlstm_tokens_of(const mlstm_arguments &a,
                                                               int sequence) {
    mlstm_tokens t;
    t.slot = a.batch.slot[sequence];
    t.first = a.batch.start[sequence];
    t.count = a.batch.start[sequence + 1] - t.first;
    t.position = a.batch.position[sequence];
    t.held = a.ring ? (int)(t.position % a.ring) : 0;
    int64_t end = t.position + t.count;
    t.settled = a.ring ? end / a.ring * a.ring : end;
    return t;
}

/* Not 0 where this thread found a sequence that is not right (batch.h): nothing may be written before
 * __syncthreads_or of this is 0. */
static __device__ __forceinline__ int mlstm_find_wrong(const cuda_batch &b) {
    int wrong = 0;
    for (int i = (int)threadIdx.x; i < b.sequences; i += (int)blockDim.x)
        if (!batch_has(b, i)) {
            cuda_report(b.faults, CUDA_FAULT_BATCH, (unsigned)i);
            wrong = 1;
        }
    return wrong;
}

/* One thread says that the block has read what others may write; true for the last block of the head. The
 * block has passed a barrier since its reads had their values, so nothing is left to put in order. */
static __device__ __forceinline__ bool mlstm_arrive(const mlstm_arguments &a, int head) {
    unsigned most = gridDim.x - 1;
    return atomicInc(a.arrivals + blockIdx.z * a.heads + head, most) == most;
}

/* ---- Vectors of 16 bytes ---- */

template <int TYPE> struct mlstm_vector {
    enum { COUNT = TYPE == DTYPE_F32 ? 4 : 8, COLUMNS = COUNT * MLSTM_VECTORS };
};

template <int TYPE> static __device__ __forceinline__ float mlstm_float_of(uint16_t bits) {
    return TYPE == DTYPE_BF16 ? from_bf16(bits) : from_f16(bits);
}
template <int TYPE> static __device__ __forceinline__ uint32_t mlstm_bits_of(float x) {
    return TYPE == DTYPE_BF16 ? to_bf16(x) : to_f16(x);
}

template <int TYPE> static __device__ __forceinline__ void mlstm_unpack(uint4 raw, float *x) {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (TYPE == DTYPE_F32) {
            x[i] = __uint_as_float(words[i]);
        } else {
            x[2 * i] = mlstm_float_of<TYPE>((uint16_t)(words[i] & 0xffffu));
            x[2 * i + 1] = mlstm_float_of<TYPE>((uint16_t)(words[i] >> 16));
        }
    }
}
template <int TYPE> static __device__ __forceinline__ uint4 mlstm_pack(const float *x) {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        words[i] = TYPE == DTYPE_F32
                       ? __float_as_uint(x[i])
                       : mlstm_bits_of<TYPE>(x[2 * i]) | mlstm_bits_of<TYPE>(x[2 * i + 1]) << 16;
    return make_uint4(words[0], words[1], words[2], words[3]);
}

/* The first `count` values of a vector (as many as there are columns left), 0 behind them. */
template <int TYPE>
static __device__ __forceinline__ uint4 mlstm_load_vector(const char *p, int count, bool wide) {
    const int most = mlstm_vector<TYPE>::COUNT;
    if (wide && count >= most)
        return load_streaming(p);
    float x[most];
#pragma unroll
    for (int i = 0; i < most; i++)
        x[i] = i < count ? load_as(p, TYPE, i) : 0.0f;
    return mlstm_pack<TYPE>(x);
}
template <int TYPE>
static __device__ __forceinline__ void mlstm_store_vector(char *p, int count, bool wide,
                                                          uint4 raw) {
    const int most = mlstm_vector<TYPE>::COUNT;
    if (wide && count >= most) {
        store_streaming(p, raw);
        return;
    }
    float x[most];
    mlstm_unpack<TYPE>(raw, x);
#pragma unroll
    for (int i = 0; i < most; i++)
        if (i < count)
            store_as(p, TYPE, i, x[i]);
}

/* A thread's vectors of C. */
struct mlstm_slice {
    char *c;           /* of row 0 */
    int64_t row_bytes; /* from row to row */
    int wing, vector, group;
    int column, count; /* the vector's first column, and how many are there */
};

template <int TYPE>
static __device__ __forceinline__ mlstm_slice mlstm_slice_at(const mlstm_arguments &a, int slot,
                                                             int head, int first_column) {
    const int bytes = TYPE == DTYPE_F32 ? 4 : 2, most = mlstm_vector<TYPE>::COUNT;
    mlstm_slice s;
    int thread = (int)threadIdx.x % MLSTM_WING;
    s.wing = (int)threadIdx.x / MLSTM_WING;
    s.vector = thread % MLSTM_VECTORS;
    s.group = thread / MLSTM_VECTORS;
    s.column = first_column + s.vector * most;
    s.count = s.column < a.d_v ? min(a.d_v - s.column, most) : 0;
    s.row_bytes = a.c.row * bytes;
    s.c = a.c.data + (slot * a.c.outer + head * a.c.head + (s.count ? s.column : 0)) * bytes;
    return s;
}
/* Where blocks along x have the slices of a head, one a wing. */
template <int TYPE>
static __device__ __forceinline__ mlstm_slice mlstm_slice_of(const mlstm_arguments &a, int slot,
                                                             int head) {
    int wings = (int)blockDim.x / MLSTM_WING, wing = (int)threadIdx.x / MLSTM_WING;
    return mlstm_slice_at<TYPE>(a, slot, head,
                                ((int)blockIdx.x * wings + wing) * mlstm_vector<TYPE>::COLUMNS);
}

/* ---- Products and sums ---- */

/* Where C is f32, what it loses to rounding between two foldings is kept beside it, and weights are two floats: then
 * C is rounded once in a folding. Narrow types round by more than that. */
template <int TYPE> struct mlstm_care {
    enum { EXACT = TYPE == DTYPE_F32 };
};

/* weight * v, as two floats where that counts. */
template <int TYPE>
static __device__ __forceinline__ mlstm_maximum mlstm_weighted(mlstm_maximum weight, float v) {
    mlstm_maximum product = {weight.high * v, 0.0f};
    if (mlstm_care<TYPE>::EXACT)
        product.low = fmaf(weight.low, v, fmaf(weight.high, v, -product.high));
    return product;
}

/* *x += k v */
template <int TYPE>
static __device__ __forceinline__ void mlstm_add_product(float *x, float *lost, float k,
                                                         mlstm_maximum v) {
    float sum = fmaf(k, v.high, *x);
    if (mlstm_care<TYPE>::EXACT)
        *lost = fmaf(k, v.low, fmaf(k, v.high, *x - sum) + *lost);
    *x = sum;
}

/* What X becomes at a folding. */
template <int TYPE>
static __device__ __forceinline__ float mlstm_folded(float x, float lost, mlstm_maximum weight) {
    if (!mlstm_care<TYPE>::EXACT)
        return weight.high * x;
    return fmaf(weight.high, x, fmaf(weight.low, x, weight.high * lost));
}

/* A value as it is stored. */
template <int TYPE> static __device__ __forceinline__ float mlstm_stored(float x) {
    if (TYPE == DTYPE_F32)
        return x;
    return mlstm_float_of<TYPE>((uint16_t)mlstm_bits_of<TYPE>(x));
}

/* A warp's part of its columns' sums, from the threads' parts, into `parts` [warps][columns]. */
template <int TYPE>
static __device__ __forceinline__ void mlstm_leave_sums(float *sum, float *parts, int warp,
                                                        int vector) {
    const int most = mlstm_vector<TYPE>::COUNT, columns = mlstm_vector<TYPE>::COLUMNS;
#pragma unroll
    for (int i = 0; i < most; i++) {
        sum[i] += __shfl_xor_sync(ALL_LANES, sum[i], MLSTM_VECTORS);
        sum[i] += __shfl_xor_sync(ALL_LANES, sum[i], 2 * MLSTM_VECTORS);
    }
    if (threadIdx.x % WARP < MLSTM_VECTORS)
#pragma unroll
        for (int i = 0; i < most; i++)
            parts[warp * columns + vector * most + i] = sum[i];
}

/* The sum of 8 warps' parts. */
static __device__ __forceinline__ float mlstm_total(const float *parts, int stride) {
    float sum = parts[0];
    for (int w = 1; w < MLSTM_WARPS; w++)
        sum += parts[w * stride];
    return sum;
}

/* ---- Launches, by the type of C and n (mlstm_run.h) ---- */

void mlstm_run_f32(cuda_stream *s, const struct ops_mlstm *op, const mlstm_arguments &a);
void mlstm_run_bf16(cuda_stream *s, const struct ops_mlstm *op, const mlstm_arguments &a);
void mlstm_run_f16(cuda_stream *s, const struct ops_mlstm *op, const mlstm_arguments &a);

#endif
