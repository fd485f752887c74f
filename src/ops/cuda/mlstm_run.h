/* The kernels of the op mlstm that take tokens one after the other, and their launches, for one type of states. They are
 * compiled a type a file (mlstm_f32.cu, mlstm_bf16.cu, mlstm_f16.cu). */
#ifndef OPS_CUDA_MLSTM_RUN_H
#define OPS_CUDA_MLSTM_RUN_H

#include "ops/cuda/mlstm_prepare.h"
#include "ops/cuda/mlstm_sequence.h"

/* ---- Kernels ---- */

/* Fetches the block's slice of C to level 2. The slot may still change: then it was for nothing. */
template <int TYPE> static __device__ __forceinline__ void mlstm_hint(const mlstm_arguments &a) {
    int slot = load_early(a.batch.slot + blockIdx.z);
    if (slot < 0 || slot >= a.batch.slots)
        return;
    mlstm_slice own = mlstm_slice_of<TYPE>(a, slot, (int)blockIdx.y);
    for (int d = (int)threadIdx.x % MLSTM_WING; own.count > 0 && d < a.d_qk; d += MLSTM_WING)
        prefetch_line(own.c + d * own.row_bytes);
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
        if (a.ring == 0) /* else mlstm_stream has it */
            mlstm_run_steps<TYPE, false>(a, (float *)room, &shared);
        return;
    }
    if (__syncthreads_or(mlstm_find_wrong(a.batch)))
        return;
    mlstm_sequence<TYPE, ROWS>(a, mlstm_tokens_of(a, (int)blockIdx.z),
                               (mlstm_stage<TYPE, ROWS> *)room);
}

/* ---- Launches ---- */

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

/* Whether the terms of a full ring fit into shared memory, with STREAM_BLOCKS blocks on a multiprocessor, each of which takes
 * another 1024 bytes. */
template <int TYPE> static bool keeps_terms(const cuda_stream *s, const mlstm_arguments &a) {
    const size_t bytes = mlstm_stream_bytes<TYPE>(a.d_qk, a.ring);
    return bytes <= s->gpu->shared_bytes &&
           STREAM_BLOCKS * (bytes + 1024) <= s->gpu->shared_bytes + 1024;
}

/* Single tokens, in blocks that stay on the GPU. */
template <int TYPE, int KIND> static void run_stream(cuda_stream *s, const mlstm_arguments &a) {
    const int64_t items = (int64_t)a.batch.sequences * a.heads * mlstm_pieces<TYPE>(a.d_v);
    const int64_t places = (int64_t)STREAM_BLOCKS * s->gpu->processors;
    cuda_run(s, "mlstm_prepare", mlstm_prepare<TYPE, KIND != STREAM_ALONE>,
             dim3(1, (unsigned)a.heads, (unsigned)a.batch.sequences),
             (unsigned)mlstm_prepare_sizes<KIND != STREAM_ALONE>::THREADS,
             3 * (size_t)a.d_qk * sizeof(float), a);
    cuda_run(s, "mlstm_stream", mlstm_stream<TYPE, KIND>,
             dim3((unsigned)(items < places ? items : places)), (unsigned)MLSTM_WING,
             mlstm_stream_bytes<TYPE>(a.d_qk, KIND == STREAM_KEEPS ? a.ring : 0), a);
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
    if (a.d_qk > MANY * MLSTM_GROUPS) {
        run_steps<TYPE>(s, a);
        return;
    }
    if (op->batch.longest > 1 && a.d_qk <= FEW * MLSTM_GROUPS)
        run_sequences<TYPE, FEW>(s, a);
    else if (op->batch.longest > 1)
        run_sequences<TYPE, MANY>(s, a);
    const bool stream = op->batch.longest == 1 || (a.ring && op->batch.sequences > 1);
    if (stream && !a.ring)
        run_stream<TYPE, STREAM_ALONE>(s, a);
    else if (stream && keeps_terms<TYPE>(s, a))
        run_stream<TYPE, STREAM_KEEPS>(s, a);
    else if (stream)
        run_stream<TYPE, STREAM_RING>(s, a);
}

#endif
