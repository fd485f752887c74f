/* Single tokens of a batch, with mlstm_prepare.h before it: C passes by once. A head is cut into pieces of 32 vectors
 * (128 columns of f32, 256 of bf16 or f16), and blocks that stay on the GPU take one piece after the other. Of every 32
 * rows of a piece warp w has four, from 4 w on: the row groups that a warp of mlstm.h has, so that sums come in the same
 * order, and without a shuffle.
 *
 * A thread copies its own vectors, and nobody else's, into a ring in shared memory, four rows a stage. So it waits for
 * nobody: while it works on a stage the next ones are under way, those of the block's next piece among them. What else
 * that piece needs (q, k, v, its digest) is asked for a piece ahead. A block has one barrier a piece, for sums over warps. */
#ifndef OPS_CUDA_MLSTM_STREAM_H
#define OPS_CUDA_MLSTM_STREAM_H

#include "ops/cuda/copy.h"
#include "ops/cuda/mlstm_step.h"

enum {
    STREAM_ROWS = 4,                        /* of a stage, of a warp */
    STREAM_STAGES = 3,                      /* of a thread */
    STREAM_BLOCKS = 2,                      /* on a multiprocessor */
    STREAM_STAGE = STREAM_ROWS * MLSTM_WING /* vectors */
};

/* What a kernel is made for: no ring; a ring whose terms are in shared memory while C takes them in; and one for whose terms
 * there is no room there. */
enum mlstm_stream_kind { STREAM_ALONE, STREAM_KEEPS, STREAM_RING };

template <int TYPE> struct mlstm_piece {
    enum {
        BYTES = TYPE == DTYPE_F32 ? 4 : 2,
        COUNT = mlstm_vector<TYPE>::COUNT,
        COLUMNS = WARP * COUNT
    };
};

/* What is known of a head's token before C is read. Without a ring X = before C + weight k v^T,
 * h = carried q^T X scale / divisor and C = after X. With one h = carried q^T C + what the terms of the ring add and,
 * where it folds, C = after C + sum of weights[l] k_l v_l^T. */
struct __attribute__((aligned(16))) mlstm_digest {
    int slot; /* -1: there is nothing to do, the batch being wrong or the sequence longer */
    int token, terms, folds;
    float before, carried, divisor;
    mlstm_maximum weight, after;
};
struct mlstm_folds {
    float weights[OPS_MAX_DEFERRED];
};

/* ---- Pieces ---- */

struct mlstm_item {
    int head, column; /* the piece's first */
    int at;           /* [sequences][heads] */
};

template <int TYPE> static __host__ __device__ __forceinline__ int mlstm_pieces(int d_v) {
    return (d_v + mlstm_piece<TYPE>::COLUMNS - 1) / mlstm_piece<TYPE>::COLUMNS;
}

template <int TYPE>
static __device__ __forceinline__ mlstm_item mlstm_item_of(const mlstm_arguments &a, int index) {
    const int pieces = mlstm_pieces<TYPE>(a.d_v), at = index / pieces;
    mlstm_item item = {at % a.heads, index % pieces * mlstm_piece<TYPE>::COLUMNS, at};
    return item;
}

/* The thread's vectors of a piece: those of rows 4 w + 32 i + (0 to 3). */
struct mlstm_column {
    char *c;   /* row 4 w; NULL: it has none */
    int count; /* columns that are there */
};

template <int TYPE>
static __device__ __forceinline__ mlstm_column mlstm_column_of(const mlstm_arguments &a, int slot,
                                                               int head, int column) {
    const int most = mlstm_piece<TYPE>::COUNT;
    mlstm_column own = {NULL, 0};
    column += (int)threadIdx.x % WARP * most;
    if (slot < 0 || slot >= a.batch.slots || column >= a.d_v)
        return own;
    const int row = (int)threadIdx.x / WARP * STREAM_ROWS;
    own.c = a.c.data + (slot * a.c.outer + head * a.c.head + row * a.c.row + column) *
                           mlstm_piece<TYPE>::BYTES;
    own.count = min(a.d_v - column, most);
    return own;
}
template <int TYPE>
static __device__ __forceinline__ mlstm_column mlstm_column_at(const mlstm_arguments &a, int index,
                                                               int items) {
    const mlstm_column none = {NULL, 0};
    if (index >= items)
        return none;
    const mlstm_item item = mlstm_item_of<TYPE>(a, index);
    return mlstm_column_of<TYPE>(a, a.digests[item.at].slot, item.head, item.column);
}

