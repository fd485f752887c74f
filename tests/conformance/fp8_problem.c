#include "conformance/fp8_problem.h"

#include <math.h>
#include <stdlib.h>

#include "conformance/plain_e4m3.h"
#include "support/support.h"

static void norm_rows(double *x, const fp8_problem *p, const double *weight) {
    for (int64_t t = 0; t < p->tokens; t++) {
        double squares = 0, *row = x + t * p->width;
        for (int64_t i = 0; i < p->width; i++)
            squares += row[i] * row[i];
        const double factor = 1 / sqrt(squares / (double)p->width + 1e-6);
        for (int64_t i = 0; i < p->width; i++)
            row[i] *= factor * weight[i];
    }
}

fp8_product fp8_multiply(side *s, const fp8_problem *p, const fp8_operands *o, int which,
                         const double *x, const float *x_scale, bool fp8) {
    double *w = side_read(s, &o->weight[which]);
    double *bias = p->biased ? side_read(s, &o->bias[which]) : NULL;
    float *scale = fp8 ? e4m3_quantise(w, p->rows, p->width) : NULL;
    const size_t size = (size_t)(p->tokens * p->rows) * sizeof(double);
    fp8_product out = {must_allocate(size), must_allocate(size)};
    for (int64_t t = 0; t < p->tokens; t++)
        for (int64_t r = 0; r < p->rows; r++) {
            double sum = 0, sizes = 0;
            for (int64_t i = 0; i < p->width; i++) {
                const double term = x[t * p->width + i] * w[r * p->width + i];
                sum += term;
                sizes += fabs(term);
            }
            const double by = fp8 ? (double)x_scale[t] * (double)scale[r] : 1;
            out.z[t * p->rows + r] = sum * by + (bias ? bias[r] : 0);
            out.size[t * p->rows + r] = sizes * by + (bias ? fabs(bias[r]) : 0);
        }
    free(w);
    free(bias);
    free(scale);
    return out;
}

double *fp8_expected(side *s, const fp8_problem *p, const fp8_operands *o, bool fp8, double part,
                     double *room) {
    double *x = side_read(s, &o->x);
    double *norm = side_read(s, &o->norm);
    double *residual = p->ending == ADDED ? side_read(s, &o->residual) : NULL;
    if (p->normed)
        norm_rows(x, p, norm);
    float *scale = fp8 ? e4m3_quantise(x, p->tokens, p->width) : NULL;
    fp8_product a = fp8_multiply(s, p, o, 0, x, scale, fp8), b = {NULL, NULL};
    if (p->ending == GATED)
        b = fp8_multiply(s, p, o, 1, x, scale, fp8);
    for (int64_t i = 0; i < p->tokens * p->rows; i++) {
        const double z = a.z[i], e = part * a.size[i];
        if (p->ending == CAPPED)
            a.z[i] = FP8_CAP * tanh(z / FP8_CAP);
        if (p->ending == ADDED)
            a.z[i] = residual[i] - z;
        if (p->ending == GATED) {
            const double gate = z / (1 + exp(-z));
            a.z[i] = gate * b.z[i];
            /* the slope of silu is 1.1 at most */
            room[i] = 1.1 * e * fabs(b.z[i]) + fabs(gate) * part * b.size[i];
        } else {
            room[i] = e;
        }
        const bool rounds =
            p->narrow && p->ending != ADDED; /* to 8 bits: half a unit of the last */
        room[i] += (rounds ? 0x1.01p-8 : 1e-6) * fabs(a.z[i]) + 1e-7;
    }
    free(a.size);
    free(b.z);
    free(b.size);
    free(x);
    free(norm);
    free(residual);
    free(scale);
    return a.z;
}
