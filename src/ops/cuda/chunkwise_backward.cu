/* The chunkwise mLSTM: gradients of the gates, after those of q, k and v (chunkwise_parts.h).
 *
 *   di_l = k_l . dk_l,   dlogf_t = sum over tau >= t of (q . dq - k . dk)_tau + E,   E = <dc, C> + <dn, n> at the end
 * Both products are made by the sweeps, of dq and dk before they are rounded: what dS lost when it was rounded is in both, and
 * cancels in the sum. In the exact form a gradient dm_t = -eps rho_t dh_t . h_t, at the last token
 * with the given dm - E besides, goes to the input gate of the token that was the maximum, and to the forget gates
 * after it: walking back from the end, dm is gathered until a token is met whose own input gate became m. That one gets
 * what was gathered; what is left over at the first token is the initial state's.
 *
 * Both are sums from the end that begin anew at certain tokens (the first one where f = -inf). A block has a head of a
 * sequence; its warps sum chunks, one warp goes through the chunks, the warps write. Of few sequences, heads are cut into
 * parts, a block each: chunks are summed by a kernel in front, and every block goes through all chunks behind its own. */
#include "ops/cuda/chunkwise_scores.h"

enum {
    SPAN_THREADS = 128,
    GATE_THREADS = 1024,
    GATE_WARPS = GATE_THREADS / WARP,
    PASS = 1024,
    PART_CHUNKS = 8 /* at least */
};

struct gradient_arguments {
    struct chunk_shape shape;
    chunkwise_array input, forget, di, df;
    int type, di_type, df_type;
    chunkwise_state first, last, dfirst, dlast;
    int parts; /* of every sequence; more than one: the sums of chunks are in memory */
};

/* ---- Products of whole states ---- */

/* <dc, c> + <dn, n> of a head, 0 where either is absent; known to thread 0 of the block. */
static __device__ float state_product(const gradient_arguments &a, const chunkwise_state &d,
                                      const chunkwise_state &x, int64_t slot, int head) {
    __shared__ float parts[WARP];
    float sum = 0.0f;
    if (d.c && x.c)
        for (int i = (int)threadIdx.x; i < a.shape.d_qk * a.shape.d_v; i += GATE_THREADS)
            sum += load_as(d.c, d.type, slot * d.c_slot + head * d.c_head + i) *
                   load_as(x.c, x.type, slot * x.c_slot + head * x.c_head + i);
    if (d.n && x.n)
        for (int i = (int)threadIdx.x; i < a.shape.d_qk; i += GATE_THREADS)
            sum += load_as(d.n, d.type, slot * d.n_slot + head * d.n_head + i) *
                   load_as(x.n, x.type, slot * x.n_slot + head * x.n_head + i);
    return block_sum(sum, parts);
}

/* ---- Sums from the end ---- */

static __device__ __forceinline__ struct span token_span(float x, bool cut) {
    struct span s = {cut ? 0.0f : x, cut};
    return s;
}
static __device__ __forceinline__ float through(struct span s, float sum) {
    return s.cut ? s.sum : s.sum + sum;
}
/* First `late`, then `early`. */
static __device__ __forceinline__ struct span join(struct span late, struct span early) {
    struct span s = {early.cut ? early.sum : early.sum + late.sum, early.cut || late.cut};
    return s;
}
/* Of this lane and all behind it. */
static __device__ __forceinline__ struct span warp_spans(struct span s) {
    int lane = (int)threadIdx.x % WARP;
    for (int step = 1; step < WARP; step *= 2) {
        struct span late;
        late.sum = __shfl_down_sync(ALL_LANES, s.sum, step);
        late.cut = __shfl_down_sync(ALL_LANES, (int)s.cut, step);
        if (lane + step < WARP)
            s = join(late, s);
    }
    return s;
}
/* Of the lanes behind this one alone. */
static __device__ __forceinline__ struct span behind(struct span s) {
    struct span late;
    late.sum = __shfl_down_sync(ALL_LANES, s.sum, 1);
    late.cut = __shfl_down_sync(ALL_LANES, (int)s.cut, 1);
    struct span none = {0.0f, false};
    return (int)threadIdx.x % WARP == WARP - 1 ? none : late;
}

/* Two tokens of each lane: 2 lane and the next. */
struct lane_gradients {
    struct span gate[2], maximum[2];
    float dm[2], key[2], f[2];
};

/* All parts of a token's dot. */
static __device__ __forceinline__ float dot_of(const struct chunk_shape &a, const float *dots,
                                               int64_t at, int token) {
    float sum = 0.0f;
    for (int part = 0; part < a.d_qk; part += CHUNK)
        sum += dots[at * a.d_qk + part + token];
    return sum;
}

