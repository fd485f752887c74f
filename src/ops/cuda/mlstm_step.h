/* The mLSTM token by token with C in memory: what a single token of a sequence takes, and keys too long for registers.
 * C is read once and written once a token; with a ring it is read, and written when the ring is full.
 *
 * Without a ring, C is X exp(carried), where `carried` is 0 before the token: X = C + I exp(-carried) k v^T, h comes
 * from X, and C becomes X exp(carried + rest), `rest` being what m loses when it is rounded up. Where the decay is
 * deep, X = F C + I k v^T. Sequences in registers (mlstm_sequence.h) do the same with more tokens between two
 * foldings, so that padding behind a token changes no bit.
 *
 * With a ring of R, h is the sum of what C gives and of the scores of up to R terms: rows of the ring, then tokens of
 * this call. */
#ifndef OPS_CUDA_MLSTM_STEP_H
#define OPS_CUDA_MLSTM_STEP_H

#include "ops/cuda/mlstm.h"

/* A token as warp 0 leaves it to the block. */
struct mlstm_note {
    float before;         /* C and n are multiplied by it first; 0: they were forgotten */
    mlstm_maximum weight; /* of k v^T in X */
    float carried;        /* of X, or of C where there is a ring, in h */
    mlstm_maximum after;  /* of X in the new C; of C, where there is a ring */
    mlstm_maximum m;
    float stored_m;
    bool last; /* this block writes n, m and the ring */
};

struct mlstm_step_shared {
    struct mlstm_note note;
    float weights[OPS_MAX_DEFERRED], folds[OPS_MAX_DEFERRED], scores[OPS_MAX_DEFERRED];
    float products[MLSTM_WARPS];
};

/* A block's shared memory. */
struct mlstm_step_room {
    struct mlstm_step_shared *s;
    float *q, *k, *n; /* [d_qk] */
    float *parts;     /* [wings][warps][columns] */
};

static __device__ __forceinline__ mlstm_step_room mlstm_step_room_of(const mlstm_arguments &a,
                                                                     mlstm_step_shared *s,
                                                                     float *room) {
    mlstm_step_room r = {s, room, room + a.d_qk, room + 2 * a.d_qk, room + 3 * a.d_qk};
    return r;
}

/* Where terms stand: [0, old) in the ring, behind them tokens from `first` on. */
struct mlstm_terms {
    int count, old, first;
};

static __device__ __forceinline__ float mlstm_term(const mlstm_rows &tokens, const mlstm_rows &ring,
                                                   const mlstm_terms &t, int slot, int head, int l,
                                                   int64_t index) {
    return l < t.old ? mlstm_load(ring, slot, head, l, index)
                     : mlstm_load(tokens, t.first + l - t.old, head, 0, index);
}

/* What warp 0 knows of the terms; lane l has exponents of terms l and l + 32. */
struct mlstm_exponents {
    float own[2], carried;
    mlstm_maximum m;
};

static __device__ __forceinline__ void mlstm_no_terms(mlstm_exponents *e, mlstm_maximum m) {
    e->own[0] = e->own[1] = -INFINITY;
    e->carried = 0.0f;
    e->m = m;
}

/* Term `index` comes. */
static __device__ __forceinline__ void mlstm_add(mlstm_exponents *e, int index, float input,
                                                 float log_f) {
    mlstm_gates g = mlstm_pass(input, log_f, &e->m);
    e->carried += g.forget.high;
    int lane = (int)threadIdx.x % WARP;
#pragma unroll
    for (int i = 0; i < 2; i++)
        e->own[i] = index == lane + i * WARP ? g.input.high : e->own[i] + g.forget.high;
}

