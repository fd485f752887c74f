/* The units of the sLSTM and the LSTM: what is left of a token once the units have been mixed. */
#include "ops/cpu/vector.h"

#if defined(KERNEL_F64)
enum { LOG_TERMS = 18 };
#else
enum { LOG_TERMS = 9 };
#endif

/* log(1 + u) for u in [0, 1]: 2 artanh(s) with s = u / (2 + u) <= 1/3, by its series; the
 * terms fall by a factor of 9 at least. */
ALWAYS_INLINE vec log1p_vec(vec u) {
    vec s = u / (splat(2) + u), square = s * s, p = {0};
    UNROLL
    for (int k = LOG_TERMS - 1; k >= 0; k--)
        p = fused(p, square, splat((real)1 / (real)(2 * k + 1)));
    return (s + s) * p;
}

ALWAYS_INLINE vec log_sigmoid_vec(vec x) {
    vec_bits positive = (vec_bits)(x > (vec){0});
    return choose(positive, (vec){0}, x) - log1p_vec(exp_vec(choose(positive, -x, x)));
}

/* The sum a + b rounded up, and what is missing to the true sum: never positive. */
typedef struct sum {
    vec value, rest;
} sum;

ALWAYS_INLINE sum sum_rounded_up(vec a, vec b) {
    vec s = a + b, part = s - a;
    vec rest = (a - (s - part)) + (b - part);
    rest = choose((vec_bits)(rest != rest), (vec){0}, rest); /* infinite sums have none */
    vec_bits low = (vec_bits)(rest > (vec){0});
    vec_bits negative = (vec_bits)(s < (vec){0});
    vec up = (vec)((vec_bits)s + (~negative & 1) - (negative & 1)); /* the next number above */
    return (sum){choose(low, up, s), choose(low, (s - up) + rest, rest)};
}

typedef struct unit {
    vec y, c, n, m;
} unit;

/* The maximum is stored, rounded up; I and F are taken relative to what is stored, so
 * that c and n do not drift however large m becomes. */
ALWAYS_INLINE unit slstm_unit(const vec raw[4], unit u) {
    const vec one = splat(1), zero = {0};
    vec i = raw[0];
    sum log_f = sum_rounded_up(u.m, log_sigmoid_vec(raw[1]));
    vec top = choose((vec_bits)(i > log_f.value) | (vec_bits)(i != i) | (vec_bits)(u.n == zero), i,
                     log_f.value);
    vec_bits empty = (vec_bits)(top == splat(-(real)INFINITY));
    vec write = choose(empty, zero, exp_vec(i - top));
    vec keep = choose(empty, zero, exp_vec((log_f.value - top) + log_f.rest));
    keep = choose((vec_bits)(keep > one), one, keep); /* where n is 0 */
    vec kept = keep * u.c;
    u.c = choose((vec_bits)(write == zero), kept, fused(write, tanh_vec(raw[2]), kept));
    u.n = keep * u.n + write;
    u.m = top;
    u.y = choose((vec_bits)(u.n == zero), zero, sigmoid_vec(raw[3]) * u.c / u.n);
    return u;
}

ALWAYS_INLINE unit lstm_unit(const vec raw[4], unit u) {
    u.c = fused(sigmoid_vec(raw[0]), tanh_vec(raw[2]), sigmoid_vec(raw[1]) * u.c);
    u.y = sigmoid_vec(raw[3]) * tanh_vec(u.c);
    return u;
}

ALWAYS_INLINE vec clip_vec(vec y, real clip) {
    vec high = splat(clip);
    y = choose((vec_bits)(y > high), high, y);
    return choose((vec_bits)(y < -high), -high, y);
}

void PER_ISA(cpu_cell)(const cpu_cell *cell) {
    for (int64_t d = 0; d < cell->count; d += LANES) {
        int64_t left = cell->count - d;
        vec raw[4];
        for (int g = 0; g < 4; g++)
            raw[g] = load_optional(cell->input[g], d, left) +
                     load_optional(cell->mixed[g], d, left) + load_optional(cell->bias[g], d, left);
        unit u = {.c = load_optional(cell->c, d, left)};
        if (cell->lstm) {
            u = lstm_unit(raw, u);
        } else {
            u.n = load_optional(cell->n, d, left);
            u.m = load_optional(cell->m, d, left);
            u = slstm_unit(raw, u);
            store_some((real *)cell->n + d, u.n, left);
            store_some((real *)cell->m + d, u.m, left);
        }
        if (cell->clip != 0)
            u.y = clip_vec(u.y, (real)cell->clip);
        store_some((real *)cell->y + d, u.y, left);
        store_some((real *)cell->c + d, u.c, left);
    }
}
