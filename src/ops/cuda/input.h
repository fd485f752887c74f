/* The rows that projections take in, norm(x) or act(gate) (norm(x) + skip skip_input), laid into the shared memory
 * of every block that multiplies them. Each block takes means and variances anew, in the same order of sums
 * everywhere, so that a row is the same bits whoever asks, and however many come with it.
 *
 * What is constant (the norm's weight) is laid where its values will be scaled before the kernel waits for those
 * before it; then the values come, are summed, and replace it. A group of the norm belongs to a warp, or to the
 * whole block where there is but one; a thread's values come by fours, counted from the group's first. */
#ifndef OPS_CUDA_INPUT_H
#define OPS_CUDA_INPUT_H

#include "ops/cuda/device.h"

enum { INPUT_THREADS = 256, INPUT_WARPS = INPUT_THREADS / WARP, INPUT_HELD = 4 };

struct input_arguments {
    const void *x, *gate; /* f32, or bf16 where they are halves */
    const float *skip, *skip_input;
    const void *weight, *bias; /* of the norm; bias may be NULL */
    int64_t x_stride, gate_stride, skip_input_stride;
    int64_t tokens;
    int width, padded; /* values of a row; with zeros up to whole units of weights */
    int kind, groups, weight_type, bias_type;
    int activation;
    int fours;        /* rows and groups begin at multiples of four values, all of them f32 */
    int weight_fours; /* the norm's weight, too, f32 or of 16 bits */
    int x_halves, gate_halves; /* 0: f32 */
    float eps;
};

/* Where value i of a row stands: lanes that read values 64 apart meet different banks. */
static __host__ __device__ __forceinline__ int input_place(int i) {
    return i + (i >> 6) * 4;
}

/* Who works on one group: a warp, or the block. */
struct input_team {
    int index, threads; /* of the calling thread in it */
    int first, step;    /* groups first, first + step, ... are its own */
    bool block;
};
static __device__ __forceinline__ input_team input_team_of(const input_arguments &a) {
    const int thread = (int)threadIdx.x, lanes = WARP;
    if (a.groups == 1)
        return {thread, INPUT_THREADS, 0, 1, true};
    return {thread % lanes, lanes, thread / lanes, INPUT_WARPS, false};
}
static __device__ __forceinline__ float team_sum(const input_team &team, float x, float *parts) {
    return team.block ? block_sum(x, parts) : warp_sum(x);
}

/* A row of f32, or, in kernels with `halves`, perhaps of bf16. */
struct input_values {
    const void *at;
    int type;
};
template <bool halves>
static __device__ __forceinline__ input_values input_values_of(const void *rows, bool narrow,
                                                               int64_t first) {
    if (halves && narrow)
        return {(const uint16_t *)rows + first, DTYPE_BF16};
    return {(const float *)rows + first, DTYPE_F32};
}

/* Values i to i + 3 of which `count` are there; others are 0. `fours`: all are, and may be moved together. */
template <bool halves, bool fours>
static __device__ __forceinline__ float4 load_four(const input_values &p, int i, int count) {
    if (fours)
        return *(const float4 *)((const float *)p.at + i);
    const int type = halves ? p.type : (int)DTYPE_F32;
    return make_float4(load_as(p.at, type, i), count > 1 ? load_as(p.at, type, i + 1) : 0.0f,
                       count > 2 ? load_as(p.at, type, i + 2) : 0.0f,
                       count > 3 ? load_as(p.at, type, i + 3) : 0.0f);
}
template <bool fours>
static __device__ __forceinline__ float4 get_four(const float *row, int i, int count) {
    if (fours)
        return *(const float4 *)(row + input_place(i));
    return make_float4(row[input_place(i)], count > 1 ? row[input_place(i + 1)] : 0.0f,
                       count > 2 ? row[input_place(i + 2)] : 0.0f,
                       count > 3 ? row[input_place(i + 3)] : 0.0f);
}
template <bool fours>
static __device__ __forceinline__ void put_four(float *row, int i, int count, float4 v) {
    if (fours) {
        *(float4 *)(row + input_place(i)) = v;
        return;
    }
    row[input_place(i)] = v.x;
    if (count > 1)
        row[input_place(i + 1)] = v.y;
    if (count > 2)
        row[input_place(i + 2)] = v.z;
    if (count > 3)
        row[input_place(i + 3)] = v.w;
}

