/* The sLSTM and the LSTM over a batch.
 *
 * A token needs the outputs of all units of its head at the token before. Heads whose recurrent weights fit into the
 * shared memory of a block go through time there (slstm_sequence). Of larger ones, and where there is but one token,
 * the weights are read once: a launch a token (slstm_step) spreads them over the GPU; since what one block writes
 * others must not yet see, the output before is read from `out`, or from the state at the first token, and slstm_finish
 * puts the last one into the state.
 *
 * Sums over units are cut into PARTS in both, so that they are the same bits. */
#include "ops/cuda/batch.h"
#include "ops/cuda/cell.h"

enum {
    PARTS = 16,      /* of a sum over units */
    STEP_UNITS = 16, /* of a block of a step; half a warp has a part of their sums */
    STEP_THREADS = PARTS / 2 * 32,
    MOST_SEQUENCES = 8, /* that share the weights a block reads */
    FINISH_THREADS = 64,
    MOST_THREADS = 1024
};

struct slstm_arguments {
    cuda_batch batch;
    const float *input[4]; /* i, f, z, o */
    int64_t input_stride[4], input_head_stride[4];
    float *state[4]; /* y, c, n, m; the LSTM has y and c */
    int64_t state_stride[4], state_head_stride[4];
    const float *recurrent, *bias;
    int64_t recurrent_head_stride, recurrent_stride, bias_stride;
    float *out;
    int64_t out_stride, out_head_stride;
    int64_t time; /* of a step: the token of each sequence, counted from its first */
    int heads, size;
    bool lstm;
    float clip;
};

enum { STATE_Y, STATE_C, STATE_N, STATE_M };

/* ---- Places ---- */

static __device__ __forceinline__ float *state_at(const slstm_arguments &a, int which, int slot,
                                                  int head) {
    return a.state[which] + slot * a.state_stride[which] + head * a.state_head_stride[which];
}
static __device__ __forceinline__ const float *input_at(const slstm_arguments &a, int gate,
                                                        int64_t token, int head) {
    return a.input[gate] + token * a.input_stride[gate] + head * a.input_head_stride[gate];
}
static __device__ __forceinline__ float *out_at(const slstm_arguments &a, int64_t token, int head) {
    return a.out + token * a.out_stride + head * a.out_head_stride;
}

/* ---- Parts of the maths ---- */

/* Units of a part are [first, end). */
static __device__ __forceinline__ int part_first(int part, int size) {
    int first = part * ((size + PARTS - 1) / PARTS);
    return first < size ? first : size;
}

/* A gate without its input, from the parts, which are `stride` apart. */
static __device__ __forceinline__ float mixed_gate(const slstm_arguments &a, int gate, int head,
                                                   int d, const float *parts, int stride) {
    float sum = 0.0f;
#pragma unroll
    for (int part = 0; part < PARTS; part++)
        sum += parts[part * stride];
    return sum + a.bias[gate * a.bias_stride + (int64_t)head * a.size + d];
}

static __device__ __forceinline__ cell_state next_state(const slstm_arguments &a, const float *raw,
                                                        cell_state u) {
    u = cell_next(a.lstm, raw, u);
    u.y = cell_clip(u.y, a.clip);
    return u;
}

/* Without y. */
static __device__ __forceinline__ cell_state load_state(const slstm_arguments &a, int slot,
                                                        int head, int d) {
    cell_state u = {};
    u.c = state_at(a, STATE_C, slot, head)[d];
    if (!a.lstm) {
        u.n = state_at(a, STATE_N, slot, head)[d];
        u.m = state_at(a, STATE_M, slot, head)[d];
    }
    return u;
}
static __device__ __forceinline__ void store_state(const slstm_arguments &a, int slot, int head,
                                                   int d, cell_state u) {
    state_at(a, STATE_C, slot, head)[d] = u.c;
    if (!a.lstm) {
        state_at(a, STATE_N, slot, head)[d] = u.n;
        state_at(a, STATE_M, slot, head)[d] = u.m;
    }
}

/* ---- All tokens of a head of a sequence ---- */

