/* The mLSTM in chunks, in three dispatches:
 *   mlstm_gates    a threadgroup a head: gates, m and n from chunk to chunk, which need no C;
 *   mlstm_scores   a threadgroup a chunk and head: (q_j k_l) D_jl, and the divisors of h;
 *   mlstm_columns  a threadgroup 64 columns of a head: C from chunk to chunk, and h.
 * Chunks end at absolute positions that are multiples of their length. Tokens that are not there change nothing,
 * and C is rounded to its type after each chunk, so that a prompt cut at such a position gives the same bits.
 *
 * C stays where it is in memory: 64 KB of it for a threadgroup and chunk, read once for 8 tokens and once more to
 * take in the keys, out of the GPU's caches. Of a prompt's operations this is 1 to 2 %. */
#include <metal_stdlib>

#include "ops/metal/mlstm.h"

/* ---- Tables ---- */

static inline ulong mlstm_table_row(constant mlstm_arguments &a, uint token, uint head) {
    return a.tables_first + (ulong(token) * a.heads + head) * MLSTM_TABLE;
}

static inline ulong mlstm_score_row(constant mlstm_arguments &a, uint token, uint head) {
    return a.scores_first + (ulong(token) * a.heads + head) * MLSTM_LONGEST;
}

/* n before chunk `index` of a sequence: a sequence of T tokens has at most T / chunk + 2 of them. */
static inline ulong mlstm_border(constant mlstm_arguments &a, mlstm_tokens t, uint sequence,
                                 uint index, uint head) {
    ulong border = t.start / a.chunk + 2 * sequence + index;
    return a.borders_first + (border * a.heads + head) * a.d_qk;
}

/* ---- Gates ---- */