/* Four of the norm's weights, as they are in memory. */
struct input_four_bits {
    uint32_t word[4];
};
template <int type>
static __device__ __forceinline__ input_four_bits input_four_load(const char *from) {
    if (type == DTYPE_F32) {
        const uint4 u = *(const uint4 *)from;
        return {{u.x, u.y, u.z, u.w}};
    }
    const uint2 u = *(const uint2 *)from;
    return {{u.x, u.y, 0, 0}};
}
template <int type> static __device__ __forceinline__ float4 input_four_of(input_four_bits u) {
    if (type == DTYPE_F32)
        return make_float4(float_of_bits(u.word[0]), float_of_bits(u.word[1]),
                           float_of_bits(u.word[2]), float_of_bits(u.word[3]));
    return make_float4(float_of_bits(u.word[0] << 16), float_of_bits(u.word[0] & 0xffff0000u),
                       float_of_bits(u.word[1] << 16), float_of_bits(u.word[1] & 0xffff0000u));
}

/* The norm's weight into a row. Values are asked for together before the first is put down: the compiler does not know
 * that they lie apart. */
template <int type>
static __device__ __forceinline__ void input_weights(const input_arguments &a, float *row) {
    const int bytes = type == DTYPE_F32 ? 4 : 2;
    const input_team team = input_team_of(a);
    const int size = a.width / a.groups, step = 4 * team.threads;
    for (int g = team.first; g < a.groups; g += team.step) {
        const char *from = (const char *)a.weight + g * size * bytes;
        for (int begin = 4 * team.index; begin < size; begin += INPUT_HELD * step) {
            input_four_bits w[INPUT_HELD];
#pragma unroll
            for (int k = 0; k < INPUT_HELD; k++)
                if (begin + k * step < size)
                    w[k] = input_four_load<type>(from + (begin + k * step) * bytes);
#pragma unroll
            for (int k = 0; k < INPUT_HELD; k++)
                if (begin + k * step < size)
                    put_four<true>(row, g * size + begin + k * step, 4, input_four_of<type>(w[k]));
        }
    }
}

/* Weights that are not plain: each where its thread will look. */
static __device__ __noinline__ void input_weights_rarely(const input_arguments &a, float *row) {
    const input_team team = input_team_of(a);
    const int size = a.width / a.groups;
    for (int g = team.first; g < a.groups; g += team.step)
        for (int begin = 4 * team.index; begin < size; begin += 4 * team.threads)
            for (int i = g * size + begin; i < g * size + min(begin + 4, size); i++)
                row[input_place(i)] = load_as(a.weight, a.weight_type, i);
}

/* Whether the norm's weight comes by fours, in f32 or bf16. */
static __host__ __device__ __forceinline__ bool input_has_plain_weights(const input_arguments &a) {
    return a.kind == OPS_NORM_NONE || (a.weight_fours && a.weight_type != DTYPE_F16);
}

/* Before cuda_wait(): the norm's weight and what stays 0, into a row. Warps past the first INPUT_WARPS do nothing. A thread
 * puts what it will need itself. */
template <bool plain = false>
static __device__ __forceinline__ void input_begin(const input_arguments &given, float *row) {
    const input_arguments a = given; /* which may lie in shared memory */
    if (threadIdx.x >= INPUT_THREADS)
        return;
    for (int i = a.width + (int)threadIdx.x; i < a.padded; i += INPUT_THREADS)
        row[input_place(i)] = 0.0f;
    if (a.kind == OPS_NORM_NONE)
        return;
    if (!plain && !input_has_plain_weights(a))
        input_weights_rarely(given, row);
    else if (a.weight_type == DTYPE_F32)
        input_weights<DTYPE_F32>(a, row);
    else
        input_weights<DTYPE_BF16>(a, row);
}

