/* The table of one instruction set, and its elementwise kernels. The last, incomplete vector of a
 * row goes through the same arithmetic as the others, filled up with zeros. */
#include "ops/cpu/vector.h"

ALWAYS_INLINE void widen_as(dtype type, const char *x, int64_t count, float *y) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        store(y + i, load_at(type, x, i));
    if (i < count)
        store_part(y + i, load_part_at(type, x, i, count - i), count - i);
}

static void widen(dtype type, const void *x, int64_t count, float *y) {
    FOR_WEIGHT_TYPE(type, widen_as, x, count, y)
}

/* ---- Norms ---- */

static float sum(const float *x, int64_t count) {
    vec total = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        total += load(x + i);
    if (i < count)
        total += load_part(x + i, count - i);
    return fold(total);
}

static float sum_of_squares(const float *x, float mean, int64_t count) {
    vec total = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        vec difference = load(x + i) - splat(mean);
        total = fused(difference, difference, total);
    }
    if (i < count) {
        vec difference = {0};
        for (int64_t j = i; j < count; j++)
            difference[j - i] = x[j] - mean;
        total = fused(difference, difference, total);
    }
    return fold(total);
}

ALWAYS_INLINE vec norm_vec(vec x, float mean, float factor, vec weight, vec bias) {
    return (x - splat(mean)) * splat(factor) * weight + bias;
}

static void normalize_group(const cpu_norm *norm, const float *x, int64_t first, int64_t count,
                            float *y) {
    float mean = norm->kind == OPS_NORM_LAYER ? sum(x + first, count) / (float)count : 0;
    float variance = sum_of_squares(x + first, mean, count) / (float)count;
    float factor = 1 / sqrtf(variance + norm->eps);
    const float *bias = norm->bias;
    int64_t i = first, end = first + count;
    for (; i + LANES <= end; i += LANES)
        store(y + i, norm_vec(load(x + i), mean, factor, load(norm->weight + i),
                              bias ? load(bias + i) : (vec){0}));
    if (i < end)
        store_part(y + i,
                   norm_vec(load_part(x + i, end - i), mean, factor,
                            load_part(norm->weight + i, end - i),
                            bias ? load_part(bias + i, end - i) : (vec){0}),
                   end - i);
}

static void normalize(const cpu_norm *norm, const float *x, int64_t count, float *y) {
    int64_t width = count / norm->groups;
    for (int64_t first = 0; first < count; first += width)
        normalize_group(norm, x, first, width, y);
}

/* ---- Elementwise ---- */

static void cap(const float *z, const float *bias, float soft_cap, int64_t count, float *y) {
    for (int64_t i = 0; i < count; i += LANES) {
        vec value = load_optional(z, i, count - i);
        if (bias)
            value += load_optional(bias, i, count - i);
        if (soft_cap > 0)
            value = splat(soft_cap) * tanh_vec(value / splat(soft_cap));
        store_some(y + i, value, count - i);
    }
}

static void add(const float *residual, float sign, const float *z, const float *bias, int64_t count,
                float *y) {
    for (int64_t i = 0; i < count; i += LANES) {
        vec value = load_optional(z, i, count - i) + load_optional(bias, i, count - i);
        store_some(y + i, load_optional(residual, i, count - i) + splat(sign) * value, count - i);
    }
}

#define NAME_TEXT(name) #name
#define NAME(name) NAME_TEXT(name)

const cpu_kernels PER_ISA(cpu_kernels) = {
    .name = NAME(KERNEL_ISA),
    .f32 = &PER_ISA(cpu_library),
    .f64 = &JOIN(PER_ISA(cpu_library), f64),
    .compensated = &PER_ISA(cpu_compensated),
    .lanes = LANES,
    .product = PER_ISA(cpu_multiply),
    .tiles = &PER_ISA(cpu_tiles),
    .dot = &PER_ISA(cpu_dot),
    .widen = widen,
    .normalize = normalize,
    .cap = cap,
    .add = add,
};
