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

void PER_ISA(cpu_convolve)(const cpu_convolution *c) {
    const real *before = c->before, *weight = c->weight;
    for (int64_t t = 0; t < c->tokens; t++)
        for (int64_t i = 0; i < c->columns; i += LANES) {
            int64_t left = c->columns - i;
            vec z = load_optional(c->bias, i, left);
            for (int j = 0; j < c->taps; j++) {
                int64_t at = t - c->taps + 1 + j;
                const real *x = at < 0 ? before + (c->taps - 1 + at) * c->before_stride
                                       : (const real *)c->x + at * c->x_stride;
                z = fused(load_optional(weight + j * c->weight_stride, i, left),
                          load_optional(x, i, left), z);
            }
            store_some((real *)c->out + t * c->out_stride + i,
                       PER_ISA(cpu_activate)(c->activation, z), left);
        }
}
