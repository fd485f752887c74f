/* Activations, and the gates made of them. The last, incomplete vector of a row goes through the
 * same arithmetic as the others, filled up with zeros. */
#include "ops/cpu/vector.h"

/* z Phi(z), a lane at a time: erfc keeps the relative accuracy where Phi is small. */
static vec gelu_vec(vec z) {
    for (int i = 0; i < LANES; i++)
        z[i] = (real)(0.5 * (double)z[i] * erfc(-(double)z[i] * 0.70710678118654752));
    return z;
}

/* scale * alpha * (exp(z) - 1) below 0, with exp(z) - 1 = 2 t / (1 - t), t = tanh(z / 2), which
 * cancels nowhere. */
ALWAYS_INLINE vec selu_vec(vec z) {
    const vec scale = splat((real)1.0507009873554804934),
              alpha = splat((real)1.6732632423543772848);
    vec_bits positive = (vec_bits)(z > (vec){0});
    vec t = tanh_vec(choose(positive, (vec){0}, z) * splat(0.5));
    return scale * choose(positive, z, alpha * (t + t) / (splat(1.0) - t));
}

vec PER_ISA(cpu_activate)(enum ops_activation activation, vec z) {
    switch (activation) {
    case OPS_SILU:
        return z * sigmoid_vec(z);
    case OPS_GELU:
        return gelu_vec(z);
    case OPS_RELU:
        return choose((vec_bits)(z < (vec){0}), (vec){0}, z);
    case OPS_RELU_SQUARED:
        return choose((vec_bits)(z < (vec){0}), (vec){0}, z * z);
    case OPS_SIGMOID:
        return sigmoid_vec(z);
    case OPS_SELU:
        return selu_vec(z);
    case OPS_IDENTITY:
        break;
    }
    return z;
}

void PER_ISA(cpu_gated)(enum ops_activation activation, const void *z, const void *bias,
                        const void *u, const void *u_bias, int64_t count, void *y) {
    for (int64_t i = 0; i < count; i += LANES) {
        vec gate = load_optional(z, i, count - i) + load_optional(bias, i, count - i);
        vec value = load_optional(u, i, count - i) + load_optional(u_bias, i, count - i);
        store_some((real *)y + i, PER_ISA(cpu_activate)(activation, gate) * value, count - i);
    }
}

void PER_ISA(cpu_gate)(enum ops_activation activation, const void *z, const void *skip,
                       const void *x, int64_t count, void *y) {
    for (int64_t i = 0; i < count; i += LANES) {
        vec value = load_optional(y, i, count - i);
        if (skip)
            value = fused(load_optional(skip, i, count - i), load_optional(x, i, count - i), value);
        vec gate = PER_ISA(cpu_activate)(activation, load_optional(z, i, count - i));
        store_some((real *)y + i, value * gate, count - i);
    }
}

/* ---- Gates of the kernel library, with their gradients ---- */

typedef struct activated {
    vec value, slope;
} activated;

/* a tanh(x / a), and 1 / cosh(x / a)^2 = 4 e / (1 + e)^2 with e = exp(-2 |x| / a). */
ALWAYS_INLINE activated cap_with_slope(vec x, real cap) {
    vec scaled = x / splat(cap);
    vec far = choose((vec_bits)(scaled < (vec){0}), scaled + scaled, -(scaled + scaled));
    vec e = exp_vec(far), sum = splat(1) + e;
    return (activated){splat(cap) * tanh_vec(scaled), splat(4) * e / (sum * sum)};
}

ALWAYS_INLINE activated silu_with_slope(vec x) {
    vec s = sigmoid_vec(x);
    return (activated){x * s, s * fused(x, sigmoid_vec(-x), splat(1))};
}

/* x Phi(x), and Phi(x) + x phi(x). */
static activated gelu_with_slope(vec x) {
    vec density = splat((real)0.39894228040143267794) * exp_vec(x * x * splat((real)-0.5));
    vec normal = {0};
    for (int i = 0; i < LANES; i++)
        normal[i] = (real)(0.5 * erfc(-(double)x[i] * 0.70710678118654752));
    return (activated){x * normal, fused(x, density, normal)};
}

void PER_ISA(cpu_gate_row)(const cpu_gate_row *row) {
    for (int64_t i = 0; i < row->count; i += LANES) {
        int64_t left = row->count - i;
        vec x = load_optional(row->x, i, left), dy = load_optional(row->dy, i, left);
        vec u = row->u ? load_optional(row->u, i, left) : splat(1);
        activated a = row->kind == CPU_SOFT_CAP ? cap_with_slope(x, (real)row->soft_cap)
                      : row->kind == CPU_SWIGLU ? silu_with_slope(x)
                                                : gelu_with_slope(x);
        if (row->y)
            store_some((real *)row->y + i, a.value * u, left);
        if (row->dx)
            store_some((real *)row->dx + i, dy * u * a.slope, left);
        if (row->du)
            store_some((real *)row->du + i, dy * a.value, left);
    }
}
