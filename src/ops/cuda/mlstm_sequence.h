/* The mLSTM token by token with a slice of C in registers: read once before the first token, written once after the
 * last. Tokens come through shared memory, 8 at a time, the next 8 being fetched meanwhile. What a ring holds when the
 * call begins comes first, as tokens without a query.
 *
 * Between two foldings C is X exp(carried), so that a token costs no product with F: X += I exp(-carried) k v^T. X is
 * brought up to date where `carried` has become small. At a folding m is rounded up to a float, and X to what is stored
 * of it; foldings are at fixed absolute positions and at the end, so that a prompt that is cut there gives the same
 * bits. */
#ifndef OPS_CUDA_MLSTM_SEQUENCE_H
#define OPS_CUDA_MLSTM_SEQUENCE_H

#include "ops/cuda/mlstm_step.h"

enum { MLSTM_STAGED = 8 /* tokens */ };

/* A token as warp 0 leaves it to the block; see mlstm_note. */
struct mlstm_turn {
    float before, carried;
    mlstm_maximum weight, after;
    mlstm_maximum m;
    float stored_m;
    bool folds, settles; /* X becomes what is stored; and is stored */
};

/* Shared memory of a block: row d of q and k is element d % 32 of d / 32, so that a thread's rows lie together. */
template <int TYPE, int ROWS> struct mlstm_stage {
    enum { STRIDE = ROWS + 4, KEYS = MLSTM_GROUPS * STRIDE, COLUMNS = mlstm_vector<TYPE>::COLUMNS };
    float q[MLSTM_STAGED][KEYS], k[MLSTM_STAGED][KEYS], v[MLSTM_STAGED][COLUMNS];
    float parts[MLSTM_STAGED][MLSTM_WARPS * COLUMNS];
    float products[MLSTM_STAGED][MLSTM_WARPS];
    mlstm_turn turn[MLSTM_STAGED];
    bool last;
};

/* Of the tokens to come, what a thread fetches. */
template <int TYPE, int ROWS> struct mlstm_fetched {
    enum {
        KEYS = ROWS * MLSTM_GROUPS / MLSTM_WING,
        VALUES = MLSTM_STAGED * mlstm_vector<TYPE>::COLUMNS / MLSTM_WING
    };
    float q[MLSTM_STAGED][KEYS], k[MLSTM_STAGED][KEYS], v[VALUES];
    float input, forget; /* lane l of warp 0: token l */
};

/* Where tokens of a sequence stand: number -held is the first in the ring, number 0 the first of the call. */
struct mlstm_source {
    const mlstm_arguments *a;
    mlstm_tokens t;
    int head;
};

static __device__ __forceinline__ float mlstm_of_token(const mlstm_source &s,
                                                       const mlstm_rows &tokens,
                                                       const mlstm_rows &ring, int number,
                                                       int64_t index) {
    if (number < 0)
        return mlstm_load(ring, s.t.slot, s.head, s.t.held + number, index);
    return mlstm_load(tokens, s.t.first + number, s.head, 0, index);
}

template <int TYPE, int ROWS>
static __device__ __forceinline__ void mlstm_fetch_tokens(const mlstm_source &s, int number,
                                                          int first_column,
                                                          mlstm_fetched<TYPE, ROWS> *f) {
    enum { COLUMNS = mlstm_vector<TYPE>::COLUMNS };
    const mlstm_arguments &a = *s.a;
    int thread = (int)threadIdx.x;
#pragma unroll
    for (int j = 0; j < MLSTM_STAGED; j++)
#pragma unroll
        for (int i = 0; i < mlstm_fetched<TYPE, ROWS>::KEYS; i++) {
            int d = thread + i * MLSTM_WING;
            bool there = number + j < s.t.count && d < a.d_qk;
            f->k[j][i] = there ? mlstm_of_token(s, a.k, a.ring_k, number + j, d) : 0.0f;
            f->q[j][i] = there && number + j >= 0
                             ? mlstm_load(a.q, s.t.first + number + j, s.head, 0, d)
                             : 0.0f;
        }
#pragma unroll
    for (int i = 0; i < mlstm_fetched<TYPE, ROWS>::VALUES; i++) {
        int j = (thread + i * MLSTM_WING) / COLUMNS, column = thread % COLUMNS + first_column;
        f->v[i] = number + j < s.t.count && column < a.d_v
                      ? mlstm_of_token(s, a.v, a.ring_v, number + j, column)
                      : 0.0f;
    }
    int mine = number + thread;
    f->input = f->forget = 0.0f;
    if (thread < MLSTM_STAGED && mine < s.t.count) {
        bool old = mine < 0;
        int64_t row = old ? s.t.slot : s.t.first + mine;
        int64_t index = old ? s.t.held + mine : s.head;
        f->input = mlstm_load(old ? a.ring_i : a.i, row, old ? s.head : 0, 0, index);
        f->forget = mlstm_load(old ? a.ring_f : a.f, row, old ? s.head : 0, 0, index);
    }
}

