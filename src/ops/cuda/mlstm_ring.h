/* A single token of a sequence with a ring, in two kernels: mlstm_prepare, a block a head, has all that needs no C
 * (gates, scores of the terms with q, the divisor of h, n, m and the ring); mlstm_recall, a block a slice of C,
 * reads C once for h and, where the ring is full, folds the terms into it. So what all slices need is reckoned once,
 * and the kernel that streams C has little else to do. */
#ifndef OPS_CUDA_MLSTM_RING_H
#define OPS_CUDA_MLSTM_RING_H

#include "ops/cuda/mlstm_step.h"

/* What mlstm_prepare leaves for a head: h = carried q^T C + sum of scores[l] v_l. */
struct mlstm_recollection {
    int there;         /* 0: there is nothing to do, the batch being wrong or the sequence longer */
    int folds;         /* C = keep C + sum of weights[l] k_l v_l^T */
    mlstm_terms terms; /* the newest is a token of the batch */
    int token;
    float carried, keep;
    float scores[OPS_MAX_DEFERRED], weights[OPS_MAX_DEFERRED];
};

/* ---- Without C ---- */

/* Products of q with all terms, by all warps but the first. */
static __device__ inline void mlstm_multiply_terms(const mlstm_arguments &a,
                                                   const mlstm_terms &terms, int slot, int head,
                                                   const mlstm_step_room &room) {
    int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    for (int l = warp - 1; l < terms.count; l += MLSTM_WARPS - 1) {
        float product = 0.0f;
        for (int d = lane; d < a.d_qk; d += WARP)
            product = fmaf(room.q[d], mlstm_term(a.k, a.ring_k, terms, slot, head, l, d), product);
        product = warp_sum(product);
        if (lane == 0)
            room.s->scores[l] = product;
    }
}

static __device__ inline void mlstm_write_recollection(const mlstm_arguments &a,
                                                       const mlstm_terms &terms, int token,
                                                       bool folds, const mlstm_step_shared *s,
                                                       mlstm_recollection *out) {
    const mlstm_note &note = s->note;
    float sum = 0.0f;
    for (int l = 0; l < terms.count; l++)
        sum += s->weights[l] == 0.0f ? 0.0f : s->scores[l] * s->weights[l];
    float qn = mlstm_total(s->products, 1);
    qn = note.carried == 0.0f ? sum : fmaf(note.carried, qn, sum);
    float divisor = mlstm_divisor(note.m, qn * a.scale, a.eps);
    int l = (int)threadIdx.x;
    if (l < terms.count) {
        float score = s->weights[l] == 0.0f ? 0.0f : s->scores[l] * s->weights[l];
        out->scores[l] = mlstm_quotient(score * a.scale, divisor);
        out->weights[l] = s->folds[l];
    }
    if (l == 0) {
        out->carried = mlstm_quotient(note.carried * a.scale, divisor);
        out->keep = note.after.high;
        out->terms = terms;
        out->token = token;
        out->folds = folds;
        out->there = 1;
    }
}

/* The token of the block's head. */
template <int TYPE>
static __device__ inline void mlstm_prepare_token(const mlstm_arguments &a, const mlstm_tokens &t,
                                                  const mlstm_step_room &room,
                                                  mlstm_recollection *out) {
    int head = (int)blockIdx.y;
    mlstm_terms terms = {t.held + 1, t.held, t.first};
    bool folds = terms.count == a.ring;
    mlstm_stage_token(a, t.first, head, room);
    for (int d = (int)threadIdx.x; d < a.d_qk; d += MLSTM_WING)
        room.n[d] = mlstm_load(a.n, t.slot, head, 0, d);
    __syncthreads();
    if (threadIdx.x < WARP) {
        mlstm_exponents e;
        mlstm_maximum m = {mlstm_load(a.m, t.slot, 0, 0, head), 0.0f};
        mlstm_no_terms(&e, m);
        mlstm_add_held(a, t, head, &e);
        mlstm_step_gates<true>(mlstm_gate_of(a, t.first, head), terms.count, folds, &e, room.s);
    } else {
        mlstm_multiply_terms(a, terms, t.slot, head, room);
    }
    __syncthreads();
    mlstm_step_normalizer<TYPE, true>(a, terms, t.slot, head, folds, room);
    __syncthreads();
    mlstm_write_recollection(a, terms, t.first, folds, room.s, out);
    mlstm_fill_ring(a, t, head, 0, a.d_v, true);
    if (!folds)
        return;
    for (int d = (int)threadIdx.x; d < a.d_qk; d += MLSTM_WING)
        mlstm_store(a.n, t.slot, head, 0, d, room.n[d]);
    if (threadIdx.x == 0)
        mlstm_store(a.m, t.slot, 0, 0, head, room.s->note.stored_m);
}