/* Four rows, the first of them 4 w + first, on their way to the thread's stage. */
template <int TYPE>
static __device__ __forceinline__ void
mlstm_stream_fetch(const mlstm_arguments &a, const mlstm_column &own, int first, uint4 *stage) {
    const int64_t row_bytes = a.c.row * mlstm_piece<TYPE>::BYTES;
    const int left = own.c ? a.d_qk - (int)threadIdx.x / WARP * STREAM_ROWS - first : 0;
    const bool whole = a.wide && own.count == mlstm_piece<TYPE>::COUNT;
    const char *c = own.c + first * row_bytes;
#pragma unroll
    for (int r = 0; r < STREAM_ROWS; r++, c += row_bytes) {
        if (r >= left)
            break;
        if (whole)
            copy_whole_16(stage + r * MLSTM_WING, c);
        else
            stage[r * MLSTM_WING] = mlstm_load_vector<TYPE>(c, own.count, false);
    }
    copy_close();
}

/* ---- What else a piece needs ---- */

/* In shared memory, twice, by turns; in front of them are the parts of two pieces' sums, [2][warps][columns]. */
struct mlstm_stream_inputs {
    mlstm_digest *digest;
    float *q, *k,
        *v; /* [whole groups of rows], the same, [columns]: with a ring, what its terms add to h */
};

static __host__ __device__ __forceinline__ int mlstm_whole_rows(int d_qk) {
    return (d_qk + MLSTM_GROUPS - 1) / MLSTM_GROUPS * MLSTM_GROUPS;
}
template <int TYPE> static __host__ __device__ __forceinline__ int mlstm_input_floats(int d_qk) {
    return 2 * mlstm_whole_rows(d_qk) + mlstm_piece<TYPE>::COLUMNS +
           (int)(sizeof(mlstm_digest) / sizeof(float));
}
/* Of the part whose size does not depend on the ring. */
template <int TYPE> static __host__ __device__ __forceinline__ int mlstm_stream_floats(int d_qk) {
    return 2 * mlstm_input_floats<TYPE>(d_qk) + 2 * MLSTM_WARPS * mlstm_piece<TYPE>::COLUMNS;
}
/* Of a term that C takes in. */
template <int TYPE> static __host__ __device__ __forceinline__ int mlstm_term_floats(int d_qk) {
    return mlstm_whole_rows(d_qk) + mlstm_piece<TYPE>::COLUMNS;
}
template <int TYPE> static size_t mlstm_stream_bytes(int d_qk, int kept_terms) {
    return STREAM_STAGES * STREAM_STAGE * sizeof(uint4) +
           (size_t)(mlstm_stream_floats<TYPE>(d_qk) + kept_terms * mlstm_term_floats<TYPE>(d_qk)) *
               sizeof(float);
}
template <int TYPE>
static __device__ __forceinline__ mlstm_stream_inputs mlstm_stream_inputs_of(int d_qk, float *room,
                                                                             int turn) {
    const int rows = mlstm_whole_rows(d_qk), columns = mlstm_piece<TYPE>::COLUMNS;
    room += 2 * MLSTM_WARPS * columns + turn * mlstm_input_floats<TYPE>(d_qk);
    mlstm_stream_inputs in = {(mlstm_digest *)(room + 2 * rows + columns), room, room + rows,
                              room + 2 * rows};
    return in;
}

/* On their way, of thread t: element t of q, k and v, and word t of the digest. */
struct mlstm_stream_asked {
    float q, k, v;
    int word;
};

