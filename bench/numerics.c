/* The error of the mLSTM's h, C and n after 10^3 to 10^6 tokens, against a recurrence in 128-bit
 * floating point: the table of docs/NUMERICS.md.
 *
 *     numerics [TOKENS]
 *
 * goes up to TOKENS (default 1000000), which takes minutes. To build it (gcc, x86-64):
 *
 *     gcc -O2 -Iinclude bench/numerics.c build/libxlstm.a -ljansson -lyaml -lquadmath -lm -pthread
 *
 * It prints a table a kind of forget gates: the errors of h, C and n of each method and length. Errors
 * are ||x - exact|| / ||exact|| in the 2-norm; that of h over the last 1,000 tokens. Every
 * kernel gets the same floats, which are exact for the oracle too, and C and n are compared as
 * exp(m) C and exp(m) n, which do not depend on how m is rounded. */
#include <math.h>
#include <quadmath.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "xlstm_kernels.h"

enum { D = 8, LAST = 1000 };
static const double eps = 1e-6;

/* ---- Inputs ---- */

typedef struct inputs {
    const char *name;
    double forget_mean, forget_spread;
    int64_t tokens;
    float *q, *k, *v, *i, *f; /* [tokens][D], [tokens] */
} inputs;

static uint64_t mixed(uint64_t x) { /* splitmix64 */
    x += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

static double uniform(uint64_t at) {
    return ((double)(mixed(at) >> 11) + 0.5) * 0x1p-53;
}

static double normal(uint64_t at) {
    return sqrt(-2 * log(uniform(2 * at))) * cos(2 * M_PI * uniform(2 * at + 1));
}

static float *draw(int64_t count, uint64_t stream, double mean, double spread) {
    float *x = malloc((size_t)count * sizeof *x);
    if (!x) {
        fprintf(stderr, "numerics: out of memory\n");
        exit(1);
    }
    for (int64_t i = 0; i < count; i++)
        x[i] = (float)(mean + spread * normal(stream << 40 | (uint64_t)i));
    return x;
}

static void draw_inputs(inputs *in, int64_t tokens) {
    in->tokens = tokens;
    in->q = draw(tokens * D, 1, 1, 1);
    in->k = draw(tokens * D, 2, 1, 1);
    in->v = draw(tokens * D, 3, 0, 1);
    in->i = draw(tokens, 4, 0, 1);
    in->f = draw(tokens, 5, in->forget_mean, in->forget_spread);
}

static void free_inputs(inputs *in) {
    free(in->q);
    free(in->k);
    free(in->v);
    free(in->i);
    free(in->f);
}

/* ---- The oracle ---- */

typedef struct exact_state {
    __float128 c[D * D], n[D], m;
    __float128 h[LAST][D];
} exact_state;

static __float128 log_sigmoid(__float128 x) {
    return x >= 0 ? -log1pq(expq(-x)) : x - log1pq(expq(x));
}

static void exact_step(exact_state *s, const inputs *in, int64_t t) {
    __float128 forgotten = log_sigmoid((__float128)in->f[t]) + s->m, i = (__float128)in->i[t];
    __float128 m = fmaxq(forgotten, i), forget = expq(forgotten - m), input = expq(i - m);
    __float128 scale = 1 / sqrtq((__float128)D), qn = 0, *h = s->h[t % LAST];
    memset(h, 0, sizeof s->h[0]);
    for (int d = 0; d < D; d++) {
        __float128 q = scale * (__float128)in->q[t * D + d], k = (__float128)in->k[t * D + d];
        s->n[d] = forget * s->n[d] + input * k;
        qn += q * s->n[d];
        for (int e = 0; e < D; e++) {
            s->c[d * D + e] = forget * s->c[d * D + e] + input * k * (__float128)in->v[t * D + e];
            h[e] += q * s->c[d * D + e];
        }
    }
    for (int e = 0; e < D; e++)
        h[e] /= fmaxq(fabsq(qn), expq(-m)) + (__float128)eps;
    s->m = m;
}

/* ---- What is measured ---- */

typedef struct measured {
    float h[LAST][D], c[D * D], n[D], m; /* h of token t in row t % LAST */
} measured;

typedef void method(const inputs *, int64_t tokens, measured *);

static xlstm_argument argument(const char *name, void *data, xlstm_dtype type, int64_t s,
                               int64_t width) {
    const int64_t states[] = {1, 1, s, width};
    int rank = width == 0 ? 3 : 4;
    return (xlstm_argument){name, xlstm_array_make(data, type, rank, states)};
}

static void run(const char *name, xlstm_accumulate accumulate, int64_t chunk_size,
                const xlstm_argument *arguments, int count) {
    xlstm_kernel_options options = xlstm_kernel_defaults();
    options.accumulate = accumulate;
    options.chunk_size = chunk_size;
    options.threads = 1;
    if (xlstm_kernel_run(name, &options, arguments, count) != XLSTM_OK) {
        fprintf(stderr, "numerics: %s\n", xlstm_last_error());
        exit(1);
    }
}

/* All tokens in one call. */
static void one_call(const char *name, xlstm_accumulate accumulate, const inputs *in,
                     int64_t tokens, measured *out) {
    float *h = malloc((size_t)(tokens * D) * sizeof *h);
    if (!h)
        exit(1);
    const xlstm_argument arguments[] = {
        argument("q", in->q, XLSTM_F32, tokens, D), argument("k", in->k, XLSTM_F32, tokens, D),
        argument("v", in->v, XLSTM_F32, tokens, D), argument("i", in->i, XLSTM_F32, tokens, 0),
        argument("f", in->f, XLSTM_F32, tokens, 0), argument("h", h, XLSTM_F32, tokens, D),
        argument("c", out->c, XLSTM_F32, D, D),     argument("n", out->n, XLSTM_F32, D, 0),
        argument("m", &out->m, XLSTM_F32, 1, 0)};
    run(name, accumulate, 64, arguments, 9);
    for (int64_t t = tokens > LAST ? tokens - LAST : 0; t < tokens; t++)
        memcpy(out->h[t % LAST], h + t * D, sizeof out->h[0]);
    free(h);
}

/* A call a token; C and n are handed over in `type`, as a bf16 or f32 state in memory would be. */
static void steps(xlstm_dtype type, const inputs *in, int64_t tokens, measured *out) {
    uint16_t c16[D * D] = {0}, n16[D] = {0};
    float c32[D * D] = {0}, n32[D] = {0}, m = 0;
    void *c = type == XLSTM_BF16 ? (void *)c16 : c32, *n = type == XLSTM_BF16 ? (void *)n16 : n32;
    for (int64_t t = 0; t < tokens; t++) {
        const xlstm_argument arguments[] = {argument("q", in->q + t * D, XLSTM_F32, 1, D),
                                            argument("k", in->k + t * D, XLSTM_F32, 1, D),
                                            argument("v", in->v + t * D, XLSTM_F32, 1, D),
                                            argument("i", in->i + t, XLSTM_F32, 1, 0),
                                            argument("f", in->f + t, XLSTM_F32, 1, 0),
                                            argument("h", out->h[t % LAST], XLSTM_F32, 1, D),
                                            argument("c0", c, type, D, D),
                                            argument("n0", n, type, D, 0),
                                            argument("m0", &m, XLSTM_F32, 1, 0),
                                            argument("c", c, type, D, D),
                                            argument("n", n, type, D, 0),
                                            argument("m", &m, XLSTM_F32, 1, 0)};
        run("step--cpu", XLSTM_ACCUMULATE_PLAIN, 0, arguments, 12);
    }
    out->m = m;
    for (int i = 0; i < D * D; i++) {
        uint32_t bits = (uint32_t)c16[i] << 16;
        memcpy(&out->c[i], type == XLSTM_BF16 ? (float *)&bits : &c32[i], sizeof(float));
    }
    for (int i = 0; i < D; i++) {
        uint32_t bits = (uint32_t)n16[i] << 16;
        memcpy(&out->n[i], type == XLSTM_BF16 ? (float *)&bits : &n32[i], sizeof(float));
    }
}

/* The recurrence with every operation in float, as a device without double would do it plainly. */
static void floats(const inputs *in, int64_t tokens, measured *out) {
    memset(out, 0, sizeof *out);
    for (int64_t t = 0; t < tokens; t++) {
        float f = in->f[t], i = in->i[t], qn = 0, *h = out->h[t % LAST];
        float log_f = f >= 0 ? -log1pf(expf(-f)) : f - log1pf(expf(f));
        float m = fmaxf(log_f + out->m, i), forget = expf(log_f + out->m - m), input = expf(i - m);
        memset(h, 0, sizeof out->h[0]);
        for (int d = 0; d < D; d++) {
            float q = in->q[t * D + d] / sqrtf(D), k = in->k[t * D + d];
            out->n[d] = forget * out->n[d] + input * k;
            qn += q * out->n[d];
            for (int e = 0; e < D; e++) {
                float *c = &out->c[d * D + e];
                *c = forget * *c + input * k * in->v[t * D + e];
                h[e] += q * *c;
            }
        }
        for (int e = 0; e < D; e++)
            h[e] /= fmaxf(fabsf(qn), expf(-m)) + (float)eps;
        out->m = m;
    }
}

static void sequence(const inputs *in, int64_t tokens, measured *out) {
    one_call("sequence--cpu", XLSTM_ACCUMULATE_PLAIN, in, tokens, out);
}
static void chunkwise(const inputs *in, int64_t tokens, measured *out) {
    one_call("chunkwise--cpu", XLSTM_ACCUMULATE_PLAIN, in, tokens, out);
}
static void compensated_sequence(const inputs *in, int64_t tokens, measured *out) {
    one_call("sequence--cpu", XLSTM_ACCUMULATE_COMPENSATED, in, tokens, out);
}
static void compensated_chunkwise(const inputs *in, int64_t tokens, measured *out) {
    one_call("chunkwise--cpu", XLSTM_ACCUMULATE_COMPENSATED, in, tokens, out);
}
static void steps_f32(const inputs *in, int64_t tokens, measured *out) {
    steps(XLSTM_F32, in, tokens, out);
}
static void steps_bf16(const inputs *in, int64_t tokens, measured *out) {
    steps(XLSTM_BF16, in, tokens, out);
}

static const struct {
    const char *name;
    method *run;
} methods[] = {
    {"every operation in float", floats},
    {"sequence, f32", sequence},
    {"chunkwise, f32", chunkwise},
    {"sequence, compensated", compensated_sequence},
    {"chunkwise, compensated", compensated_chunkwise},
    {"step, f32 states", steps_f32},
    {"step, bf16 states", steps_bf16},
};

/* ---- Errors ---- */

static double error(const float *x, const __float128 *exact, __float128 scale, int count) {
    __float128 difference = 0, norm = 0;
    for (int i = 0; i < count; i++) {
        __float128 d = (__float128)x[i] * scale - exact[i];
        difference += d * d;
        norm += exact[i] * exact[i];
    }
    return (double)sqrtq(difference / norm);
}

enum { METHODS = sizeof methods / sizeof *methods, LENGTHS = 8 };
typedef char cell[40]; /* the errors of h, C, n */

static void measure(const inputs *in, int64_t tokens, const exact_state *exact, cell *cells) {
    for (int i = 0; i < METHODS; i++) {
        measured out;
        methods[i].run(in, tokens, &out);
        __float128 scale = expq((__float128)out.m - exact->m);
        snprintf(cells[i], sizeof *cells, "%.1e, %.1e, %.1e",
                 error(&out.h[0][0], &exact->h[0][0], 1, LAST * D),
                 error(out.c, exact->c, scale, D * D), error(out.n, exact->n, scale, D));
    }
}

/* The lengths 1000, 10000, … that are not above `most`. */
static int measure_lengths(inputs *in, int64_t most, cell cells[LENGTHS][METHODS]) {
    exact_state exact = {.m = 0};
    int64_t next = LAST;
    int lengths = 0;
    draw_inputs(in, most);
    for (int64_t t = 0; t < most && lengths < LENGTHS; t++) {
        exact_step(&exact, in, t);
        if (t + 1 == next) {
            measure(in, next, &exact, cells[lengths++]);
            next *= 10;
        }
    }
    free_inputs(in);
    return lengths;
}

static void print_table(const inputs *in, int lengths, cell cells[LENGTHS][METHODS]) {
    printf("| %s |", in->name);
    for (int l = 0, tokens = LAST; l < lengths; l++, tokens *= 10)
        printf(" %d tokens |", tokens);
    printf("\n|---|");
    for (int l = 0; l < lengths; l++)
        printf("---|");
    for (int i = 0; i < METHODS; i++) {
        printf("\n| %s |", methods[i].name);
        for (int l = 0; l < lengths; l++)
            printf(" %s |", cells[l][i]);
    }
    printf("\n\n");
    fflush(stdout);
}

int main(int argc, char **argv) {
    int64_t most = argc > 1 ? atoll(argv[1]) : 1000000;
    inputs kinds[] = {{.name = "f ~ N(3, 1)", .forget_mean = 3, .forget_spread = 1},
                      {.name = "f ~ N(13, 1)", .forget_mean = 13, .forget_spread = 1},
                      {.name = "f = 15", .forget_mean = 15, .forget_spread = 0}};
    if (most < LAST) {
        fprintf(stderr, "usage: numerics [TOKENS], at least %d\n", LAST);
        return 2;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        static cell cells[LENGTHS][METHODS];
        int lengths = measure_lengths(&kinds[i], most, cells);
        print_table(&kinds[i], lengths, cells);
    }
    return 0;
}
