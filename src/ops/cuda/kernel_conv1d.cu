/* The causal convolution of each channel in the kernel library. With e, the inputs of a channel after the K - 1 inputs
 * of the state,
 *   y[t]  = b + sum over j < K of w[j] e[t + j],  s[j] = e[S + j]
 * and so
 *   de[i] = sum over j of w[j] dy[i - j], where 0 <= i - j < S,  + ds[i - S] where i >= S
 *   dw[j] = sum over t of dy[t] e[t + j],  db = sum over t of dy[t]
 * A thread has a tile of tokens: of one channel, or with four taps and arrays that allow it of four channels, whose
 * weights and last inputs then stay in registers. Sums of tiles are added in order (column_sums.h). The new state may
 * stand where the old one did: it is written last. */
#include "ops/cuda/column_sums.h"

enum { THREADS = 128, TILE = 64, TAPS = 4, CHANNELS = 4 };

struct conv_job {
    cuda_array x, w, b, s0, y, s, dy, ds, dx, dw, db, ds0;
    int64_t tokens, width, taps;
    float *sums; /* [batch * tiles][width * taps of dw, width of db] */
};

static __device__ __forceinline__ float extended_input(const conv_job &a, int64_t batch, int64_t i,
                                                       int64_t d) {
    return i < a.taps - 1 ? array_get(a.s0, batch, i, d)
                          : array_get(a.x, batch, i - (a.taps - 1), d);
}
/* de[i] without what ds adds. */
static __device__ __forceinline__ void put_input_gradient(const conv_job &a, int64_t batch,
                                                          int64_t i, int64_t d, float de) {
    if (i >= a.tokens)
        de += array_get(a.ds, batch, i - a.tokens, d);
    if (i < a.taps - 1)
        array_put(a.ds0, de, batch, i, d);
    else
        array_put(a.dx, de, batch, i - (a.taps - 1), d);
}
/* Where the block's sums stand. */
static __device__ __forceinline__ float *tile_sums(const conv_job &a) {
    return a.sums + ((int64_t)blockIdx.z * gridDim.y + blockIdx.y) * a.width * (a.taps + 1);
}

/* ---- Any number of taps, any layout ---- */

static __global__ void __launch_bounds__(THREADS)
    conv_forward_any(const __grid_constant__ struct conv_job a) {
    int64_t d = (int64_t)blockIdx.x * THREADS + threadIdx.x, first = (int64_t)blockIdx.y * TILE,
            batch = blockIdx.z;
    cuda_release();
    cuda_wait();
    if (d >= a.width)
        return;
    for (int64_t t = first; t < first + TILE && t < a.tokens; t++) {
        float z = array_get(a.b, d);
        for (int64_t j = 0; j < a.taps; j++)
            z = fmaf(array_get(a.w, d, j), extended_input(a, batch, t + j, d), z);
        array_put(a.y, z, batch, t, d);
    }
}

static __global__ void __launch_bounds__(THREADS)
    conv_gradient_any(const __grid_constant__ struct conv_job a) {
    int64_t d = (int64_t)blockIdx.x * THREADS + threadIdx.x, first = (int64_t)blockIdx.y * TILE,
            batch = blockIdx.z;
    cuda_release();
    cuda_wait();
    if (d >= a.width)
        return;
    for (int64_t i = first; i < first + TILE && i < a.tokens + a.taps - 1; i++) {
        float de = 0.0f;
        for (int64_t j = 0; j < a.taps; j++)
            if (i - j >= 0 && i - j < a.tokens)
                de = fmaf(array_get(a.w, d, j), array_get(a.dy, batch, i - j, d), de);
        put_input_gradient(a, batch, i, d, de);
    }
}

/* A thread has a channel's dw[j], or its db, over a tile. */
static __global__ void __launch_bounds__(THREADS)
    conv_sums_any(const __grid_constant__ struct conv_job a) {
    int64_t place = (int64_t)blockIdx.x * THREADS + threadIdx.x, first = (int64_t)blockIdx.y * TILE,
            batch = blockIdx.z;
    cuda_release();
    cuda_wait();
    if (place >= a.width * (a.taps + 1))
        return;
    bool bias = place >= a.width * a.taps;
    int64_t d = bias ? place - a.width * a.taps : place / a.taps, j = bias ? 0 : place % a.taps;
    float sum = 0.0f;
    for (int64_t t = first; t < first + TILE && t < a.tokens; t++) {
        float dy = array_get(a.dy, batch, t, d);
        sum = bias ? sum + dy : fmaf(dy, extended_input(a, batch, t + j, d), sum);
    }
    tile_sums(a)[place] = sum;
}

