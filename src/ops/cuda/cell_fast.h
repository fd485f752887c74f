/* The units of the sLSTM and the LSTM beside products in bf16: the same as cell.h, in fewer instructions, with the
 * exponentials, logarithms and quotients of the special function unit (relative errors of some 1e-6), and a maximum that
 * is stored as it is rounded. What the way back needs is written down on the way there, so that no function is computed
 * there. */
#ifndef OPS_CUDA_CELL_FAST_H
#define OPS_CUDA_CELL_FAST_H

#include "ops/cuda/cell.h"
#include "ops/cuda/special.h"

#define CELL_LN_2 0.693147180559945309f

static __device__ __forceinline__ float cell_exp(float x) {
    return special_exp2(x * LOG2_E);
}
static __device__ __forceinline__ float cell_sigmoid(float x) {
    return special_inverse(1.0f + cell_exp(-x));
}
static __device__ __forceinline__ float cell_tanh(float x) {
    return fmaf(-2.0f, special_inverse(1.0f + special_exp2(x * (2.0f * LOG2_E))), 1.0f);
}

/* What one cell leaves of a token. Signs are free to tell what does not take part: keep of one that was bounded, write where
 * nothing is stored, open where y was clipped; and that of slope, that the input gate was the maximum. LSTM: write, keep,
 * in, open are the gates, before.c, and tanh(c) in the place of inverse. */
typedef struct cell_record {
    float keep, write, in, open; /* F, I, tanh(z), sigmoid(o) */
    float c, n;                  /* before the token */
    float slope;                 /* sigmoid(-f) */
    float inverse;               /* 1 / n after it, 0 where n is 0 */
} cell_record;

static __device__ __forceinline__ float cell_mark(float x, bool marked) {
    return marked ? __uint_as_float(__float_as_uint(x) | 0x80000000u) : x;
}
static __device__ __forceinline__ bool cell_is_marked(float x) {
    return (__float_as_uint(x) & 0x80000000u) != 0;
}

static __device__ __forceinline__ cell_state cell_fast_lstm(const float *raw, cell_state s,
                                                            float clip, cell_record *r) {
    r->write = cell_sigmoid(raw[CELL_I]);
    r->keep = cell_sigmoid(raw[CELL_F]);
    r->in = cell_tanh(raw[CELL_Z]);
    r->open = cell_sigmoid(raw[CELL_O]);
    r->c = s.c;
    r->n = r->slope = 0.0f;
    s.c = fmaf(r->write, r->in, r->keep * s.c);
    r->inverse = cell_tanh(s.c);
    float y = r->open * r->inverse;
    s.y = cell_clip(y, clip);
    r->open = cell_mark(r->open, s.y != y);
    return s;
}

/* The states after a token; y is clipped. */
static __device__ __forceinline__ cell_state cell_fast_slstm(const float *raw, cell_state s,
                                                             float clip, cell_record *r) {
    float f = raw[CELL_F], e = cell_exp(-fabsf(f));
    float log_f = fmaf(-CELL_LN_2, special_log2(1.0f + e), f < 0.0f ? f : 0.0f);
    float kept = s.m + log_f, i = raw[CELL_I];
    bool input_won = !(i <= kept) || s.n == 0.0f;
    float top = input_won ? i : kept;
    bool empty = top == -INFINITY;
    float one = (top - top) + 1.0f; /* NaN where the maximum is not finite */
    float less = cell_exp(input_won ? kept - i : i - kept);
    bool bounded = less > 1.0f;
    less = bounded ? 1.0f : less;
    float write = empty ? 0.0f : input_won ? one : less;
    float keep = empty ? 0.0f : input_won ? less : one;
    float in = cell_tanh(raw[CELL_Z]), open = cell_sigmoid(raw[CELL_O]);
    r->c = s.c;
    r->n = s.n;
    s.c = write == 0.0f ? keep * s.c : fmaf(write, in, keep * s.c);
    s.n = fmaf(keep, s.n, write);
    s.m = top;
    r->inverse = s.n == 0.0f ? 0.0f : special_inverse(s.n);
    float y = open * (s.c * r->inverse);
    s.y = cell_clip(y, clip);
    r->keep = cell_mark(keep, bounded);
    r->write = cell_mark(write, empty);
    r->in = in;
    r->open = cell_mark(open, s.y != y);
    r->slope =
        cell_mark(f > 0.0f ? e * special_inverse(1.0f + e) : special_inverse(1.0f + e), input_won);
    return s;
}

/* As cell_back (cell.h), from the record of the way there. */
static __device__ __forceinline__ cell_state cell_fast_back(bool lstm, const cell_record *r,
                                                            cell_state d, float *gradient) {
    float open = fabsf(r->open), dy = cell_is_marked(r->open) ? 0.0f : d.y, z = r->in;
    if (lstm) {
        float dc = fmaf(dy * open, 1.0f - r->inverse * r->inverse, d.c);
        gradient[CELL_I] = dc * z * r->write * (1.0f - r->write);
        gradient[CELL_F] = dc * r->c * r->keep * (1.0f - r->keep);
        gradient[CELL_Z] = dc * r->write * (1.0f - z * z);
        gradient[CELL_O] = dy * r->inverse * open * (1.0f - open);
        d.c = dc * r->keep;
        return d;
    }
    float keep = fabsf(r->keep), write = fabsf(r->write);
    float after = write == 0.0f ? keep * r->c : fmaf(write, z, keep * r->c),
          ratio = after * r->inverse;
    float share = dy * (open * r->inverse);
    float dc = d.c + share, dn = fmaf(-share, ratio, d.n);
    float from_i = fmaf(dc, z, dn) * write;
    float from_f = cell_is_marked(r->keep) ? 0.0f : fmaf(dc, r->c, dn * r->n) * keep;
    float dm = cell_is_marked(r->write) ? 0.0f : d.m - from_i - from_f;
    bool input_won = cell_is_marked(r->slope);
    d.m = from_f + (input_won ? 0.0f : dm);
    gradient[CELL_I] = from_i + (input_won ? dm : 0.0f);
    gradient[CELL_F] = d.m * fabsf(r->slope);
    gradient[CELL_Z] = dc * (write * (1.0f - z * z));
    gradient[CELL_O] = dy * (ratio * open * (1.0f - open));
    d.c = keep * dc;
    d.n = keep * dn;
    return d;
}

#endif