/* Terms of the ring that stand there when the call begins. */
static __device__ inline void mlstm_add_held(const mlstm_arguments &a, const mlstm_tokens &t,
                                             int head, mlstm_exponents *e) {
    int lane = (int)threadIdx.x % WARP;
    float input[2] = {0.0f, 0.0f}, log_f[2] = {0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < 2; i++)
        if (lane + i * WARP < t.held) {
            input[i] = mlstm_load(a.ring_i, t.slot, head, 0, lane + i * WARP);
            log_f[i] = log_sigmoid(mlstm_load(a.ring_f, t.slot, head, 0, lane + i * WARP));
        }
    for (int l = 0; l < t.held; l++) {
        float of_first = __shfl_sync(ALL_LANES, input[0], l % WARP);
        float of_second = __shfl_sync(ALL_LANES, input[1], l % WARP);
        float log_first = __shfl_sync(ALL_LANES, log_f[0], l % WARP);
        float log_second = __shfl_sync(ALL_LANES, log_f[1], l % WARP);
        mlstm_add(e, l, l < WARP ? of_first : of_second, l < WARP ? log_first : log_second);
    }
}

/* The gates of a token, and m before the first, as they are in memory. */
struct mlstm_step_gate {
    float input, forget, m;
};

static __device__ __forceinline__ mlstm_step_gate mlstm_gate_of(const mlstm_arguments &a,
                                                                int64_t token, int head) {
    mlstm_step_gate g = {mlstm_load(a.i, token, 0, 0, head), mlstm_load(a.f, token, 0, 0, head),
                         0.0f};
    return g;
}

/* Warp 0 takes in the newest of `terms`. */
template <bool RING>
static __device__ inline void mlstm_step_gates(mlstm_step_gate gate, int terms, bool folds,
                                               mlstm_exponents *e, mlstm_step_shared *s) {
    int lane = (int)threadIdx.x;
    float rest;
    mlstm_maximum carried = {0.0f, 0.0f};
    const mlstm_maximum zero = {0.0f, 0.0f};
    mlstm_note note = {1.0f, zero, 0.0f, zero, e->m, s->note.stored_m, s->note.last};
    if (RING) {
        mlstm_add(e, terms - 1, gate.input, log_sigmoid(gate.forget));
        carried.high = e->carried;
    } else {
        mlstm_decay d =
            mlstm_age(mlstm_pass(gate.input, log_sigmoid(gate.forget), &e->m), &carried);
        note.before = mlstm_exp(d.before).high;
        note.weight = mlstm_exp(d.own);
    }
    note.m = e->m;
    note.carried = mlstm_exp(carried).high;
    for (int i = 0; RING && i < 2; i++)
        s->weights[lane + i * WARP] = expf(e->own[i]);
    if (folds) {
        note.stored_m = mlstm_round_up(e->m, &rest);
        note.after = mlstm_exp(mlstm_plus(carried, rest, 0.0f));
        for (int i = 0; RING && i < 2; i++)
            s->folds[lane + i * WARP] = expf(e->own[i] + rest);
        mlstm_maximum m = {note.stored_m, 0.0f};
        mlstm_no_terms(e, m);
    }
    __syncwarp();
    if (lane == 0)
        s->note = note;
}

/* ---- Passes over C ---- */

/* whole: a thread has all columns of a vector or none, and vectors are moved together. */
template <int TYPE, bool whole = false>
static __device__ __forceinline__ void mlstm_fetch(const mlstm_arguments &a, const mlstm_slice &own,
                                                   int first, uint4 *raw) {
#pragma unroll
    for (int r = 0; r < MLSTM_ROWS; r++) {
        int row = first + r * MLSTM_GROUPS + own.group;
        if (!whole)
            raw[r] = mlstm_load_vector<TYPE>(own.c + row * own.row_bytes,
                                             row < a.d_qk ? own.count : 0, a.wide);
        else if (row < a.d_qk && own.count)
            raw[r] = load_streaming(own.c + row * own.row_bytes);
        else
            raw[r] = make_uint4(0, 0, 0, 0);
    }
}

