/* The op mlstm: checks, and the launches.
 *
 * Single tokens of a sequence take one pass over C (mlstm_step.h), those with a ring after a kernel without it
 * (mlstm_ring.h). Longer ones keep C in registers (mlstm_sequence.h); where keys are too long for that, they go
 * through memory, and a single token of such keys as well. Prompts in the profile fast go through the chunkwise kernels
 * where these take them (mlstm_chunkwise.h). */
#include "ops/cuda/chain.h"
#include "ops/cuda/mlstm_chunkwise.h"
#include "ops/cuda/mlstm_ring.h"
#include "ops/cuda/mlstm_sequence.h"

#include <math.h>

/* ---- Kernels ---- */

/* Fetches the block's slice of C to level 2. The slot may still change: then it was for nothing. */
template <int TYPE> static __device__ __forceinline__ void mlstm_hint(const mlstm_arguments &a) {
    int slot = load_early(a.batch.slot + blockIdx.z);
    if (slot < 0 || slot >= a.batch.slots)
        return;
    mlstm_slice own = mlstm_slice_of<TYPE>(a, slot, (int)blockIdx.y);
    char *first = own.c - own.vector * 16;
    for (int d = (int)threadIdx.x % MLSTM_WING; d < a.d_qk; d += MLSTM_WING)
        prefetch_line(first + d * own.row_bytes);
}

/* Tokens of the block's sequence, where its batch is right, one after the other. */
template <int TYPE, bool RING>
static __device__ __forceinline__ void mlstm_run_steps(const mlstm_arguments &a, float *room,
                                                       mlstm_step_shared *shared) {
    int sequence = (int)blockIdx.z, head = (int)blockIdx.y, slot = a.batch.slot[sequence];
    int first = a.batch.start[sequence], wrong = mlstm_find_wrong(a.batch);
    mlstm_step_room r = mlstm_step_room_of(a, shared, room);
    mlstm_step_gate gate = {};
    mlstm_slice own = {};
    uint4 raw[MLSTM_ROWS];
    if (slot >= 0 && slot < a.batch.slots && first >= 0 && first < a.batch.tokens) {
        own = mlstm_slice_of<TYPE>(a, slot, head);
        mlstm_fetch<TYPE>(a, own, 0, raw);
        gate = mlstm_gate_of(a, first, head);
        gate.m = mlstm_load(a.m, slot, 0, 0, head);
        mlstm_stage_token(a, first, head, r);
        for (int d = (int)threadIdx.x; d < a.d_qk; d += (int)blockDim.x)
            r.n[d] = mlstm_load(a.n, slot, head, 0, d);
    }
    if (__syncthreads_or(wrong))
        return;
    mlstm_steps<TYPE, RING>(a, mlstm_tokens_of(a, sequence), own, gate, raw, r);
}

template <int TYPE, bool RING>
static __global__ void __launch_bounds__(2 * MLSTM_WING, 2)
    mlstm_step(const __grid_constant__ mlstm_arguments a) {
    extern __shared__ float4 room[];
    __shared__ mlstm_step_shared shared;
    cuda_release();
    if (a.hints)
        mlstm_hint<TYPE>(a);
    cuda_wait();
    mlstm_run_steps<TYPE, RING>(a, (float *)room, &shared);
}

template <int TYPE, int ROWS>
static __global__ void __launch_bounds__(MLSTM_WING, 1)
    mlstm_sequences(const __grid_constant__ mlstm_arguments a) {
    extern __shared__ float4 room[];
    __shared__ mlstm_step_shared shared;
    cuda_release();
    cuda_wait();
    int first = a.batch.start[blockIdx.z], end = a.batch.start[blockIdx.z + 1];
    if (end - first == 1) {
        if (a.ring == 0) /* else mlstm_prepare and mlstm_recall have it */
            mlstm_run_steps<TYPE, false>(a, (float *)room, &shared);
        return;
    }
    if (__syncthreads_or(mlstm_find_wrong(a.batch)))
        return;
    mlstm_sequence<TYPE, ROWS>(a, mlstm_tokens_of(a, (int)blockIdx.z),
                               (mlstm_stage<TYPE, ROWS> *)room);
}

template <int TYPE>
static __global__ void __launch_bounds__(MLSTM_WING)
    mlstm_prepare(const __grid_constant__ mlstm_arguments a) {
    extern __shared__ float4 room[];
    __shared__ mlstm_step_shared shared;
    cuda_release();
    cuda_wait();
    mlstm_recollection *out = a.recollections + (int)blockIdx.z * a.heads + (int)blockIdx.y;
    mlstm_tokens t = {};
    bool there = batch_is_sound(a.batch);
    if (there)
        t = mlstm_tokens_of(a, (int)blockIdx.z);
    if (t.count == 1)
        mlstm_prepare_token<TYPE>(a, t, mlstm_step_room_of(a, &shared, (float *)room), out);
    else if (threadIdx.x == 0)
        out->there = 0;
}

