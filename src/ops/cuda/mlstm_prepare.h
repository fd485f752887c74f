/* The part of a single token that needs no C: mlstm_prepare, a block a head, leaves a digest for mlstm_stream.h. */
#ifndef OPS_CUDA_MLSTM_PREPARE_H
#define OPS_CUDA_MLSTM_PREPARE_H

#include "ops/cuda/mlstm_stream.h"

/* Threads of a block: with a ring fewer, which ask for more at once, so that the blocks of 1024 heads fit on an H100
 * together. */
template <bool RING> struct mlstm_prepare_sizes {
    enum { THREADS = RING ? MLSTM_WING / 2 : MLSTM_WING, WARPS = THREADS / WARP, BLOCKS = 8 };
};

/* Where held terms stand. */
static __device__ __forceinline__ const float *mlstm_ring_rows(const mlstm_rows &ring, int slot,
                                                               int head) {
    return (const float *)ring.data + slot * ring.outer + head * ring.head;
}

/* Products of q with all terms, by all warps but the first, a few terms at once. The newest is the token, whose key is in
 * shared memory. */
static __device__ inline void mlstm_multiply_terms(const mlstm_arguments &a,
                                                   const mlstm_terms &terms, int slot, int head,
                                                   const mlstm_step_room &room) {
    enum { TERMS = 4, TOGETHER = 8, WARPS = mlstm_prepare_sizes<true>::WARPS - 1 };
    const int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP - 1;
    const float *keys = mlstm_ring_rows(a.ring_k, slot, head);
    for (int l = warp * TERMS; l < terms.old; l += WARPS * TERMS) {
        float product[TERMS] = {}, key[TERMS][TOGETHER];
        for (int first = lane; first < a.d_qk; first += TOGETHER * WARP) {
#pragma unroll
            for (int i = 0; i < TERMS; i++)
#pragma unroll
                for (int j = 0; j < TOGETHER; j++)
                    key[i][j] = l + i < terms.old && first + j * WARP < a.d_qk
                                    ? keys[(l + i) * a.ring_k.row + first + j * WARP]
                                    : 0.0f;
#pragma unroll
            for (int j = 0; j < TOGETHER; j++) {
                if (first + j * WARP >= a.d_qk)
                    break;
                const float q = room.q[first + j * WARP];
#pragma unroll
                for (int i = 0; i < TERMS; i++)
                    product[i] = fmaf(q, key[i][j], product[i]);
            }
        }
#pragma unroll
        for (int i = 0; i < TERMS; i++) {
            const float sum = warp_sum(product[i]);
            if (lane == 0 && l + i < terms.old)
                room.s->scores[l + i] = sum;
        }
    }
    if (warp != WARPS - 1)
        return;
    float product = 0.0f;
    for (int d = lane; d < a.d_qk; d += WARP)
        product = fmaf(room.q[d], room.k[d], product);
    product = warp_sum(product);
    if (lane == 0)
        room.s->scores[terms.old] = product;
}

/* Element `index` of n as it becomes when the ring is folded into it. */
static __device__ inline float mlstm_fold_normalizer(const mlstm_arguments &a,
                                                     const mlstm_terms &terms, int slot, int head,
                                                     const mlstm_step_room &room, int index,
                                                     float n) {
    enum { TOGETHER = 8 };
    const float *keys = mlstm_ring_rows(a.ring_k, slot, head) + index, *weights = room.s->folds;
    for (int first = 0; first < terms.old; first += TOGETHER) {
        float key[TOGETHER];
#pragma unroll
        for (int j = 0; j < TOGETHER; j++)
            key[j] = first + j < terms.old ? keys[(first + j) * a.ring_k.row] : 0.0f;
#pragma unroll
        for (int j = 0; j < TOGETHER; j++)
            if (first + j < terms.old && weights[first + j] != 0.0f)
                n = fmaf(weights[first + j], key[j], n);
    }
    const float newest = weights[terms.old];
    return newest != 0.0f ? fmaf(newest, room.k[index], n) : n;
}

