/* The sLSTM and the LSTM over a batch.
 *
 * A token needs the outputs of all units of its head at the token before. Heads of few units go through time
 * in one threadgroup (slstm_sequence). The recurrent weights of larger ones are more than a core can read in
 * the time: a dispatch a token (slstm_step) spreads them over the GPU, and since what one threadgroup
 * writes the others must not yet see, the output before is read from `out`, or from the state at the
 * first token; slstm_finish puts the last one into the state.
 *
 * States and gates are handed on as bits, where NaN and infinities are found whatever the compiler assumes
 * of floats (gates.h). */
#include <metal_stdlib>

#include "ops/metal/gates.h"
#include "ops/metal/slstm_arguments.h"

/* ---- A unit ---- */

/* As bits. */
struct slstm_state {
    uint y, c, n, m;
};

/* The bits of a sum, unless a NaN was in it. */
static inline uint bits_of_sum(float sum, bool has_nan) {
    return has_nan ? NOT_A_NUMBER : as_type<uint>(sum);
}

/* The bits of a gate, from those of its input and of what the units before give. */
static inline uint raw_gate(uint input, uint mixed, float bias) {
    if (is_nan(mixed))
        return NOT_A_NUMBER;
    if (!is_finite(input))
        return input;
    return as_type<uint>(as_type<float>(input) + (as_type<float>(mixed) + bias));
}

/* The value of a gate; for infinities, one at which sigmoid and tanh have their limits. */
static inline float bounded(uint bits) {
    return bits == PLUS_INFINITY ? 1e4f : bits == MINUS_INFINITY ? -1e4f : as_type<float>(bits);
}

static inline float clipped(float y, float clip) {
    if (clip != 0.0f && y > clip)
        return clip;
    return clip != 0.0f && y < -clip ? -clip : y;
}

/* The maximum is stored rounded up; I and F are taken relative to what is stored, so that c and n do
 * not drift however large m becomes. */
static inline void slstm_unit(constant slstm_arguments &a, thread const uint *raw,
                              thread slstm_state &u) {
    bool is_empty = is_zero(as_type<float>(u.n));
    step_gates g =
        pass_gates(raw[0], raw[1], is_empty ? maximum_of(NOTHING) : load_maximum(u.m), a.zero);
    if (is_spoiled(g.m.high)) {
        u.y = u.c = u.n = u.m = NOT_A_NUMBER;
        return;
    }
    float rest, m = rounded_up(g.m, a.zero, rest);
    float write = weight_of(g.input + rest), keep = weight_of(g.forget + rest);
    float c = as_type<float>(u.c) * keep, n = fma(keep, as_type<float>(u.n), write);
    if (write != 0.0f) /* nothing is added otherwise, whatever z is */
        c = fma(write, hyperbolic_tangent(bounded(raw[2])), c);
    float y = n == 0.0f ? 0.0f : sigmoid(bounded(raw[3])) * c / n;
    u.y = as_type<uint>(clipped(y, a.clip));
    u.c = as_type<uint>(c);
    u.n = as_type<uint>(n);
    u.m = stored_maximum(m);
}

static inline void lstm_unit(constant slstm_arguments &a, thread const uint *raw,
                             thread slstm_state &u) {
    float c = fma(sigmoid(bounded(raw[0])), hyperbolic_tangent(bounded(raw[2])),
                  sigmoid(bounded(raw[1])) * as_type<float>(u.c));
    u.c = as_type<uint>(c);
    u.y = as_type<uint>(clipped(sigmoid(bounded(raw[3])) * hyperbolic_tangent(c), a.clip));
}

