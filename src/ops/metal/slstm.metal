/* The sLSTM and the LSTM over a batch.
 *
 * A token needs the outputs of all units of its head at the token before. Heads of few units go through time
 * in one threadgroup (slstm_sequence). The recurrent weights of larger ones are more than a core can read in
 * the time: a dispatch a token (slstm_step) spreads them over the GPU, and since what one threadgroup
 * writes the others must not yet see, the output before is read from `out`, or from the state at the
 * first token; slstm_finish puts the last one into the state. */
#include <metal_stdlib>

#include "ops/metal/common.h"
#include "ops/metal/slstm_arguments.h"

/* ---- A unit ---- */

struct slstm_state {
    float y, c, n, m;
};

/* a + b rounded up, and in `rest`, which is not positive, what is missing to the true sum. */
static inline float sum_rounded_up(float a, float b, thread float &rest) {
    /* The error of a sum is lost where the compiler may reorder it. Metal's safe math does not; this
     * is for those who build with another mode. */
#pragma clang fp reassociate(off)
    float sum = a + b;
    float part = sum - a;
    rest = (a - (sum - part)) + (b - part);
    if (!is_finite(rest)) /* infinite sums have none */
        rest = 0.0f;
    if (rest <= 0.0f)
        return sum;
    int bits = as_type<int>(sum);
    float above = as_type<float>(bits >= 0 ? bits + 1 : bits - 1);
    rest = (sum - above) + rest;
    return above;
}

/* The maximum is stored rounded up; I and F are taken relative to what is stored, so that c and n do
 * not drift however large m becomes. */
static inline void slstm_unit(thread const float *raw, thread slstm_state &u) {
    float i = raw[0], rest;
    float log_f = sum_rounded_up(u.m, log_sigmoid(raw[1]), rest);
    float top = i > log_f || is_nan(i) || u.n == 0.0f ? i : log_f;
    float write = 0.0f, keep = 0.0f;
    if (!is_negative_infinity(top)) { /* something is stored */
        float exponent = (log_f - top) + rest;
        write = exp(i - top);
        keep = exp(exponent > 0.0f ? 0.0f : exponent);
    }
    u.c *= keep;
    if (write != 0.0f) /* nothing is added otherwise, whatever z is */
        u.c = fma(write, hyperbolic_tangent(raw[2]), u.c);
    u.n = fma(keep, u.n, write);
    u.m = top;
    u.y = u.n == 0.0f ? 0.0f : sigmoid(raw[3]) * u.c / u.n;
}

static inline void lstm_unit(thread const float *raw, thread slstm_state &u) {
    u.c = fma(sigmoid(raw[0]), hyperbolic_tangent(raw[2]), sigmoid(raw[1]) * u.c);
    u.y = sigmoid(raw[3]) * hyperbolic_tangent(u.c);
}

static inline void advance_unit(uint lstm, float clip, thread const float *raw, thread slstm_state &u) {
    if (lstm != 0u)
        lstm_unit(raw, u);
    else
        slstm_unit(raw, u);
    if (clip != 0.0f && u.y > clip)
        u.y = clip;
    if (clip != 0.0f && u.y < -clip)
        u.y = -clip;
}

/* ---- Places ---- */

enum { STATE_Y, STATE_C, STATE_N, STATE_M };

static inline ulong state_at(constant slstm_arguments &a, uint which, int slot, uint head) {
    return a.state_first[which] + ulong(slot) * a.state_stride[which] +
           ulong(head) * a.state_head_stride[which];
}

static inline ulong input_at(constant slstm_arguments &a, uint gate, uint token, uint head) {
    return a.input_first[gate] + ulong(token) * a.input_stride[gate] +
           ulong(head) * a.input_head_stride[gate];
}

static inline ulong out_at(constant slstm_arguments &a, uint token, uint head) {
    return a.out_first + ulong(token) * a.out_stride + ulong(head) * a.out_head_stride;
}

/* ---- Kernels ---- */