static __device__ struct lane_gradients
load_gradients(const gradient_arguments &a, const struct chunk_sequence &s, int index, int head) {
    int lane = (int)threadIdx.x % WARP;
    struct chunk c = chunk_at(s, index);
    int64_t at = (int64_t)(s.place + index) * a.shape.heads + head;
    const struct chunk_gates *gates = a.shape.at.gates + at;
    struct lane_gradients g;
#pragma unroll
    for (int j = 0; j < 2; j++) {
        int token = 2 * lane + j;
        g.gate[j] = g.maximum[j] = token_span(0.0f, false);
        g.dm[j] = g.key[j] = g.f[j] = 0.0f;
        if (token >= c.tokens)
            continue;
        float query = dot_of(a.shape, a.shape.at.query_dots, at, token);
        g.key[j] = dot_of(a.shape, a.shape.at.key_dots, at, token);
        g.f[j] = load_as(a.forget.data, a.type, element_of(a.forget, s, c.first + token, head));
        g.gate[j] = token_span(query - g.key[j], g.f[j] == -INFINITY);
        if (!a.shape.exact || a.shape.sigmoid)
            continue;
        float d = fabsf(a.shape.at.denominator[at * CHUNK + token]), least = expf(-gates->m[token]);
        g.dm[j] =
            -a.shape.at.delta[at * CHUNK + token] * a.shape.eps / (larger(d, least) + a.shape.eps);
        g.maximum[j] = token_span(g.dm[j], gates->highest[j] >> lane & 1);
    }
    return g;
}

static __device__ void write_gradients(const gradient_arguments &a, const struct chunk_sequence &s,
                                       int index, int head, const struct lane_gradients &g,
                                       float gate, float maximum) {
    int lane = (int)threadIdx.x % WARP;
    struct chunk c = chunk_at(s, index);
    gate = through(behind(warp_spans(join(g.gate[1], g.gate[0]))), gate);
    maximum = through(behind(warp_spans(join(g.maximum[1], g.maximum[0]))), maximum);
#pragma unroll
    for (int j = 1; j >= 0; j--) {
        int token = 2 * lane + j;
        float to_input = g.maximum[j].cut ? maximum + g.dm[j] : 0.0f;
        gate = through(g.gate[j], gate);
        maximum = through(g.maximum[j], maximum);
        if (token >= c.tokens)
            continue;
        float di = g.key[j] + to_input;
        if (a.shape.sigmoid)
            di *= sigmoid(
                -load_as(a.input.data, a.type, element_of(a.input, s, c.first + token, head)));
        if (a.di.data)
            store_as(a.di.data, a.di_type, element_of(a.di, s, c.first + token, head), di);
        if (a.df.data)
            store_as(a.df.data, a.df_type, element_of(a.df, s, c.first + token, head),
                     (gate + maximum) * sigmoid(-g.f[j]));
    }
}

static __device__ struct chunk_spans spans_of(const struct lane_gradients &g) {
    struct chunk_spans s = {warp_spans(join(g.gate[1], g.gate[0])),
                            warp_spans(join(g.maximum[1], g.maximum[0]))};
    return s; /* the first lane's are those of all tokens */
}

/* A warp has a chunk. */
static __global__
__launch_bounds__(SPAN_THREADS) void chunkwise_spans(const __grid_constant__ gradient_arguments a) {
    int head = (int)blockIdx.y;
    int place = (int)(blockIdx.x * (SPAN_THREADS / WARP) + threadIdx.x / WARP);
    cuda_wait();
    if (place >= a.shape.places)
        return;
    struct chunk_sequence s = sequence_at(a.shape, sequence_of(a.shape, place));
    if (place - s.place >= s.chunks)
        return;
    struct chunk_spans spans = spans_of(load_gradients(a, s, place - s.place, head));
    if (threadIdx.x % WARP == 0)
        a.shape.at.spans[(int64_t)place * a.shape.heads + head] = spans;
}

/* From the last chunk to the first: the sum behind each, and behind all. One thread. */
static __device__ float go_through(const struct span *__restrict__ spans,
                                   float *__restrict__ behind_each, int count, float sum) {
#pragma unroll 8
    for (int i = count - 1; i >= 0; i--) {
        behind_each[i] = sum;
        sum = through(spans[i], sum);
    }
    return sum;
}

