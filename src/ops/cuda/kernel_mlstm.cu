/* The mLSTM families of the kernel library on any arrays: f32 arithmetic, token by token, a block a head.
 *
 * All forms (parallel, chunkwise, sequence, step) are the same function, and here the same kernels. C and its gradient
 * stand in the workspace; the backward takes two sweeps, so that no state is kept: dq needs C alone, dk and dv need dC
 * alone. Equations: docs/KERNELS.md. A state's maximum m is rounded where it is stored (mlstm_gates.h). */
#include "ops/cuda/kernel_chunkwise.h"
#include "ops/cuda/mlstm_gates.h"

#include <math.h>

enum { THREADS = 512, WARPS = THREADS / WARP };

struct kernel_mlstm_arguments {
    cuda_array array[MLSTM_ARGUMENTS];
    int64_t heads, tokens, d_qk, d_v, chunk;
    bool sigmoid, normalize, exact, backward, stored;
    float eps, scale;
    float *c, *dc, *n, *dn; /* workspace, a head after the other: states and their gradients */
    float *forget, *input;  /* [heads][tokens] and so on: F and I */
    float *rho, *e, *dm;    /* of each token, as in the equations */
    float *from_query, *from_key;
    int *anew;           /* 1: the token's input gate was the maximum; -1: nothing is stored */
    float *product;      /* a head: E */
    mlstm_maximum *last; /* a head: m of the last state */
};

/* ---- Arrays ---- */

/* A block's head: its arrays, its pieces of the workspace. */
struct mlstm_block {
    const kernel_mlstm_arguments *a;
    int64_t batch, head, index;
};

static __device__ __forceinline__ mlstm_block block_of(const kernel_mlstm_arguments &a) {
    mlstm_block b = {&a, (int64_t)blockIdx.x / a.heads, (int64_t)blockIdx.x % a.heads,
                     (int64_t)blockIdx.x};
    return b;
}
static __device__ __forceinline__ bool has(const mlstm_block &b, int argument) {
    return b.a->array[argument].data != NULL;
}
/* Element [i][j] of the head's array; one that is absent is 0. */
static __device__ __forceinline__ float get(const mlstm_block &b, int argument, int64_t i,
                                            int64_t j) {
    const cuda_array &x = b.a->array[argument];
    return x.data ? load_as(x.data, x.type,
                            b.batch * x.stride[0] + b.head * x.stride[1] + i * x.stride[2] +
                                j * x.stride[3])
                  : 0.0f;
}
static __device__ __forceinline__ void put(const mlstm_block &b, int argument, int64_t i, int64_t j,
                                           float value) {
    const cuda_array &x = b.a->array[argument];
    if (x.data)
        store_as(x.data, x.type,
                 b.batch * x.stride[0] + b.head * x.stride[1] + i * x.stride[2] + j * x.stride[3],
                 value);
}

/* C, n and m where they are wanted, border `index` of the arrays. */
static __device__ inline void put_state(const mlstm_block &b, const float *c, const float *n,
                                        mlstm_maximum m, int to_c, int to_n, int to_m,
                                        int64_t index) {
    const kernel_mlstm_arguments &a = *b.a;
    float rest, stored = mlstm_round_up(m, &rest), weight = expf(rest);
    for (int64_t i = threadIdx.x; has(b, to_c) && i < a.d_qk * a.d_v; i += THREADS)
        put(b, to_c, index * a.d_qk + i / a.d_v, i % a.d_v, weight * c[i]);
    for (int64_t d = threadIdx.x; d < a.d_qk; d += THREADS)
        put(b, to_n, index * a.d_qk + d, 0, weight * n[d]);
    if (threadIdx.x == 0)
        put(b, to_m, index, 0, stored);
}

/* ---- Forward, and dq ---- */

/* A token's part of what all threads know. */
struct mlstm_moment {
    float forget, input;
    mlstm_maximum m;
};