/* 256 rows without a ring: X, its part of q^T X, and C. */
template <int TYPE, bool whole = false>
static __device__ __forceinline__ void
mlstm_step_rows(const mlstm_arguments &a, const mlstm_slice &own, int first, const uint4 *raw,
                const mlstm_maximum *value, const mlstm_step_room &room, float *sum) {
    const int most = mlstm_vector<TYPE>::COUNT;
    const mlstm_note &note = room.s->note;
    const float before = note.before;
    const mlstm_maximum weight = note.weight, after = note.after;
#pragma unroll
    for (int r = 0; r < MLSTM_ROWS; r++) {
        int row = first + r * MLSTM_GROUPS + own.group;
        if (row >= a.d_qk)
            continue;
        float x[most], q = room.q[row], key = room.k[row];
        mlstm_unpack<TYPE>(raw[r], x);
#pragma unroll
        for (int i = 0; i < most; i++) {
            x[i] = before == 0.0f ? 0.0f : x[i] * before;
            float lost = 0.0f;
            if (weight.high != 0.0f)
                mlstm_add_product<TYPE>(&x[i], &lost, key, value[i]);
            sum[i] = fmaf(q, x[i], sum[i]);
            x[i] = mlstm_folded<TYPE>(x[i], lost, after);
        }
        if (!whole)
            mlstm_store_vector<TYPE>(own.c + row * own.row_bytes, own.count, a.wide,
                                     mlstm_pack<TYPE>(x));
        else if (own.count)
            store_streaming(own.c + row * own.row_bytes, mlstm_pack<TYPE>(x));
    }
}

/* 256 rows with a ring: their part of q^T C. */
template <int TYPE>
static __device__ __forceinline__ void
mlstm_read_rows(const mlstm_arguments &a, const mlstm_slice &own, int first, const uint4 *raw,
                const float *q, float *sum) {
    const int most = mlstm_vector<TYPE>::COUNT;
#pragma unroll
    for (int r = 0; r < MLSTM_ROWS; r++) {
        int row = first + r * MLSTM_GROUPS + own.group;
        float x[most];
        mlstm_unpack<TYPE>(raw[r], x);
#pragma unroll
        for (int i = 0; i < most; i++)
            sum[i] = row < a.d_qk ? fmaf(q[row], x[i], sum[i]) : sum[i];
    }
}

/* 4 of a thread's rows of C, from `first` on, take in the terms. C comes out of level 2 again. */
template <int TYPE>
static __device__ inline void mlstm_fold_rows(const mlstm_arguments &a, const mlstm_slice &own,
                                              int first, const mlstm_terms &terms, int slot,
                                              int head, float keep, const float *weights) {
    enum { MOST = mlstm_vector<TYPE>::COUNT, TOGETHER = 4 };
    float x[TOGETHER][MOST];
#pragma unroll
    for (int r = 0; r < TOGETHER; r++) {
        int row = first + r * MLSTM_GROUPS;
        mlstm_unpack<TYPE>(mlstm_load_vector<TYPE>(own.c + row * own.row_bytes,
                                                   row < a.d_qk ? own.count : 0, a.wide),
                           x[r]);
#pragma unroll
        for (int i = 0; i < MOST; i++)
            x[r][i] = keep == 0.0f ? 0.0f : x[r][i] * keep;
    }
    for (int l = 0; l < terms.count; l++) {
        float weight = weights[l], value[MOST];
        if (weight == 0.0f)
            continue;
#pragma unroll
        for (int i = 0; i < MOST; i++)
            value[i] = i < own.count
                           ? mlstm_term(a.v, a.ring_v, terms, slot, head, l, own.column + i)
                           : 0.0f;
#pragma unroll
        for (int r = 0; r < TOGETHER; r++) {
            int row = first + r * MLSTM_GROUPS;
            float key =
                row < a.d_qk ? weight * mlstm_term(a.k, a.ring_k, terms, slot, head, l, row) : 0.0f;
#pragma unroll
            for (int i = 0; i < MOST; i++)
                x[r][i] = fmaf(key, value[i], x[r][i]);
        }
    }
#pragma unroll
    for (int r = 0; r < TOGETHER; r++) {
        int row = first + r * MLSTM_GROUPS;
        if (row < a.d_qk)
            mlstm_store_vector<TYPE>(own.c + row * own.row_bytes, own.count, a.wide,
                                     mlstm_pack<TYPE>(x[r]));
    }
}