/* q n of eight warps' rows, as mlstm_step_normalizer has them; n becomes what is stored. */
template <int TYPE, bool RING>
static __device__ __forceinline__ void
mlstm_prepare_normalizer(const mlstm_arguments &a, const mlstm_terms &terms, int slot, int head,
                         bool folds, const mlstm_step_room &room) {
    const mlstm_note &note = room.s->note;
    const int lane = (int)threadIdx.x % WARP;
    for (int w = (int)threadIdx.x / WARP; w < MLSTM_WARPS; w += mlstm_prepare_sizes<RING>::WARPS) {
        float product = 0.0f;
        for (int d = w * WARP + lane; d < a.d_qk; d += MLSTM_WING) {
            float n = room.n[d];
            if (!RING) {
                n = note.before == 0.0f ? 0.0f : n * note.before;
                n = note.weight.high == 0.0f ? n : fmaf(note.weight.high, room.k[d], n);
            }
            product = fmaf(room.q[d], n, product);
            if (!folds)
                continue;
            n = note.after.high == 0.0f ? 0.0f : n * note.after.high;
            if (RING)
                n = mlstm_fold_normalizer(a, terms, slot, head, room, d, n);
            room.n[d] = mlstm_stored<TYPE>(n);
        }
        product = warp_sum(product);
        if (lane == 0)
            room.s->products[w] = product;
    }
}

/* The digest but for slot and token. With a ring, the scores become those of h, with scale and divisor in them, once all
 * threads have come here. */
template <bool RING>
static __device__ inline mlstm_digest mlstm_digest_of(const mlstm_arguments &a, int terms,
                                                      mlstm_step_shared *s, mlstm_folds *folds) {
    const mlstm_note &note = s->note;
    mlstm_digest d = {};
    float sum = 0.0f;
    for (int l = 0; RING && l < terms; l++)
        sum += s->weights[l] == 0.0f ? 0.0f : s->scores[l] * s->weights[l];
    float qn = mlstm_total(s->products, 1);
    qn = note.carried == 0.0f ? sum : fmaf(note.carried, qn, sum);
    d.terms = terms;
    d.before = note.before;
    d.weight = note.weight;
    d.after = note.after;
    d.carried = note.carried;
    d.divisor = mlstm_divisor(note.m, qn * a.scale, a.eps);
    if (!RING)
        return d;
    const int l = (int)threadIdx.x;
    d.carried = mlstm_quotient(note.carried * a.scale, d.divisor);
    float score = 0.0f;
    if (l < terms) {
        score = s->weights[l] == 0.0f ? 0.0f : s->scores[l] * s->weights[l];
        score = mlstm_quotient(score * a.scale, d.divisor);
        folds->weights[l] = s->folds[l];
    }
    __syncthreads();
    if (l < terms)
        s->scores[l] = score;
    __syncthreads();
    return d;
}

/* What the terms add to h: the sum of their values by their scores, to `out` [d_v]. */
static __device__ inline void mlstm_sum_terms(const mlstm_arguments &a, const mlstm_terms &terms,
                                              int slot, int head, const float *scores, float *out) {
    enum { COLUMNS = 4, TOGETHER = 8, STEP = mlstm_prepare_sizes<true>::THREADS };
    for (int at = (int)threadIdx.x; at < a.d_v; at += COLUMNS * STEP) {
        const float *values = mlstm_ring_rows(a.ring_v, slot, head) + at;
        float sum[COLUMNS] = {}, value[TOGETHER][COLUMNS];
        for (int first = 0; first < terms.old; first += TOGETHER) {
#pragma unroll
            for (int j = 0; j < TOGETHER; j++)
#pragma unroll
                for (int c = 0; c < COLUMNS; c++)
                    value[j][c] = first + j < terms.old && at + c * STEP < a.d_v
                                      ? values[(first + j) * a.ring_v.row + c * STEP]
                                      : 0.0f;
#pragma unroll
            for (int j = 0; j < TOGETHER; j++) {
                const float score = first + j < terms.old ? scores[first + j] : 0.0f;
#pragma unroll
                for (int c = 0; c < COLUMNS; c++)
                    sum[c] = score == 0.0f ? sum[c] : fmaf(score, value[j][c], sum[c]);
            }
        }
        const float newest = scores[terms.old];
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            const int i = at + c * STEP;
            if (i < a.d_v)
                out[i] = newest == 0.0f
                             ? sum[c]
                             : fmaf(newest, mlstm_load(a.v, terms.first, head, 0, i), sum[c]);
        }
    }
}