static __device__ inline void take_gates(const mlstm_block &b, int64_t t, mlstm_moment *s) {
    const kernel_mlstm_arguments &a = *b.a;
    float input = get(b, MLSTM_I, t, 0), log_f = log_sigmoid(get(b, MLSTM_F, t, 0));
    int anew = 0;
    if (a.sigmoid) {
        s->forget = expf(log_f);
        s->input = expf(log_sigmoid(input));
    } else {
        mlstm_gates g = mlstm_pass(input, log_f, &s->m);
        s->forget = mlstm_exp(g.forget).high;
        s->input = mlstm_exp(g.input).high;
        anew = s->m.high == -INFINITY ? -1 : g.input.high == 0.0f && g.forget.high < 0.0f;
    }
    int64_t at = b.index * a.tokens + t;
    if (a.backward) {
        a.forget[at] = s->forget;
        a.input[at] = s->input;
        a.anew[at] = anew;
    }
}

/* rho, e and dm of a token: qn and the product of dh with the numerator. */
static __device__ inline void divide_backward(const mlstm_block &b, int64_t t, mlstm_maximum m,
                                              float qn, float divisor, float product, float *rho_at,
                                              float *e_at) {
    const kernel_mlstm_arguments &a = *b.a;
    float rho = 1.0f / divisor, delta = rho * product, least = expf(-m.high);
    bool held = !a.exact || !a.normalize; /* the divisor is a constant */
    float e = !held && fabsf(qn) > least ? (qn > 0.0f ? -delta : delta) * rho : 0.0f;
    *rho_at = rho;
    *e_at = e;
    if (threadIdx.x == 0) {
        int64_t at = b.index * a.tokens + t;
        a.rho[at] = rho;
        a.e[at] = e;
        a.dm[at] = held || a.sigmoid ? 0.0f : -delta * a.eps * rho;
    }
}

/* dq = scale (C rho dh + e n), and q dq. */
static __device__ inline void put_dq(const mlstm_block &b, int64_t t, const float *c,
                                     const float *n, float rho, float e, float *parts) {
    const kernel_mlstm_arguments &a = *b.a;
    int lane = (int)threadIdx.x % WARP;
    float along = 0.0f;
    for (int64_t d = threadIdx.x / WARP; d < a.d_qk; d += WARPS) {
        float sum = 0.0f;
        for (int64_t j = lane; j < a.d_v; j += WARP)
            sum = fmaf(c[d * a.d_v + j], rho * get(b, MLSTM_DH, t, j), sum);
        sum = a.scale * fmaf(e, n[d], warp_sum(sum));
        if (lane == 0) {
            put(b, MLSTM_DQ, t, d, sum);
            along = fmaf(get(b, MLSTM_Q, t, d), sum, along);
        }
    }
    along = block_sum(along, parts);
    if (threadIdx.x == 0)
        a.from_query[b.index * a.tokens + t] = along;
}

/* C takes in a token; h, and where it is wanted dq. */
static __device__ inline void forward_token(const mlstm_block &b, int64_t t, const mlstm_moment &s,
                                            float *c, float *n, float *parts) {
    const kernel_mlstm_arguments &a = *b.a;
    float qn = 0.0f, product = 0.0f;
    for (int64_t d = threadIdx.x; d < a.d_qk; d += THREADS) {
        n[d] = s.forget == 0.0f ? 0.0f : s.forget * n[d];
        if (s.input != 0.0f)
            n[d] = fmaf(s.input, get(b, MLSTM_K, t, d), n[d]);
        qn = fmaf(get(b, MLSTM_Q, t, d), n[d], qn);
    }
    qn = a.scale * block_sum(qn, parts);
    float divisor = a.normalize ? mlstm_divisor(s.m, qn, a.eps) : 1.0f;
    for (int64_t j = threadIdx.x; j < a.d_v; j += THREADS) {
        float v = s.input * get(b, MLSTM_V, t, j), sum = 0.0f;
        for (int64_t d = 0; d < a.d_qk; d++) {
            float x = s.forget == 0.0f ? 0.0f : s.forget * c[d * a.d_v + j];
            if (s.input != 0.0f)
                x = fmaf(get(b, MLSTM_K, t, d), v, x);
            c[d * a.d_v + j] = x;
            sum = fmaf(get(b, MLSTM_Q, t, d), x, sum);
        }
        sum *= a.scale;
        put(b, MLSTM_H, t, j, mlstm_quotient(sum, divisor));
        product = fmaf(sum, get(b, MLSTM_DH, t, j), product);
    }
    if (!a.backward)
        return;
    product = block_sum(product, parts);
    float rho, e;
    divide_backward(b, t, s.m, qn, divisor, product, &rho, &e);
    put_dq(b, t, c, n, rho, e, parts);
}