template <int TYPE, int ROWS>
static __device__ __forceinline__ void mlstm_put_tokens(const mlstm_fetched<TYPE, ROWS> &f,
                                                        mlstm_stage<TYPE, ROWS> *stage) {
    enum { STRIDE = mlstm_stage<TYPE, ROWS>::STRIDE, COLUMNS = mlstm_vector<TYPE>::COLUMNS };
    int thread = (int)threadIdx.x, at = thread % WARP * STRIDE + thread / WARP;
#pragma unroll
    for (int j = 0; j < MLSTM_STAGED; j++)
#pragma unroll
        for (int i = 0; i < mlstm_fetched<TYPE, ROWS>::KEYS; i++) {
            stage->q[j][at + i * (MLSTM_WING / WARP)] = f.q[j][i];
            stage->k[j][at + i * (MLSTM_WING / WARP)] = f.k[j][i];
        }
#pragma unroll
    for (int i = 0; i < mlstm_fetched<TYPE, ROWS>::VALUES; i++)
        stage->v[(thread + i * MLSTM_WING) / COLUMNS][thread % COLUMNS] = f.v[i];
}

/* ---- Gates ---- */

/* Warp 0 takes the staged tokens through m, from *m and *carried on. */
static __device__ inline void mlstm_take_turns(const mlstm_source &s, int number, float input,
                                               float forget, mlstm_maximum *m,
                                               mlstm_maximum *carried, mlstm_turn *turns) {
    const mlstm_arguments &a = *s.a;
    int lane = (int)threadIdx.x, count = min(MLSTM_STAGED, s.t.count - number);
    int64_t next = s.t.position + number + lane + 1; /* position behind the lane's token */
    bool settles = next == s.t.settled && number + lane >= 0;
    bool folds = settles || (next % a.interval == 0 && number + lane >= 0);
    const mlstm_maximum zero = {0.0f, 0.0f};
    float log_f = log_sigmoid(forget);
    mlstm_decay mine = {zero, zero};
    mlstm_maximum now = zero, after = zero;
    mlstm_turn turn = {};
    for (int j = 0; j < count; j++) {
        float next_input = __shfl_sync(ALL_LANES, input, j), rest = 0.0f;
        mlstm_decay d =
            mlstm_age(mlstm_pass(next_input, __shfl_sync(ALL_LANES, log_f, j), m), carried);
        bool folds_now = __shfl_sync(ALL_LANES, folds, j);
        if (lane == j) {
            mine = d;
            now = *carried;
            turn.m = *m;
        }
        if (!folds_now)
            continue;
        m->high = mlstm_round_up(*m, &rest);
        m->low = 0.0f;
        if (lane == j) {
            after = mlstm_plus(now, rest, 0.0f);
            turn.stored_m = m->high;
        }
        *carried = zero;
    }
    turn.before = mlstm_exp(mine.before).high;
    turn.weight = mlstm_exp(mine.own);
    turn.carried = mlstm_exp(now).high;
    turn.after = mlstm_exp(after);
    turn.folds = folds;
    turn.settles = settles;
    if (lane < count)
        turns[lane] = turn;
}

/* ---- A token ---- */

/* Rows of C that a thread has, what they lost to rounding since the last folding, and rows of n. */
template <int TYPE, int ROWS> struct mlstm_held {
    enum { MOST = mlstm_vector<TYPE>::COUNT };
    float x[ROWS][MOST], lost[mlstm_care<TYPE>::EXACT ? ROWS : 1][MOST];
    float n[ROWS * MLSTM_GROUPS / MLSTM_WING];
};

template <int TYPE, int ROWS>
static __device__ __forceinline__ void
mlstm_load_held(const mlstm_arguments &a, const mlstm_slice &own, const mlstm_tokens &t, int head,
                mlstm_held<TYPE, ROWS> *held) {
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        int row = r * MLSTM_GROUPS + own.group;
        uint4 raw = mlstm_load_vector<TYPE>(own.c + row * own.row_bytes,
                                            row < a.d_qk ? own.count : 0, a.wide);
        mlstm_unpack<TYPE>(raw, held->x[r]);
#pragma unroll
        for (int i = 0; mlstm_care<TYPE>::EXACT && i < mlstm_vector<TYPE>::COUNT; i++)
            held->lost[r][i] = 0.0f;
    }
