/* The mLSTM token by token: mlstm_step reads C once and writes it once, and gives h; mlstm_settle then writes n, m
 * and the ring.
 *
 * A threadgroup of mlstm_step has 64 columns of C of a head: 16 quads by 16 groups of rows. One of xlstm-7B (8
 * heads, 256 x 512) makes 64 threadgroups of 8 SIMD-groups a sequence: 512 SIMD-groups, 13 to 16 for each core of
 * an M1 to M4 Max (32 to 40 cores), 64 for each of an M1's 8; a thread has 4 quads in flight. A threadgroup a
 * head, which could write n and m itself, would use 8 cores. All threadgroups of a head need n and m as they were,
 * and none can know when the others have read them; so each reckons with a copy of its own, and a second dispatch
 * writes them. It touches nothing of what follows in a block (h, the output projection), so it costs no barrier:
 * 6 dispatches and 5 barriers a block.
 *
 * Bytes of a token and head, f32: C 2 x 524288; q, k, v, h 6 KB; n 1 KB three times (read by both, written by
 * one); k once more. The test device counts 1.0 % more than C alone needs, 1.7 % where C is bf16. With a ring C is
 * written once in R tokens, and read in each. */
#include <metal_stdlib>

#include "ops/metal/mlstm.h"

/* C of 64 columns in one pass: the thread's rows (every 16th), which give their part of q^T C; where `folds`, C
 * takes in the terms. The last of these is the present token. */
template <typename T>
static inline float4 mlstm_pass(constant mlstm_arguments &a, device typename T::stored *c,
                                device const float *q, mlstm_terms keys, mlstm_terms values,
                                threadgroup const float *weights, uint terms, float keep,
                                bool folds, uint row_group, uint count) {
    float4 sum = float4(0.0f);
    if (is_spoiled_weight(keep)) {
        for (uint d = row_group; d < a.d_qk && folds; d += MLSTM_ROW_GROUPS)
            spoil_quad<T>(c + ulong(d) * a.c_row, count);
        return sum;
    }
    bool wide = a.wide_c != 0, changes = false;
    for (uint l = 0; l < terms && folds; l++)
        changes = changes || !is_zero(weights[l]);
    changes = folds && (changes || as_type<uint>(keep) != 0x3f800000u);
    device const float *key = mlstm_term(keys, terms - 1);
    float4 value =
        load_quad<f32_values>(mlstm_term(values, terms - 1), changes ? count : 0, a.wide_v != 0);
    float weight = weights[terms - 1];
    for (uint d = row_group; d < a.d_qk; d += 4 * MLSTM_ROW_GROUPS) {
        float4 x[4];
        for (uint r = 0; r < 4; r++) {
            uint row = d + r * MLSTM_ROW_GROUPS;
            x[r] = load_quad<T>(c + ulong(row) * a.c_row, row < a.d_qk ? count : 0, wide);
        }
        for (uint r = 0; r < 4; r++) {
            uint row = d + r * MLSTM_ROW_GROUPS;
            if (row < a.d_qk)
                sum = fma(float4(q[row]), x[r], sum);
            x[r] = kept(x[r], keep);
        }
        if (!changes)
            continue;
        for (uint l = 0; l + 1 < terms; l++) {
            if (is_zero(weights[l]))
                continue;
            device const float *older = mlstm_term(keys, l);
            float4 v = load_quad<f32_values>(mlstm_term(values, l), count, false);
            for (uint r = 0; r < 4; r++) {
                uint row = d + r * MLSTM_ROW_GROUPS;
                if (row < a.d_qk)
                    x[r] = with_term(x[r], weights[l], older[row], v);
            }
        }
        for (uint r = 0; r < 4; r++) {
            uint row = d + r * MLSTM_ROW_GROUPS;
            if (row >= a.d_qk)
                continue;
            if (!is_zero(weight))
                x[r] = with_term(x[r], weight, key[row], value);
            store_quad<T>(c + ulong(row) * a.c_row, count, wide, x[r]);
        }
    }
    return sum;
}