/* E = <dc, C> + <dn, n> */
static __device__ inline float state_product(const mlstm_block &b, const float *c, const float *n,
                                             float *parts) {
    const kernel_mlstm_arguments &a = *b.a;
    float sum = 0.0f;
    for (int64_t i = threadIdx.x; i < a.d_qk * a.d_v; i += THREADS)
        sum = fmaf(get(b, MLSTM_DC, i / a.d_v, i % a.d_v), c[i], sum);
    for (int64_t d = threadIdx.x; a.exact && d < a.d_qk; d += THREADS)
        sum = fmaf(get(b, MLSTM_DN, d, 0), n[d], sum);
    return block_sum(sum, parts);
}

static __global__ void __launch_bounds__(THREADS)
    mlstm_forward_sweep(const __grid_constant__ kernel_mlstm_arguments a) {
    __shared__ float parts[WARP];
    __shared__ mlstm_moment moment;
    cuda_wait();
    mlstm_block b = block_of(a);
    float *c = a.c + b.index * a.d_qk * a.d_v, *n = a.n + b.index * a.d_qk;
    for (int64_t i = threadIdx.x; i < a.d_qk * a.d_v; i += THREADS)
        c[i] = get(b, MLSTM_C0, i / a.d_v, i % a.d_v);
    for (int64_t d = threadIdx.x; d < a.d_qk; d += THREADS)
        n[d] = get(b, MLSTM_N0, d, 0);
    if (threadIdx.x == 0) {
        moment.m.high = a.sigmoid ? 0.0f : get(b, MLSTM_M0, 0, 0);
        moment.m.low = 0.0f;
    }
    for (int64_t t = 0; t < a.tokens; t++) {
        __syncthreads();
        if (t % a.chunk == 0 && !a.stored)
            put_state(b, c, n, moment.m, MLSTM_ALL_C, MLSTM_ALL_N, MLSTM_ALL_M, t / a.chunk);
        __syncthreads();
        if (threadIdx.x == 0)
            take_gates(b, t, &moment);
        __syncthreads();
        forward_token(b, t, moment, c, n, parts);
    }
    __syncthreads();
    if (!a.stored)
        put_state(b, c, n, moment.m, MLSTM_ALL_C, MLSTM_ALL_N, MLSTM_ALL_M,
                  (a.tokens - 1) / a.chunk + 1);
    if (!a.backward) {
        put_state(b, c, n, moment.m, MLSTM_C, MLSTM_N, MLSTM_M, 0);
        return;
    }
    float product = state_product(b, c, n, parts);
    if (threadIdx.x == 0) {
        a.product[b.index] = product;
        a.last[b.index] = moment.m;
    }
}

/* ---- dk and dv ---- */

/* dC takes in a token, dn too; dv = I dC^T k. */
static __device__ inline void put_dv(const mlstm_block &b, int64_t t, float *dc, float *dn) {
    const kernel_mlstm_arguments &a = *b.a;
    int64_t at = b.index * a.tokens + t;
    float rho = a.rho[at], e = a.e[at], input = a.input[at];
    for (int64_t d = threadIdx.x; d < a.d_qk; d += THREADS)
        dn[d] = fmaf(e * a.scale, get(b, MLSTM_Q, t, d), dn[d]);
    for (int64_t j = threadIdx.x; j < a.d_v; j += THREADS) {
        float gradient = rho * get(b, MLSTM_DH, t, j), sum = 0.0f;
        for (int64_t d = 0; d < a.d_qk; d++) {
            float x = fmaf(a.scale * get(b, MLSTM_Q, t, d), gradient, dc[d * a.d_v + j]);
            dc[d * a.d_v + j] = x;
            sum = input == 0.0f ? 0.0f : fmaf(get(b, MLSTM_K, t, d), x, sum);
        }
        put(b, MLSTM_DV, t, j, input == 0.0f ? 0.0f : input * sum);
    }
}

