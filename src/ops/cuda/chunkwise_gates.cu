/* The chunkwise mLSTM: gates of all chunks, before any matrix is touched, and the normalizers (chunkwise_parts.h).
 *
 * Inside a chunk b_j is a prefix sum of log(sigmoid(f)), and with c_l = i_l - b_l
 *   m_j = b_j + max(m_before, max over l <= j of c_l),
 * so that a chunk acts on m as m_after = max(m_before + b_L, b_L + max_l c_l): a pair (b_L, peak), and pairs compose.
 * Three kernels: a warp a chunk makes its pair; a block a head composes the pairs of a sequence; a block a chunk writes
 * its tables, and the sums of its keys for the normalizer (where the sweep carries that along, a warp a chunk the
 * tables alone). Every exponent is at most 0. With the sigmoid gate i is
 * log(sigmoid(i)), and m is 0.
 *
 * f = -inf is taken as log(sigmoid(f)) = -1000, m = -inf as -1e30: what was stored before is then weighted by 0 in f32,
 * and differences stay finite. A chunk in which some f is -inf takes m down by 1e30, and what its tokens from the last of
 * those on store is its peak: where that is nothing, m is -inf again where it is stored, and C and n become 0. */
#include "ops/cuda/chunkwise_parts.h"

enum {
    PAIR_THREADS = 128,
    PASS = 1024, /* chunks whose pairs are composed at a time */
    SUM_THREADS = 128,
    SCAN_PARTS = 32, /* of a sequence's chunks, a warp each */
    SCAN_DEPTH = 8
};

struct gates_arguments {
    struct chunk_shape shape;
    chunkwise_array input, forget;
    int type;
    const float *m;
    int64_t m_slot, m_head;
    float *last;
    int64_t last_slot, last_head;
};

/* Two tokens of each lane: 2 lane and the next. */
struct lane_gates {
    float b[2], column[2];
    float total;   /* b of the chunk's last token */
    int forgotten; /* the last token whose f is -inf; -1: there is none */
};

static __device__ struct lane_gates
load_gates(const gates_arguments &a, const struct chunk_sequence &s, struct chunk c, int head) {
    int lane = (int)threadIdx.x % WARP;
    float log_f[2], log_i[2];
    int forgotten = -1;
#pragma unroll
    for (int j = 0; j < 2; j++) {
        int token = 2 * lane + j;
        log_f[j] = 0.0f;
        log_i[j] = -INFINITY;
        if (token >= c.tokens)
            continue;
        float f = log_sigmoid(
            load_as(a.forget.data, a.type, element_of(a.forget, s, c.first + token, head)));
        float i = load_as(a.input.data, a.type, element_of(a.input, s, c.first + token, head));
        forgotten = f == -INFINITY ? token : forgotten;
        log_f[j] = f < LOWEST_LOG ? LOWEST_LOG : f;
        log_i[j] = a.shape.sigmoid ? log_sigmoid(i) : i;
    }
    float sum = log_f[0] + log_f[1];
    for (int step = 1; step < WARP; step *= 2) {
        float before = __shfl_up_sync(ALL_LANES, sum, step);
        sum = lane >= step ? sum + before : sum;
    }
    float before = __shfl_up_sync(ALL_LANES, sum, 1);
    struct lane_gates g;
    g.b[0] = (lane ? before : 0.0f) + log_f[0];
    g.b[1] = g.b[0] + log_f[1];
    g.total = __shfl_sync(ALL_LANES, g.b[1], WARP - 1);
    g.column[0] = log_i[0] - g.b[0];
    g.column[1] = log_i[1] - g.b[1];
    unsigned lanes = __ballot_sync(ALL_LANES, forgotten >= 0);
    g.forgotten = lanes ? __shfl_sync(ALL_LANES, forgotten, WARP - 1 - __clz((int)lanes)) : -1;
    return g;
}