/* ---- A token ---- */

/* q n, a part a warp: of n with the token in it or, where there is a ring, of n as it stands. n becomes
 * what is stored. */
template <int TYPE, bool RING>
static __device__ __forceinline__ void
mlstm_step_normalizer(const mlstm_arguments &a, const mlstm_terms &terms, int slot, int head,
                      bool folds, const mlstm_step_room &room) {
    if (threadIdx.x >= MLSTM_WING)
        return;
    const mlstm_step_shared *s = room.s;
    const mlstm_note &note = s->note;
    float product = 0.0f;
    for (int d = (int)threadIdx.x; d < a.d_qk; d += MLSTM_WING) {
        float n = room.n[d];
        if (!RING) {
            n = note.before == 0.0f ? 0.0f : n * note.before;
            n = note.weight.high == 0.0f ? n : fmaf(note.weight.high, room.k[d], n);
        }
        product = fmaf(room.q[d], n, product);
        if (!folds)
            continue;
        n = note.after.high == 0.0f ? 0.0f : n * note.after.high;
        for (int l = 0; RING && l < terms.count; l++)
            if (s->folds[l] != 0.0f)
                n = fmaf(s->folds[l], mlstm_term(a.k, a.ring_k, terms, slot, head, l, d), n);
        room.n[d] = mlstm_stored<TYPE>(n);
    }
    product = warp_sum(product);
    if (threadIdx.x % WARP == 0)
        room.s->products[threadIdx.x / WARP] = product;
}

/* The scores of all terms with q. */
static __device__ inline void mlstm_step_scores(const mlstm_arguments &a, const mlstm_terms &terms,
                                                int slot, int head, const mlstm_step_room &room) {
    int lane = (int)threadIdx.x % WARP;
    for (int l = (int)threadIdx.x / WARP; l < terms.count; l += (int)blockDim.x / WARP) {
        float product = 0.0f, weight = room.s->weights[l];
        if (weight != 0.0f)
            for (int d = lane; d < a.d_qk; d += WARP)
                product =
                    fmaf(room.q[d], mlstm_term(a.k, a.ring_k, terms, slot, head, l, d), product);
        product = warp_sum(product);
        if (lane == 0)
            room.s->scores[l] = weight == 0.0f ? 0.0f : product * weight;
    }
}

/* Values of the term whose number is the thread's row group, and those 32 behind it, by their scores. All threads
 * come here. */
template <int TYPE>
static __device__ inline void mlstm_add_terms(const mlstm_arguments &a, const mlstm_slice &own,
                                              const mlstm_terms &terms, int slot, int head,
                                              const mlstm_step_shared *s, float *sum) {
    const int most = mlstm_vector<TYPE>::COUNT;
    __syncthreads(); /* the scores are there */
    const float carried = s->note.carried;
#pragma unroll
    for (int i = 0; i < most; i++)
        sum[i] = carried == 0.0f ? 0.0f : carried * sum[i];
    for (int l = own.group; l < terms.count; l += MLSTM_GROUPS) {
        float score = s->scores[l];
#pragma unroll
        for (int i = 0; i < most; i++)
            if (i < own.count && score != 0.0f)
                sum[i] = fmaf(
                    score, mlstm_term(a.v, a.ring_v, terms, slot, head, l, own.column + i), sum[i]);
    }
}