/* dk = I (dC v + dn), and k dk; then dC and dn become those before the token. */
static __device__ inline void put_dk(const mlstm_block &b, int64_t t, float *dc, float *dn,
                                     float *parts) {
    const kernel_mlstm_arguments &a = *b.a;
    int64_t at = b.index * a.tokens + t;
    int lane = (int)threadIdx.x % WARP;
    float input = a.input[at], forget = a.forget[at], along = 0.0f;
    for (int64_t d = threadIdx.x / WARP; d < a.d_qk; d += WARPS) {
        float sum = 0.0f;
        for (int64_t j = lane; j < a.d_v; j += WARP) {
            float x = dc[d * a.d_v + j];
            sum = input == 0.0f ? 0.0f : fmaf(x, get(b, MLSTM_V, t, j), sum);
            dc[d * a.d_v + j] = forget == 0.0f ? 0.0f : forget * x;
        }
        sum = input == 0.0f ? 0.0f : input * (warp_sum(sum) + dn[d]);
        __syncwarp();
        if (lane > 0)
            continue;
        dn[d] = forget == 0.0f ? 0.0f : forget * dn[d];
        put(b, MLSTM_DK, t, d, sum);
        along = input == 0.0f ? 0.0f : fmaf(get(b, MLSTM_K, t, d), sum, along);
    }
    along = block_sum(along, parts);
    if (threadIdx.x == 0)
        a.from_key[at] = along;
}

/* ---- Gates ---- */

/* The gradients of the gates, from the last token to the first; returns what the maxima leave for m_0. One
 * thread; sums over the whole sequence are in double. */
static __device__ inline double put_gates(const mlstm_block &b) {
    const kernel_mlstm_arguments &a = *b.a;
    bool maxima = a.exact && !a.sigmoid;
    double last = a.product[b.index], sum = last;
    double dm = maxima ? (double)get(b, MLSTM_DM, 0, 0) - last : 0.0;
    for (int64_t t = a.tokens - 1; t >= 0; t--) {
        int64_t at = b.index * a.tokens + t;
        float f = get(b, MLSTM_F, t, 0), i = get(b, MLSTM_I, t, 0);
        sum = f == -INFINITY ? 0.0 : sum + a.from_query[at] - a.from_key[at];
        double di = a.from_key[at], df = sum - (a.exact ? 0.0 : last);
        if (maxima) {
            dm = a.anew[at] < 0 ? 0.0 : dm + a.dm[at];
            *(a.anew[at] > 0 ? &di : &df) += dm;
            dm = a.anew[at] > 0 ? 0.0 : dm;
        }
        put(b, MLSTM_DF, t, 0, (float)df * sigmoid(-f));
        put(b, MLSTM_DI, t, 0, (float)di * (a.sigmoid ? sigmoid(-i) : 1.0f));
    }
    return dm;
}

static __global__ void __launch_bounds__(THREADS)
    mlstm_backward_sweep(const __grid_constant__ kernel_mlstm_arguments a) {
    __shared__ float parts[WARP];
    cuda_wait();
    mlstm_block b = block_of(a);
    int64_t state = a.d_qk * a.d_v;
    float *dc = a.dc + b.index * state, *dn = a.dn + b.index * a.d_qk;
    for (int64_t i = threadIdx.x; i < state; i += THREADS)
        dc[i] = get(b, MLSTM_DC, i / a.d_v, i % a.d_v);
    for (int64_t d = threadIdx.x; d < a.d_qk; d += THREADS)
        dn[d] = a.exact ? get(b, MLSTM_DN, d, 0) : 0.0f;
    for (int64_t t = a.tokens - 1; t >= 0; t--) {
        __syncthreads();
        put_dv(b, t, dc, dn);
        __syncthreads();
        put_dk(b, t, dc, dn, parts);
    }
    __syncthreads();
    float product = 0.0f;
    for (int64_t i = threadIdx.x; i < state; i += THREADS) {
        put(b, MLSTM_DC0, i / a.d_v, i % a.d_v, dc[i]);
        product = fmaf(dc[i], get(b, MLSTM_C0, i / a.d_v, i % a.d_v), product);
    }
    for (int64_t d = threadIdx.x; d < a.d_qk; d += THREADS) {
        put(b, MLSTM_DN0, d, 0, a.exact ? dn[d] : 0.0f);
        product = fmaf(dn[d], get(b, MLSTM_N0, d, 0), product);
    }
    product = block_sum(product, parts);
    if (threadIdx.x == 0) {
        float dm = (float)put_gates(b) + product;
        put(b, MLSTM_DM0, 0, 0, a.exact && !a.sigmoid ? dm : 0.0f);
    }
    /* Last, since these may be the arrays of the initial state. */
    __syncthreads();
    put_state(b, a.c + b.index * state, a.n + b.index * a.d_qk, a.last[b.index], MLSTM_C, MLSTM_N,
              MLSTM_M, 0);
}

