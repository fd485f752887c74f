/* The way back of the sLSTM and the LSTM in f32, over the trace that the way there has left. A block takes one head of one
 * sequence back through time; raw gates become their gradients where they lie. Then the gradients of the weights are
 * sums over all tokens: tiles of R, each summed by one block in a fixed order. */
#include "ops/cuda/cell.h"
#include "ops/cuda/kernel_slstm.h"

enum { THREADS = 256, TILE = 32, TOKENS = 8 };

/* ---- Back through time ---- */

static __device__ void back_units(const slstm_job *a, int64_t sequence, int64_t t, int64_t head,
                                  const float *before, const float *after, float *gate,
                                  float *gradient) {
    for (int64_t u = threadIdx.x; u < a->size; u += blockDim.x) {
        const int64_t n = a->size;
        float raw[SLSTM_GATES], out[SLSTM_GATES];
        for (int g = 0; g < SLSTM_GATES; g++)
            raw[g] = gate[g * n + u];
        cell_state then = {before[u], before[n + u], before[2 * n + u], before[3 * n + u]};
        cell_state now = {after[u], after[n + u], after[2 * n + u], after[3 * n + u]};
        cell_state d = {gradient[u], gradient[n + u], gradient[2 * n + u], gradient[3 * n + u]};
        if (a->dy.data)
            d.y += load_as(a->dy.data, a->dy.type,
                           sequence * a->dy.stride[0] + t * a->dy.stride[1] +
                               head * a->dy.stride[2] + u * a->dy.stride[3]);
        d = cell_back(a->lstm, raw, then, now, d, a->forward_clip, out);
        gradient[n + u] = d.c;
        gradient[2 * n + u] = d.n;
        gradient[3 * n + u] = d.m;
        for (int g = 0; g < SLSTM_GATES; g++) {
            gate[g * n + u] = out[g];
            if (a->dx.data)
                store_as(a->dx.data, a->dx.type,
                         sequence * a->dx.stride[0] + t * a->dx.stride[1] + g * a->dx.stride[2] +
                             head * a->dx.stride[3] + u * a->dx.stride[4],
                         out[g]);
        }
    }
}

/* The gradient of y of the token before: a row of R a warp. */
static __device__ void mix_back(const slstm_job *a, int64_t head, const float *gate,
                                float *gradient) {
    int lane = threadIdx.x % WARP;
    for (int64_t p = threadIdx.x / WARP; p < a->size; p += blockDim.x / WARP) {
        float sum = 0.0f;
        int64_t row = head * a->r.stride[0] + p * a->r.stride[1];
        for (int64_t j = lane; j < SLSTM_GATES * a->size; j += WARP)
            sum = fmaf(load_as(a->r.data, a->r.type, row + j * a->r.stride[2]), gate[j], sum);
        sum = cell_clip(warp_sum(sum), a->gradient_clip);
        if (lane == 0)
            gradient[p] = a->cut ? 0.0f : sum;
    }
}

static __device__ void copy_gradient(const slstm_job *a, const cuda_array *array, bool in,
                                     int64_t sequence, int64_t head, float *gradient) {
    for (int64_t u = threadIdx.x; u < a->size; u += blockDim.x)
        for (int i = 0; i < SLSTM_STATES; i++) {
            int64_t at = i * array->stride[0] + sequence * array->stride[1] +
                         head * array->stride[2] + u * array->stride[3];
            if (in)
                gradient[i * a->size + u] =
                    i < a->states && array->data ? load_as(array->data, array->type, at) : 0.0f;
            else if (i < a->states && array->data)
                store_as(array->data, array->type, at, gradient[i * a->size + u]);
        }
}

static __global__ void slstm_backward(const __grid_constant__ struct slstm_job a) {
    int64_t head = blockIdx.x, sequence = blockIdx.y;
    int64_t token = a.batch * a.heads * SLSTM_STATES * a.size;
    int64_t first = (sequence * a.heads + head) * SLSTM_STATES * a.size;
    cuda_wait();
    float *gradient = a.gradient + first;
    copy_gradient(&a, &a.ds, true, sequence, head, gradient);
    for (int64_t t = a.tokens - 1; t >= 0; t--) {
        float *gate = a.gate + t * token + first;
        const float *before = a.state + t * token + first;
        __syncthreads();
        back_units(&a, sequence, t, head, before, before + token, gate, gradient);
        __syncthreads();
        mix_back(&a, head, gate, gradient);
    }
    __syncthreads();
    copy_gradient(&a, &a.ds0, false, sequence, head, gradient);
}

/* ---- Weights ---- */

/* dR [p][j] = sum over tokens and sequences of y[p] d(gate[j]), a tile of it; in the tiles of the first rows db [j] too. */
static __global__ void slstm_weights(const __grid_constant__ struct slstm_job a) {
    __shared__ float y[TOKENS][TILE], gate[TOKENS][TILE];
    int64_t head = blockIdx.z, p0 = (int64_t)blockIdx.y * TILE, j0 = (int64_t)blockIdx.x * TILE;
    int64_t width = SLSTM_GATES * a.size, rows = a.tokens * a.batch;
    int column = threadIdx.x % TILE, row = threadIdx.x / TILE;
    float sum[TILE / TOKENS] = {}, bias = 0.0f;
    cuda_wait();
    for (int64_t first = 0; first < rows; first += TOKENS) {
        int64_t at = ((first + row) * a.heads + head) * width;
        bool there = first + row < rows;
        y[row][column] = there && p0 + column < a.size ? a.state[at + p0 + column] : 0.0f;
        gate[row][column] = there && j0 + column < width ? a.gate[at + j0 + column] : 0.0f;
        __syncthreads();
        for (int k = 0; k < TOKENS; k++) {
            for (int i = 0; i < TILE / TOKENS; i++)
                sum[i] = fmaf(y[k][row + i * TOKENS], gate[k][column], sum[i]);
            bias += gate[k][column];
        }
        __syncthreads();
    }
    int64_t j = j0 + column;
    for (int i = 0; i < TILE / TOKENS && j < width && a.dr.data; i++) {
        int64_t p = p0 + row + i * TOKENS;
        if (p < a.size)
            store_as(a.dr.data, a.dr.type,
                     head * a.dr.stride[0] + p * a.dr.stride[1] + j * a.dr.stride[2], sum[i]);
    }
    if (p0 == 0 && row == 0 && j < width && a.db.data)
        store_as(a.db.data, a.db.type,
                 j / a.size * a.db.stride[0] + head * a.db.stride[1] + j % a.size * a.db.stride[2],
                 bias);
}

/* ---- Both ---- */

xlstm_status cuda_slstm_backward(const kernel_call *call, const slstm_job *job) {
    xlstm_status status = XLSTM_OK;
    unsigned rows = (unsigned)((job->size + TILE - 1) / TILE);
    unsigned columns = (unsigned)((SLSTM_GATES * job->size + TILE - 1) / TILE);
    cuda_kernel_run(call, &status, "slstm_backward", slstm_backward,
                    dim3((unsigned)job->heads, (unsigned)job->batch), THREADS, 0, *job);
    if (job->dr.data || job->db.data)
        cuda_kernel_run(call, &status, "slstm_weights", slstm_weights,
                        dim3(columns, rows, (unsigned)job->heads), THREADS, 0, *job);
    return status;
}