template <typename T>
kernel void
mlstm_gates(constant mlstm_arguments &a [[buffer(0)]], device const float *k_in [[buffer(1)]],
            device const uint *i_in [[buffer(2)]], device const uint *f_in [[buffer(3)]],
            device const int *slots [[buffer(4)]], device const int *starts [[buffer(5)]],
            device const ulong *positions [[buffer(6)]], device uchar *n_state [[buffer(7)]],
            device uint *m_state [[buffer(8)]], device float *tables [[buffer(9)]],
            device float *borders [[buffer(10)]], uint3 place [[threadgroup_position_in_grid]],
            uint thread_index [[thread_index_in_threadgroup]]) {
    threadgroup float weights[MLSTM_LONGEST];
    uint head = place.x, sequence = place.y;
    mlstm_tokens t = tokens_of(a, slots, starts, positions, sequence);
    if (t.count == 0)
        return;
    ulong slot = t.slot;
    device typename T::stored *n = (device typename T::stored *)n_state +
                                   (a.n_first + slot * a.n_slot + ulong(head) * a.n_head);
    device uint *m = m_state + (a.m_first + slot * a.m_slot + head);
    device const float *k = k_in + (a.k_first + ulong(head) * a.k_head);
    maximum running = load_maximum(m[0]);
    uint token = t.first, end = t.first + t.count, room = a.chunk - t.in_chunk;
    for (uint index = 0; token < end; index++, room = a.chunk) {
        uint terms = min(room, end - token);
        mlstm_exponents e = mlstm_no_terms(running);
        for (uint l = 0; l < terms; l++) {
            step_gates g = mlstm_add(a, e, l, thread_index,
                                     i_in[a.i_first + ulong(token + l) * a.i_token + head],
                                     f_in[a.f_first + ulong(token + l) * a.f_token + head]);
            device float *row = tables + mlstm_table_row(a, token + l, head);
            if (thread_index == 0) {
                row[MLSTM_FORGET] = g.forget;
                row[MLSTM_INPUT] = g.input;
                row[MLSTM_MAXIMUM] = g.m.high;
                row[MLSTM_REST] = g.m.low;
            }
        }
        mlstm_round(a, e);
        running = e.m;
        float keep = weight_of(e.carried);
        if (thread_index < terms) {
            float weight = weight_of(e.own);
            weights[thread_index] = weight;
            tables[mlstm_table_row(a, token + thread_index, head) + MLSTM_WRITE] = weight;
        }
        if (thread_index == 0)
            tables[mlstm_table_row(a, token, head) + MLSTM_KEEP] = keep;
        threadgroup_barrier(mem_flags::mem_threadgroup);
        mlstm_terms keys = {k, k, a.k_token, 0, 0, token};
        device float *border = borders + mlstm_border(a, t, sequence, index, head);
        for (uint d = thread_index; d < a.d_qk; d += MLSTM_THREADS) {
            float before = T::load(n, d);
            border[d] = before;
            store_n<T>(n, d, folded_n<T>(before, d, keys, weights, terms, keep), keep);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        token += terms;
    }
    threadgroup_barrier(mem_flags::mem_device);
    if (thread_index == 0)
        m[0] = stored_maximum(running.high);
}

/* ---- Scores ---- */

kernel void
mlstm_scores(constant mlstm_arguments &a [[buffer(0)]], device const float *q_in [[buffer(1)]],
             device const float *k_in [[buffer(2)]], device const int *slots [[buffer(3)]],
             device const int *starts [[buffer(4)]], device const ulong *positions [[buffer(5)]],
             device float *tables [[buffer(6)]], device const float *borders [[buffer(7)]],
             device float *scores_out [[buffer(8)]], uint3 place [[threadgroup_position_in_grid]],
             uint thread_index [[thread_index_in_threadgroup]],
             uint lane [[thread_index_in_simdgroup]],
             uint group [[simdgroup_index_in_threadgroup]]) {
    threadgroup float scores[MLSTM_LONGEST * MLSTM_LONGEST]; /* weights first */
    threadgroup float carried[MLSTM_LONGEST];
    uint index = place.x, head = place.y, sequence = place.z;
    mlstm_tokens t = tokens_of(a, slots, starts, positions, sequence);
    uint room = a.chunk - t.in_chunk, skipped = index == 0 ? 0 : room + (index - 1) * a.chunk;
    if (skipped >= t.count)
        return;
    uint first = t.first + skipped;
    uint terms = min(index == 0 ? room : a.chunk, t.count - skipped);

    /* Thread l follows the exponent of term l through the tokens; one more that of C. */
    mlstm_exponents e = mlstm_no_terms(maximum_of(0.0f));
    for (uint j = 0; j < terms && thread_index <= terms; j++) {
        device const float *row = tables + mlstm_table_row(a, first + j, head);
        step_gates g;
        g.forget = row[MLSTM_FORGET];
        g.input = row[MLSTM_INPUT];
        e.own = next_exponent(e.own, thread_index, j, g);
        e.carried = aged(e.carried, g.forget);
        if (thread_index <= j)
            scores[j * MLSTM_LONGEST + thread_index] = weight_of(e.own);
        if (thread_index == terms)
            carried[j] = weight_of(e.carried);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);

    device const float *q = q_in + (a.q_first + ulong(head) * a.q_head);
    device const float *k = k_in + (a.k_first + ulong(head) * a.k_head);
    for (uint j = 0; j < terms; j++)
        for (uint l = group; l <= j; l += MLSTM_THREADS / SIMD_LANES) {
            float product = dot_product(q + ulong(first + j) * a.q_token,
                                        k + ulong(first + l) * a.k_token, a.d_qk, lane);
            if (lane == 0) {
                threadgroup float *score = scores + j * MLSTM_LONGEST + l;
                score[0] = weighted_score(product, score[0]);
                scores_out[mlstm_score_row(a, first + j, head) + l] = score[0];
            }
        }
    threadgroup_barrier(mem_flags::mem_threadgroup);

    device const float *n = borders + mlstm_border(a, t, sequence, index, head);
    for (uint j = group; j < terms; j += MLSTM_THREADS / SIMD_LANES) {
        float product = dot_product(q + ulong(first + j) * a.q_token, n, a.d_qk, lane);
        device float *row = tables + mlstm_table_row(a, first + j, head);
        if (lane == 0) {
            row[MLSTM_CARRIED] = carried[j];
            maximum m;
            m.high = row[MLSTM_MAXIMUM];
            m.low = row[MLSTM_REST];
            row[MLSTM_DIVISOR] =
                divisor_of(a, carried[j], product, scores + j * MLSTM_LONGEST, j + 1, m);
        }
    }
}

/* ---- Columns ---- */

enum {
    MLSTM_TOGETHER = 8, /* tokens that C is read for at once */
    MLSTM_SUMMED = 4,   /* of them, whose sums over groups of rows are taken at once */
    MLSTM_STAGED = 128  /* elements of q at a time */
};

/* Columns of C of a head, of the threadgroup and the thread. */
template <typename T> struct mlstm_slice {
    device typename T::stored *c; /* of the thread's quad */
    uint quad, row_group, count;  /* columns of the quad that are there */
};

/* The parts of q_j^T C of the thread's rows, for tokens [first, first + tokens). */
template <typename T>
static inline void
mlstm_read_out(constant mlstm_arguments &a, mlstm_slice<T> s, device const float *q, uint first,
               uint tokens, threadgroup float *staged, uint thread_index, thread float4 *sums) {
    for (uint j = 0; j < MLSTM_TOGETHER; j++)
        sums[j] = float4(0.0f);
    for (uint from = 0; from < a.d_qk; from += MLSTM_STAGED) {
        uint rows = min(a.d_qk - from, uint(MLSTM_STAGED));
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint i = thread_index; i < MLSTM_STAGED * MLSTM_TOGETHER; i += MLSTM_THREADS) {
            uint j = i / MLSTM_STAGED, d = i % MLSTM_STAGED;
            staged[d * MLSTM_TOGETHER + j] =
                j < tokens && d < rows ? q[ulong(first + j) * a.q_token + from + d] : 0.0f;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint d = s.row_group; d < rows; d += MLSTM_ROW_GROUPS) {
            float4 x = load_quad<T>(s.c + ulong(from + d) * a.c_row, s.count, a.wide_c != 0);
            threadgroup const float *q_d = staged + d * MLSTM_TOGETHER;
            for (uint j = 0; j < MLSTM_TOGETHER; j++)
                sums[j] = fma(float4(q_d[j]), x, sums[j]);
        }
    }
}