/* The weights of the terms, their scores with the token's q, and the divisor of its h. */
static inline float mlstm_scores_of(constant mlstm_arguments &a, device const float *q,
                                    mlstm_terms keys, threadgroup const float *n, mlstm_exponents e,
                                    uint terms, threadgroup float *weights,
                                    threadgroup float *scores, uint thread_index, uint group,
                                    uint lane) {
    if (thread_index < terms)
        weights[thread_index] = weight_of(e.own);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint l = group; l < terms; l += MLSTM_THREADS / SIMD_LANES) {
        float product = dot_product(q, mlstm_term(keys, l), a.d_qk, lane);
        if (lane == 0)
            scores[l] = weighted_score(product, weights[l]);
    }
    float product = dot_product(q, n, a.d_qk, lane);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    return divisor_of(a, weight_of(e.carried), product, scores, terms, e.m);
}

template <typename T>
kernel void
mlstm_step(constant mlstm_arguments &a [[buffer(0)]], device const float *q_in [[buffer(1)]],
           device const float *k_in [[buffer(2)]], device const float *v_in [[buffer(3)]],
           device const uint *i_in [[buffer(4)]], device const uint *f_in [[buffer(5)]],
           device const int *slots [[buffer(6)]], device const int *starts [[buffer(7)]],
           device const ulong *positions [[buffer(8)]], device uchar *c_state [[buffer(9)]],
           device const uchar *n_state [[buffer(10)]], device const uint *m_state [[buffer(11)]],
           device const float *ring_k [[buffer(12)]], device const float *ring_v [[buffer(13)]],
           device const uint *ring_i [[buffer(14)]], device const uint *ring_f [[buffer(15)]],
           device uint *h_out [[buffer(16)]], threadgroup float *n [[threadgroup(0)]],
           uint3 place [[threadgroup_position_in_grid]],
           uint thread_index [[thread_index_in_threadgroup]],
           uint lane [[thread_index_in_simdgroup]], uint group [[simdgroup_index_in_threadgroup]]) {
    threadgroup float weights[MLSTM_LONGEST];
    threadgroup float scores[MLSTM_LONGEST];
    threadgroup float sums[MLSTM_ROW_GROUPS * MLSTM_COLUMNS];
    mlstm_tokens t = tokens_of(a, slots, starts, positions, place.z);
    if (t.count == 0)
        return;
    uint head = place.y, quad = thread_index % MLSTM_QUADS, row_group = thread_index / MLSTM_QUADS;
    uint first = place.x * MLSTM_COLUMNS, column = first + quad * 4;
    uint count = column < a.d_v ? min(a.d_v - column, 4u) : 0;
    device typename T::stored *c =
        (device typename T::stored *)c_state +
        (a.c_first + ulong(t.slot) * a.c_slot + ulong(head) * a.c_head + (count ? column : 0));
    device const typename T::stored *n_first =
        (device const typename T::stored *)n_state +
        (a.n_first + ulong(t.slot) * a.n_slot + ulong(head) * a.n_head);
    device const float *k = k_in + (a.k_first + ulong(head) * a.k_head);
    device const float *v = v_in + (a.v_first + ulong(head) * a.v_head);
    ulong slot = t.slot;
    device const float *old_k =
        ring_k + (a.ring_k_first + slot * a.ring_k_slot + ulong(head) * a.ring_k_head);
    device const float *old_v =
        ring_v + (a.ring_v_first + slot * a.ring_v_slot + ulong(head) * a.ring_v_head);
    device const uint *old_i =
        ring_i + (a.ring_i_first + slot * a.ring_i_slot + ulong(head) * a.ring_i_head);
    device const uint *old_f =
        ring_f + (a.ring_f_first + slot * a.ring_f_slot + ulong(head) * a.ring_f_head);

    for (uint d = thread_index; d < a.d_qk; d += MLSTM_THREADS)
        n[d] = T::load(n_first, d);
    mlstm_exponents e = mlstm_no_terms(load_maximum(m_state[a.m_first + slot * a.m_slot + head]));
    for (uint l = 0; l < t.held; l++)
        mlstm_add(a, e, l, thread_index, old_i[l], old_f[l]);
    mlstm_terms keys = {k, old_k, a.k_token, a.ring_k_row, t.held, t.first};
    mlstm_terms values = {v, old_v, a.v_token, a.ring_v_row, t.held, t.first};
    uint held = t.held;
    for (uint token = t.first; token < t.first + t.count; token++) {
        mlstm_add(a, e, held, thread_index, i_in[a.i_first + ulong(token) * a.i_token + head],
                  f_in[a.f_first + ulong(token) * a.f_token + head]);
        uint terms = held + 1;
        bool folds = terms == a.ring;
        device const float *q =
            q_in + (a.q_first + ulong(token) * a.q_token + ulong(head) * a.q_head);
        float divisor =
            mlstm_scores_of(a, q, keys, n, e, terms, weights, scores, thread_index, group, lane);
        float carried = weight_of(e.carried);
        if (folds) {
            mlstm_round(a, e);
            if (thread_index < terms)
                weights[thread_index] = weight_of(e.own);
            threadgroup_barrier(mem_flags::mem_threadgroup);
        }
        float keep = weight_of(e.carried);
        values.tokens = v + column;
        values.ring = old_v + column;
        float4 sum =
            mlstm_pass<T>(a, c, q, keys, values, weights, terms, keep, folds, row_group, count);
        threadgroup float *own = sums + row_group * MLSTM_COLUMNS + quad * 4;
        own[0] = sum.x;
        own[1] = sum.y;
        own[2] = sum.z;
        own[3] = sum.w;
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (thread_index < MLSTM_COLUMNS && first + thread_index < a.d_v) {
            float total = mlstm_column(sums, thread_index);
            total = is_zero(carried) ? 0.0f : carried * total;
            values.tokens = v + first;
            values.ring = old_v + first;
            for (uint l = 0; l < terms; l++)
                if (!is_zero(scores[l]))
                    total = fma(scores[l], mlstm_term(values, l)[thread_index], total);
            h_out[a.h_first + ulong(token) * a.h_token + ulong(head) * a.h_head + first +
                  thread_index] = quotient(a, total, divisor);
        }
        held = folds ? 0 : terms;
        if (folds) {
            for (uint d = thread_index; d < a.d_qk; d += MLSTM_THREADS)
                n[d] = folded_n<T>(n[d], d, keys, weights, terms, keep);
            e = mlstm_no_terms(e.m);
            keys.old = values.old = 0;
            keys.first = values.first = token + 1;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
}

/* n, m and the ring after the tokens that mlstm_step has taken: a threadgroup a head. */
template <typename T>
kernel void
mlstm_settle(constant mlstm_arguments &a [[buffer(0)]], device const float *k_in [[buffer(1)]],
             device const float *v_in [[buffer(2)]], device const uint *i_in [[buffer(3)]],
             device const uint *f_in [[buffer(4)]], device const int *slots [[buffer(5)]],
             device const int *starts [[buffer(6)]], device const ulong *positions [[buffer(7)]],
             device uchar *n_state [[buffer(8)]], device uint *m_state [[buffer(9)]],
             device float *ring_k [[buffer(10)]], device float *ring_v [[buffer(11)]],
             device uint *ring_i [[buffer(12)]], device uint *ring_f [[buffer(13)]],
             uint3 place [[threadgroup_position_in_grid]],
             uint thread_index [[thread_index_in_threadgroup]]) {
    threadgroup float weights[MLSTM_LONGEST];
    mlstm_tokens t = tokens_of(a, slots, starts, positions, place.y);
    if (t.count == 0)
        return;
    uint head = place.x;
    ulong slot = t.slot;
    device typename T::stored *n = (device typename T::stored *)n_state +
                                   (a.n_first + slot * a.n_slot + ulong(head) * a.n_head);
    device uint *m = m_state + (a.m_first + slot * a.m_slot + head);
    device float *old_k =
        ring_k + (a.ring_k_first + slot * a.ring_k_slot + ulong(head) * a.ring_k_head);
    device float *old_v =
        ring_v + (a.ring_v_first + slot * a.ring_v_slot + ulong(head) * a.ring_v_head);
    device uint *old_i =
        ring_i + (a.ring_i_first + slot * a.ring_i_slot + ulong(head) * a.ring_i_head);
    device uint *old_f =
        ring_f + (a.ring_f_first + slot * a.ring_f_slot + ulong(head) * a.ring_f_head);
    device const uint *i = i_in + (a.i_first + head), *f = f_in + (a.f_first + head);

    mlstm_exponents e = mlstm_no_terms(load_maximum(m[0]));
    float base = e.m.high;
    for (uint l = 0; l < t.held; l++)
        mlstm_add(a, e, l, thread_index, old_i[l], old_f[l]);
    mlstm_terms keys = {k_in + (a.k_first + ulong(head) * a.k_head),
                        old_k,
                        a.k_token,
                        a.ring_k_row,
                        t.held,
                        t.first};
    uint held = t.held;
    for (uint token = t.first; token < t.first + t.count; token++) {
        mlstm_add(a, e, held, thread_index, i[ulong(token) * a.i_token], f[ulong(token) * a.f_token]);
        held++;
        if (held < a.ring)
            continue;
        mlstm_round(a, e);
        float keep = weight_of(e.carried);
        if (thread_index < held)
            weights[thread_index] = weight_of(e.own);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint d = thread_index; d < a.d_qk; d += MLSTM_THREADS)
            store_n<T>(n, d, folded_n<T>(T::load(n, d), d, keys, weights, held, keep), keep);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        base = e.m.high;
        e = mlstm_no_terms(e.m);
        held = 0;
        keys.old = 0;
        keys.first = token + 1;
    }
    threadgroup_barrier(mem_flags::mem_device);
    if (thread_index == 0)
        m[0] = stored_maximum(base);
    device const float *v = v_in + (a.v_first + ulong(head) * a.v_head);
    for (uint l = keys.old; l < held; l++) { /* the first of them is token keys.first */
        ulong token = keys.first + l - keys.old;
        for (uint d = thread_index; d < a.d_qk; d += MLSTM_THREADS)
            old_k[ulong(l) * a.ring_k_row + d] = keys.tokens[token * a.k_token + d];
        for (uint d = thread_index; d < a.d_v; d += MLSTM_THREADS)
            old_v[ulong(l) * a.ring_v_row + d] = v[token * a.v_token + d];
        if (thread_index == 0) {
            old_i[l] = i[token * a.i_token];
            old_f[l] = f[token * a.f_token];
        }
    }
}

typedef decltype(mlstm_step<f32_values>) mlstm_step_kernel;
typedef decltype(mlstm_settle<f32_values>) mlstm_settle_kernel;
template [[host_name("mlstm_step_f32")]] kernel mlstm_step_kernel mlstm_step<f32_values>;
template [[host_name("mlstm_step_f16")]] kernel mlstm_step_kernel mlstm_step<f16_values>;
template [[host_name("mlstm_step_bf16")]] kernel mlstm_step_kernel mlstm_step<bf16_values>;
template [[host_name("mlstm_settle_f32")]] kernel mlstm_settle_kernel mlstm_settle<f32_values>;
template [[host_name("mlstm_settle_f16")]] kernel mlstm_settle_kernel mlstm_settle<f16_values>;
template [[host_name("mlstm_settle_bf16")]] kernel mlstm_settle_kernel mlstm_settle<bf16_values>;