#pragma unroll
    for (int i = 0; i < ROWS * MLSTM_GROUPS / MLSTM_WING; i++) {
        int d = (int)threadIdx.x + i * MLSTM_WING;
        held->n[i] = d < a.d_qk ? mlstm_load(a.n, t.slot, head, 0, d) : 0.0f;
    }
}

/* X and n with the token in them, and the thread's parts of q^T X and q n. */
template <int TYPE, int ROWS>
static __device__ __forceinline__ void
mlstm_take_token(const mlstm_stage<TYPE, ROWS> &stage, int j, const mlstm_slice &own,
                 mlstm_held<TYPE, ROWS> *held, float *sum, float *product) {
    enum { MOST = mlstm_vector<TYPE>::COUNT, STRIDE = mlstm_stage<TYPE, ROWS>::STRIDE };
    const mlstm_turn &turn = stage.turn[j];
    const float before = turn.before;
    const mlstm_maximum weight = turn.weight;
    const float *q = stage.q[j] + own.group * STRIDE, *k = stage.k[j] + own.group * STRIDE;
    const float *values = stage.v[j] + own.vector * MOST;
    int at = (int)threadIdx.x % WARP * STRIDE + (int)threadIdx.x / WARP;
    if (before != 1.0f) {
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
            for (int i = 0; i < MOST; i++) {
                held->x[r][i] = before == 0.0f ? 0.0f : held->x[r][i] * before;
                if (mlstm_care<TYPE>::EXACT)
                    held->lost[r][i] = before == 0.0f ? 0.0f : held->lost[r][i] * before;
            }
#pragma unroll
        for (int i = 0; i < ROWS * MLSTM_GROUPS / MLSTM_WING; i++)
            held->n[i] = before == 0.0f ? 0.0f : held->n[i] * before;
    }
    if (weight.high != 0.0f) {
        mlstm_maximum value[MOST];
#pragma unroll
        for (int i = 0; i < MOST; i++)
            value[i] = mlstm_weighted<TYPE>(weight, values[i]);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int i = 0; i < MOST; i++)
                mlstm_add_product<TYPE>(&held->x[r][i],
                                        &held->lost[mlstm_care<TYPE>::EXACT ? r : 0][i], k[r],
                                        value[i]);
        }
#pragma unroll
        for (int i = 0; i < ROWS * MLSTM_GROUPS / MLSTM_WING; i++)
            held->n[i] = fmaf(weight.high, stage.k[j][at + i * (MLSTM_WING / WARP)], held->n[i]);
    }
#pragma unroll
    for (int i = 0; i < MOST; i++)
        sum[i] = 0.0f;
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int i = 0; i < MOST; i++)
            sum[i] = fmaf(q[r], held->x[r][i], sum[i]);
    *product = 0.0f;
#pragma unroll
    for (int i = 0; i < ROWS * MLSTM_GROUPS / MLSTM_WING; i++)
        *product = fmaf(stage.q[j][at + i * (MLSTM_WING / WARP)], held->n[i], *product);
}

/* X becomes what is stored of it; where the state settles, it is stored. */
template <int TYPE, int ROWS>
static __device__ __forceinline__ void
mlstm_fold_held(const mlstm_source &s, const mlstm_stage<TYPE, ROWS> &stage, int j,
                const mlstm_slice &own, mlstm_held<TYPE, ROWS> *held) {
    enum { MOST = mlstm_vector<TYPE>::COUNT };
    const mlstm_arguments &a = *s.a;
    const mlstm_turn &turn = stage.turn[j];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        int row = r * MLSTM_GROUPS + own.group;
#pragma unroll
        for (int i = 0; i < MOST; i++) {
            float *lost = &held->lost[mlstm_care<TYPE>::EXACT ? r : 0][i];
            held->x[r][i] = mlstm_folded<TYPE>(held->x[r][i], *lost, turn.after);
            if (mlstm_care<TYPE>::EXACT)
                *lost = 0.0f;
        }
        uint4 raw = mlstm_pack<TYPE>(held->x[r]);
        mlstm_unpack<TYPE>(raw, held->x[r]);
        if (turn.settles && row < a.d_qk)
            mlstm_store_vector<TYPE>(own.c + row * own.row_bytes, own.count, a.wide, raw);
    }
