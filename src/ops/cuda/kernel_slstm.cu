/* The sLSTM and the LSTM of the kernel library, for heads of any size and arrays of any type and layout, in f32.
 *
 * A block takes one head of one sequence through time: in each token all threads multiply y of the token before with the
 * recurrent weights, a column of them each, and then step the units. What a sequence gets does not depend on the
 * others. */
#include "ops/cuda/cell.h"
#include "ops/cuda/kernel_slstm.h"
#include "ops/cuda/kernel_slstm_tiles.h"

enum { THREADS = 256 };

/* ---- Places ---- */

static __device__ __forceinline__ int64_t place(const cuda_array *a, int64_t i, int64_t j,
                                                int64_t k, int64_t l, int64_t m) {
    return i * a->stride[0] + j * a->stride[1] + k * a->stride[2] + l * a->stride[3] +
           m * a->stride[4];
}
static __device__ __forceinline__ void put(const cuda_array *a, int64_t at, float x) {
    if (a->data)
        store_as(a->data, a->type, at, x);
}
static __device__ __forceinline__ float get(const cuda_array *a, int64_t at) {
    return a->data ? load_as(a->data, a->type, at) : 0.0f;
}

/* ---- Forward ---- */

static __device__ void begin_states(const slstm_job *a, int64_t sequence, int64_t head,
                                    float *state) {
    for (int64_t u = threadIdx.x; u < a->size; u += blockDim.x)
        for (int i = 0; i < SLSTM_STATES; i++)
            state[i * a->size + u] =
                i < a->states ? get(&a->s0, place(&a->s0, i, sequence, head, u, 0)) : 0.0f;
}

/* Raw gates of a token: x + b + R y. */
static __device__ void mix(const slstm_job *a, int64_t sequence, int64_t t, int64_t head,
                           const float *y, float *gate) {
    for (int64_t j = threadIdx.x; j < SLSTM_GATES * a->size; j += blockDim.x) {
        int64_t which = j / a->size, u = j % a->size;
        float sum = get(&a->x, place(&a->x, sequence, t, which, head, u)) +
                    get(&a->b, place(&a->b, which, head, u, 0, 0)),
              mixed = 0.0f;
        int64_t weight = place(&a->r, head, 0, j, 0, 0);
        for (int64_t p = 0; p < a->size; p++, weight += a->r.stride[1])
            mixed = fmaf(y[p], load_as(a->r.data, a->r.type, weight), mixed);
        gate[j] = sum + mixed;
    }
}

static __device__ void step(const slstm_job *a, int64_t sequence, int64_t t, int64_t head,
                            const float *gate, const float *before, float *after) {
    for (int64_t u = threadIdx.x; u < a->size; u += blockDim.x) {
        float raw[SLSTM_GATES];
        for (int g = 0; g < SLSTM_GATES; g++)
            raw[g] = gate[g * a->size + u];
        cell_state s = {before[u], before[a->size + u], before[2 * a->size + u],
                        before[3 * a->size + u]};
        s = cell_next(a->lstm, raw, s);
        s.y = cell_clip(s.y, a->forward_clip);
        const float values[SLSTM_STATES] = {s.y, s.c, s.n, s.m};
        for (int i = 0; i < SLSTM_STATES; i++) {
            after[i * a->size + u] = values[i];
            if (i < a->states)
                put(&a->all_s, place(&a->all_s, i, sequence, t, head, u), values[i]);
            if (i < a->states && t == a->tokens - 1)
                put(&a->s, place(&a->s, i, sequence, head, u, 0), values[i]);
        }
        put(&a->y, place(&a->y, sequence, t, head, u, 0), s.y);
    }
}