/* Shared memory: weights [size][4 size], parts [PARTS][4 size], raw gates [4 size], y [size]. */
static size_t sequence_bytes(int64_t size) {
    return (size_t)(size * 4 * size + PARTS * 4 * size + 4 * size + size) * sizeof(float);
}

/* The sums over one part of the units before, for four columns of the weights. */
static __device__ __forceinline__ float4 mix_part(const float *y, const float *weight, int part,
                                                  int size) {
    int end = part_first(part + 1, size);
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 4
    for (int p = part_first(part, size); p < end; p++) {
        float4 w = *(const float4 *)(weight + 4 * p * size);
        sum.x = fmaf(y[p], w.x, sum.x);
        sum.y = fmaf(y[p], w.y, sum.y);
        sum.z = fmaf(y[p], w.z, sum.z);
        sum.w = fmaf(y[p], w.w, sum.w);
    }
    return sum;
}

/* Thread i has column i of the gates, and unit i; there are as many threads. */
static __global__ void __launch_bounds__(MOST_THREADS)
    slstm_sequence(const __grid_constant__ struct slstm_arguments a) {
    extern __shared__ float memory[];
    int head = (int)blockIdx.x, size = a.size, columns = 4 * size, i = (int)threadIdx.x;
    float *weights = memory, *parts = weights + size * columns, *raws = parts + PARTS * columns,
          *y = raws + columns;
    const float *recurrent = a.recurrent + head * a.recurrent_head_stride;
    for (int at = i; at < size * columns; at += (int)blockDim.x)
        weights[at] = recurrent[at / columns * a.recurrent_stride + at % columns];
    cuda_release();
    cuda_wait();
    if (!batch_is_sound(a.batch))
        return;
    int slot = a.batch.slot[blockIdx.y], gate = i / size, d = i % size;
    int64_t first = a.batch.start[blockIdx.y], end = a.batch.start[blockIdx.y + 1];
    cell_state u = {};
    float input = i < columns ? input_at(a, gate, first, head)[d] : 0.0f;
    if (i < size) {
        u = load_state(a, slot, head, i);
        u.y = y[i] = state_at(a, STATE_Y, slot, head)[i];
    }
    for (int64_t token = first; token < end; token++) {
        __syncthreads();
        for (int at = i; at < PARTS * size; at += (int)blockDim.x)
            ((float4 *)parts)[at] = mix_part(y, weights + 4 * (at % size), at / size, size);
        __syncthreads();
        if (i < columns) {
            raws[i] = input + mixed_gate(a, gate, head, d, parts + i, columns);
            if (token + 1 < end)
                input = input_at(a, gate, token + 1, head)[d];
        }
        __syncthreads();
        if (i >= size)
            continue;
        const float raw[4] = {raws[i], raws[size + i], raws[2 * size + i], raws[3 * size + i]};
        u = next_state(a, raw, u);
        y[i] = u.y;
        out_at(a, token, head)[i] = u.y;
    }
    if (i < size) {
        store_state(a, slot, head, i, u);
        state_at(a, STATE_Y, slot, head)[i] = u.y;
    }
}

/* ---- One token of every sequence ---- */

/* Shared memory: parts [PARTS][sequences][4][STEP_UNITS], y [size][sequences]. */
static size_t step_bytes(int64_t size, int sequences) {
    return (size_t)(sequences * (PARTS * 4 * STEP_UNITS + size)) * sizeof(float);
}

/* The block's sequences: whether there is one with such a token, and y of the token before. */
template <int sequences>
static __device__ __forceinline__ bool load_before(const slstm_arguments &a, int first_sequence,
                                                   int head, float *y) {
    bool any = false;
    for (int s = 0; s < sequences; s++) {
        int sequence = first_sequence + s;
        int64_t first = 0, length = 0;
        if (sequence < a.batch.sequences) {
            first = a.batch.start[sequence];
            length = a.batch.start[sequence + 1] - first;
        }
        const float *before = NULL;
        if (a.time < length)
            before = a.time == 0 ? state_at(a, STATE_Y, a.batch.slot[sequence], head)
                                 : out_at(a, first + a.time - 1, head);
        any = any || before;
        for (int d = (int)threadIdx.x; d < a.size; d += STEP_THREADS)
            y[d * sequences + s] = before ? before[d] : 0.0f;
    }
    __syncthreads();
    return any;
}

