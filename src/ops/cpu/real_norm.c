/* Rows of norms and of cross-entropy, with their gradients. */
#include "ops/cpu/vector.h"

/* ---- Norms ---- */

typedef struct group {
    const cpu_norm_row *row;
    int64_t first, count;
    real mean, scale;
} group;

/* The vector at i of the group, zeros behind its end. */
ALWAYS_INLINE vec part_of(const group *g, const void *row, int64_t i) {
    return load_optional(row, g->first + i, g->count - i);
}

ALWAYS_INLINE void put(const group *g, void *row, int64_t i, vec value) {
    store_some((real *)row + g->first + i, value, g->count - i);
}

/* x - mean, zeros behind the end. */
ALWAYS_INLINE vec centred(const group *g, int64_t i) {
    vec x = part_of(g, g->row->x, i) - splat(g->mean);
    for (int64_t j = g->count - i; j < LANES; j++)
        x[j] = 0;
    return x;
}

ALWAYS_INLINE vec weight_of(const group *g, int64_t i) {
    return g->row->w ? part_of(g, g->row->w, i) : splat(1);
}

static group measure(const cpu_norm_row *row, int64_t first, int64_t count) {
    group g = {.row = row, .first = first, .count = count};
    vec sum = {0}, squares = {0};
    for (int64_t i = 0; row->centred && i < count; i += LANES)
        sum += part_of(&g, row->x, i);
    g.mean = fold(sum) / (real)count;
    for (int64_t i = 0; i < count; i += LANES) {
        vec x = centred(&g, i);
        squares = fused(x, x, squares);
    }
    g.scale = (real)(1 / sqrt((double)(fold(squares) / (real)count) + row->eps));
    return g;
}

/* dx = a (g - mean(g) - x^ mean(g x^)) with g = dy w; dw += dy x^, db += dy. */
static void backward(const group *g) {
    const cpu_norm_row *row = g->row;
    vec sum = {0}, product = {0};
    for (int64_t i = 0; i < g->count; i += LANES) {
        vec dy = part_of(g, row->dy, i), x = centred(g, i) * splat(g->scale);
        vec dz = dy * weight_of(g, i);
        sum += dz;
        product = fused(dz, x, product);
        if (row->dw)
            put(g, row->dw, i, fused(dy, x, part_of(g, row->dw, i)));
        if (row->db)
            put(g, row->db, i, dy + part_of(g, row->db, i));
    }
    vec mean = splat(row->centred ? fold(sum) / (real)g->count : 0);
    vec share = splat(fold(product) / (real)g->count);
    for (int64_t i = 0; row->dx && i < g->count; i += LANES) {
        vec x = centred(g, i) * splat(g->scale);
        vec dz = part_of(g, row->dy, i) * weight_of(g, i);
        put(g, row->dx, i, splat(g->scale) * (dz - mean - x * share));
    }
}

void PER_ISA(cpu_norm_row)(const cpu_norm_row *row) {
    int64_t count = row->width / row->groups;
    for (int64_t first = 0; first < row->width; first += count) {
        group g = measure(row, first, count);
        for (int64_t i = 0; row->y && i < count; i += LANES)
            put(&g, row->y, i,
                centred(&g, i) * splat(g.scale) * weight_of(&g, i) + part_of(&g, row->b, i));
        if (row->dx || row->dw || row->db)
            backward(&g);
    }
}

/* ---- Cross-entropy ---- */

/* Whole vectors: behind the end stand what changes neither the maximum nor the sum. */
ALWAYS_INLINE vec logits_at(const cpu_loss_row *row, int64_t i) {
    vec x = load_optional(row->logits, i, row->count - i);
    for (int64_t j = row->count - i; j < LANES; j++)
        x[j] = -(real)INFINITY;
    return x;
}

/* The equations stand in ops/reference/kernel_cross_entropy.c; every logit that is as large as the
 * largest counts as one there, and is kept out of the sum of exponentials. */
double PER_ISA(cpu_loss_row)(const cpu_loss_row *row) {
    const vec zero = {0}, one = splat(1);
    vec top = splat(-(real)INFINITY), sum = {0}, equal = {0};
    for (int64_t i = 0; i < row->count; i += LANES) {
        vec x = logits_at(row, i);
        top = choose((vec_bits)(x > top), x, top);
    }
    real largest = top[0];
    for (int i = 1; i < LANES; i++)
        largest = top[i] > largest ? top[i] : largest;
    for (int64_t i = 0; i < row->count; i += LANES) {
        vec x = logits_at(row, i);
        vec_bits is_top = (vec_bits)(x == splat(largest));
        equal += choose(is_top, one, zero);
        sum += choose(is_top, zero, exp_vec(x - splat(largest)));
    }
    double others = (double)fold(sum) + ((double)fold(equal) - 1);
    others += (double)(largest - largest); /* NaN where it is infinite */
    double gap = (double)largest - (double)((const real *)row->logits)[row->target];
    if (row->dlogits) {
        real *out = row->dlogits;
        double scale = row->dloss / (1 + others);
        for (int64_t i = 0; i < row->count; i += LANES)
            store_some(out + i, splat((real)scale) * exp_vec(logits_at(row, i) - splat(largest)),
                       row->count - i);
        if (gap == 0)
            out[row->target] = (real)(-scale * others);
        else
            out[row->target] -= (real)row->dloss;
    }
    return log1p(others) + gap;
}
