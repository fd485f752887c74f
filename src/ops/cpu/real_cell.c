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

/* What the gates of the sLSTM make of the maximum. */
typedef struct weights {
    vec write, keep, top;
    vec_bits input_won, clipped; /* top is that of the input gate; keep would be more than 1 */
    vec_bits empty;              /* nothing is stored: top is -inf */
} weights;

/* The maximum is stored rounded up; I and F are taken relative to what is stored, so that c and n do
 * not drift however large m becomes. */
ALWAYS_INLINE weights weigh(vec i, vec f, vec n, vec m) {
    const vec one = splat(1), zero = {0};
    sum log_f = sum_rounded_up(m, log_sigmoid_vec(f));
    weights w;
    w.input_won = (vec_bits)(i > log_f.value) | (vec_bits)(i != i) | (vec_bits)(n == zero);
    w.top = choose(w.input_won, i, log_f.value);
    w.empty = (vec_bits)(w.top == splat(-(real)INFINITY));
    w.write = choose(w.empty, zero, exp_vec(i - w.top));
    w.keep = choose(w.empty, zero, exp_vec((log_f.value - w.top) + log_f.rest));
    w.clipped = (vec_bits)(w.keep > one); /* only where n is 0 */
    w.keep = choose(w.clipped, one, w.keep);
    return w;
}

typedef struct unit {
    vec y, c, n, m;
} unit;

ALWAYS_INLINE vec slstm_output(vec o, vec c, vec n) {
    const vec zero = {0};
    return choose((vec_bits)(n == zero), zero, sigmoid_vec(o) * c / n);
}

ALWAYS_INLINE unit slstm_unit(const vec raw[4], unit u) {
    weights w = weigh(raw[0], raw[1], u.n, u.m);
    vec kept = w.keep * u.c;
    u.c = choose((vec_bits)(w.write == (vec){0}), kept, fused(w.write, tanh_vec(raw[2]), kept));
    u.n = w.keep * u.n + w.write;
    u.m = w.top;
    u.y = slstm_output(raw[3], u.c, u.n);
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

void PER_ISA(cpu_bound)(double bound, int64_t count, void *y) {
    for (int64_t i = 0; i < count; i += LANES)
        store_some((real *)y + i, clip_vec(load_optional(y, i, count - i), (real)bound), count - i);
}

void PER_ISA(cpu_cell)(const cpu_cell *cell) {
    for (int64_t d = 0; d < cell->count; d += LANES) {
        int64_t left = cell->count - d;
        vec raw[4];
        for (int g = 0; g < 4; g++) {
            raw[g] = load_optional(cell->input[g], d, left) +
                     load_optional(cell->mixed[g], d, left) + load_optional(cell->bias[g], d, left);
            if (cell->raw[g])
                store_some((real *)cell->raw[g] + d, raw[g], left);
        }
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

/* ---- Backward ---- */

/* dy is 0 where y was clipped. */
ALWAYS_INLINE vec through_clip(vec dy, vec y, double clip) {
    const vec high = splat((real)clip);
    vec_bits bounded = (vec_bits)(y > high) | (vec_bits)(y < -high);
    return clip == 0 ? dy : choose(bounded, (vec){0}, dy);
}

/* The equations stand in ops/reference/kernel_slstm.c. gate: raw gates, which become their
 * gradients; du: those of the states after the token, which become those before it. */
ALWAYS_INLINE unit slstm_unit_gradient(vec gate[4], unit before, unit after, unit du, double clip) {
    const vec one = splat(1), zero = {0};
    weights w = weigh(gate[0], gate[1], before.n, before.m);
    vec o = sigmoid_vec(gate[3]), z = tanh_vec(gate[2]);
    vec dy = through_clip(du.y, slstm_output(gate[3], after.c, after.n), clip);
    vec_bits stored = ~(vec_bits)(after.n == zero);
    vec share = choose(stored, dy * o / after.n, zero); /* of c */
    vec ratio = choose(stored, after.c / after.n, zero);
    vec dc = du.c + share, dn = du.n - share * ratio;
    vec from_i = fused(dc, z, dn) * w.write;
    vec from_l = choose(w.clipped, zero, fused(dc, before.c, dn * before.n) * w.keep);
    vec dm = choose(w.empty, zero, du.m - from_i - from_l);
    vec dl = from_l + choose(w.input_won, zero, dm);
    vec slope = sigmoid_vec(-gate[1]);
    gate[0] = from_i + choose(w.input_won, dm, zero);
    gate[1] = dl * slope;
    gate[2] = dc * w.write * (one - z * z);
    gate[3] = dy * ratio * o * sigmoid_vec(-gate[3]);
    return (unit){.c = w.keep * dc, .n = w.keep * dn, .m = dl};
}

ALWAYS_INLINE unit lstm_unit_gradient(vec gate[4], unit before, unit after, unit du, double clip) {
    const vec one = splat(1);
    vec i = sigmoid_vec(gate[0]), f = sigmoid_vec(gate[1]), o = sigmoid_vec(gate[3]);
    vec z = tanh_vec(gate[2]), bounded = tanh_vec(after.c);
    vec dy = through_clip(du.y, o * bounded, clip);
    vec dc = du.c + dy * o * (one - bounded * bounded);
    gate[0] = dc * z * i * sigmoid_vec(-gate[0]);
    gate[1] = dc * before.c * f * sigmoid_vec(-gate[1]);
    gate[2] = dc * i * (one - z * z);
    gate[3] = dy * bounded * o * sigmoid_vec(-gate[3]);
    return (unit){.c = dc * f};
}

void PER_ISA(cpu_cell_gradient)(const cpu_cell_gradient *cell) {
    for (int64_t d = 0; d < cell->count; d += LANES) {
        int64_t left = cell->count - d;
        vec gate[4];
        for (int g = 0; g < 4; g++)
            gate[g] = load_optional(cell->gate[g], d, left);
        unit before = {.c = load_optional(cell->c, d, left)};
        unit after = {.c = load_optional(cell->c_new, d, left)};
        unit du = {.y = load_optional(cell->dy, d, left) + load_optional(cell->dy_next, d, left),
                   .c = load_optional(cell->dc, d, left)};
        if (cell->lstm) {
            du = lstm_unit_gradient(gate, before, after, du, cell->clip);
        } else {
            before.n = load_optional(cell->n, d, left);
            before.m = load_optional(cell->m, d, left);
            after.n = load_optional(cell->n_new, d, left);
            du.n = load_optional(cell->dn, d, left);
            du.m = load_optional(cell->dm, d, left);
            du = slstm_unit_gradient(gate, before, after, du, cell->clip);
            store_some((real *)cell->dn + d, du.n, left);
            store_some((real *)cell->dm + d, du.m, left);
        }
        store_some((real *)cell->dc + d, du.c, left);
        for (int g = 0; g < 4; g++)
            store_some((real *)cell->gate[g] + d, gate[g], left);
    }
}
