/* The units of the sLSTM and the LSTM, forward and backward, in f32: what is left of a token once the units of a head
 * have been mixed. The equations stand in ops/reference/kernel_slstm.c. */
#ifndef OPS_CUDA_CELL_H
#define OPS_CUDA_CELL_H

#include "ops/cuda/device.h"

enum { CELL_I, CELL_F, CELL_Z, CELL_O, CELL_GATES };

typedef struct cell_state {
    float y, c, n, m; /* LSTM: y and c */
} cell_state;

/* A sum rounded up, and what is missing to the true sum: never positive. */
typedef struct cell_sum {
    float value, rest;
} cell_sum;

static __device__ __forceinline__ cell_sum cell_sum_up(float a, float b) {
    float s = a + b, part = s - a;
    float rest = (a - (s - part)) + (b - part);
    cell_sum sum = {s, rest == rest ? rest : 0.0f}; /* infinite sums have none */
    if (sum.rest > 0.0f) {
        uint32_t bits = __float_as_uint(s); /* the next number above */
        sum.value = __uint_as_float(s < 0.0f ? bits - 1 : bits + 1);
        sum.rest += s - sum.value;
    }
    return sum;
}

/* What the gates of the sLSTM make of the maximum, which is stored rounded up: write (I) and keep (F) are taken
 * relative to what is stored, so that c and n do not drift however large m becomes. */
typedef struct cell_weights {
    float write, keep, top;
    bool input_won; /* top is the input gate */
    bool bounded;   /* keep would be more than 1, which happens only where n is 0 */
    bool empty;     /* nothing is stored: top is -inf */
} cell_weights;

static __device__ __forceinline__ cell_weights cell_weigh(float i, float f, float n, float m) {
    cell_weights w;
    cell_sum kept = cell_sum_up(m, log_sigmoid(f));
    w.input_won = i > kept.value || i != i || n == 0.0f;
    w.top = w.input_won ? i : kept.value;
    w.empty = w.top == -INFINITY;
    w.write = w.empty ? 0.0f : expf(i - w.top);
    w.keep = w.empty ? 0.0f : expf((kept.value - w.top) + kept.rest);
    w.bounded = w.keep > 1.0f;
    w.keep = w.bounded ? 1.0f : w.keep;
    return w;
}

static __device__ __forceinline__ float cell_clip(float y, float clip) {
    if (clip != 0.0f && y > clip)
        return clip;
    return clip != 0.0f && y < -clip ? -clip : y;
}

/* The states after a token, from those before it; y is not clipped. */
static __device__ __forceinline__ cell_state cell_next(bool lstm, const float *raw, cell_state s) {
    if (lstm) {
        s.c = fmaf(sigmoid(raw[CELL_I]), tanhf(raw[CELL_Z]), sigmoid(raw[CELL_F]) * s.c);
        s.y = sigmoid(raw[CELL_O]) * tanhf(s.c);
        return s;
    }
    cell_weights w = cell_weigh(raw[CELL_I], raw[CELL_F], s.n, s.m);
    float kept = w.keep * s.c;
    /* Nothing is added where write is 0, whatever z is. */
    s.c = w.write == 0.0f ? kept : fmaf(w.write, tanhf(raw[CELL_Z]), kept);
    s.n = fmaf(w.keep, s.n, w.write);
    s.m = w.top;
    s.y = s.n == 0.0f ? 0.0f : sigmoid(raw[CELL_O]) * s.c / s.n;
    return s;
}

/* From the gradients of the states after a token to those of the states before it (y: not known here) and of the raw
 * gates. d.y is that of the y that was given out, after clipping. */
static __device__ __forceinline__ cell_state cell_back(bool lstm, const float *raw,
                                                       cell_state before, cell_state after,
                                                       cell_state d, float clip, float *gradient) {
    float z = tanhf(raw[CELL_Z]), o = sigmoid(raw[CELL_O]);
    if (lstm) {
        float i = sigmoid(raw[CELL_I]), f = sigmoid(raw[CELL_F]), top = tanhf(after.c);
        float dy = clip != 0.0f && fabsf(o * top) > clip ? 0.0f : d.y;
        float dc = d.c + dy * o * (1.0f - top * top);
        gradient[CELL_I] = dc * z * i * sigmoid(-raw[CELL_I]);
        gradient[CELL_F] = dc * before.c * f * sigmoid(-raw[CELL_F]);
        gradient[CELL_Z] = dc * i * (1.0f - z * z);
        gradient[CELL_O] = dy * top * o * sigmoid(-raw[CELL_O]);
        d.c = dc * f;
        return d;
    }
    cell_weights w = cell_weigh(raw[CELL_I], raw[CELL_F], before.n, before.m);
    bool stored = after.n != 0.0f;
    float ratio = stored ? after.c / after.n : 0.0f;
    float dy = clip != 0.0f && fabsf(o * after.c / after.n) > clip ? 0.0f : d.y;
    float share = stored ? dy * o / after.n : 0.0f; /* of c */
    float dc = d.c + share, dn = d.n - share * ratio;
    float from_i = fmaf(dc, z, dn) * w.write;
    float from_f = w.bounded ? 0.0f : fmaf(dc, before.c, dn * before.n) * w.keep;
    float dm = w.empty ? 0.0f : d.m - from_i - from_f;
    float dl = from_f + (w.input_won ? 0.0f : dm);
    gradient[CELL_I] = from_i + (w.input_won ? dm : 0.0f);
    gradient[CELL_F] = dl * sigmoid(-raw[CELL_F]);
    gradient[CELL_Z] = dc * w.write * (1.0f - z * z);
    gradient[CELL_O] = dy * ratio * o * sigmoid(-raw[CELL_O]);
    d.c = w.keep * dc;
    d.n = w.keep * dn;
    d.m = dl;
    return d;
}

#endif