static __global__ void __launch_bounds__(THREADS)
    conv_state(const __grid_constant__ struct conv_job a) {
    int64_t d = (int64_t)blockIdx.x * THREADS + threadIdx.x, batch = blockIdx.z;
    cuda_release();
    cuda_wait();
    if (d <
        a.width) /* what is read of the old state lies behind what has been written of the new */
        for (int64_t j = 0; j < a.taps - 1; j++)
            array_put(a.s, extended_input(a, batch, a.tokens + j, d), batch, j, d);
}

/* ---- Four taps ---- */

template <int type>
static __device__ __forceinline__ void load_at(const cuda_array &from, int64_t batch, int64_t t,
                                               int64_t d, float *v) {
    load_four<type>(
        (const char *)from.data + array_place(from, batch, t, d) * (type == DTYPE_F32 ? 4 : 2), v);
}
template <int type>
static __device__ __forceinline__ void store_at(const cuda_array &to, int64_t batch, int64_t t,
                                                int64_t d, const float *v) {
    store_four<type>((char *)to.data + array_place(to, batch, t, d) * (type == DTYPE_F32 ? 4 : 2),
                     v);
}

/* Four channels' inputs at a token before the tile, from the state where it reaches that far. */
template <int type>
static __device__ __forceinline__ void load_inputs(const conv_job &a, int64_t batch, int64_t t,
                                                   int64_t d, float *v) {
    if (t >= 0 && t < a.tokens) {
        load_at<type>(a.x, batch, t, d, v);
        return;
    }
#pragma unroll
    for (int c = 0; c < CHANNELS; c++)
        v[c] = t < 0 ? array_get(a.s0, batch, t + TAPS - 1, d + c) : 0.0f;
}
template <int type>
static __device__ __forceinline__ void load_gradients(const conv_job &a, int64_t batch, int64_t t,
                                                      int64_t d, float *v) {
    if (t >= 0 && t < a.tokens) {
        load_at<type>(a.dy, batch, t, d, v);
        return;
    }
#pragma unroll
    for (int c = 0; c < CHANNELS; c++)
        v[c] = 0.0f;
}

static __device__ __forceinline__ void load_weights(const conv_job &a, int64_t d,
                                                    float (*w)[CHANNELS]) {
#pragma unroll
    for (int j = 0; j < TAPS; j++)
#pragma unroll
        for (int c = 0; c < CHANNELS; c++)
            w[j][c] = array_get(a.w, d + c, j);
}

static __device__ __forceinline__ void shift(float (*window)[CHANNELS]) {
#pragma unroll
    for (int j = 0; j + 1 < TAPS; j++)
#pragma unroll
        for (int c = 0; c < CHANNELS; c++)
            window[j][c] = window[j + 1][c];
}

template <int type>
static __global__ void __launch_bounds__(THREADS)
    conv_forward(const __grid_constant__ struct conv_job a) {
    int64_t d = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * CHANNELS,
            first = (int64_t)blockIdx.y * TILE;
    int64_t batch = blockIdx.z, end = first + TILE < a.tokens ? first + TILE : a.tokens;
    float w[TAPS][CHANNELS], window[TAPS][CHANNELS], bias[CHANNELS];
    cuda_release();
    cuda_wait();
    if (d >= a.width)
        return;
    load_weights(a, d, w);
#pragma unroll
    for (int c = 0; c < CHANNELS; c++)
        bias[c] = array_get(a.b, d + c);
#pragma unroll
    for (int j = 0; j + 1 < TAPS; j++)
        load_inputs<type>(a, batch, first + j + 1 - TAPS, d, window[j]);
#pragma unroll 8
    for (int64_t t = first; t < end; t++) {
        float z[CHANNELS];
        load_at<type>(a.x, batch, t, d, window[TAPS - 1]);
#pragma unroll
        for (int c = 0; c < CHANNELS; c++) {
            z[c] = bias[c];
#pragma unroll
            for (int j = 0; j < TAPS; j++)
                z[c] = fmaf(w[j][c], window[j][c], z[c]);
        }
        store_at<type>(a.y, batch, t, d, z);
        shift(window);
    }
}

