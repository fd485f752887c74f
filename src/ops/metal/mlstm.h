/* What the kernels of the mLSTM share: which tokens a threadgroup takes, gates, the arithmetic of terms.
 *
 * Between two foldings C and n stand still, and the tokens since then are terms beside them. Exponents are kept
 * relative to the running maximum m: a new token has the exponent log I = i - m', and what is older loses
 * |log F| = |log_f + m - m'|, so that every exponent is a sum of numbers that are not positive, and nothing is
 * ever subtracted. A plain token is a ring of one term. m is rounded to a float only when C and n take in the terms:
 * upwards, and their weights lose what that adds.
 *
 * A token that is taken by itself and one in a chunk (with or without padding behind it) must give the same bits.
 * Both therefore use the functions below, sum rows of C in the same order (every 16th row by one thread, then the
 * 16 sums), and multiply and add with fma alone. This is why the chunks do not use simdgroup_matrix, the order of
 * whose sums is not documented; in f32 it would have the same multipliers.
 *
 * Where a weight is spoiled, sums with it mean nothing: h, C and n are then written as NaN without them. */
#ifndef OPS_METAL_MLSTM_H
#define OPS_METAL_MLSTM_H

#include "ops/metal/gates.h"
#include "ops/metal/mlstm_arguments.h"

/* ---- Tokens ---- */

/* Tokens [first, first + count) of the batch. */
struct mlstm_tokens {
    uint slot;
    uint start; /* the sequence's first token in this call */
    uint first, count;
    uint held;     /* terms in the ring before `first` */
    uint in_chunk; /* tokens of its chunk before `first` */
};

static inline mlstm_tokens tokens_of(constant mlstm_arguments &a, device const int *slots,
                                     device const int *starts, device const ulong *positions,
                                     uint sequence) {
    uint start = uint(starts[a.start_first + sequence]);
    uint tokens = uint(starts[a.start_first + sequence + 1]) - start;
    ulong position = positions[a.position_first + sequence];
    uint held = uint(position % ulong(a.ring));
    uint lead = min(held == 0 ? 0 : a.ring - held, tokens);
    uint body = (tokens - lead) / a.ring * a.ring;
    mlstm_tokens t;
    t.slot = uint(slots[a.slot_first + sequence]);
    t.start = start;
    uint skipped = a.span == MLSTM_BODY ? lead : a.span == MLSTM_TAIL ? lead + body : 0;
    t.first = start + skipped;
    t.count = a.span == MLSTM_ALL    ? tokens
              : a.span == MLSTM_LEAD ? lead
              : a.span == MLSTM_BODY ? body
                                     : tokens - lead - body;
    t.held = uint((position + skipped) % ulong(a.ring));
    t.in_chunk = uint((position + skipped) % ulong(a.chunk));
    return t;
}

/* ---- Exponents ---- */

/* The exponent of term `index` when a token comes as term `newest`. */
static inline float next_exponent(float exponent, uint index, uint newest, step_gates g) {
    return index == newest ? g.input : aged(exponent, g.forget);
}

/* Exponents after some terms. A thread keeps that of the term with its own index. */
struct mlstm_exponents {
    float own, carried;
    maximum m;
};

static inline mlstm_exponents mlstm_no_terms(maximum m) {
    mlstm_exponents e;
    e.own = NOTHING;
    e.carried = 0.0f;
    e.m = m;
    return e;
}

static inline step_gates mlstm_add(constant mlstm_arguments &a, thread mlstm_exponents &e,
                                   uint term, uint thread_index, uint input_bits,
                                   uint forget_bits) {
    step_gates g = pass_gates(input_bits, forget_bits, e.m, a.zero);
    e.m = g.m;
    e.carried = aged(e.carried, g.forget);
    e.own = next_exponent(e.own, thread_index, term, g);
    return g;
}

/* The same once m is rounded to what is stored: with it, C and n take in the terms. */
static inline void mlstm_round(constant mlstm_arguments &a, thread mlstm_exponents &e) {
    float rest;
    e.m = maximum_of(rounded_up(e.m, a.zero, rest));
    e.carried = aged(e.carried, rest);
    e.own = aged(e.own, rest);
}

/* ---- Arithmetic of terms ---- */

/* x y, known to all lanes. */
template <typename X, typename Y> static inline float dot_product(X x, Y y, uint count, uint lane) {
    float sum = 0.0f;
    for (uint d = lane; d < count; d += SIMD_LANES)
        sum = fma(x[d], y[d], sum);
    return simd_sum(sum);
}

/* The score of a term, by its weight. */
static inline float weighted_score(float product, float weight) {
    return is_zero(weight) ? 0.0f : product * weight;
}

/* max(|q n|, exp(-m)) + eps, from q n of the state before the terms and the scores; 0 where it overflows, and -1
 * where it is spoiled. */