static inline void advance_unit(constant slstm_arguments &a, thread const uint *raw,
                                thread slstm_state &u) {
    if (a.lstm != 0u)
        lstm_unit(a, raw, u);
    else
        slstm_unit(a, raw, u);
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
                           device const uint *input_i [[buffer(1)]],
                           device const uint *input_f [[buffer(2)]],
                           device const uint *input_z [[buffer(3)]],
                           device const uint *input_o [[buffer(4)]],
                           device const float *recurrent [[buffer(5)]],
                           device const float *bias [[buffer(6)]],
                           device const int *slots [[buffer(7)]],
                           device const int *start [[buffer(8)]],
                           device uint *out [[buffer(9)]], device uint *y [[buffer(10)]],
                           device uint *c [[buffer(11)]], device uint *n [[buffer(12)]],
                           device uint *m [[buffer(13)]],
                           uint3 group [[threadgroup_position_in_grid]],
                           uint3 threads [[threads_per_threadgroup]],
                           uint thread_index [[thread_index_in_threadgroup]]) {
    threadgroup uint states[4 * SLSTM_SMALL], mixed[4 * SLSTM_SMALL];
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
            device const uint *input = gate == 0u   ? input_i
                                        : gate == 1u ? input_f
                                        : gate == 2u ? input_z
                                                     : input_o;
            float sum = 0.0f;
            bool has_nan = false;
            for (uint p = 0u; p < size; p++) {
                uint before = states[STATE_Y * SLSTM_SMALL + p];
                has_nan = has_nan || is_nan(before);
                sum = fma(as_type<float>(before), weights[ulong(p) * a.recurrent_stride + at], sum);
            }
            mixed[gate * SLSTM_SMALL + d] =
                raw_gate(input[input_at(a, gate, token, head) + d], bits_of_sum(sum, has_nan),
                         biases[ulong(gate) * a.bias_stride + d]);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint d = thread_index; d < size; d += threads.x) {
            uint raw[4];
            for (uint gate = 0u; gate < 4u; gate++)
                raw[gate] = mixed[gate * SLSTM_SMALL + d];
            slstm_state u;
            u.c = states[STATE_C * SLSTM_SMALL + d];
            u.n = u.m = 0u;
            if (a.lstm == 0u) {
                u.n = states[STATE_N * SLSTM_SMALL + d];
                u.m = states[STATE_M * SLSTM_SMALL + d];
            }
            advance_unit(a, raw, u);
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
                            device const uint *thread *before, uint part, uint column,
                            threadgroup uint *to) {
    float sums[SLSTM_SEQUENCES][4];
    bool has_nan[SLSTM_SEQUENCES];
    for (uint s = 0u; s < SLSTM_SEQUENCES; s++)
        has_nan[s] = false;
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
            uint bits = before[s][p];
            float value = as_type<float>(bits);
            has_nan[s] = has_nan[s] || is_nan(bits);
            for (uint gate = 0u; gate < 4u; gate++)
                sums[s][gate] = fma(value, w[gate], sums[s][gate]);
        }
    }
    for (uint s = 0u; s < SLSTM_SEQUENCES; s++)
        for (uint gate = 0u; gate < 4u; gate++)
            to[(s * 4u + gate) * SLSTM_UNITS] = bits_of_sum(sums[s][gate], has_nan[s]);
}

kernel void slstm_step(constant slstm_arguments &a [[buffer(0)]],
                       device const uint *input_i [[buffer(1)]],
                       device const uint *input_f [[buffer(2)]],
                       device const uint *input_z [[buffer(3)]],
                       device const uint *input_o [[buffer(4)]],
                       device const float *recurrent [[buffer(5)]],
                       device const float *bias [[buffer(6)]],
                       device const int *slots [[buffer(7)]],
                       device const int *start [[buffer(8)]], device uint *out [[buffer(9)]],
                       device const uint *y [[buffer(10)]], device uint *c [[buffer(11)]],
                       device uint *n [[buffer(12)]], device uint *m [[buffer(13)]],
                       uint3 group [[threadgroup_position_in_grid]],
                       uint3 threads [[threads_per_threadgroup]],
                       uint thread_index [[thread_index_in_threadgroup]],
                       uint simd_group [[simdgroup_index_in_threadgroup]],
                       uint lane [[thread_index_in_simdgroup]]) {
    threadgroup uint parts[SLSTM_PARTS * SLSTM_SEQUENCES * 4 * SLSTM_UNITS];
    uint first_unit = group.x * SLSTM_UNITS, head = group.y, size = a.size;
    device const uint *before[SLSTM_SEQUENCES];
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
        uint raw[4] = {input_i[input_at(a, 0u, token, head) + d],
                       input_f[input_at(a, 1u, token, head) + d],
                       input_z[input_at(a, 2u, token, head) + d],
                       input_o[input_at(a, 3u, token, head) + d]};
        for (uint gate = 0u; gate < 4u; gate++) {
            float sum = 0.0f;
            bool has_nan = false;
            for (uint part = 0u; part < SLSTM_PARTS; part++) {
                uint bits =
                    parts[((part * SLSTM_SEQUENCES + s) * 4u + gate) * SLSTM_UNITS + column];
                has_nan = has_nan || is_nan(bits);
                sum += as_type<float>(bits);
            }
            raw[gate] =
                raw_gate(raw[gate], bits_of_sum(sum, has_nan),
                         bias[a.bias_first + ulong(gate) * a.bias_stride + head * size + d]);
        }
        ulong c_at = state_at(a, STATE_C, slot, head) + d;
        slstm_state u;
        u.c = c[c_at];
        u.n = u.m = 0u;
        if (a.lstm == 0u) {
            u.n = n[state_at(a, STATE_N, slot, head) + d];
            u.m = m[state_at(a, STATE_M, slot, head) + d];
        }
        advance_unit(a, raw, u);
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
                         device const uint *out [[buffer(3)]], device uint *y [[buffer(4)]],
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