static __device__ __forceinline__ float warp_larger(float x) {
    for (int step = WARP / 2; step > 0; step /= 2)
        x = larger(x, __shfl_xor_sync(ALL_LANES, x, step));
    return x;
}

/* A warp has a chunk: its pair stands where m before and after it will be. */
static __global__
__launch_bounds__(PAIR_THREADS) void chunkwise_pairs(const __grid_constant__ gates_arguments a) {
    int head = (int)blockIdx.y;
    int place = (int)(blockIdx.x * (PAIR_THREADS / WARP) + threadIdx.x / WARP);
    cuda_wait();
    if (place >= a.shape.places)
        return;
    struct chunk_sequence s = sequence_at(a.shape, sequence_of(a.shape, place));
    if (place - s.place >= s.chunks)
        return;
    struct lane_gates g = load_gates(a, s, chunk_at(s, place - s.place), head);
    float highest = warp_larger(larger(g.column[0], g.column[1]));
    if (g.forgotten >= 0 && highest < INFINITY) { /* +inf and NaN stay */
        int token = 2 * ((int)threadIdx.x % WARP);
        highest = warp_larger(larger(token >= g.forgotten ? g.column[0] : -INFINITY,
                                     token + 1 >= g.forgotten ? g.column[1] : -INFINITY));
    }
    if (threadIdx.x % WARP == 0) {
        struct chunk_gates *gates = a.shape.at.gates + (int64_t)place * a.shape.heads + head;
        gates->before = g.forgotten < 0 ? g.total : LOWEST_MAXIMUM;
        gates->after = g.total + highest;
    }
}

/* What chunks do to m: max(m + total, peak). */
struct pair {
    float total, peak;
};

/* First x, then y. */
static __device__ __forceinline__ struct pair compose(struct pair x, struct pair y) {
    struct pair p = {x.total + y.total, larger(x.peak + y.total, y.peak)};
    return p;
}
/* Of this lane and all before it. */
static __device__ __forceinline__ struct pair warp_pairs(struct pair p) {
    for (int step = 1; step < WARP; step *= 2) {
        struct pair x = {__shfl_up_sync(ALL_LANES, p.total, step),
                         __shfl_up_sync(ALL_LANES, p.peak, step)};
        if ((int)threadIdx.x % WARP >= step)
            p = compose(x, p);
    }
    return p;
}

/* A block has a head of a sequence, a thread a chunk: m before and after each. */
static __global__
__launch_bounds__(PASS) void chunkwise_maxima(const __grid_constant__ gates_arguments a) {
    __shared__ struct pair warps[WARP];
    __shared__ float ends[PASS / WARP];
    int head = (int)blockIdx.x, sequence = (int)blockIdx.y;
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    cuda_wait();
    struct chunk_sequence s = sequence_at(a.shape, sequence);
    int state = a.shape.slot ? a.shape.slot[sequence] : sequence;
    bool given = a.m && !a.shape.sigmoid && state >= 0;
    float m = given ? a.m[state * a.m_slot + head * a.m_head] : 0.0f;
    m = m < LOWEST_MAXIMUM ? LOWEST_MAXIMUM : m;
    for (int pass = 0; pass < s.chunks; pass += PASS) {
        int index = pass + (int)threadIdx.x;
        struct chunk_gates *gates =
            a.shape.at.gates + (int64_t)(s.place + index) * a.shape.heads + head;
        struct pair p = {0.0f, -INFINITY};
        if (index < s.chunks)
            p = {gates->before, gates->after};
        struct pair all = warp_pairs(p);
        if (lane == WARP - 1)
            warps[warp] = all;
        __syncthreads();
        float before = m; /* the warp's first chunk */
        for (int i = 0; i < warp; i++)
            before = larger(before + warps[i].total, warps[i].peak);
        float after = larger(before + all.total, all.peak);
        float last = __shfl_up_sync(ALL_LANES, after, 1);
        if (index < s.chunks) {
            gates->before = a.shape.sigmoid ? 0.0f : lane ? last : before;
            gates->after = a.shape.sigmoid ? 0.0f : after;
        }
        if (lane == WARP - 1)
            ends[warp] = after;
        __syncthreads();
        m = ends[PASS / WARP - 1];
        __syncthreads();
    }
    if (a.last && threadIdx.x == 0 && !a.shape.sigmoid && state >= 0)
        a.last[state * a.last_slot + head * a.last_head] = is_something(m) ? m : -INFINITY;
}

