/* The part of a single token that needs no C: mlstm_prepare, a block a head, leaves a digest for mlstm_stream.h. */
#ifndef OPS_CUDA_MLSTM_PREPARE_H
#define OPS_CUDA_MLSTM_PREPARE_H

#include "ops/cuda/mlstm_stream.h"

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

/* The digest but for slot and token. With a ring its scores have scale and divisor in them. */
template <bool RING>
static __device__ inline mlstm_digest mlstm_digest_of(const mlstm_arguments &a, int terms,
                                                      const mlstm_step_shared *s,
                                                      mlstm_scores *scores) {
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
    int l = (int)threadIdx.x;
    if (!RING)
        return d;
    d.carried = mlstm_quotient(note.carried * a.scale, d.divisor);
    if (l < terms) {
        float score = s->weights[l] == 0.0f ? 0.0f : s->scores[l] * s->weights[l];
        scores->scores[l] = mlstm_quotient(score * a.scale, d.divisor);
        scores->weights[l] = s->folds[l];
    }
    return d;
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

/* The token of the block's head. */
template <int TYPE, bool RING>
static __device__ inline void mlstm_prepare_token(const mlstm_arguments &a, const mlstm_tokens &t,
                                                  const mlstm_step_room &room, mlstm_digest *out,
                                                  mlstm_scores *scores) {
    int head = (int)blockIdx.y;
    mlstm_terms terms = {t.held + 1, t.held, t.first};
    bool folds = !RING || terms.count == a.ring;
    mlstm_stage_token(a, t.first, head, room);
    for (int d = (int)threadIdx.x; d < a.d_qk; d += MLSTM_WING)
        room.n[d] = mlstm_load(a.n, t.slot, head, 0, d);
    if (RING)
        __syncthreads();
    if (threadIdx.x < WARP) {
        mlstm_exponents e;
        mlstm_maximum m = {mlstm_load(a.m, t.slot, 0, 0, head), 0.0f};
        mlstm_step_gate gate = mlstm_gate_of(a, t.first, head);
        mlstm_no_terms(&e, m);
        if (RING)
            mlstm_add_held(a, t, head, &e);
        mlstm_step_gates<RING>(gate, terms.count, folds, &e, room.s);
    } else if (RING) {
        mlstm_multiply_terms(a, terms, t.slot, head, room);
    }
    __syncthreads();
    mlstm_step_normalizer<TYPE, RING>(a, terms, t.slot, head, folds, room);
    __syncthreads();
    mlstm_digest digest = mlstm_digest_of<RING>(a, terms.count, room.s, scores);
    digest.slot = t.slot;
    digest.token = t.first;
    digest.folds = folds;
    if (threadIdx.x == 0)
        *out = digest;
    if (RING)
        mlstm_into_ring(a, t, head);
    if (!folds)
        return;
    for (int d = (int)threadIdx.x; d < a.d_qk; d += MLSTM_WING)
        mlstm_store(a.n, t.slot, head, 0, d, room.n[d]);
    if (threadIdx.x == 0)
        mlstm_store(a.m, t.slot, 0, 0, head, room.s->note.stored_m);
}

template <int TYPE, bool RING>
static __global__ void __launch_bounds__(MLSTM_WING)
    mlstm_prepare(const __grid_constant__ mlstm_arguments a) {
    extern __shared__ float4 room[];
    __shared__ mlstm_step_shared shared;
    cuda_release();
    cuda_wait();
    const int64_t at = (int64_t)blockIdx.z * a.heads + blockIdx.y;
    mlstm_tokens t = {};
    bool there = batch_is_sound(a.batch);
    if (there)
        t = mlstm_tokens_of(a, (int)blockIdx.z);
    if (t.count == 1)
        mlstm_prepare_token<TYPE, RING>(a, t, mlstm_step_room_of(a, &shared, (float *)room),
                                        a.digests + at, a.scores + at);
    else if (threadIdx.x == 0)
        a.digests[at].slot = -1;
}

#endif