/* h of `count` columns, those of whole wings, from `first` on. */
template <int TYPE, bool RING>
static __device__ inline void mlstm_step_out(const mlstm_arguments &a, int terms, int head,
                                             int token, int first, int count,
                                             const mlstm_step_room &room) {
    const int columns = mlstm_vector<TYPE>::COLUMNS;
    const mlstm_note &note = room.s->note;
    for (int i = (int)threadIdx.x; i < count; i += block_threads()) {
        int column = first + i;
        if (column >= a.d_v)
            return;
        float qn = mlstm_total(room.s->products, 1);
        float sum =
            mlstm_total(room.parts + i / columns * (MLSTM_WARPS * columns) + i % columns, columns);
        float scores = 0.0f;
        for (int l = 0; RING && l < terms; l++)
            scores += room.s->scores[l];
        qn = note.carried == 0.0f ? scores : fmaf(note.carried, qn, scores);
        sum = RING ? sum : note.carried * sum;
        mlstm_store(a.h, token, head, 0, column,
                    mlstm_quotient(sum * a.scale, mlstm_divisor(note.m, qn * a.scale, a.eps)));
    }
}

/* One token, whose gates, q and k are in shared memory. `raw` has the first 256 rows of C. */
template <int TYPE, bool RING>
static __device__ __forceinline__ void
mlstm_step_token(const mlstm_arguments &a, const mlstm_slice &own, const mlstm_terms &terms,
                 int slot, int head, int token, bool folds, uint4 *raw, const float *v,
                 const mlstm_step_room &room) {
    const int most = mlstm_vector<TYPE>::COUNT, columns = mlstm_vector<TYPE>::COLUMNS;
    mlstm_maximum value[most];
    float sum[most];
#pragma unroll
    for (int i = 0; i < most; i++) {
        value[i] = mlstm_weighted<TYPE>(room.s->note.weight, v[i]);
        sum[i] = 0.0f;
    }
    if (RING)
        mlstm_step_scores(a, terms, slot, head, room);
    mlstm_step_normalizer<TYPE, RING>(a, terms, slot, head, folds, room);
    for (int first = 0; first < a.d_qk; first += MLSTM_ROWS * MLSTM_GROUPS) {
        if (first > 0)
            mlstm_fetch<TYPE>(a, own, first, raw);
        if (RING)
            mlstm_read_rows<TYPE>(a, own, first, raw, room.q, sum);
        else
            mlstm_step_rows<TYPE>(a, own, first, raw, value, room, sum);
    }
    if (RING)
        mlstm_add_terms<TYPE>(a, own, terms, slot, head, room.s, sum);
    mlstm_leave_sums<TYPE>(sum, room.parts + own.wing * (MLSTM_WARPS * columns),
                           (int)threadIdx.x / WARP % MLSTM_WARPS, own.vector);
    __syncthreads();
    const int wide = columns * ((int)blockDim.x / MLSTM_WING);
    mlstm_step_out<TYPE, RING>(a, terms.count, head, token, (int)blockIdx.x * wide, wide, room);
    if (RING && folds)
        for (int row = own.group; row < a.d_qk; row += 4 * MLSTM_GROUPS)
            mlstm_fold_rows<TYPE>(a, own, row, terms, slot, head, room.s->note.after.high,
                                  room.s->folds);
}

/* ---- Before and after ---- */

static __device__ __forceinline__ void mlstm_stage_token(const mlstm_arguments &a, int64_t token,
                                                         int head, const mlstm_step_room &room) {
    for (int d = (int)threadIdx.x; d < a.d_qk; d += block_threads()) {
        float q = mlstm_load(a.q, token, head, 0, d), k = mlstm_load(a.k, token, head, 0, d);
        room.q[d] = q;
        room.k[d] = k;
    }
}