/* Sums over a group, of x or of its squared distance from the mean. */
static __device__ __forceinline__ float four_sum(float4 v) {
    return (v.x + v.y) + (v.z + v.w);
}
static __device__ __forceinline__ float four_squares(float4 v, float mean, int count) {
    float d = v.x - mean, sum = d * d;
    d = count > 1 ? v.y - mean : 0.0f;
    sum = fmaf(d, d, sum);
    d = count > 2 ? v.z - mean : 0.0f;
    sum = fmaf(d, d, sum);
    d = count > 3 ? v.w - mean : 0.0f;
    return fmaf(d, d, sum);
}

/* One row of one token: its values. */
struct input_row {
    input_values x, gate;
    const float *skip_input;
};

/* One that is not often asked for: out of the way of those that are, whose code would not fit the caches with it. */
static __device__ __noinline__ float activate_rarely(int activation, float z) {
    return activate(activation, z);
}

/* norm(x), with the norm's weight from where the value goes, and what gates do to it. */
template <bool fours>
static __device__ __forceinline__ float4 input_four(const input_arguments &a, const input_row &r,
                                                    const float *row, int i, int count, float4 x,
                                                    float4 gate, float mean, float scale) {
    float v[4] = {x.x, x.y, x.z, x.w};
    if (a.kind != OPS_NORM_NONE) {
        float4 weight = get_four<fours>(row, i, count);
        const float w[4] = {weight.x, weight.y, weight.z, weight.w};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            v[j] = (v[j] - mean) * scale;
            if (a.bias && j < count)
                v[j] = fmaf(v[j], w[j], load_as(a.bias, a.bias_type, i + j));
            else
                v[j] *= w[j];
        }
    }
    if (a.gate) {
        const float z[4] = {gate.x, gate.y, gate.z, gate.w};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (a.skip && j < count)
                v[j] = fmaf(a.skip[i + j], r.skip_input[i + j], v[j]);
            v[j] *=
                a.activation == OPS_SIGMOID ? sigmoid(z[j]) : activate_rarely(a.activation, z[j]);
        }
    }
    return make_float4(v[0], v[1], v[2], v[3]);
}

/* The same of most rows, which take few instructions: four values that are there, without biases and skips, the gate a
 * sigmoid. */
static __device__ __forceinline__ float4 input_plain(const input_arguments &a, const float *row,
                                                     int i, float4 x, float4 gate, float mean,
                                                     float scale) {
    float4 v = x;
    if (a.kind != OPS_NORM_NONE) {
        const float4 w = get_four<true>(row, i, 4);
        v = make_float4((v.x - mean) * scale * w.x, (v.y - mean) * scale * w.y,
                        (v.z - mean) * scale * w.z, (v.w - mean) * scale * w.w);
    }
    if (a.gate)
        v = make_float4(v.x * sigmoid(gate.x), v.y * sigmoid(gate.y), v.z * sigmoid(gate.z),
                        v.w * sigmoid(gate.w));
    return v;
}

/* INPUT_HELD fours of a group, from value `at` of it on, and their gates: memory is asked for all of them before any is
 * needed. */
template <bool halves, bool fours>
static __device__ __forceinline__ void input_take(const input_arguments &a, const input_row &r,
                                                  int first, int size, int at, int step, float4 *x,
                                                  float4 *gate) {
    const float4 zero = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
    for (int k = 0; k < INPUT_HELD; k++) {
        const int i = at + k * step;
        x[k] = i < size ? load_four<halves, fours>(r.x, first + i, size - i) : zero;
        gate[k] = i < size && a.gate ? load_four<halves, fours>(r.gate, first + i, size - i) : zero;
    }
}

/* What the norm of a group takes away, and multiplies by; `x`: the fours that are held. whole: there are no others. All of the
 * team come here. */