/* The tables of a chunk, from m before and after it; abar in `weights`, too. One warp. */
static __device__ void write_tables(const gates_arguments &a, const struct lane_gates &g,
                                    struct chunk c, int64_t place, float before, float after,
                                    float *weights) {
    struct chunk_gates *gates = a.shape.at.gates + place;
    struct chunk_factors *factors = a.shape.at.factors + place;
    int lane = (int)threadIdx.x % WARP;
    bool stored = is_something(after);
    float most = larger(g.column[0], g.column[1]);
    for (int step = 1; step < WARP; step *= 2) {
        float other = __shfl_up_sync(ALL_LANES, most, step);
        most = lane >= step ? larger(most, other) : most;
    }
    float others = __shfl_up_sync(ALL_LANES, most, 1);
    float highest = lane ? larger(before, others) : before;
    uint32_t won[2];
#pragma unroll
    for (int j = 0; j < 2; j++) {
        int token = 2 * lane + j;
        bool there = token < c.tokens;
        won[j] = __ballot_sync(ALL_LANES, there && g.column[j] > highest);
        highest = larger(highest, g.column[j]);
        float m = a.shape.sigmoid ? 0.0f : g.b[j] + highest;
        float row = g.b[j] - m;
        gates->row[token] = there ? row : -INFINITY;
        gates->column[token] = there ? g.column[j] : -INFINITY;
        gates->m[token] = there ? m : 0.0f;
        factors->read[token] = there ? a.shape.scale * expf(row + before) : 0.0f;
        weights[token] = there && stored ? expf(g.total + g.column[j] - after) : 0.0f;
        factors->write[token] = weights[token];
        factors->share[token] = 0.0f;
    }
    if (lane == 0) {
        gates->highest[0] = won[0];
        gates->highest[1] = won[1];
        factors->keep = stored && g.forgotten < 0 ? expf(g.total + before - after) : 0.0f;
    }
}

/* A warp has a chunk. */
static __global__
__launch_bounds__(PAIR_THREADS) void chunkwise_tables(const __grid_constant__ gates_arguments a) {
    __shared__ float weights[PAIR_THREADS / WARP][CHUNK];
    int head = (int)blockIdx.y, warp = (int)threadIdx.x / WARP;
    int place = (int)(blockIdx.x * (PAIR_THREADS / WARP)) + warp;
    cuda_wait();
    if (place >= a.shape.places)
        return;
    struct chunk_sequence s = sequence_at(a.shape, sequence_of(a.shape, place));
    if (place - s.place >= s.chunks)
        return;
    struct chunk c = chunk_at(s, place - s.place);
    int64_t at = (int64_t)place * a.shape.heads + head;
    const struct chunk_gates *gates = a.shape.at.gates + at;
    write_tables(a, load_gates(a, s, c, head), c, at, gates->before, gates->after, weights[warp]);
}

static struct gates_arguments gates_of(const cuda_chunkwise *c) {
    struct gates_arguments a = {};
    a.shape = chunkwise_shape(c);
    a.input = c->input_gate;
    a.forget = c->forget_gate;
    a.type = c->gate_type;
    a.m = c->initial.m;
    a.m_slot = c->initial.m_slot;
    a.m_head = c->initial.m_head;
    a.last = c->last.m;
    a.last_slot = c->last.m_slot;
    a.last_head = c->last.m_head;
    return a;
}