static __global__ __launch_bounds__(GATE_THREADS) void chunkwise_gate_gradients(
    const __grid_constant__ gradient_arguments a) {
    __shared__ struct span gates[PASS], maxima[PASS];
    __shared__ float gate_behind[PASS], maximum_behind[PASS], carried[2];
    int head = (int)blockIdx.x, sequence = (int)blockIdx.y, part = (int)blockIdx.z;
    int warp = (int)threadIdx.x / WARP;
    cuda_wait();
    struct chunk_sequence s = sequence_at(a.shape, sequence);
    int64_t slot = a.shape.slot ? a.shape.slot[sequence] : sequence;
    int first_own = (int)((int64_t)s.chunks * part / a.parts);
    int end_own = (int)((int64_t)s.chunks * (part + 1) / a.parts);
    float last = a.shape.exact ? state_product(a, a.dlast, a.last, slot, head) : 0.0f;
    bool has_m = a.shape.exact && !a.shape.sigmoid;
    float dm = has_m && a.dlast.m ? a.dlast.m[slot * a.dlast.m_slot + head * a.dlast.m_head] : 0.0f;
    if (threadIdx.x == 0) {
        carried[0] = last;
        carried[1] = has_m ? dm - last : 0.0f;
    }
    for (int end = s.chunks; end > first_own; end -= PASS) {
        int from = end - PASS > first_own ? end - PASS : first_own, count = end - from;
        int own = (end < end_own ? end : end_own) - from;
        if (a.parts > 1 && (int)threadIdx.x < count) {
            struct chunk_spans spans =
                a.shape.at
                    .spans[(int64_t)(s.place + from + (int)threadIdx.x) * a.shape.heads + head];
            gates[threadIdx.x] = spans.gate;
            maxima[threadIdx.x] = spans.maximum;
        }
        for (int i = warp; a.parts == 1 && i < count; i += GATE_WARPS) {
            struct chunk_spans spans = spans_of(load_gradients(a, s, from + i, head));
            if (threadIdx.x % WARP == 0) {
                gates[i] = spans.gate;
                maxima[i] = spans.maximum;
            }
        }
        __syncthreads();
        if (threadIdx.x == 0)
            carried[0] = go_through(gates, gate_behind, count, carried[0]);
        if (threadIdx.x == WARP)
            carried[1] = go_through(maxima, maximum_behind, count, carried[1]);
        __syncthreads();
        for (int i = warp; i < own; i += GATE_WARPS)
            write_gradients(a, s, from + i, head, load_gradients(a, s, from + i, head),
                            gate_behind[i], maximum_behind[i]);
        __syncthreads();
    }
    if (part > 0)
        return;
    if (!a.shape.exact && a.dfirst.n)
        for (int i = (int)threadIdx.x; i < a.shape.d_qk; i += GATE_THREADS)
            store_as(a.dfirst.n, a.dfirst.type, slot * a.dfirst.n_slot + head * a.dfirst.n_head + i,
                     0.0f);
    if (!a.dfirst.m)
        return;
    float first = has_m ? state_product(a, a.dfirst, a.first, slot, head) : 0.0f;
    if (threadIdx.x == 0)
        a.dfirst.m[slot * a.dfirst.m_slot + head * a.dfirst.m_head] =
            has_m ? first + carried[1] : 0.0f;
}

/* So many that the GPU is full. */
static int parts_of(const cuda_chunkwise *c, const struct chunk_shape &s) {
    int fill = c->processors / (s.heads * s.sequences), most = s.places / s.sequences / PART_CHUNKS;
    int parts = fill < most ? fill : most;
    return parts < 1 ? 1 : parts;
}

xlstm_status chunkwise_run_gate_gradients(const cuda_chunkwise *c) {
    struct gradient_arguments a = {};
    a.shape = chunkwise_shape(c);
    a.input = c->input_gate;
    a.forget = c->forget_gate;
    a.di = c->di;
    a.df = c->df;
    a.type = c->gate_type;
    a.di_type = c->di_type;
    a.df_type = c->df_type;
    a.first = c->initial;
    a.last = c->last;
    a.dfirst = c->dinitial;
    a.dlast = c->dlast;
    a.parts = parts_of(c, a.shape);
    const int chunks = SPAN_THREADS / WARP; /* of a block */
    dim3 spans((unsigned)((a.shape.places + chunks - 1) / chunks), (unsigned)c->heads);
    dim3 parts((unsigned)c->heads, (unsigned)c->sequences, (unsigned)a.parts);
    xlstm_status status = XLSTM_OK;
    if (a.parts > 1)
        status = chunkwise_launch(c, "chunkwise_spans", chunkwise_spans, spans, SPAN_THREADS, 0, a);
    return status == XLSTM_OK
               ? chunkwise_launch(c, "chunkwise_gate_gradients", chunkwise_gate_gradients, parts,
                                  GATE_THREADS, 0, a)
               : status;
}