static inline float divisor_of(constant mlstm_arguments &a, float carried, float product,
                               threadgroup const float *scores, uint terms, maximum m) {
    float sum = is_zero(carried) ? 0.0f : carried * product;
    for (uint l = 0; l < terms; l++)
        sum += scores[l];
    float least = exp(-max(m.high, -88.0f));
    least = fma(least, -m.low, least);
    return is_spoiled(m.high) ? -1.0f
           : m.high < -88.0f  ? 0.0f
                              : max(fabs(sum * a.scale), least) + a.eps;
}

/* The bits of h, from the sum of scores and values. */
static inline uint quotient(constant mlstm_arguments &a, float sum, float divisor) {
    return divisor < 0.0f     ? NOT_A_NUMBER
           : is_zero(divisor) ? 0u
                              : as_type<uint>(sum * a.scale / divisor);
}

/* n or C of a row after a chunk: what is kept, and a term more. */
static inline float kept(float x, float keep) {
    return is_zero(keep) ? 0.0f : x * keep;
}
static inline float4 kept(float4 x, float keep) {
    return is_zero(keep) ? float4(0.0f) : x * keep;
}
static inline float4 with_term(float4 c, float weight, float key, float4 value) {
    return fma(float4(weight * key), value, c);
}

/* Sum over the groups of rows, of one column. */
static inline float mlstm_column(threadgroup const float *sums, uint column) {
    float sum = sums[column];
    for (uint r = 1; r < MLSTM_ROW_GROUPS; r++)
        sum += sums[r * MLSTM_COLUMNS + column];
    return sum;
}

/* Where the terms of a head stand: those of this call among its tokens, older ones in the ring. */
struct mlstm_terms {
    device const float *tokens, *ring; /* rows */
    uint token_stride, ring_stride;
    uint old, first; /* terms [0, old) are in the ring, term `old` is token `first` */
};

static inline device const float *mlstm_term(mlstm_terms r, uint l) {
    if (l < r.old)
        return r.ring + ulong(l) * r.ring_stride;
    return r.tokens + ulong(r.first + l - r.old) * r.token_stride;
}

static inline float stored_as(f32_values, float x) {
    return x;
}
static inline float stored_as(f16_values, float x) {
    return float(half(x));
}
static inline float stored_as(bf16_values, float x) {
    return from_bf16(to_bf16(x));
}

/* Row d of n with the terms in it, as it is stored; nothing that means anything where it is spoiled. */
template <typename T>
static inline float folded_n(float n, uint d, mlstm_terms keys, threadgroup const float *weights,
                             uint terms, float keep) {
    n = kept(n, keep);
    for (uint l = 0; l < terms; l++)
        if (!is_zero(weights[l]))
            n = fma(weights[l], mlstm_term(keys, l)[d], n);
    return stored_as(T(), n);
}

template <typename T>
static inline void store_n(device typename T::stored *n, uint d, float x, float keep) {
    if (is_spoiled_weight(keep))
        T::store_nan(n, d);
    else
        T::store(n, d, x);
}

/* ---- Quads of columns ---- */

static inline float4 load_whole(device const float *p) {
    return *(device const float4 *)p;
}
static inline float4 load_whole(device const half *p) {
    return float4(*(device const half4 *)p);
}
static inline float4 load_whole(device const ushort *p) {
    return as_type<float4>(uint4(*(device const ushort4 *)p) << 16);
}
static inline void store_whole(device float *p, float4 x) {
    *(device float4 *)p = x;
}
static inline void store_whole(device half *p, float4 x) {
    *(device half4 *)p = half4(x);
}
static inline void store_whole(device ushort *p, float4 x) {
    *(device ushort4 *)p = ushort4(to_bf16(x.x), to_bf16(x.y), to_bf16(x.z), to_bf16(x.w));
}

/* The first `count` of a quad (as many as there are columns left), 0 behind them. */
template <typename T>
static inline float4 load_quad(device const typename T::stored *p, uint count, bool wide) {
    if (wide && count >= 4)
        return load_whole(p);
    float4 x = float4(0.0f);
    x.x = count > 0 ? T::load(p, 0) : 0.0f;
    x.y = count > 1 ? T::load(p, 1) : 0.0f;
    x.z = count > 2 ? T::load(p, 2) : 0.0f;
    x.w = count > 3 ? T::load(p, 3) : 0.0f;
    return x;
}

template <typename T> static inline void spoil_quad(device typename T::stored *p, uint count) {
    for (uint i = 0; i < count; i++)
        T::store_nan(p, i);
}

template <typename T>
static inline void store_quad(device typename T::stored *p, uint count, bool wide, float4 x) {
    if (wide && count >= 4) {
        store_whole(p, x);
        return;
    }
    if (count > 0)
        T::store(p, 0, x.x);
    if (count > 1)
        T::store(p, 1, x.y);
    if (count > 2)
        T::store(p, 2, x.z);
    if (count > 3)
        T::store(p, 3, x.w);
}

#endif