static __global__ void slstm_forward(const __grid_constant__ struct slstm_job a) {
    int64_t head = blockIdx.x, sequence = blockIdx.y;
    int64_t state_step = a.batch * a.heads * SLSTM_STATES * a.size;
    int64_t first = (sequence * a.heads + head) * SLSTM_STATES * a.size;
    cuda_wait();
    float *state = a.state + first, *gate = a.gate + first;
    begin_states(&a, sequence, head, state);
    for (int64_t t = 0; t < a.tokens; t++) {
        __syncthreads();
        mix(&a, sequence, t, head, state, gate);
        __syncthreads();
        step(&a, sequence, t, head, gate, state, state + a.kept * state_step);
        state += a.kept * state_step;
        gate += a.kept * state_step;
    }
}

/* ---- The kernel ---- */

static slstm_job make_job(const kernel_call *call) {
    const int64_t *x = call->array[SLSTM_X].shape;
    slstm_job job = {};
    cuda_array *arrays[SLSTM_ARGUMENTS] = {};
    arrays[SLSTM_X] = &job.x;
    arrays[SLSTM_R] = &job.r;
    arrays[SLSTM_B] = &job.b;
    arrays[SLSTM_S0] = &job.s0;
    arrays[SLSTM_Y] = &job.y;
    arrays[SLSTM_S] = &job.s;
    arrays[SLSTM_ALL_S] = &job.all_s;
    arrays[SLSTM_DY] = &job.dy;
    arrays[SLSTM_DS] = &job.ds;
    arrays[SLSTM_DX] = &job.dx;
    arrays[SLSTM_DR] = &job.dr;
    arrays[SLSTM_DB] = &job.db;
    arrays[SLSTM_DS0] = &job.ds0;
    for (int i = 0; i < SLSTM_ARGUMENTS; i++)
        *arrays[i] = cuda_kernel_array(call, i);
    job.batch = x[0];
    job.tokens = x[1];
    job.heads = x[3];
    job.size = x[4];
    job.lstm = call->lstm;
    job.states = call->lstm ? 2 : SLSTM_STATES;
    job.kept = call->options.backward != XLSTM_FORWARD;
    job.cut = call->options.recurrent_cut;
    job.forward_clip = (float)call->options.forward_clip;
    job.gradient_clip = (float)call->options.recurrent_gradient_clip;
    return job;
}

static void place_traces(slstm_job *job, cuda_workspace *w) {
    int64_t row = job->batch * job->heads * SLSTM_STATES * job->size;
    job->state =
        (float *)cuda_workspace_take(w, (job->kept * job->tokens + 1) * row, sizeof(float));
    job->gate = (float *)cuda_workspace_take(w, (job->kept ? job->tokens : 1) * row, sizeof(float));
    if (job->kept)
        job->gradient = (float *)cuda_workspace_take(w, row, sizeof(float));
}

extern "C" xlstm_status cuda_kernel_slstm_workspace(const kernel_call *call, size_t *bytes) {
    slstm_job job = make_job(call);
    slstm_tiles tiles;
    cuda_kernel_gpu gpu;
    cuda_workspace w = {};
    xlstm_status status = cuda_kernel_gpu_now(&gpu);
    if (status != XLSTM_OK)
        return status;
    if (cuda_slstm_choose_tiling(&job, &gpu, &tiles))
        cuda_slstm_place_tiles(&tiles, &w);
    else
        place_traces(&job, &w);
    *bytes = w.used;
    return XLSTM_OK;
}

extern "C" xlstm_status cuda_kernel_slstm(const kernel_call *call) {
    slstm_job job = make_job(call);
    slstm_tiles tiles;
    cuda_kernel_gpu gpu;
    cuda_workspace w = cuda_workspace_of(call);
    xlstm_status status = cuda_kernel_gpu_now(&gpu);
    if (status != XLSTM_OK)
        return status;
    if (cuda_slstm_choose_tiling(&job, &gpu, &tiles)) {
        cuda_slstm_place_tiles(&tiles, &w);
        return cuda_slstm_run_tiles(call, &tiles);
    }
    place_traces(&job, &w);
    cuda_kernel_run(call, &status, "slstm_forward", slstm_forward,
                    dim3((unsigned)job.heads, (unsigned)job.batch), THREADS, 0, job);
    if (job.kept && status == XLSTM_OK)
        status = cuda_slstm_backward(call, &job);
    return status;
}