xlstm_status chunkwise_run_gates(const cuda_chunkwise *c) {
    const int chunks = PAIR_THREADS / WARP; /* of a block */
    struct gates_arguments a = gates_of(c);
    dim3 places((unsigned)((a.shape.places + chunks - 1) / chunks), (unsigned)c->heads);
    dim3 heads((unsigned)c->heads, (unsigned)c->sequences);
    xlstm_status status =
        chunkwise_launch(c, "chunkwise_pairs", chunkwise_pairs, places, PAIR_THREADS, 0, a);
    return status == XLSTM_OK
               ? chunkwise_launch(c, "chunkwise_maxima", chunkwise_maxima, heads, PASS, 0, a)
               : status;
}

xlstm_status chunkwise_run_tables(const cuda_chunkwise *c) {
    const int chunks = PAIR_THREADS / WARP; /* of a block */
    struct gates_arguments a = gates_of(c);
    dim3 places((unsigned)((a.shape.places + chunks - 1) / chunks), (unsigned)c->heads);
    return chunkwise_launch(c, "chunkwise_tables", chunkwise_tables, places, PAIR_THREADS, 0, a);
}

/* ---- Normalizers ----
 * Forward:  n after a chunk = keep n + sum_l abar_l k_l. Backward: dn before = keep dn + sum_j s bbar_j e_j q_j.
 * The sums of all chunks are made side by side, where the normalizers will be; then a thread of every element goes
 * through the chunks. */

struct normalizer_arguments {
    struct chunk_shape shape;
    struct gates_arguments gates; /* forward: the tables are written besides */
    chunkwise_array x;            /* k; backward: q */
    bool backward;
    float *at;
    const void *first;
    void *last;
    int first_type, last_type;
    int64_t first_slot, first_head, last_slot, last_head;
};

static __global__
__launch_bounds__(SUM_THREADS) void chunkwise_sums(const __grid_constant__ normalizer_arguments a) {
    __shared__ float weight[CHUNK];
    int head = (int)blockIdx.y, place = (int)blockIdx.x;
    cuda_wait();
    int sequence = sequence_of(a.shape, place);
    struct chunk_sequence s = sequence_at(a.shape, sequence);
    if (place - s.place >= s.chunks)
        return;
    struct chunk c = chunk_at(s, place - s.place);
    int64_t at = (int64_t)place * a.shape.heads + head;
    const struct chunk_factors *factors = a.shape.at.factors + at;
    if (!a.backward && threadIdx.x < WARP) {
        const struct chunk_gates *gates = a.shape.at.gates + at;
        write_tables(a.gates, load_gates(a.gates, s, c, head), c, at, gates->before, gates->after,
                     weight);
    }
    if (a.backward && threadIdx.x < CHUNK)
        weight[threadIdx.x] = factors->read[threadIdx.x] * factors->share[threadIdx.x];
    __syncthreads();
    const uint16_t *x = (const uint16_t *)a.x.data + element_of(a.x, s, c.first, head);
    for (int d = 2 * (int)threadIdx.x; d < a.shape.d_qk; d += 2 * SUM_THREADS) {
        float sum[2] = {0.0f, 0.0f};
#pragma unroll 16
        for (int t = 0; t < c.tokens; t++) {
            uint32_t two = *(const uint32_t *)(x + t * a.x.token + d);
            sum[0] += weight[t] * from_bf16((uint16_t)two);
            sum[1] += weight[t] * from_bf16((uint16_t)(two >> 16));
        }
        *(float2 *)(a.at + at * a.shape.d_qk + d) = make_float2(sum[0], sum[1]);
    }
}

/* The chunks of a part of the sequence, in the order of the sweep: n after it from n before it, which is written for
 * every chunk where `writes`; *kept is multiplied by the product of keep. */