/* C after the chunk: terms [0, terms) from token `first` on. */
template <typename T>
static inline void mlstm_take_in(constant mlstm_arguments &a, mlstm_slice<T> s,
                                 device const float *k, device const float *v, uint first,
                                 threadgroup const float *weights, uint terms, float keep) {
    if (is_spoiled_weight(keep)) {
        for (uint d = s.row_group; d < a.d_qk; d += MLSTM_ROW_GROUPS)
            spoil_quad<T>(s.c + ulong(d) * a.c_row, s.count);
        return;
    }
    bool changes =
        as_type<uint>(keep) != 0x3f800000u; /* padding alone leaves C as it is, to the bit */
    for (uint l = 0; l < terms && !changes; l++)
        changes = !is_zero(weights[l]);
    if (!changes)
        return;
    for (uint d = s.row_group; d < a.d_qk; d += 4 * MLSTM_ROW_GROUPS) {
        float4 x[4];
        for (uint r = 0; r < 4; r++) {
            uint row = d + r * MLSTM_ROW_GROUPS;
            x[r] = kept(
                load_quad<T>(s.c + ulong(row) * a.c_row, row < a.d_qk ? s.count : 0, a.wide_c != 0),
                keep);
        }
        for (uint l = 0; l < terms; l++) {
            if (is_zero(weights[l]))
                continue;
            device const float *key = k + ulong(first + l) * a.k_token;
            float4 value =
                load_quad<f32_values>(v + ulong(first + l) * a.v_token, s.count, a.wide_v != 0);
            for (uint r = 0; r < 4; r++) {
                uint row = d + r * MLSTM_ROW_GROUPS;
                if (row < a.d_qk)
                    x[r] = with_term(x[r], weights[l], key[row], value);
            }
        }
        for (uint r = 0; r < 4; r++) {
            uint row = d + r * MLSTM_ROW_GROUPS;
            if (row < a.d_qk)
                store_quad<T>(s.c + ulong(row) * a.c_row, s.count, a.wide_c != 0, x[r]);
        }
    }
}

/* The bits of h of a token and column, from its part of q^T C. */
static inline uint mlstm_h(constant mlstm_arguments &a, device const float *table,
                            device const float *scores, device const float *v, uint terms,
                            float sum) {
    float carried = table[MLSTM_CARRIED];
    sum = is_zero(carried) ? 0.0f : carried * sum;
    for (uint l = 0; l < terms; l++)
        if (!is_zero(scores[l]))
            sum = fma(scores[l], v[ulong(l) * a.v_token], sum);
    return quotient(a, sum, table[MLSTM_DIVISOR]);
}