/* What tokens leave in the ring: values by every block its own columns, keys and gates by one. */
static __device__ inline void mlstm_fill_ring(const mlstm_arguments &a, const mlstm_tokens &t,
                                              int head, int first_column, int columns,
                                              bool writes_keys) {
    int64_t position = t.settled > t.position ? t.settled : t.position;
    columns = min(columns, a.d_v - first_column);
    for (; position < t.position + t.count; position++) {
        int row = (int)(position % a.ring), token = t.first + (int)(position - t.position);
        for (int i = (int)threadIdx.x; i < columns; i += (int)blockDim.x)
            mlstm_store(a.ring_v, t.slot, head, row, first_column + i,
                        mlstm_load(a.v, token, head, 0, first_column + i));
        if (!writes_keys)
            continue;
        for (int d = (int)threadIdx.x; d < a.d_qk; d += (int)blockDim.x)
            mlstm_store(a.ring_k, t.slot, head, row, d, mlstm_load(a.k, token, head, 0, d));
        if (threadIdx.x == 0) {
            mlstm_store(a.ring_i, t.slot, head, 0, row, mlstm_load(a.i, token, 0, 0, head));
            mlstm_store(a.ring_f, t.slot, head, 0, row, mlstm_load(a.f, token, 0, 0, head));
        }
    }
}

/* n, m and the ring, once every block has read them. */
template <int TYPE, bool RING>
static __device__ inline void mlstm_settle(const mlstm_arguments &a, const mlstm_tokens &t,
                                           int head, const mlstm_step_room &room) {
    bool last = room.s->note.last;
    if (RING) {
        const int columns = mlstm_vector<TYPE>::COLUMNS * ((int)blockDim.x / MLSTM_WING);
        mlstm_fill_ring(a, t, head, (int)blockIdx.x * columns, columns, last);
    }
    if (!last || t.settled <= t.position)
        return;
    for (int d = (int)threadIdx.x; d < a.d_qk; d += (int)blockDim.x)
        mlstm_store(a.n, t.slot, head, 0, d, room.n[d]);
    if (threadIdx.x == 0)
        mlstm_store(a.m, t.slot, 0, 0, head, room.s->note.stored_m);
}

/* The tokens of a sequence, once the batch is known to be right: n, and q and k of the first, are in shared memory,
 * `gate` has its gates and m (warp 0), `raw` the first 256 rows of C. */
template <int TYPE, bool RING>
static __device__ inline void mlstm_steps(const mlstm_arguments &a, const mlstm_tokens &t,
                                          const mlstm_slice &own, mlstm_step_gate gate, uint4 *raw,
                                          const mlstm_step_room &room) {
    int head = (int)blockIdx.y;
    mlstm_exponents e;
    mlstm_terms terms = {t.held, t.held, t.first};
    bool alone = t.count == 1; /* then what a ring holds stays as it is, and is read at leisure */
    if (threadIdx.x < WARP) {
        mlstm_maximum m = {gate.m, 0.0f};
        mlstm_no_terms(&e, m);
        if (RING)
            mlstm_add_held(a, t, head, &e);
    }
    for (int token = t.first; token < t.first + t.count; token++) {
        terms.count++;
        bool folds = !RING || terms.count >= a.ring;
        if (token > t.first) {
            gate = mlstm_gate_of(a, token, head);
            mlstm_fetch<TYPE>(a, own, 0, raw);
            mlstm_stage_token(a, token, head, room);
        }
        float value[mlstm_vector<TYPE>::COUNT];
#pragma unroll
        for (int i = 0; i < mlstm_vector<TYPE>::COUNT; i++)
            value[i] =
                !RING && i < own.count ? mlstm_load(a.v, token, head, 0, own.column + i) : 0.0f;
        if (threadIdx.x < WARP)
            mlstm_step_gates<RING>(gate, terms.count, folds, &e, room.s);
        __syncthreads();
        bool last = alone && threadIdx.x == WARP && mlstm_arrive(a, head);
        mlstm_step_token<TYPE, RING>(a, own, terms, t.slot, head, token, folds, raw, value, room);
        if (alone && threadIdx.x == WARP)
            room.s->note.last = last;
        if (folds) {
            terms.count = terms.old = 0;
            terms.first = token + 1;
        }
        __syncthreads();
    }
    if (!alone) {
        if (threadIdx.x == 0)
            room.s->note.last = mlstm_arrive(a, head);
        __syncthreads();
    }
    mlstm_settle<TYPE, RING>(a, t, head, room);
}

#endif
