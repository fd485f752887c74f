/* Gates of the mLSTM relative to the running maximum m.
 *
 * m' = max(log_f + m, i). It is kept as the sum of two floats as long as it is not stored, so that nothing is rounded
 * away from token to token; mlstm_round_up makes it the float that is stored, and exponents lose what that adds.
 * Exponents are sums of numbers that are not positive: a new token has log I = i - m', and what is older loses
 * |log F| = |log_f + m - m'|. -inf says that nothing is stored; an input gate of +inf or NaN makes m and all exponents
 * NaN, for good. */
#ifndef OPS_CUDA_MLSTM_GATES_H
#define OPS_CUDA_MLSTM_GATES_H

#include "ops/cuda/device.h"

struct mlstm_maximum {
    float high, low; /* high is the float nearest to the sum */
};

/* a + b, exactly (Knuth, The Art of Computer Programming, vol. 2, section 4.2.2, theorem B). */
static __device__ __forceinline__ mlstm_maximum exact_sum(float a, float b) {
    mlstm_maximum s;
    s.high = a + b;
    float b_seen = s.high - a, a_seen = s.high - b_seen;
    s.low = (a - a_seen) + (b - b_seen);
    return s;
}

/* The least float that is not below m; all exponents are to be raised by `rest`, which is not positive. */
static __device__ __forceinline__ float mlstm_round_up(mlstm_maximum m, float *rest) {
    float up = m.high;
    if (m.low > 0.0f) { /* then m.high is finite and not 0 */
        uint32_t bits = __float_as_uint(m.high);
        up = __uint_as_float(bits >> 31 ? bits - 1u : bits + 1u);
    }
    *rest = m.low > 0.0f ? (m.high - up) + m.low : m.low;
    return up;
}

/* The sum of one that is finite with another, and more. */
static __device__ __forceinline__ mlstm_maximum mlstm_plus(mlstm_maximum x, float high, float low) {
    mlstm_maximum sum = exact_sum(x.high, high);
    return exact_sum(sum.high, sum.low + (x.low + low));
}

struct mlstm_gates {
    mlstm_maximum forget, input; /* log F, log I: at most 0 */
};

/* A token's gates, after the maximum *m, which becomes that after it. */
static __device__ __forceinline__ mlstm_gates mlstm_pass(float input, float log_f,
                                                         mlstm_maximum *m) {
    mlstm_gates g = {{-INFINITY, 0.0f}, {-INFINITY, 0.0f}};
    if (!(input < INFINITY) || !(log_f <= 0.0f) || !(m->high < INFINITY)) {
        g.forget.high = g.input.high = m->high = NAN;
        m->low = 0.0f;
        return g;
    }
    const mlstm_maximum zero = {0.0f, 0.0f};
    bool forgotten = log_f == -INFINITY || m->high == -INFINITY, closed = input == -INFINITY;
    mlstm_maximum held = *m, above = {-INFINITY, 0.0f};
    if (!forgotten && log_f != 0.0f) {
        held = mlstm_plus(*m, log_f, 0.0f);
        forgotten = !(held.high > -INFINITY);
    }
    if (forgotten) {
        held.high = -INFINITY;
        held.low = 0.0f;
    } else if (!closed) {
        above = mlstm_plus(held, -input, 0.0f);
    }
    if (closed || above.high >= 0.0f) {
        *m = held;
        g.forget = forgotten ? g.forget : zero;
        g.input.high = closed ? -INFINITY : -above.high;
        g.input.low = -above.low;
        return g;
    }
    m->high = input;
    m->low = 0.0f;
    g.forget = above;
    g.input = zero;
    return g;
}

static __device__ __forceinline__ float mlstm_power_of_two(int n) {
    return __uint_as_float((uint32_t)(n + 127) << 23);
}

/* exp of an exponent below 88, in two floats: exp(n ln 2 + r) with |r| <= ln(2) / 2, by the series of exp(r). */
static __device__ __forceinline__ mlstm_maximum mlstm_exp(mlstm_maximum exponent) {
    mlstm_maximum e = {0.0f, 0.0f};
    float x = exponent.high;
    if (!(x >= -104.0f)) {
        e.high = x != x ? x : 0.0f;
        return e;
    }
    float n = rintf(x * 1.44269504f);
    float wide = fmaf(n, -0.693145752f, x), r = fmaf(n, -1.42860677e-6f, wide);
    float low = fmaf(n, -1.42860677e-6f, wide - r) + exponent.low;
    float sum = fmaf(r, 1.98412698e-4f, 1.38888889e-3f);
    sum = fmaf(r, sum, 8.33333333e-3f);
    sum = fmaf(r, sum, 4.16666667e-2f);
    sum = fmaf(r, sum, 1.66666667e-1f);
    sum = fmaf(r, sum, 0.5f);
    sum = fmaf(r * r, sum, low);
    float most = 1.0f + r, least = (r - (most - 1.0f)) + sum;
    int half = (int)n / 2;
    float scale = mlstm_power_of_two(half), other = mlstm_power_of_two((int)n - half);
    e.high = (most + least) * scale * other;
    e.low = (least - ((most + least) - most)) * scale * other;
    return e;
}

/* Where C is X exp(carried), what a token does to X: it is multiplied by exp(before), then the token is added with the
 * weight exp(own). A decay is taken into X before it is this deep; until then tokens' weights are raised. */
static const float MLSTM_DEEPEST = -8.0f;

struct mlstm_decay {
    mlstm_maximum before, own;
};

static __device__ __forceinline__ mlstm_decay mlstm_age(mlstm_gates g, mlstm_maximum *carried) {
    mlstm_decay d = {{0.0f, 0.0f}, g.input};
    float sum = carried->high + g.forget.high;
    mlstm_maximum aged = {sum, 0.0f};
    if (sum > -INFINITY)
        aged = mlstm_plus(*carried, g.forget.high, g.forget.low);
    if (sum >= MLSTM_DEEPEST) {
        *carried = aged;
    } else {
        d.before = aged;
        carried->high = carried->low = 0.0f;
    }
    if (g.input.high > -INFINITY)
        d.own = mlstm_plus(g.input, -carried->high, -carried->low);
    return d;
}

/* max(|q n|, exp(-m)) + eps; infinite where it overflows. */
static __device__ __forceinline__ float mlstm_divisor(mlstm_maximum m, float qn, float eps) {
    if (m.high != m.high)
        return m.high;
    if (m.high < -88.0f)
        return INFINITY;
    float least = expf(-m.high);
    least = fmaf(least, -m.low, least);
    qn = fabsf(qn);
    return (qn <= least ? least : qn) + eps;
}

/* A sum by its divisor. */
static __device__ __forceinline__ float mlstm_quotient(float sum, float divisor) {
    return divisor == INFINITY ? 0.0f : sum / divisor;
}

#endif
