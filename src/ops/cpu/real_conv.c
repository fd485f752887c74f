/* The causal convolution of channels, and its gradients. A row index below 0 means a row of the inputs
 * before the first token. */
#include "ops/cpu/vector.h"

/* Input t of the convolution, t >= -(taps - 1); NULL: zeros. */
ALWAYS_INLINE const real *input_row(const cpu_convolution *c, int64_t t) {
    if (t >= 0)
        return (const real *)c->x + t * c->x_stride;
    if (!c->before)
        return NULL;
    return (const real *)c->before + (c->taps - 1 + t) * c->before_stride;
}

void PER_ISA(cpu_convolve)(const cpu_convolution *c) {
    const real *weight = c->weight;
    for (int64_t t = 0; t < c->tokens; t++)
        for (int64_t i = 0; i < c->columns; i += LANES) {
            int64_t left = c->columns - i;
            vec z = load_optional(c->bias, i, left);
            for (int j = 0; j < c->taps; j++)
                z = fused(load_optional(weight + j * c->weight_stride, i, left),
                          load_optional(input_row(c, t - c->taps + 1 + j), i, left), z);
            store_some((real *)c->out + t * c->out_stride + i,
                       PER_ISA(cpu_activate)(c->activation, z), left);
        }
}

/* The gradient of input t - (taps - 1): sum over j of weight[j] dy[t - j], and ds from the last
 * inputs on. */
static void input_gradient(const cpu_convolution_gradient *g, int64_t t, real *out) {
    const cpu_convolution *c = &g->of;
    const real *weight = c->weight, *dy = g->dy, *ds = NULL;
    if (g->ds && t >= c->tokens)
        ds = (const real *)g->ds + (t - c->tokens) * g->ds_stride;
    int64_t first = t - c->tokens + 1, last = t < c->taps - 1 ? t : c->taps - 1;
    for (int64_t i = 0; i < c->columns; i += LANES) {
        int64_t left = c->columns - i;
        vec sum = load_optional(ds, i, left);
        for (int64_t j = first > 0 ? first : 0; dy && j <= last; j++)
            sum = fused(load_optional(weight + j * c->weight_stride, i, left),
                        load_optional(dy + (t - j) * g->dy_stride, i, left), sum);
        store_some(out + i, sum, left);
    }
}

/* d_weight[j] += sum over tokens of dy[t] x[t - taps + 1 + j], for a block of tokens. */
static void weight_gradient(const cpu_convolution_gradient *g, int64_t first, int64_t end) {
    const cpu_convolution *c = &g->of;
    const real *dy = g->dy;
    for (int j = 0; j < c->taps; j++) {
        real *out = (real *)g->d_weight + j * c->weight_stride;
        for (int64_t i = 0; i < c->columns; i += LANES) {
            int64_t left = c->columns - i;
            vec sum = {0};
            for (int64_t t = first; t < end; t++)
                sum = fused(load_optional(dy + t * g->dy_stride, i, left),
                            load_optional(input_row(c, t - c->taps + 1 + j), i, left), sum);
            store_some(out + i, load_optional(out, i, left) + sum, left);
        }
    }
}

void PER_ISA(cpu_convolve_gradient)(const cpu_convolution_gradient *g) {
    int64_t past = g->of.taps - 1, tokens = g->of.tokens;
    for (int64_t t = 0; g->d_before && t < past; t++)
        input_gradient(g, t, (real *)g->d_before + t * g->d_before_stride);
    for (int64_t t = past; g->dx && t < past + tokens; t++)
        input_gradient(g, t, (real *)g->dx + (t - past) * g->dx_stride);
    for (int64_t t = 0; g->d_weight && g->dy && t < tokens; t += CPU_COMBINE_BLOCK)
        weight_gradient(g, t, t + CPU_COMBINE_BLOCK < tokens ? t + CPU_COMBINE_BLOCK : tokens);
}