template <int TYPE>
static __global__ void __launch_bounds__(2 * MLSTM_WING, 2)
    mlstm_recall(const __grid_constant__ mlstm_arguments a) {
    extern __shared__ float4 room[];
    __shared__ float weights[OPS_MAX_DEFERRED];
    cuda_release();
    if (a.hints)
        mlstm_hint<TYPE>(a);
    cuda_wait();
    int head = (int)blockIdx.y, slot = a.batch.slot[blockIdx.z];
    const mlstm_recollection *r = a.recollections + (int)blockIdx.z * a.heads + head;
    if (!r->there)
        return;
    float *q = (float *)room;
    uint4 raw[MLSTM_ROWS];
    mlstm_slice own = mlstm_slice_of<TYPE>(a, slot, head);
    mlstm_fetch<TYPE>(a, own, 0, raw);
    for (int d = (int)threadIdx.x; d < a.d_qk; d += (int)blockDim.x)
        q[d] = mlstm_load(a.q, r->token, head, 0, d);
    __syncthreads();
    mlstm_recall_slice<TYPE>(a, own, slot, raw, r, q, q + a.d_qk, weights);
}

/* ---- Scratch ---- */

void cuda_place_mlstm(cuda_carver *c, const ops_stream_options *o, cuda_scratch *s) {
    int64_t heads = (int64_t)o->limits.sequences * o->limits.heads;
    int64_t each = 1 + (o->limits.deferred ? (int64_t)sizeof(mlstm_recollection) / 4 : 0);
    int64_t words = heads * each;
    s->mlstm = cuda_carve(c, DTYPE_I32, 1, &words);
    cuda_place_mlstm_chunkwise(c, o, s);
}

/* ---- Launches ---- */

static struct mlstm_rows rows_of(const ops_tensor *t) {
    struct mlstm_rows r = {};
    r.data = (char *)cuda_at(t);
    r.type = t->dtype;
    if (!ops_present(t))
        return r;
    r.outer = t->stride[0];
    r.head = t->rank > 2 ? t->stride[1] : 0;
    r.row = t->rank > 3 ? t->stride[2] : 0;
    return r;
}

/* Whether a row's vectors lie at multiples of 16 bytes. */
static bool is_wide(const ops_tensor *c) {
    int64_t most = c->dtype == DTYPE_F32 ? 4 : 8;
    return (uintptr_t)cuda_at(c) % 16 == 0 && c->stride[0] % most == 0 &&
           c->stride[1] % most == 0 && c->stride[2] % most == 0;
}

static mlstm_arguments arguments_of(const cuda_stream *s, const struct ops_mlstm *op) {
    int chunk = op->chunk_size ? op->chunk_size : s->base.device->chunk_size;
    mlstm_arguments a = {};
    a.heads = (int)op->q.shape[1];
    a.d_qk = (int)op->q.shape[2];
    a.d_v = (int)op->v.shape[2];
    a.ring = op->deferred;
    a.interval = op->deferred && chunk % op->deferred ? op->deferred : chunk;
    a.wide = is_wide(&op->c);
    a.eps = (float)op->eps;
    a.scale = (float)(1 / sqrt((double)a.d_qk));
    a.q = rows_of(&op->q);
    a.k = rows_of(&op->k);
    a.v = rows_of(&op->v);
    a.h = rows_of(&op->h);
    a.i = rows_of(&op->input_gate);
    a.f = rows_of(&op->forget_gate);
    a.c = rows_of(&op->c);
    a.n = rows_of(&op->n);
    a.m = rows_of(&op->m);
    a.ring_k = rows_of(&op->ring_k);
    a.ring_v = rows_of(&op->ring_v);
    a.ring_i = rows_of(&op->ring_i);
    a.ring_f = rows_of(&op->ring_f);
    a.batch = cuda_batch_of(s, &op->batch, op->c.shape[0]);
    const ops_limits *limits = &s->base.options.limits;
    a.arrivals = (unsigned *)cuda_at(&s->scratch.mlstm);
    a.recollections =
        (mlstm_recollection *)(a.arrivals + (int64_t)limits->sequences * limits->heads);
    return a;
}

/* Blocks of one slice and wing each. */
template <int TYPE> static dim3 slices_of(const mlstm_arguments &a) {
    int columns = mlstm_vector<TYPE>::COLUMNS;
    return dim3((unsigned)((a.d_v + columns - 1) / columns), (unsigned)a.heads,
                (unsigned)a.batch.sequences);
}