/* A tile of de, which reaches TAPS - 1 further than the tokens do, and of the sums. */
template <int type>
static __global__ void __launch_bounds__(THREADS)
    conv_backward(const __grid_constant__ struct conv_job a) {
    int64_t d = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * CHANNELS,
            first = (int64_t)blockIdx.y * TILE;
    int64_t batch = blockIdx.z, all = a.tokens + TAPS - 1,
            end = first + TILE < all ? first + TILE : all;
    float w[TAPS][CHANNELS], window[TAPS][CHANNELS], dy[TAPS][CHANNELS], dw[TAPS][CHANNELS] = {},
                                                                         db[CHANNELS] = {};
    cuda_release();
    cuda_wait();
    if (d >= a.width)
        return;
    load_weights(a, d, w);
#pragma unroll
    for (int j = 0; j + 1 < TAPS; j++) {
        load_inputs<type>(a, batch, first + j + 1 - TAPS, d, window[j]);
        load_gradients<type>(a, batch, first + j + 1 - TAPS, d, dy[j]);
    }
    auto step = [&](int64_t i, bool inside) {
        float de[CHANNELS];
        if (inside)
            load_at<type>(a.x, batch, i, d, window[TAPS - 1]),
                load_at<type>(a.dy, batch, i, d, dy[TAPS - 1]);
        else
            load_inputs<type>(a, batch, i, d, window[TAPS - 1]),
                load_gradients<type>(a, batch, i, d, dy[TAPS - 1]);
#pragma unroll
        for (int c = 0; c < CHANNELS; c++) {
            de[c] = 0.0f;
            db[c] += dy[TAPS - 1][c];
#pragma unroll
            for (int j = 0; j < TAPS; j++) {
                de[c] = fmaf(w[j][c], dy[TAPS - 1 - j][c], de[c]);
                if (inside ||
                    i < a.tokens) /* beyond there is no dy, and inputs could be infinite */
                    dw[j][c] = fmaf(dy[TAPS - 1][c], window[j][c], dw[j][c]);
            }
        }
        if (inside && a.dx.data)
            store_at<type>(a.dx, batch, i - (TAPS - 1), d, de);
        for (int c = 0; c < CHANNELS && !inside; c++)
            put_input_gradient(a, batch, i, d + c, de[c]);
        shift(window);
        shift(dy);
    };
    int64_t i = first;
#pragma unroll 1
    for (; i < end && i < TAPS - 1; i++)
        step(i, false);
#pragma unroll 4
    for (; i < end && i < a.tokens; i++)
        step(i, true);
#pragma unroll 1
    for (; i < end; i++)
        step(i, false);
    if (!a.sums)
        return;
    float *sums = tile_sums(a);
    for (int c = 0; c < CHANNELS; c++) {
        for (int j = 0; j < TAPS; j++)
            sums[(d + c) * TAPS + j] = dw[j][c];
        sums[a.width * TAPS + d + c] = db[c];
    }
}

/* ---- The kernel ---- */

typedef void conv_kernel(struct conv_job);

static conv_kernel *of_type(int type, conv_kernel *f32, conv_kernel *bf16, conv_kernel *f16) {
    return type == DTYPE_F32 ? f32 : type == DTYPE_BF16 ? bf16 : f16;
}

static conv_job make_job(const kernel_call *call) {
    conv_job job = {};
    cuda_array *const arrays[CONV1D_ARGUMENTS] = {&job.x,  &job.w,  &job.b,  &job.s0,
                                                  &job.y,  &job.s,  &job.dy, &job.ds,
                                                  &job.dx, &job.dw, &job.db, &job.ds0};
    for (int i = 0; i < CONV1D_ARGUMENTS; i++)
        *arrays[i] = cuda_kernel_array(call, i);
    job.tokens = call->array[CONV1D_X].shape[1];
    job.width = call->array[CONV1D_X].shape[2];
    job.taps = call->array[CONV1D_W].shape[1];
    return job;
}