template <int TYPE, int KIND>
static __device__ __forceinline__ mlstm_stream_asked mlstm_stream_ask(const mlstm_arguments &a,
                                                                      int index, int items) {
    mlstm_stream_asked asked = {0.0f, 0.0f, 0.0f, -1};
    const int t = (int)threadIdx.x;
    if (index >= items)
        return asked;
    const mlstm_item item = mlstm_item_of<TYPE>(a, index);
    const mlstm_digest *digest = a.digests + item.at;
    if (t < (int)(sizeof(mlstm_digest) / sizeof(int)))
        asked.word = ((const int *)digest)[t];
    const int token = digest->token;
    if (digest->slot < 0)
        return asked;
    if (t < a.d_qk)
        asked.q = mlstm_load(a.q, token, item.head, 0, t);
    if (KIND == STREAM_ALONE && t < a.d_qk)
        asked.k = mlstm_load(a.k, token, item.head, 0, t);
    if (t < mlstm_piece<TYPE>::COLUMNS && item.column + t < a.d_v)
        asked.v = KIND != STREAM_ALONE ? a.terms[(int64_t)item.at * a.d_v + item.column + t]
                                       : mlstm_load(a.v, token, item.head, 0, item.column + t);
    return asked;
}

/* What has come; keys that are longer than a block is wide are not asked for before. */
template <int TYPE, int KIND>
static __device__ __forceinline__ void mlstm_stream_put(const mlstm_arguments &a, int index,
                                                        int items, const mlstm_stream_asked &asked,
                                                        const mlstm_stream_inputs &to) {
    const int t = (int)threadIdx.x;
    if (t < (int)(sizeof(mlstm_digest) / sizeof(int)))
        ((int *)to.digest)[t] = asked.word;
    if (t < a.d_qk) {
        to.q[t] = asked.q;
        to.k[t] = asked.k;
    }
    if (t < mlstm_piece<TYPE>::COLUMNS)
        to.v[t] = asked.v;
    if (index >= items || a.d_qk <= MLSTM_WING)
        return;
    const mlstm_item item = mlstm_item_of<TYPE>(a, index);
    const mlstm_digest *digest = a.digests + item.at;
    for (int d = t + MLSTM_WING; d < a.d_qk && digest->slot >= 0; d += MLSTM_WING) {
        to.q[d] = mlstm_load(a.q, digest->token, item.head, 0, d);
        to.k[d] = mlstm_load(a.k, digest->token, item.head, 0, d);
    }
}

/* ---- Four rows ---- */

static __device__ __forceinline__ void mlstm_four(const float *p, float *x) {
    const float4 v = *(const float4 *)p;
    x[0] = v.x;
    x[1] = v.y;
    x[2] = v.z;
    x[3] = v.w;
}

/* Without a ring: X, its part of q^T X, a sum for each of the four row groups, and C. */
template <int TYPE>
static __device__ __forceinline__ void
mlstm_stream_step(const mlstm_arguments &a, const mlstm_column &own, int first, const uint4 *stage,
                  const mlstm_stream_inputs &in, const mlstm_digest &d, const mlstm_maximum *value,
                  float (*sum)[mlstm_piece<TYPE>::COUNT]) {
    const int most = mlstm_piece<TYPE>::COUNT;
    const int64_t row_bytes = a.c.row * mlstm_piece<TYPE>::BYTES;
    const int row = first + (int)threadIdx.x / WARP * STREAM_ROWS;
    char *c = own.c + first * row_bytes;
    float q[STREAM_ROWS], k[STREAM_ROWS];
    if (row >= a.d_qk)
        return;
    mlstm_four(in.q + row, q);
    mlstm_four(in.k + row, k);
#pragma unroll
    for (int r = 0; r < STREAM_ROWS; r++, c += row_bytes) {
        if (row + r >= a.d_qk)
            break;
        float x[most];
        mlstm_unpack<TYPE>(stage[r * MLSTM_WING], x);
#pragma unroll
        for (int i = 0; i < most; i++) {
            x[i] = d.before == 0.0f ? 0.0f : x[i] * d.before;
            float lost = 0.0f;
            if (d.weight.high != 0.0f)
                mlstm_add_product<TYPE>(&x[i], &lost, k[r], value[i]);
            sum[r][i] = fmaf(q[r], x[i], sum[r][i]);
            x[i] = mlstm_folded<TYPE>(x[i], lost, d.after);
        }
        mlstm_store_vector<TYPE>(c, own.count, a.wide, mlstm_pack<TYPE>(x));
    }
}