struct input_scaling {
    float mean, scale;
};
template <bool halves, bool fours, bool whole>
static __device__ __forceinline__ input_scaling
input_scaling_of(const input_arguments &a, const input_row &r, const input_team &team, int first,
                 int size, int begin, int step, const float4 (&x)[INPUT_HELD], float *parts) {
    const int behind = whole ? size : begin + INPUT_HELD * step;
    input_scaling of = {0.0f, 1.0f};
    if (a.kind == OPS_NORM_LAYER) {
        float sum = 0.0f;
#pragma unroll
        for (int k = 0; k < INPUT_HELD; k++)
            sum += four_sum(x[k]);
        for (int i = behind; i < size; i += step)
            sum += four_sum(load_four<halves, fours>(r.x, first + i, size - i));
        of.mean = team_sum(team, sum, parts) / (float)size;
    }
    if (a.kind != OPS_NORM_NONE) {
        float sum = 0.0f;
#pragma unroll
        for (int k = 0; k < INPUT_HELD; k++)
            if (begin + k * step < size)
                sum += four_squares(x[k], of.mean, fours ? 4 : size - begin - k * step);
        for (int i = behind; i < size; i += step)
            sum += four_squares(load_four<halves, fours>(r.x, first + i, size - i), of.mean,
                                fours ? 4 : size - i);
        of.scale = 1.0f / sqrtf(team_sum(team, sum, parts) / (float)size + a.eps);
    }
    return of;
}

/* A group of the row: the first INPUT_HELD fours of a thread are held in registers, so that memory is asked for all
 * of them at once. */
template <bool halves, bool fours>
static __device__ __forceinline__ void input_group(const input_arguments &a, const input_row &r,
                                                   const input_team &team, int first, int size,
                                                   float *row, float *parts) {
    float4 x[INPUT_HELD], gate[INPUT_HELD];
    const int begin = 4 * team.index, step = 4 * team.threads, held = INPUT_HELD * step;
    input_take<halves, fours>(a, r, first, size, begin, step, x, gate);
    const input_scaling of =
        input_scaling_of<halves, fours, false>(a, r, team, first, size, begin, step, x, parts);
    for (int at = begin; at < size; at += held) {
        if (at > begin)
            input_take<halves, fours>(a, r, first, size, at, step, x, gate);
#pragma unroll
        for (int k = 0; k < INPUT_HELD; k++) {
            const int i = at + k * step;
            if (i >= size)
                continue;
            const float4 v =
                input_four<fours>(a, r, row, first + i, size - i, x[k], gate[k], of.mean, of.scale);
            put_four<fours>(row, first + i, size - i, v);
        }
    }
}

/* The groups of the calling thread. */
template <bool halves, bool fours>
static __device__ __forceinline__ void input_groups(const input_arguments &a, const input_row &r,
                                                    float *row, float *parts) {
    const int size = a.width / a.groups;
    input_team team = input_team_of(a);
    if (threadIdx.x >= INPUT_THREADS) { /* there for the barriers within sums alone */
        if (team.block)
            input_group<halves, fours>(a, r, {0, INPUT_THREADS, 0, 1, true}, 0, 0, row, parts);
        return;
    }
    for (int g = team.first; g < a.groups; g += team.step)
        input_group<halves, fours>(a, r, team, g * size, size, row, parts);
}

template <bool halves>
static __device__ __forceinline__ input_row input_row_of(const input_arguments &a, int64_t token) {
    return {input_values_of<halves>(a.x, a.x_halves, token * a.x_stride),
            input_values_of<halves>(a.gate, a.gate_halves, token * a.gate_stride),
            a.skip_input + token * a.skip_input_stride};
}

/* Rows that are not plain: out of the way of those that are (see below). */
template <bool halves>
static __device__ __noinline__ void input_lay_rarely(const input_arguments &given, int64_t token,
                                                     float *row, float *parts) {
    const input_arguments a = given;
    const input_row r = input_row_of<halves>(a, token);
    if (a.fours)
        input_groups<halves, true>(a, r, row, parts);
    else
        input_groups<halves, false>(a, r, row, parts);
}