/* Four columns of the weights, of which `left` are there. */
template <bool wide>
static __device__ __forceinline__ void load_columns(const float *weight, int left, float *w) {
    if (wide) {
        float4 four = *(const float4 *)weight;
        w[0] = four.x, w[1] = four.y, w[2] = four.z, w[3] = four.w;
    } else {
#pragma unroll
        for (int c = 0; c < 4; c++)
            w[c] = c < left ? weight[c] : 0.0f;
    }
}

/* A part of the sums of four units' gate: half a warp has a part, four lanes of it a gate. */
template <int sequences, bool wide>
static __device__ __forceinline__ void mix_units(const slstm_arguments &a, int head, int first_unit,
                                                 const float *y, float *parts) {
    int part = (int)threadIdx.x / STEP_UNITS, gate = (int)threadIdx.x % STEP_UNITS / 4;
    int unit = (int)threadIdx.x % 4 * 4, left = a.size - first_unit - unit,
        end = part_first(part + 1, a.size);
    const float *weight =
        a.recurrent + head * a.recurrent_head_stride + gate * a.size + first_unit + unit;
    float sums[sequences][4] = {};
    if (left <= 0)
        return;
#pragma unroll(sequences == 1 ? 16 : 4)
    for (int p = part_first(part, a.size); p < end; p++) {
        float w[4];
        load_columns<wide>(weight + p * a.recurrent_stride, left, w);
#pragma unroll
        for (int s = 0; s < sequences; s++)
#pragma unroll
            for (int c = 0; c < 4; c++)
                sums[s][c] = fmaf(y[p * sequences + s], w[c], sums[s][c]);
    }
#pragma unroll
    for (int s = 0; s < sequences; s++)
#pragma unroll
        for (int c = 0; c < 4; c++)
            parts[((part * sequences + s) * 4 + gate) * STEP_UNITS + unit + c] = sums[s][c];
}

template <int sequences, bool wide>
static __global__ void __launch_bounds__(STEP_THREADS)
    slstm_step(const __grid_constant__ struct slstm_arguments a) {
    extern __shared__ float memory[];
    float *parts = memory, *y = parts + PARTS * sequences * 4 * STEP_UNITS;
    int head = (int)blockIdx.y, first_sequence = (int)blockIdx.z * sequences;
    int first_unit = (int)blockIdx.x * STEP_UNITS;
    cuda_release();
    cuda_wait();
    if (!batch_is_sound(a.batch) || !load_before<sequences>(a, first_sequence, head, y))
        return;
    mix_units<sequences, wide>(a, head, first_unit, y, parts);
    __syncthreads();
    int s = (int)threadIdx.x / STEP_UNITS, unit = (int)threadIdx.x % STEP_UNITS;
    int sequence = first_sequence + s, d = first_unit + unit;
    if (s >= sequences || sequence >= a.batch.sequences || d >= a.size)
        return;
    int64_t token = a.batch.start[sequence] + a.time;
    if (token >= a.batch.start[sequence + 1])
        return;
    int slot = a.batch.slot[sequence];
    float raw[4];
    for (int gate = 0; gate < 4; gate++)
        raw[gate] = input_at(a, gate, token, head)[d] +
                    mixed_gate(a, gate, head, d, parts + (s * 4 + gate) * STEP_UNITS + unit,
                               sequences * 4 * STEP_UNITS);
    cell_state u = next_state(a, raw, load_state(a, slot, head, d));
    store_state(a, slot, head, d, u);
    out_at(a, token, head)[d] = u.y;
}