/* ---- With C ---- */

/* The values of term l in the thread's columns. */
template <int TYPE>
static __device__ __forceinline__ void
mlstm_term_values(const mlstm_arguments &a, const mlstm_slice &own, const mlstm_terms &terms,
                  int slot, int l, float *value) {
    const int most = mlstm_vector<TYPE>::COUNT;
#pragma unroll
    for (int i = 0; i < most; i++)
        value[i] = l < terms.count && i < own.count
                       ? mlstm_term(a.v, a.ring_v, terms, slot, (int)blockIdx.y, l, own.column + i)
                       : 0.0f;
}

/* The block's slice of a head: q in shared memory, `raw` the first 256 rows. Adds up a term in the thread's row group
 * of that number, and those 32 behind it. */
template <int TYPE>
static __device__ __forceinline__ void
mlstm_recall_slice(const mlstm_arguments &a, const mlstm_slice &own, int slot, uint4 *raw,
                   const mlstm_recollection *r, const float *q, float *parts, float *weights) {
    const int most = mlstm_vector<TYPE>::COUNT, columns = mlstm_vector<TYPE>::COLUMNS;
    const mlstm_terms terms = r->terms;
    const float carried = r->carried;
    float sum[most], value[most];
    mlstm_term_values<TYPE>(a, own, terms, slot, own.group, value);
    float score = own.group < terms.count ? r->scores[own.group] : 0.0f;
#pragma unroll
    for (int i = 0; i < most; i++)
        sum[i] = 0.0f;
    for (int first = 0; first < a.d_qk; first += MLSTM_ROWS * MLSTM_GROUPS) {
        if (first > 0)
            mlstm_fetch<TYPE>(a, own, first, raw);
        mlstm_read_rows<TYPE>(a, own, first, raw, q, sum);
    }
#pragma unroll
    for (int i = 0; i < most; i++) {
        sum[i] = carried == 0.0f ? 0.0f : carried * sum[i];
        sum[i] = score == 0.0f ? sum[i] : fmaf(score, value[i], sum[i]);
    }
    int l = own.group + MLSTM_GROUPS;
    if (l < terms.count && r->scores[l] != 0.0f) {
        mlstm_term_values<TYPE>(a, own, terms, slot, l, value);
#pragma unroll
        for (int i = 0; i < most; i++)
            sum[i] = fmaf(r->scores[l], value[i], sum[i]);
    }
    mlstm_leave_sums<TYPE>(sum, parts + own.wing * (MLSTM_WARPS * columns),
                           (int)threadIdx.x / WARP % MLSTM_WARPS, own.vector);
    if (r->folds && threadIdx.x < OPS_MAX_DEFERRED)
        weights[threadIdx.x] = r->weights[threadIdx.x];
    __syncthreads();
    int wings = (int)blockDim.x / MLSTM_WING, first = (int)blockIdx.x * wings * columns;
    for (int i = (int)threadIdx.x; i < wings * columns && first + i < a.d_v; i += (int)blockDim.x)
        mlstm_store(
            a.h, r->token, (int)blockIdx.y, 0, first + i,
            mlstm_total(parts + i / columns * (MLSTM_WARPS * columns) + i % columns, columns));
    if (r->folds)
        for (int row = own.group; row < a.d_qk; row += 4 * MLSTM_GROUPS)
            mlstm_fold_rows<TYPE>(a, own, row, terms, slot, (int)blockIdx.y, r->keep, weights);
}

#endif