/* The token into its row of the ring, where mlstm_stream finds all terms. */
static __device__ inline void mlstm_into_ring(const mlstm_arguments &a, const mlstm_tokens &t,
                                              int head) {
    for (int i = (int)threadIdx.x; i < a.d_v; i += (int)blockDim.x)
        mlstm_store(a.ring_v, t.slot, head, t.held, i, mlstm_load(a.v, t.first, head, 0, i));
    for (int d = (int)threadIdx.x; d < a.d_qk; d += (int)blockDim.x)
        mlstm_store(a.ring_k, t.slot, head, t.held, d, mlstm_load(a.k, t.first, head, 0, d));
    if (threadIdx.x == 0) {
        mlstm_store(a.ring_i, t.slot, head, 0, t.held, mlstm_load(a.i, t.first, 0, 0, head));
        mlstm_store(a.ring_f, t.slot, head, 0, t.held, mlstm_load(a.f, t.first, 0, 0, head));
    }
}

/* The token of the block's head, which stands in shared memory with n; `gate` has its gates and m (warp 0). */
template <int TYPE, bool RING>
static __device__ inline void mlstm_prepare_token(const mlstm_arguments &a, const mlstm_tokens &t,
                                                  mlstm_step_gate gate,
                                                  const mlstm_step_room &room) {
    const int head = (int)blockIdx.y;
    const int64_t at = (int64_t)blockIdx.z * a.heads + head;
    const mlstm_terms terms = {t.held + 1, t.held, t.first};
    const bool folds = !RING || terms.count == a.ring;
    if (threadIdx.x < WARP) {
        mlstm_exponents e;
        mlstm_maximum m = {gate.m, 0.0f};
        mlstm_no_terms(&e, m);
        if (RING)
            mlstm_add_held(a, t, head, &e);
        mlstm_step_gates<RING>(gate, terms.count, folds, &e, room.s);
    } else if (RING) {
        mlstm_multiply_terms(a, terms, t.slot, head, room);
    }
    __syncthreads();
    mlstm_prepare_normalizer<TYPE, RING>(a, terms, t.slot, head, folds, room);
    __syncthreads();
    mlstm_digest digest = mlstm_digest_of<RING>(a, terms.count, room.s, a.folds + at);
    digest.slot = t.slot;
    digest.token = t.first;
    digest.folds = folds;
    if (threadIdx.x == 0)
        a.digests[at] = digest;
    if (RING) {
        mlstm_sum_terms(a, terms, t.slot, head, room.s->scores, a.terms + at * a.d_v);
        mlstm_into_ring(a, t, head);
    }
    if (!folds)
        return;
    for (int d = (int)threadIdx.x; d < a.d_qk; d += (int)blockDim.x)
        mlstm_store(a.n, t.slot, head, 0, d, room.n[d]);
    if (threadIdx.x == 0)
        mlstm_store(a.m, t.slot, 0, 0, head, room.s->note.stored_m);
}

/* What a head needs is fetched while the batch is looked at, as far as its own sequence can be trusted. */
template <int TYPE, bool RING>
static __global__ void __launch_bounds__(mlstm_prepare_sizes<RING>::THREADS,
                                         mlstm_prepare_sizes<RING>::BLOCKS)
    mlstm_prepare(const __grid_constant__ mlstm_arguments a) {
    extern __shared__ float4 memory[];
    __shared__ mlstm_step_shared shared;
    cuda_wait();
    cuda_release(); /* not before: mlstm_stream reads C and the batch as soon as it begins */
    const int sequence = (int)blockIdx.z, head = (int)blockIdx.y;
    const int slot = a.batch.slot[sequence], first = a.batch.start[sequence];
    const mlstm_step_room room = mlstm_step_room_of(a, &shared, (float *)memory);
    mlstm_step_gate gate = {};
    if (slot >= 0 && slot < a.batch.slots && first >= 0 && first < a.batch.tokens) {
        gate = mlstm_gate_of(a, first, head);
        gate.m = mlstm_load(a.m, slot, 0, 0, head);
        mlstm_stage_token(a, first, head, room);
        for (int d = (int)threadIdx.x; d < a.d_qk; d += (int)blockDim.x)
            room.n[d] = mlstm_load(a.n, slot, head, 0, d);
    }
    mlstm_tokens t = {};
    if (!__syncthreads_or(mlstm_find_wrong(a.batch)))
        t = mlstm_tokens_of(a, sequence);
    if (t.count == 1)
        mlstm_prepare_token<TYPE, RING>(a, t, gate, room);
    else if (threadIdx.x == 0)
        a.digests[(int64_t)sequence * a.heads + head].slot = -1;
}

#endif
