/* Gates of the mLSTM and the sLSTM: exponential input gates and forget gates, relative to a running maximum m.
 *
 * m' = max(log_f + m, i). It is kept as the sum of two floats as long as it is not stored, so that nothing is rounded
 * away from token to token; rounded_up() makes it the float that is stored, and exponents lose what that adds.
 *
 * Gates and maxima come as bits. Infinities and NaN are found there, and large numbers stand for them while they are
 * reckoned with: fast math knows neither, and here it has none to do away with. NaN is written as bits too.
 * Where the rest of a sum is taken, a compiler that may reorder sums would find that there is none: what
 * it must not see through is combined with bits that are 0, which it cannot know (`zero`, an argument of the
 * kernels). */
#ifndef OPS_METAL_GATES_H
#define OPS_METAL_GATES_H

#include "ops/metal/common.h"

/* ---- Numbers that are none ---- */

constexpr constant uint MINUS_INFINITY = 0xff800000u; /* its bits */

/* Of exponents and maxima: nothing is stored; and an input gate was +inf or NaN, which is for good. */
constexpr constant float NOTHING = -1e30f, SPOILED = 1e30f;

static inline bool is_nothing(float x) {
    return x < -1e29f;
}
static inline bool is_spoiled(float x) {
    return x > 1e29f;
}

static inline bool is_zero(float x) {
    return as_type<uint>(x) << 1 == 0;
}

/* ---- Sums in two floats ---- */

struct maximum {
    float high, low; /* high is the float nearest to the sum */
};

static inline maximum maximum_of(float high) {
    maximum m;
    m.high = high;
    m.low = 0.0f;
    return m;
}

static inline float hidden(float x, uint zero) {
    return as_type<float>(as_type<uint>(x) ^ zero);
}

/* a + b, exactly (Knuth, The Art of Computer Programming, vol. 2, section 4.2.2, theorem B). */
static inline maximum exact_sum(float a, float b, uint zero) {
    maximum s;
    s.high = hidden(a + b, zero);
    float b_seen = hidden(s.high - a, zero);
    float a_seen = hidden(s.high - b_seen, zero);
    s.low = hidden(a - a_seen, zero) + hidden(b - b_seen, zero);
    return s;
}

/* ---- The maximum in memory ---- */

static inline maximum load_maximum(uint bits) {
    return maximum_of(bits == MINUS_INFINITY                  ? NOTHING
                      : is_nan(bits) || bits == PLUS_INFINITY ? SPOILED
                                                              : as_type<float>(bits));
}
static inline uint stored_maximum(float m) {
    return is_nothing(m) ? MINUS_INFINITY : is_spoiled(m) ? NOT_A_NUMBER : as_type<uint>(m);
}

/* The least float that is not below m; all exponents are to be raised by `rest`, which is not positive. */
static inline float rounded_up(maximum m, uint zero, thread float &rest) {
    float up = m.high;
    if (m.low > 0.0f) { /* then m.high is not 0 */
        uint bits = as_type<uint>(m.high);
        up = as_type<float>(bits >> 31 ? bits - 1u : bits + 1u);
    }
    rest = hidden(m.high - up, zero) + m.low;
    return up;
}

/* ---- A token ---- */

struct step_gates {
    float forget, input; /* log F, log I: at most 0 */
    maximum m;
};

/* A token's gates, after the maximum m. */
static inline step_gates pass_gates(uint input_bits, uint forget_bits, maximum m, uint zero) {
    step_gates g;
    if (is_nan(input_bits) || input_bits == PLUS_INFINITY || is_nan(forget_bits) ||
        is_spoiled(m.high)) {
        g.forget = g.input = SPOILED;
        g.m = maximum_of(SPOILED);
        return g;
    }
    bool closed = input_bits == MINUS_INFINITY;
    bool forgotten = forget_bits == MINUS_INFINITY || is_nothing(m.high);
    if (!forgotten && forget_bits != PLUS_INFINITY) {
        float log_f = log_sigmoid(as_type<float>(forget_bits));
        if (log_f != 0.0f) {
            maximum sum = exact_sum(m.high, log_f, zero);
            m = exact_sum(sum.high, sum.low + m.low, zero);
            forgotten = is_nothing(m.high);
        }
    }
    g.forget = g.input = NOTHING;
    g.m = maximum_of(NOTHING);
    if (closed) {
        g.forget = forgotten ? NOTHING : 0.0f;
        g.m = forgotten ? g.m : m;
        return g;
    }
    float input = as_type<float>(input_bits);
    float above = forgotten ? NOTHING : hidden(m.high - input, zero) + m.low;
    bool stays = !forgotten && above >= 0.0f;
    g.forget = stays ? 0.0f : above;
    g.input = stays ? -above : 0.0f;
    g.m = stays ? m : maximum_of(input);
    return g;
}

/* The exponent of what is older than a token. */
static inline float aged(float exponent, float forget) {
    return is_spoiled(forget) || is_spoiled(exponent) ? SPOILED : exponent + forget;
}

/* exp(exponent): below -104 there is no float. What is spoiled has the weight -1. */
static inline float weight_of(float exponent) {
    return is_spoiled(exponent) ? -1.0f : exponent < -104.0f ? 0.0f : exp(exponent);
}
static inline bool is_spoiled_weight(float weight) {
    return weight < 0.0f;
}

#endif