#pragma unroll
    for (int i = 0; i < ROWS * MLSTM_GROUPS / MLSTM_WING; i++) {
        int d = (int)threadIdx.x + i * MLSTM_WING;
        held->n[i] = mlstm_stored<TYPE>(held->n[i] * turn.after.high);
        if (turn.settles && stage.last && d < a.d_qk)
            mlstm_store(a.n, s.t.slot, s.head, 0, d, held->n[i]);
    }
    if (turn.settles && stage.last && threadIdx.x == 0)
        mlstm_store(a.m, s.t.slot, 0, 0, s.head, turn.stored_m);
}

/* h of the staged tokens, from the warps' sums. */
template <int TYPE, int ROWS>
static __device__ __forceinline__ void mlstm_put_h(const mlstm_source &s, int number,
                                                   int first_column,
                                                   const mlstm_stage<TYPE, ROWS> &stage) {
    enum { COLUMNS = mlstm_vector<TYPE>::COLUMNS };
    const mlstm_arguments &a = *s.a;
    for (int i = (int)threadIdx.x; i < MLSTM_STAGED * COLUMNS; i += MLSTM_WING) {
        int j = i / COLUMNS, column = i % COLUMNS, token = number + j;
        if (token < 0 || token >= s.t.count || first_column + column >= a.d_v)
            continue;
        const mlstm_turn &turn = stage.turn[j];
        float qn = turn.carried * mlstm_total(stage.products[j], 1);
        float sum = turn.carried * mlstm_total(stage.parts[j] + column, COLUMNS);
        mlstm_store(a.h, s.t.first + token, s.head, 0, first_column + column,
                    mlstm_quotient(sum * a.scale, mlstm_divisor(turn.m, qn * a.scale, a.eps)));
    }
}

/* ---- A sequence ---- */

template <int TYPE, int ROWS>
static __device__ __forceinline__ void
mlstm_sequence(const mlstm_arguments &a, const mlstm_tokens &t, mlstm_stage<TYPE, ROWS> *stage) {
    enum { COLUMNS = mlstm_vector<TYPE>::COLUMNS };
    mlstm_source s = {&a, t, (int)blockIdx.y};
    mlstm_slice own = mlstm_slice_of<TYPE>(a, t.slot, s.head);
    int first_column = (int)blockIdx.x * COLUMNS, warp = (int)threadIdx.x / WARP;
    mlstm_held<TYPE, ROWS> held;
    mlstm_fetched<TYPE, ROWS> fetched;
    mlstm_fetch_tokens<TYPE, ROWS>(s, -t.held, first_column, &fetched);
    mlstm_load_held<TYPE, ROWS>(a, own, t, s.head, &held);
    mlstm_maximum m = {mlstm_load(a.m, t.slot, 0, 0, s.head), 0.0f};
    mlstm_maximum carried = {0.0f, 0.0f};
    for (int number = -t.held; number < t.count; number += MLSTM_STAGED) {
        mlstm_put_tokens<TYPE, ROWS>(fetched, stage);
        if (threadIdx.x < WARP)
            mlstm_take_turns(s, number, fetched.input, fetched.forget, &m, &carried, stage->turn);
        mlstm_fetch_tokens<TYPE, ROWS>(s, number + MLSTM_STAGED, first_column, &fetched);
        int spoiled = 0; /* asked for, so that n has been read when the block arrives */
#pragma unroll
        for (int i = 0; i < ROWS * MLSTM_GROUPS / MLSTM_WING; i++)
            spoiled |= held.n[i] != held.n[i];
        __syncthreads_or(spoiled);
        if (number <= 0 && number + MLSTM_STAGED > 0) { /* n, m and the ring are read */
            if (threadIdx.x == 0)
                stage->last = mlstm_arrive(a, s.head);
            __syncthreads();
        }
        for (int j = 0; j < MLSTM_STAGED && number + j < t.count; j++) {
            float sum[mlstm_vector<TYPE>::COUNT], product;
            mlstm_take_token<TYPE, ROWS>(*stage, j, own, &held, sum, &product);
            mlstm_leave_sums<TYPE>(sum, stage->parts[j], warp, own.vector);
            product = warp_sum(product);
            if (threadIdx.x % WARP == 0)
                stage->products[j][warp] = product;
            if (stage->turn[j].folds)
                mlstm_fold_held<TYPE, ROWS>(s, *stage, j, own, &held);
        }
        __syncthreads();
        mlstm_put_h<TYPE, ROWS>(s, number, first_column, *stage);
        __syncthreads();
    }
    if (a.ring)
        mlstm_fill_ring(a, t, s.head, first_column, COLUMNS, stage->last);
}

#endif