/* With a ring: their part of q^T C. */
template <int TYPE>
static __device__ __forceinline__ void
mlstm_stream_read(const mlstm_arguments &a, int first, const uint4 *stage,
                  const mlstm_stream_inputs &in, float (*sum)[mlstm_piece<TYPE>::COUNT]) {
    const int most = mlstm_piece<TYPE>::COUNT;
    const int row = first + (int)threadIdx.x / WARP * STREAM_ROWS;
    float q[STREAM_ROWS];
    if (row >= a.d_qk)
        return;
    mlstm_four(in.q + row, q);
#pragma unroll
    for (int r = 0; r < STREAM_ROWS; r++) {
        if (row + r >= a.d_qk)
            break;
        float x[most];
        mlstm_unpack<TYPE>(stage[r * MLSTM_WING], x);
#pragma unroll
        for (int i = 0; i < most; i++)
            sum[r][i] = fmaf(q[r], x[i], sum[r][i]);
    }
}

/* ---- A ring that is full ---- */

/* Terms of a piece in shared memory: keys times their weights, [terms][whole groups of rows], and values, [terms][columns]: of
 * each vector the first four, then, of narrow types, the second four of each. */
struct mlstm_kept_terms {
    float *keys, *values;
    int count; /* whose weight is not 0 */
};

template <int TYPE> static __device__ __forceinline__ int mlstm_value_place(int column) {
    if (mlstm_piece<TYPE>::COUNT == 4)
        return column;
    return column / 4 % 2 * (4 * WARP) + column / 8 * 4 + column % 4;
}

/* The piece's terms, the token among them, which mlstm_prepare has put into the ring, to shared memory. */
template <int TYPE>
static __device__ __forceinline__ mlstm_kept_terms mlstm_keep_terms(const mlstm_arguments &a,
                                                                    const mlstm_digest &d,
                                                                    const mlstm_item &item,
                                                                    float *room) {
    enum { TOGETHER = 8, COLUMNS = mlstm_piece<TYPE>::COLUMNS };
    const int rows = mlstm_whole_rows(a.d_qk), t = (int)threadIdx.x;
    mlstm_kept_terms to = {room, room + a.ring * rows, 0};
    const float *weights = a.folds[item.at].weights;
    for (int first = 0; first < d.terms; first += TOGETHER) {
        float weight[TOGETHER], key[TOGETHER], value[TOGETHER];
#pragma unroll
        for (int j = 0; j < TOGETHER; j++) {
            const int l = first + j;
            weight[j] = l < d.terms ? weights[l] : 0.0f;
            key[j] =
                l < d.terms && t < a.d_qk ? mlstm_load(a.ring_k, d.slot, item.head, l, t) : 0.0f;
            value[j] = l < d.terms && t < COLUMNS && item.column + t < a.d_v
                           ? mlstm_load(a.ring_v, d.slot, item.head, l, item.column + t)
                           : 0.0f;
        }
#pragma unroll
        for (int j = 0; j < TOGETHER; j++) {
            if (weight[j] == 0.0f)
                continue;
            if (t < a.d_qk)
                to.keys[to.count * rows + t] = weight[j] * key[j];
            for (int e = t + MLSTM_WING; e < a.d_qk; e += MLSTM_WING)
                to.keys[to.count * rows + e] =
                    weight[j] * mlstm_load(a.ring_k, d.slot, item.head, first + j, e);
            if (t < COLUMNS)
                to.values[to.count * COLUMNS + mlstm_value_place<TYPE>(t)] = value[j];
            to.count++;
        }
    }
    return to;
}

