/* Normal numbers by the ziggurat method: Marsaglia and Tsang, "The Ziggurat Method for Generating
 * Random Variables", 2000, in the form of Doornik, 2005; the bits come from xoshiro256++ (Blackman
 * and Vigna), seeded from Philox (random.h). */
#include "base/normal.h"

#include <math.h>
#include <stdbool.h>

#include "base/random.h"

static const double tail_start = 3.442619855899, layer_area = 9.91256303526217e-3;

void normal_table_init(normal_table *z) {
    double f = exp(-0.5 * tail_start * tail_start);
    z->edge[0] = layer_area / f;
    z->edge[1] = tail_start;
    for (int i = 2; i < NORMAL_LAYERS; i++) {
        z->edge[i] = sqrt(-2 * log(layer_area / z->edge[i - 1] + f));
        f = exp(-0.5 * z->edge[i] * z->edge[i]);
    }
    z->edge[NORMAL_LAYERS] = 0;
    for (int i = 0; i < NORMAL_LAYERS; i++)
        z->ratio[i] = z->edge[i + 1] / z->edge[i];
}

static uint64_t rotate(uint64_t x, int by) {
    return (x << by) | (x >> (64 - by));
}

static uint64_t next_bits(normal_generator *g) {
    uint64_t *s = g->s, result = rotate(s[0] + s[3], 23) + s[0], t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate(s[3], 45);
    return result;
}

static double next_uniform(normal_generator *g) { /* (0, 1) */
    return ((double)(next_bits(g) >> 12) + 0.5) * 0x1p-52;
}

static double next_tail(normal_generator *g, bool negative) {
    double x, y;
    do {
        x = log(next_uniform(g)) / tail_start;
        y = log(next_uniform(g));
    } while (-2 * y < x * x);
    return negative ? x - tail_start : tail_start - x;
}

double normal_next(normal_generator *g) {
    const normal_table *z = g->table;
    for (;;) {
        uint64_t bits = next_bits(g);
        double u = ((double)(bits >> 11) + 0.5) * 0x1p-52 - 1; /* (-1, 1) */
        int layer = (int)(bits & (NORMAL_LAYERS - 1));
        if (fabs(u) < z->ratio[layer])
            return u * z->edge[layer];
        if (layer == 0)
            return next_tail(g, u < 0);
        double x = u * z->edge[layer];
        double f0 = exp(-0.5 * (z->edge[layer] * z->edge[layer] - x * x));
        double f1 = exp(-0.5 * (z->edge[layer + 1] * z->edge[layer + 1] - x * x));
        if (f1 + next_uniform(g) * (f0 - f1) < 1.0)
            return x;
    }
}

normal_generator normal_sequence(const normal_table *table, uint64_t seed, uint64_t stream,
                                 uint64_t block) {
    normal_generator g = {.table = table};
    for (uint64_t i = 0; i < 4; i++)
        g.s[i] = random_bits(seed, stream, block * 4 + i);
    g.s[0] |= 1; /* the state must not be all zero */
    return g;
}