/* Whether all blocks run at once, so that hints come before the kernel itself does. */
static bool are_few(const cuda_stream *s, dim3 grid) {
    return (int64_t)grid.x * grid.y * grid.z <= 4 * (int64_t)s->gpu->processors;
}

template <int TYPE> static size_t parts_bytes(void) {
    return (size_t)(MLSTM_WARPS * mlstm_vector<TYPE>::COLUMNS) * sizeof(float);
}

template <int TYPE> static void run_steps(cuda_stream *s, mlstm_arguments a) {
    dim3 grid = slices_of<TYPE>(a);
    a.hints = are_few(s, grid);
    cuda_run(s, "mlstm_step", a.ring ? mlstm_step<TYPE, true> : mlstm_step<TYPE, false>, grid,
             (unsigned)MLSTM_WING, 3 * (size_t)a.d_qk * sizeof(float) + parts_bytes<TYPE>(), a);
}

/* Single tokens with a ring; two wings a block where there are many, which read q for both. */
template <int TYPE> static void run_ring(cuda_stream *s, mlstm_arguments a) {
    dim3 grid = slices_of<TYPE>(a);
    cuda_run(s, "mlstm_prepare", mlstm_prepare<TYPE>, dim3(1, grid.y, grid.z), (unsigned)MLSTM_WING,
             3 * (size_t)a.d_qk * sizeof(float), a);
    a.hints = are_few(s, grid);
    unsigned wings = a.hints || grid.x == 1 ? 1 : 2;
    grid.x = (grid.x + wings - 1) / wings;
    cuda_run(s, "mlstm_recall", mlstm_recall<TYPE>, grid, wings * MLSTM_WING,
             (size_t)a.d_qk * sizeof(float) + wings * parts_bytes<TYPE>(), a);
}

template <int TYPE, int ROWS> static void run_sequences(cuda_stream *s, const mlstm_arguments &a) {
    size_t steps = 3 * (size_t)a.d_qk * sizeof(float) + parts_bytes<TYPE>();
    size_t room = sizeof(mlstm_stage<TYPE, ROWS>);
    cuda_run(s, "mlstm_sequences", mlstm_sequences<TYPE, ROWS>, slices_of<TYPE>(a),
             (unsigned)MLSTM_WING, room > steps ? room : steps, a);
}

template <int TYPE>
static void run_mlstm(cuda_stream *s, const struct ops_mlstm *op, const mlstm_arguments &a) {
    enum { FEW = 8, MANY = 16 };
    if (a.d_qk > MANY * MLSTM_GROUPS || (op->batch.longest == 1 && a.ring == 0)) {
        run_steps<TYPE>(s, a);
        return;
    }
    if (op->batch.longest > 1 && a.d_qk <= FEW * MLSTM_GROUPS)
        run_sequences<TYPE, FEW>(s, a);
    else if (op->batch.longest > 1)
        run_sequences<TYPE, MANY>(s, a);
    if (a.ring && (op->batch.longest == 1 || op->batch.sequences > 1))
        run_ring<TYPE>(s, a);
}

static bool check_sizes(ops_check *c, const struct ops_mlstm *op) {
    const int64_t most = 65535; /* blocks along a grid's second and third dimension */
    if (op->q.shape[2] > MLSTM_LONGEST_KEY)
        return ops_fail(c, XLSTM_INVALID_ARGUMENT,
                        "mlstm: keys of %lld values; the cuda device takes up to %d",
                        (long long)op->q.shape[2], (int)MLSTM_LONGEST_KEY);
    if (op->q.shape[1] > most || op->batch.sequences > most)
        return ops_fail(c, XLSTM_INVALID_ARGUMENT,
                        "mlstm: %lld heads of %d sequences; the cuda device takes up to %lld of "
                        "either",
                        (long long)op->q.shape[1], op->batch.sequences, (long long)most);
    return true;
}

extern "C" void cuda_mlstm(ops_stream *stream, const struct ops_mlstm *op) {
    cuda_stream *s = (cuda_stream *)stream;
    if (ops_failed(&s->check) || !ops_expect_mlstm(&s->check, op) || !check_sizes(&s->check, op))
        return;
    if (cuda_mlstm_chunkwise(s, op))
        return;
    mlstm_arguments a = arguments_of(s, op);
    if (chain_takes_mlstm(&a)) {
        chain_mlstm(s, &a);
        return;
    }
    if (op->c.dtype == DTYPE_F32)
        run_mlstm<DTYPE_F32>(s, op, a);
    else if (op->c.dtype == DTYPE_BF16)
        run_mlstm<DTYPE_BF16>(s, op, a);
    else
        run_mlstm<DTYPE_F16>(s, op, a);
}