/* Of a thread: its four keys and its vector's values. */
template <int TYPE>
static __device__ __forceinline__ bool mlstm_kept_term(const mlstm_kept_terms &terms, int rows,
                                                       int l, int row, float *key, float *value) {
    enum { MOST = mlstm_piece<TYPE>::COUNT };
    const float *values = terms.values + (l * MOST * WARP + (int)threadIdx.x % WARP * 4);
    mlstm_four(terms.keys + l * rows + row, key);
#pragma unroll
    for (int i = 0; i < MOST; i += 4)
        mlstm_four(values + i * WARP, value + i);
    return true;
}
/* The same from the ring, where there is no room for its terms in shared memory. */
template <int TYPE>
static __device__ __forceinline__ bool
mlstm_ring_term(const mlstm_arguments &a, const mlstm_digest &d, const mlstm_item &item,
                const mlstm_column &own, int l, int row, float *key, float *value) {
    enum { MOST = mlstm_piece<TYPE>::COUNT };
    const int column = item.column + (int)threadIdx.x % WARP * MOST;
    const float weight = a.folds[item.at].weights[l];
#pragma unroll
    for (int r = 0; r < STREAM_ROWS; r++)
        key[r] =
            row + r < a.d_qk ? weight * mlstm_load(a.ring_k, d.slot, item.head, l, row + r) : 0.0f;
#pragma unroll
    for (int i = 0; i < MOST; i++)
        value[i] = i < own.count ? mlstm_load(a.ring_v, d.slot, item.head, l, column + i) : 0.0f;
    return weight != 0.0f;
}

/* Four rows of C take in `count` terms; their part of q^T C before that. term(l, row, key, value) gives the keys of four
 * rows, times the term's weight, and the values of the vector's columns; false: the weight is 0. */
template <int TYPE, class T>
static __device__ __forceinline__ void
mlstm_stream_fold(const mlstm_arguments &a, const mlstm_column &own, int first, const uint4 *stage,
                  const mlstm_stream_inputs &in, float keep, int count, T term,
                  float (*sum)[mlstm_piece<TYPE>::COUNT]) {
    enum { MOST = mlstm_piece<TYPE>::COUNT };
    const int64_t row_bytes = a.c.row * mlstm_piece<TYPE>::BYTES;
    const int row = first + (int)threadIdx.x / WARP * STREAM_ROWS;
    float x[STREAM_ROWS][MOST], q[STREAM_ROWS];
    if (row >= a.d_qk)
        return;
    mlstm_four(in.q + row, q);
#pragma unroll
    for (int r = 0; r < STREAM_ROWS; r++) {
        mlstm_unpack<TYPE>(stage[r * MLSTM_WING], x[r]);
#pragma unroll
        for (int i = 0; i < MOST; i++) {
            if (row + r < a.d_qk)
                sum[r][i] = fmaf(q[r], x[r][i], sum[r][i]);
            x[r][i] = keep == 0.0f ? 0.0f : x[r][i] * keep;
        }
    }
#pragma unroll 1
    for (int l = 0; l < count; l++) {
        float key[STREAM_ROWS], value[MOST];
        if (!term(l, row, key, value))
            continue;
#pragma unroll
        for (int r = 0; r < STREAM_ROWS; r++)
#pragma unroll
            for (int i = 0; i < MOST; i++)
                x[r][i] = fmaf(key[r], value[i], x[r][i]);
    }
    char *c = own.c + first * row_bytes;
#pragma unroll
    for (int r = 0; r < STREAM_ROWS; r++)
        if (row + r < a.d_qk)
            mlstm_store_vector<TYPE>(c + r * row_bytes, own.count, a.wide, mlstm_pack<TYPE>(x[r]));
}

/* ---- h ---- */