/* A row as it is: asked for together as far as registers go. */
static __device__ __forceinline__ void input_lay_bare(const input_arguments &a, const float *from,
                                                      float *row) {
    enum { TOGETHER = 11, STEP = 4 * INPUT_THREADS };
    if (threadIdx.x >= INPUT_THREADS)
        return;
#pragma unroll 1
    for (int begin = 4 * (int)threadIdx.x; begin < a.width; begin += TOGETHER * STEP) {
        float4 x[TOGETHER];
#pragma unroll
        for (int k = 0; k < TOGETHER; k++)
            x[k] = begin + k * STEP < a.width ? *(const float4 *)(from + begin + k * STEP)
                                              : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
        for (int k = 0; k < TOGETHER; k++)
            if (begin + k * STEP < a.width)
                put_four<true>(row, begin + k * STEP, 4, x[k]);
    }
}

/* Whether a row is laid as it is. */
static __host__ __device__ __forceinline__ bool input_is_bare(const input_arguments &a) {
    return a.fours && a.kind == OPS_NORM_NONE && !a.gate && !a.skip;
}

/* Whether a row is normed, gated or both without biases and skips, the gate a sigmoid, and a group of it no longer than
 * what its threads hold. */
static __host__ __device__ __forceinline__ bool input_is_plain(const input_arguments &a) {
    const int threads = a.groups == 1 ? (int)INPUT_THREADS : (int)WARP;
    return a.fours && !a.bias && !a.skip && (!a.gate || a.activation == OPS_SIGMOID) &&
           a.width <= a.groups * INPUT_HELD * 4 * threads;
}

/* Such a row. What a kernel runs once in a layer it does not find in the caches of its multiprocessor, and pays for each
 * instruction; so the same ones go over all that a thread holds. */
static __device__ __forceinline__ void input_lay_plain(const input_arguments &a, const input_row &r,
                                                       float *row, float *parts) {
    const int size = a.width / a.groups;
    const input_team team = input_team_of(a);
    const bool works = threadIdx.x < INPUT_THREADS;
    const int groups = team.block ? 1 : works ? a.groups : 0; /* barriers within sums need all */
    const int begin = works ? 4 * team.index : size, step = 4 * team.threads;
    for (int g = team.block ? 0 : team.first; g < groups; g += team.step) {
        const int first = g * size;
        float4 x[INPUT_HELD], gate[INPUT_HELD];
        input_take<false, true>(a, r, first, size, begin, step, x, gate);
        const input_scaling of =
            input_scaling_of<false, true, true>(a, r, team, first, size, begin, step, x, parts);
#pragma unroll 1
        for (int i = begin; i < size; i += step) {
            const float4 v = input_plain(a, row, first + i, x[0], gate[0], of.mean, of.scale);
            put_four<true>(row, first + i, 4, v);
#pragma unroll
            for (int k = 1; k < INPUT_HELD; k++) {
                x[k - 1] = x[k];
                gate[k - 1] = gate[k];
            }
        }
    }
}

/* After cuda_wait(): token t's row. All threads of the block come here; the row is whole after a barrier. `parts`
 * has 32 floats of shared memory. `plain`: it is known to be bare or plain. */
template <bool halves = false, bool plain = false>
static __device__ __forceinline__ void input_lay(const input_arguments &given, int64_t token,
                                                 float *row, float *parts) {
    const input_arguments a = given; /* which may lie in shared memory */
    if (plain ? a.kind == OPS_NORM_NONE && !a.gate : input_is_bare(a))
        input_lay_bare(a, (const float *)a.x + token * a.x_stride, row);
    else if (plain || input_is_plain(a))
        input_lay_plain(a, input_row_of<false>(a, token), row, parts);
    else
        input_lay_rarely<halves>(given, token, row, parts);
}

#endif