/* ---- Calls ---- */

/* Serves the call, and what tells its workspace. */
static kernel_mlstm_arguments arguments_of(const kernel_call *call, cuda_workspace *w) {
    const int64_t *shape = call->array[MLSTM_Q].shape;
    kernel_mlstm_arguments a = {};
    for (int i = 0; i < MLSTM_ARGUMENTS; i++)
        a.array[i] = cuda_kernel_array(call, i);
    a.heads = shape[1];
    a.tokens = shape[2];
    a.d_qk = shape[3];
    a.d_v = call->array[MLSTM_V].shape[3];
    a.chunk = call->options.chunk_size ? call->options.chunk_size : 64;
    a.sigmoid = call->sigmoid;
    a.normalize = !call->sigmoid || call->options.normalize;
    a.backward = call->options.backward != XLSTM_FORWARD;
    a.exact = call->options.backward == XLSTM_BACKWARD_EXACT;
    a.stored = call->options.stored_states;
    a.eps = (float)call->options.eps;
    a.scale = (float)(1 / sqrt((double)a.d_qk));
    int64_t heads = shape[0] * a.heads, tokens = heads * a.tokens;
    a.c = (float *)cuda_workspace_take(w, heads * a.d_qk * a.d_v, sizeof(float));
    a.n = (float *)cuda_workspace_take(w, heads * a.d_qk, sizeof(float));
    if (!a.backward)
        return a;
    a.dc = (float *)cuda_workspace_take(w, heads * a.d_qk * a.d_v, sizeof(float));
    a.dn = (float *)cuda_workspace_take(w, heads * a.d_qk, sizeof(float));
    float **of_tokens[] = {&a.forget, &a.input, &a.rho, &a.e, &a.dm, &a.from_query, &a.from_key};
    for (size_t i = 0; i < sizeof of_tokens / sizeof *of_tokens; i++)
        *of_tokens[i] = (float *)cuda_workspace_take(w, tokens, sizeof(float));
    a.anew = (int *)cuda_workspace_take(w, tokens, sizeof(int));
    a.product = (float *)cuda_workspace_take(w, heads, sizeof(float));
    a.last = (mlstm_maximum *)cuda_workspace_take(w, heads, sizeof(mlstm_maximum));
    return a;
}

extern "C" xlstm_status cuda_kernel_mlstm_workspace(const kernel_call *call, size_t *bytes) {
    if (cuda_kernel_takes_chunkwise(call))
        return cuda_kernel_chunkwise_workspace(call, bytes);
    cuda_workspace w = {};
    arguments_of(call, &w);
    *bytes = w.used;
    return XLSTM_OK;
}

extern "C" xlstm_status cuda_kernel_mlstm(const kernel_call *call) {
    if (cuda_kernel_takes_chunkwise(call))
        return cuda_kernel_chunkwise(call);
    cuda_workspace w = cuda_workspace_of(call);
    kernel_mlstm_arguments a = arguments_of(call, &w);
    xlstm_status status = XLSTM_OK;
    dim3 grid((unsigned)(call->array[MLSTM_Q].shape[0] * a.heads));
    cuda_kernel_run(call, &status, "mlstm_forward_sweep", mlstm_forward_sweep, grid,
                    (unsigned)THREADS, 0, a);
    if (a.backward)
        cuda_kernel_run(call, &status, "mlstm_backward_sweep", mlstm_backward_sweep, grid,
                        (unsigned)THREADS, 0, a);
    return status;
}