/* The warp's part of its columns' sums, over its four row groups, into `parts` [columns]. */
template <int TYPE>
static __device__ __forceinline__ void mlstm_stream_leave(float (*sum)[mlstm_piece<TYPE>::COUNT],
                                                          float *parts) {
    const int most = mlstm_piece<TYPE>::COUNT;
    float *to = parts + (int)threadIdx.x % WARP * most;
#pragma unroll
    for (int i = 0; i < most; i++)
        to[i] = (sum[0][i] + sum[1][i]) + (sum[2][i] + sum[3][i]);
}

/* `terms`: what those of a ring add in column threadIdx.x of the piece. */
template <int TYPE, int KIND>
static __device__ __forceinline__ void
mlstm_stream_out(const mlstm_arguments &a, const mlstm_digest &d, const mlstm_item &item,
                 float terms, const float *parts) {
    const int columns = mlstm_piece<TYPE>::COLUMNS, i = (int)threadIdx.x;
    if (i >= columns || item.column + i >= a.d_v)
        return;
    float sum = mlstm_total(parts + i, columns);
    if (KIND != STREAM_ALONE)
        sum = d.carried == 0.0f ? terms : fmaf(d.carried, sum, terms);
    else
        sum = mlstm_quotient(d.carried * sum * a.scale, d.divisor);
    mlstm_store(a.h, d.token, item.head, 0, item.column + i, sum);
}

/* ---- A block ---- */

/* The rows of a piece, of which STREAM_STAGES times 32 are under way, and as many of the next one as follow them. `stage`
 * is where the ring stands. Calls f(first, stage) for each 32. */
template <int TYPE, class F>
static __device__ __forceinline__ void
mlstm_stream_rows(const mlstm_arguments &a, const mlstm_column &own, const mlstm_column &next,
                  uint4 *ring, int *stage, F f) {
    const int ahead = STREAM_STAGES * MLSTM_GROUPS;
    const int rows = max(mlstm_whole_rows(a.d_qk), ahead);
#pragma unroll 1
    for (int first = 0; first < rows; first += MLSTM_GROUPS) {
        uint4 *from = ring + *stage * STREAM_STAGE;
        copy_wait<STREAM_STAGES - 1>();
        if (own.c)
            f(first, from);
        if (first + ahead < rows)
            mlstm_stream_fetch<TYPE>(a, own, first + ahead, from);
        else
            mlstm_stream_fetch<TYPE>(a, next, first + ahead - rows, from);
        *stage = *stage + 1 == STREAM_STAGES ? 0 : *stage + 1;
    }
}

template <int TYPE, int KIND>
static __device__ __forceinline__ void
mlstm_stream_piece(const mlstm_arguments &a, const mlstm_column &own, const mlstm_column &next,
                   const mlstm_stream_inputs &in, const mlstm_digest &d, const mlstm_item &item,
                   uint4 *ring, float *kept, int *stage, float (*sum)[mlstm_piece<TYPE>::COUNT]) {
    const int most = mlstm_piece<TYPE>::COUNT;
    if (KIND == STREAM_ALONE) {
        mlstm_maximum value[most];
#pragma unroll
        for (int i = 0; i < most; i++)
            value[i] = mlstm_weighted<TYPE>(d.weight, in.v[(int)threadIdx.x % WARP * most + i]);
        mlstm_stream_rows<TYPE>(a, own, next, ring, stage, [&](int first, const uint4 *from) {
            mlstm_stream_step<TYPE>(a, own, first, from, in, d, value, sum);
        });
    } else if (d.slot >= 0 && d.folds && KIND == STREAM_KEEPS) {
        const mlstm_kept_terms terms = mlstm_keep_terms<TYPE>(a, d, item, kept);
        const int rows = mlstm_whole_rows(a.d_qk);
        __syncthreads();
        mlstm_stream_rows<TYPE>(a, own, next, ring, stage, [&](int first, const uint4 *from) {
            mlstm_stream_fold<TYPE>(
                a, own, first, from, in, d.after.high, terms.count,
                [&](int l, int row, float *key, float *value) {
                    return mlstm_kept_term<TYPE>(terms, rows, l, row, key, value);
                },
                sum);
        });
    } else if (d.slot >= 0 && d.folds) {
        mlstm_stream_rows<TYPE>(a, own, next, ring, stage, [&](int first, const uint4 *from) {
            mlstm_stream_fold<TYPE>(
                a, own, first, from, in, d.after.high, d.terms,
                [&](int l, int row, float *key, float *value) {
                    return mlstm_ring_term<TYPE>(a, d, item, own, l, row, key, value);
                },
                sum);
        });
    } else {
        mlstm_stream_rows<TYPE>(a, own, next, ring, stage, [&](int first, const uint4 *from) {
            mlstm_stream_read<TYPE>(a, first, from, in, sum);
        });
    }
}