template <typename T>
kernel void
mlstm_columns(constant mlstm_arguments &a [[buffer(0)]], device const float *q_in [[buffer(1)]],
              device const float *k_in [[buffer(2)]], device const float *v_in [[buffer(3)]],
              device const int *slots [[buffer(4)]], device const int *starts [[buffer(5)]],
              device const ulong *positions [[buffer(6)]], device uchar *c_state [[buffer(7)]],
              device const float *tables [[buffer(8)]], device const float *scores [[buffer(9)]],
              device uint *h_out [[buffer(10)]], uint3 place [[threadgroup_position_in_grid]],
              uint thread_index [[thread_index_in_threadgroup]]) {
    threadgroup float weights[MLSTM_LONGEST];
    threadgroup float staged[MLSTM_STAGED * MLSTM_TOGETHER];
    threadgroup float sums[MLSTM_SUMMED * MLSTM_ROW_GROUPS * MLSTM_COLUMNS];
    mlstm_tokens t = tokens_of(a, slots, starts, positions, place.z);
    if (t.count == 0)
        return;
    uint head = place.y, left = place.x * MLSTM_COLUMNS;
    mlstm_slice<T> s;
    s.quad = thread_index % MLSTM_QUADS;
    s.row_group = thread_index / MLSTM_QUADS;
    uint column = left + s.quad * 4;
    s.count = column < a.d_v ? min(a.d_v - column, 4u) : 0;
    s.c = (device typename T::stored *)c_state +
          (a.c_first + ulong(t.slot) * a.c_slot + ulong(head) * a.c_head + column);
    device const float *q = q_in + (a.q_first + ulong(head) * a.q_head);
    device const float *k = k_in + (a.k_first + ulong(head) * a.k_head);
    device const float *v = v_in + (a.v_first + ulong(head) * a.v_head);
    uint out_column = left + thread_index % MLSTM_COLUMNS;

    uint token = t.first, end = t.first + t.count, room = a.chunk - t.in_chunk;
    for (; token < end; room = a.chunk) {
        uint terms = min(room, end - token);
        for (uint from = 0; from < terms; from += MLSTM_TOGETHER) {
            float4 parts[MLSTM_TOGETHER];
            mlstm_read_out<T>(a, s, q, token + from, min(terms - from, uint(MLSTM_TOGETHER)),
                              staged, thread_index, parts);
            for (uint half_of = 0; half_of < MLSTM_TOGETHER; half_of += MLSTM_SUMMED) {
                for (uint j = 0; j < MLSTM_SUMMED; j++) {
                    threadgroup float *own =
                        sums + (j * MLSTM_ROW_GROUPS + s.row_group) * MLSTM_COLUMNS + s.quad * 4;
                    float4 part = half_of == 0 ? parts[j] : parts[j + MLSTM_SUMMED];
                    own[0] = part.x;
                    own[1] = part.y;
                    own[2] = part.z;
                    own[3] = part.w;
                }
                threadgroup_barrier(mem_flags::mem_threadgroup);
                uint own = thread_index / MLSTM_COLUMNS, j = from + half_of + own;
                if (j < terms && out_column < a.d_v) {
                    float sum = mlstm_column(sums + own * MLSTM_ROW_GROUPS * MLSTM_COLUMNS,
                                             thread_index % MLSTM_COLUMNS);
                    h_out[a.h_first + ulong(token + j) * a.h_token + ulong(head) * a.h_head +
                          out_column] =
                        mlstm_h(a, tables + mlstm_table_row(a, token + j, head),
                                scores + mlstm_score_row(a, token + j, head),
                                v + (ulong(token) * a.v_token + out_column), j + 1, sum);
                }
                threadgroup_barrier(mem_flags::mem_threadgroup);
            }
        }
        if (thread_index < terms)
            weights[thread_index] =
                tables[mlstm_table_row(a, token + thread_index, head) + MLSTM_WRITE];
        threadgroup_barrier(mem_flags::mem_threadgroup);
        mlstm_take_in<T>(a, s, k, v + column, token, weights, terms,
                         tables[mlstm_table_row(a, token, head) + MLSTM_KEEP]);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        token += terms;
    }
}

typedef decltype(mlstm_gates<f32_values>) mlstm_gates_kernel;
typedef decltype(mlstm_columns<f32_values>) mlstm_columns_kernel;
template [[host_name("mlstm_gates_f32")]] kernel mlstm_gates_kernel mlstm_gates<f32_values>;
template [[host_name("mlstm_gates_f16")]] kernel mlstm_gates_kernel mlstm_gates<f16_values>;
template [[host_name("mlstm_gates_bf16")]] kernel mlstm_gates_kernel mlstm_gates<bf16_values>;
template [[host_name("mlstm_columns_f32")]] kernel mlstm_columns_kernel mlstm_columns<f32_values>;
template [[host_name("mlstm_columns_f16")]] kernel mlstm_columns_kernel mlstm_columns<f16_values>;
template [[host_name("mlstm_columns_bf16")]] kernel mlstm_columns_kernel mlstm_columns<bf16_values>;