/* y becomes the last output of its sequence. */
static __global__ void __launch_bounds__(FINISH_THREADS)
    slstm_finish(const __grid_constant__ struct slstm_arguments a) {
    int head = (int)blockIdx.y, d = (int)(blockIdx.x * FINISH_THREADS + threadIdx.x);
    cuda_release();
    cuda_wait();
    if (!batch_is_sound(a.batch) || d >= a.size)
        return;
    int64_t last = a.batch.start[blockIdx.z + 1] - 1;
    state_at(a, STATE_Y, a.batch.slot[blockIdx.z], head)[d] = out_at(a, last, head)[d];
}

/* ---- The op ---- */

static struct slstm_arguments arguments_of(const cuda_stream *s, const struct ops_slstm *op) {
    const ops_tensor *states[4] = {&op->y, &op->c, &op->n, &op->m};
    struct slstm_arguments a = {};
    a.batch = cuda_batch_of(s, &op->batch, op->y.shape[0]);
    a.recurrent = (const float *)cuda_at(&op->recurrent);
    a.recurrent_head_stride = op->recurrent.stride[0];
    a.recurrent_stride = op->recurrent.stride[1];
    a.bias = (const float *)cuda_at(&op->bias);
    a.bias_stride = op->bias.stride[0];
    a.out = (float *)cuda_at(&op->out);
    a.out_stride = op->out.stride[0];
    a.out_head_stride = op->out.stride[1];
    a.heads = (int)op->y.shape[1];
    a.size = (int)op->y.shape[2];
    a.lstm = op->lstm;
    a.clip = op->clip > 3.4e38 ? 0.0f : (float)op->clip;
    for (int i = 0; i < 4; i++) {
        a.input[i] = (const float *)cuda_at(&op->input[i]);
        a.input_stride[i] = op->input[i].stride[0];
        a.input_head_stride[i] = op->input[i].stride[1];
        if (i >= 2 && op->lstm)
            continue;
        a.state[i] = (float *)cuda_at(states[i]);
        a.state_stride[i] = states[i]->stride[0];
        a.state_head_stride[i] = states[i]->stride[1];
    }
    return a;
}

template <int sequences>
static void run_steps(cuda_stream *s, const struct ops_slstm *op, struct slstm_arguments *a) {
    unsigned count = (unsigned)a->batch.sequences, heads = (unsigned)a->heads;
    bool wide = a->size % 4 == 0 && a->recurrent_stride % 4 == 0 &&
                a->recurrent_head_stride % 4 == 0 && (uintptr_t)a->recurrent % 16 == 0;
    dim3 grid((unsigned)((a->size + STEP_UNITS - 1) / STEP_UNITS), heads,
              (count + sequences - 1) / sequences);
    for (a->time = 0; a->time < op->batch.longest; a->time++)
        cuda_run(s, "slstm", wide ? slstm_step<sequences, true> : slstm_step<sequences, false>,
                 grid, STEP_THREADS, step_bytes(a->size, sequences), *a);
    grid = dim3((unsigned)((a->size + FINISH_THREADS - 1) / FINISH_THREADS), heads, count);
    cuda_run(s, "slstm", slstm_finish, grid, FINISH_THREADS, 0, *a);
}

extern "C" void cuda_slstm(ops_stream *stream, const struct ops_slstm *op) {
    cuda_stream *s = (cuda_stream *)stream;
    if (ops_failed(&s->check) || !ops_expect_slstm(&s->check, op))
        return;
    struct slstm_arguments a = arguments_of(s, op);
    if (op->batch.longest == 1 || sequence_bytes(a.size) > s->gpu->shared_bytes) {
        if (a.batch.sequences == 1 || step_bytes(a.size, MOST_SEQUENCES) > s->gpu->shared_bytes)
            run_steps<1>(s, op, &a);
        else
            run_steps<MOST_SEQUENCES>(s, op, &a);
        return;
    }
    unsigned threads =
        (unsigned)(PARTS * a.size + 31) / 32 * 32; /* PARTS >= 4: one a column at least */
    threads = threads < MOST_THREADS ? threads : (unsigned)MOST_THREADS;
    cuda_run(s, "slstm", slstm_sequence, dim3((unsigned)a.heads, (unsigned)a.batch.sequences),
             threads, sequence_bytes(a.size), a);
}