/* All pieces of the block. mlstm_prepare lets this kernel begin when all before it has ended, and writes neither C nor the
 * batch: the first rows are asked for while it still runs. */
template <int TYPE, int KIND>
static __device__ __forceinline__ void mlstm_stream_run(const mlstm_arguments &a, uint4 *ring,
                                                        float *room) {
    enum { MOST = mlstm_piece<TYPE>::COUNT, COLUMNS = mlstm_piece<TYPE>::COLUMNS };
    const int items = a.batch.sequences * a.heads * mlstm_pieces<TYPE>(a.d_v);
    int index = (int)blockIdx.x, stage = 0;
    const mlstm_item first = mlstm_item_of<TYPE>(a, index);
    mlstm_column own =
        mlstm_column_of<TYPE>(a, a.batch.slot[first.at / a.heads], first.head, first.column);
    for (int i = 0; i < STREAM_STAGES; i++)
        mlstm_stream_fetch<TYPE>(a, own, i * MLSTM_GROUPS, ring + i * STREAM_STAGE);
    cuda_wait();
    own = mlstm_column_at<TYPE>(a, index, items);
    mlstm_stream_put<TYPE, KIND>(a, index, items, mlstm_stream_ask<TYPE, KIND>(a, index, items),
                                 mlstm_stream_inputs_of<TYPE>(a.d_qk, room, 0));
    __syncthreads();
    for (int turn = 0; index < items; turn ^= 1) {
        const int after = index + (int)gridDim.x;
        const mlstm_column next = mlstm_column_at<TYPE>(a, after, items);
        const mlstm_stream_asked asked = mlstm_stream_ask<TYPE, KIND>(a, after, items);
        const mlstm_stream_inputs in = mlstm_stream_inputs_of<TYPE>(a.d_qk, room, turn);
        const mlstm_digest d = *in.digest;
        const mlstm_item item = mlstm_item_of<TYPE>(a, index);
        float sum[STREAM_ROWS][MOST] = {};
        mlstm_stream_piece<TYPE, KIND>(a, own, next, in, d, item, ring,
                                       room + mlstm_stream_floats<TYPE>(a.d_qk), &stage, sum);
        const int thread = (int)threadIdx.x;
        const float terms = KIND != STREAM_ALONE && thread < COLUMNS ? in.v[thread] : 0.0f;
        float *parts = room + turn * (MLSTM_WARPS * COLUMNS);
        mlstm_stream_leave<TYPE>(sum, parts + thread / WARP * COLUMNS);
        mlstm_stream_put<TYPE, KIND>(a, after, items, asked,
                                     mlstm_stream_inputs_of<TYPE>(a.d_qk, room, turn ^ 1));
        __syncthreads();
        if (d.slot >= 0)
            mlstm_stream_out<TYPE, KIND>(a, d, item, terms, parts);
        index = after;
        own = next;
    }
}

template <int TYPE, int KIND>
static __global__ void __launch_bounds__(MLSTM_WING, STREAM_BLOCKS)
    mlstm_stream(const __grid_constant__ mlstm_arguments a) {
    extern __shared__ float4 room[];
    cuda_release();
    mlstm_stream_run<TYPE, KIND>(a, (uint4 *)room + threadIdx.x,
                                 (float *)(room + STREAM_STAGES * STREAM_STAGE));
}

#endif