kernel void slstm_sequence(constant slstm_arguments &a [[buffer(0)]],
                           device const float *input_i [[buffer(1)]],
                           device const float *input_f [[buffer(2)]],
                           device const float *input_z [[buffer(3)]],
                           device const float *input_o [[buffer(4)]],
                           device const float *recurrent [[buffer(5)]],
                           device const float *bias [[buffer(6)]],
                           device const int *slots [[buffer(7)]],
                           device const int *start [[buffer(8)]],
                           device float *out [[buffer(9)]], device float *y [[buffer(10)]],
                           device float *c [[buffer(11)]], device float *n [[buffer(12)]],
                           device float *m [[buffer(13)]],
                           uint3 group [[threadgroup_position_in_grid]],
                           uint3 threads [[threads_per_threadgroup]],
                           uint thread_index [[thread_index_in_threadgroup]]) {
    threadgroup float states[4 * SLSTM_SMALL], mixed[4 * SLSTM_SMALL];
    uint head = group.x, size = a.size;
    int slot = slots[a.slot_first + group.y];
    uint first = uint(start[a.start_first + group.y]);
    uint end = uint(start[a.start_first + group.y + 1u]);
    device const float *weights = recurrent + a.recurrent_first + ulong(head) * a.recurrent_head_stride;
    device const float *biases = bias + a.bias_first + head * size;
    for (uint d = thread_index; d < size; d += threads.x) {
        states[STATE_Y * SLSTM_SMALL + d] = y[state_at(a, STATE_Y, slot, head) + d];
        states[STATE_C * SLSTM_SMALL + d] = c[state_at(a, STATE_C, slot, head) + d];
        if (a.lstm == 0u) {
            states[STATE_N * SLSTM_SMALL + d] = n[state_at(a, STATE_N, slot, head) + d];
            states[STATE_M * SLSTM_SMALL + d] = m[state_at(a, STATE_M, slot, head) + d];
        }
    }
    for (uint token = first; token < end; token++) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint at = thread_index; at < 4u * size; at += threads.x) {
            uint gate = at / size, d = at % size;
            device const float *input = gate == 0u   ? input_i
                                        : gate == 1u ? input_f
                                        : gate == 2u ? input_z
                                                     : input_o;
            float sum = 0.0f;
            for (uint p = 0u; p < size; p++)
                sum = fma(states[STATE_Y * SLSTM_SMALL + p], weights[ulong(p) * a.recurrent_stride + at],
                          sum);
            mixed[gate * SLSTM_SMALL + d] = input[input_at(a, gate, token, head) + d] + sum +
                                            biases[ulong(gate) * a.bias_stride + d];
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint d = thread_index; d < size; d += threads.x) {
            float raw[4];
            for (uint gate = 0u; gate < 4u; gate++)
                raw[gate] = mixed[gate * SLSTM_SMALL + d];
            slstm_state u;
            u.c = states[STATE_C * SLSTM_SMALL + d];
            u.n = u.m = 0.0f;
            if (a.lstm == 0u) {
                u.n = states[STATE_N * SLSTM_SMALL + d];
                u.m = states[STATE_M * SLSTM_SMALL + d];
            }
            advance_unit(a.lstm, a.clip, raw, u);
            states[STATE_Y * SLSTM_SMALL + d] = u.y;
            states[STATE_C * SLSTM_SMALL + d] = u.c;
            states[STATE_N * SLSTM_SMALL + d] = u.n;
            states[STATE_M * SLSTM_SMALL + d] = u.m;
            out[out_at(a, token, head) + d] = u.y;
        }
    }
    for (uint d = thread_index; d < size; d += threads.x) { /* those that this thread wrote */
        y[state_at(a, STATE_Y, slot, head) + d] = states[STATE_Y * SLSTM_SMALL + d];
        c[state_at(a, STATE_C, slot, head) + d] = states[STATE_C * SLSTM_SMALL + d];
        if (a.lstm == 0u) {
            n[state_at(a, STATE_N, slot, head) + d] = states[STATE_N * SLSTM_SMALL + d];
            m[state_at(a, STATE_M, slot, head) + d] = states[STATE_M * SLSTM_SMALL + d];
        }
    }
}

/* The sums over one part of the units before, for the gates of one unit in SLSTM_SEQUENCES sequences. */
static inline void mix_part(constant slstm_arguments &a, device const float *weights,
                            device const float *thread *before, uint part, uint column,
                            threadgroup float *to) {
    float sums[SLSTM_SEQUENCES][4];
    for (uint s = 0u; s < SLSTM_SEQUENCES; s++)
        for (uint gate = 0u; gate < 4u; gate++)
            sums[s][gate] = 0.0f;
    uint step = (a.size + SLSTM_PARTS - 1u) / SLSTM_PARTS;
    uint end = min((part + 1u) * step, a.size);
    for (uint p = part * step; p < end; p++) {
        device const float *row = weights + ulong(p) * a.recurrent_stride + column;
        float w[4];
        for (uint gate = 0u; gate < 4u; gate++)
            w[gate] = row[gate * a.size];
        for (uint s = 0u; s < SLSTM_SEQUENCES; s++) {
            float value = before[s][p];
            for (uint gate = 0u; gate < 4u; gate++)
                sums[s][gate] = fma(value, w[gate], sums[s][gate]);
        }
    }
    for (uint s = 0u; s < SLSTM_SEQUENCES; s++)
        for (uint gate = 0u; gate < 4u; gate++)
            to[(s * 4u + gate) * SLSTM_UNITS] = sums[s][gate];
}