static __device__ __forceinline__ float scan_part(const normalizer_arguments &a,
                                                  const struct chunk_sequence &s, int head, int d,
                                                  int from, int to, float n, float *kept,
                                                  bool writes) {
    for (; from < to; from += SCAN_DEPTH) {
        float sum[SCAN_DEPTH], keep[SCAN_DEPTH];
        int64_t at[SCAN_DEPTH];
#pragma unroll
        for (int i = 0; i < SCAN_DEPTH; i++) {
            int index = from + i < to ? from + i : to - 1;
            int chunk = a.backward ? s.chunks - 1 - index : index;
            at[i] = (int64_t)(s.place + chunk) * a.shape.heads + head;
            sum[i] = a.at[at[i] * a.shape.d_qk + d];
            keep[i] = a.shape.at.factors[at[i]].keep;
        }
#pragma unroll
        for (int i = 0; i < SCAN_DEPTH; i++)
            if (from + i < to) {
                if (writes)
                    a.at[at[i] * a.shape.d_qk + d] = n;
                n = keep[i] * n + sum[i];
                *kept *= keep[i];
            }
    }
    return n;
}

/* A block has 32 elements of the normalizer of a head of a sequence; a warp has a part of the chunks, which it first
 * goes through from 0. */
static __global__ __launch_bounds__(SCAN_PARTS *WARP) void chunkwise_normalizer(
    const __grid_constant__ normalizer_arguments a) {
    __shared__ float ends[SCAN_PARTS][WARP], products[SCAN_PARTS];
    int head = (int)blockIdx.x, sequence = (int)blockIdx.y;
    int lane = (int)threadIdx.x % WARP, part = (int)threadIdx.x / WARP;
    int d = (int)blockIdx.z * WARP + lane;
    cuda_wait();
    struct chunk_sequence s = sequence_at(a.shape, sequence);
    int64_t slot = a.shape.slot ? a.shape.slot[sequence] : sequence;
    int from = (int)((int64_t)s.chunks * part / SCAN_PARTS);
    int to = (int)((int64_t)s.chunks * (part + 1) / SCAN_PARTS);
    float n = 0.0f, kept = 1.0f;
    if (a.first && slot >= 0)
        n = load_as(a.first, a.first_type, slot * a.first_slot + head * a.first_head + d);
    ends[part][lane] = scan_part(a, s, head, d, from, to, 0.0f, &kept, false);
    if (lane == 0)
        products[part] = kept;
    __syncthreads();
    for (int i = 0; i < part; i++)
        n = products[i] * n + ends[i][lane];
    n = scan_part(a, s, head, d, from, to, n, &kept, true);
    if (a.last && part == SCAN_PARTS - 1 && slot >= 0)
        store_as(a.last, a.last_type, slot * a.last_slot + head * a.last_head + d, n);
}

xlstm_status chunkwise_run_normalizer(const cuda_chunkwise *c, bool backward) {
    const chunkwise_state *first = backward ? &c->dlast : &c->initial;
    const chunkwise_state *last = backward ? &c->dinitial : &c->last;
    struct normalizer_arguments a = {};
    a.shape = chunkwise_shape(c);
    a.gates = gates_of(c);
    a.x = backward ? c->q : c->k;
    a.backward = backward;
    a.at = backward ? a.shape.at.dnormalizer : a.shape.at.normalizer;
    a.first = first->n;
    a.first_type = first->type;
    a.first_slot = first->n_slot;
    a.first_head = first->n_head;
    a.last = last->n;
    a.last_type = last->type;
    a.last_slot = last->n_slot;
    a.last_head = last->n_head;
    dim3 chunks((unsigned)a.shape.places, (unsigned)c->heads);
    dim3 heads((unsigned)c->heads, (unsigned)c->sequences, (unsigned)(c->d_qk / WARP));
    xlstm_status status =
        chunkwise_launch(c, "chunkwise_sums", chunkwise_sums, chunks, SUM_THREADS, 0, a);
    return status == XLSTM_OK ? chunkwise_launch(c, "chunkwise_normalizer", chunkwise_normalizer,
                                                 heads, SCAN_PARTS * WARP, 0, a)
                              : status;
}