static bool has_backward(const kernel_call *call) {
    return call->options.backward != XLSTM_FORWARD;
}

/* Tiles of all tokens, and of de. */
static int64_t tiles_of(const conv_job *job, bool of_inputs) {
    return (job->tokens + (of_inputs ? job->taps - 1 : 0) + TILE - 1) / TILE;
}

static void place(const kernel_call *call, conv_job *job, cuda_workspace *w) {
    int64_t rows = call->array[CONV1D_X].shape[0] * tiles_of(job, true);
    if (has_backward(call) && (job->dw.data || job->db.data))
        job->sums =
            (float *)cuda_workspace_take(w, rows * job->width * (job->taps + 1), sizeof(float));
}

extern "C" xlstm_status cuda_kernel_conv1d_workspace(const kernel_call *call, size_t *bytes) {
    conv_job job = make_job(call);
    cuda_workspace w = {};
    place(call, &job, &w);
    *bytes = w.used;
    return XLSTM_OK;
}

static dim3 grid_of(const kernel_call *call, int64_t threads, int64_t tiles) {
    return dim3((unsigned)((threads + THREADS - 1) / THREADS), (unsigned)tiles,
                (unsigned)call->array[CONV1D_X].shape[0]);
}

static void run_backward(const kernel_call *call, xlstm_status *status, const conv_job &job,
                         bool wide) {
    int64_t tiles = tiles_of(&job, wide), batch = call->array[CONV1D_X].shape[0];
    if (wide) {
        cuda_kernel_run(call, status, "conv1d",
                        of_type(job.x.type, conv_backward<DTYPE_F32>, conv_backward<DTYPE_BF16>,
                                conv_backward<DTYPE_F16>),
                        grid_of(call, job.width / CHANNELS, tiles), THREADS, 0, job);
    } else {
        if (job.dx.data || job.ds0.data)
            cuda_kernel_run(call, status, "conv1d", conv_gradient_any,
                            grid_of(call, job.width, tiles_of(&job, true)), THREADS, 0, job);
        if (job.sums)
            cuda_kernel_run(call, status, "conv1d", conv_sums_any,
                            grid_of(call, job.width * (job.taps + 1), tiles), THREADS, 0, job);
    }
    column_sums sums = {};
    sums.sums = job.sums;
    sums.count = batch * tiles;
    sums.width = job.width * job.taps;
    sums.stride = job.width * (job.taps + 1);
    cuda_column_sums(call, status, sums, CONV1D_DW);
    sums.sums += sums.width;
    sums.width = job.width;
    cuda_column_sums(call, status, sums, CONV1D_DB);
}

extern "C" xlstm_status cuda_kernel_conv1d(const kernel_call *call) {
    conv_job job = make_job(call);
    cuda_workspace w = cuda_workspace_of(call);
    place(call, &job, &w);
    const cuda_array *const rows[] = {&job.x, &job.y, &job.dy, &job.dx};
    bool wide = job.taps == TAPS;
    for (int i = 0; i < 4; i++)
        wide = wide && array_is_wide(*rows[i], job.x.type, 3, job.width);
    xlstm_status status = XLSTM_OK;
    if (job.y.data && wide)
        cuda_kernel_run(call, &status, "conv1d",
                        of_type(job.x.type, conv_forward<DTYPE_F32>, conv_forward<DTYPE_BF16>,
                                conv_forward<DTYPE_F16>),
                        grid_of(call, job.width / CHANNELS, tiles_of(&job, false)), THREADS, 0,
                        job);
    else if (job.y.data)
        cuda_kernel_run(call, &status, "conv1d", conv_forward_any,
                        grid_of(call, job.width, tiles_of(&job, false)), THREADS, 0, job);
    if (has_backward(call))
        run_backward(call, &status, job, wide && job.dy.data);
    if (job.s.data)
        cuda_kernel_run(call, &status, "conv1d", conv_state, grid_of(call, job.width, 1), THREADS,
                        0, job);
    return status;
}