kernel void slstm_step(constant slstm_arguments &a [[buffer(0)]],
                       device const float *input_i [[buffer(1)]],
                       device const float *input_f [[buffer(2)]],
                       device const float *input_z [[buffer(3)]],
                       device const float *input_o [[buffer(4)]],
                       device const float *recurrent [[buffer(5)]],
                       device const float *bias [[buffer(6)]],
                       device const int *slots [[buffer(7)]],
                       device const int *start [[buffer(8)]], device float *out [[buffer(9)]],
                       device const float *y [[buffer(10)]], device float *c [[buffer(11)]],
                       device float *n [[buffer(12)]], device float *m [[buffer(13)]],
                       uint3 group [[threadgroup_position_in_grid]],
                       uint3 threads [[threads_per_threadgroup]],
                       uint thread_index [[thread_index_in_threadgroup]],
                       uint simd_group [[simdgroup_index_in_threadgroup]],
                       uint lane [[thread_index_in_simdgroup]]) {
    threadgroup float parts[SLSTM_PARTS * SLSTM_SEQUENCES * 4 * SLSTM_UNITS];
    uint first_unit = group.x * SLSTM_UNITS, head = group.y, size = a.size;
    device const float *before[SLSTM_SEQUENCES];
    bool any = false;
    for (uint s = 0u; s < SLSTM_SEQUENCES; s++) {
        uint sequence = group.z * SLSTM_SEQUENCES + s;
        uint there = min(sequence, a.sequences - 1u);
        uint first = uint(start[a.start_first + there]);
        uint length = uint(start[a.start_first + there + 1u]) - first;
        any = any || (sequence < a.sequences && a.time < length);
        /* of a sequence that is over, something that may be read */
        before[s] = a.time == 0u || a.time >= length
                        ? y + state_at(a, STATE_Y, slots[a.slot_first + there], head)
                        : out + out_at(a, first + a.time - 1u, head);
    }
    if (!any)
        return;
    if (first_unit + lane < size)
        for (uint part = simd_group; part < SLSTM_PARTS; part += threads.x / SIMD_LANES)
            mix_part(a, recurrent + a.recurrent_first + ulong(head) * a.recurrent_head_stride, before,
                     part, first_unit + lane,
                     parts + part * (SLSTM_SEQUENCES * 4 * SLSTM_UNITS) + lane);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint at = thread_index; at < SLSTM_SEQUENCES * SLSTM_UNITS; at += threads.x) {
        uint s = at / SLSTM_UNITS, sequence = group.z * SLSTM_SEQUENCES + s;
        uint column = at % SLSTM_UNITS, d = first_unit + column;
        if (sequence >= a.sequences || d >= size)
            continue;
        uint token = uint(start[a.start_first + sequence]) + a.time;
        if (token >= uint(start[a.start_first + sequence + 1u]))
            continue;
        int slot = slots[a.slot_first + sequence];
        float raw[4] = {input_i[input_at(a, 0u, token, head) + d],
                        input_f[input_at(a, 1u, token, head) + d],
                        input_z[input_at(a, 2u, token, head) + d],
                        input_o[input_at(a, 3u, token, head) + d]};
        for (uint gate = 0u; gate < 4u; gate++) {
            float sum = 0.0f;
            for (uint part = 0u; part < SLSTM_PARTS; part++)
                sum += parts[((part * SLSTM_SEQUENCES + s) * 4u + gate) * SLSTM_UNITS + column];
            raw[gate] += sum + bias[a.bias_first + ulong(gate) * a.bias_stride + head * size + d];
        }
        ulong c_at = state_at(a, STATE_C, slot, head) + d;
        slstm_state u;
        u.c = c[c_at];
        u.n = u.m = 0.0f;
        if (a.lstm == 0u) {
            u.n = n[state_at(a, STATE_N, slot, head) + d];
            u.m = m[state_at(a, STATE_M, slot, head) + d];
        }
        advance_unit(a.lstm, a.clip, raw, u);
        c[c_at] = u.c;
        if (a.lstm == 0u) {
            n[state_at(a, STATE_N, slot, head) + d] = u.n;
            m[state_at(a, STATE_M, slot, head) + d] = u.m;
        }
        out[out_at(a, token, head) + d] = u.y;
    }
}

/* y becomes the last output of its sequence. */
kernel void slstm_finish(constant slstm_arguments &a [[buffer(0)]],
                         device const int *slots [[buffer(1)]],
                         device const int *start [[buffer(2)]],
                         device const float *out [[buffer(3)]], device float *y [[buffer(4)]],
                         uint3 group [[threadgroup_position_in_grid]],
                         uint3 threads [[threads_per_threadgroup]],
                         uint thread_index [[thread_index_in_threadgroup]]) {
    uint d = group.x * threads.x + thread_index;
    if (d >= a.size)
        return;
    uint last = uint(start[a.start_first + group.z + 1u]) - 1u;
    int slot = slots[a.slot_first + group.z];
    y[state_at(a, STATE_Y, slot, group.y) + d] = out[out_at(a, last, group.y) + d];
}
