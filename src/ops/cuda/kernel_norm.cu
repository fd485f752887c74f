/* RMSNorm and LayerNorm of the kernel library. For a group of D values,
 *   a = 1 / sqrt(mean((x - mu)^2) + eps),  mu = mean(x) or, for RMSNorm, 0
 *   x^ = (x - mu) a,  y = x^ w + b
 * and with g = dy w
 *   dx = a (g - mean(g) - x^ mean(g x^)),  without mean(g) for RMSNorm
 *   dw = sum over rows of dy x^,  db = sum over rows of dy
 * The forward is that of the op (norm.cu). In the backward a team, a warp where groups are short and else a block, takes
 * some rows of a group one after the other, and adds up dw and db of its columns; the teams' sums are added in order
 * (column_sums.h). */
#include "ops/cuda/column_sums.h"
#include "ops/cuda/norm_rows.h"

enum {
    THREADS = 256,
    TEAMS = THREADS / 32, /* in a block, where they are warps */
    FEW = 2,
    MANY = 4,   /* pieces of eight that a thread keeps */
    SINGLES = 8 /* pieces of one */
};

struct norm_job {
    cuda_array x, w, b, y, dy, dx, dw, db;
    int64_t rows, size; /* of a group */
    int groups;
    bool centred;
    float eps;
    float *sums;   /* [teams][2][groups * size]: of dw and db */
    int64_t teams; /* of a group */
};

/* A team's part of a group, as a thread sees it: its pieces of N values, in registers where they are K at most, else the last one
 * that it has read (K = 0); and its sums, which otherwise stand where they go to. */
template <int N, int type, int K> struct backward_state {
    static const int most = K ? K : 1;
    int index, team, pieces;
    int64_t row, first; /* first column of the group */
    float x[most][N], dy[most][N], dw[most][N], db[most][N];
};

template <int N, int type>
static __device__ __forceinline__ void read_some(const cuda_array &a, int64_t row, int64_t column,
                                                 float absent, float *v) {
    if (a.data) {
        load_some<N, type>(a.data, a.type,
                           row * a.stride[0] + (N == 1 ? column * a.stride[1] : column), v);
        return;
    }
#pragma unroll
    for (int j = 0; j < N; j++)
        v[j] = absent;
}

/* The weight: an array of one dimension, of a type of its own. */
template <int N>
static __device__ __forceinline__ void read_weight(const cuda_array &a, int64_t column, float *v) {
    if (a.data) {
        load_some<N>(a.data, a.type, N == 1 ? column * a.stride[0] : column, v);
        return;
    }
#pragma unroll
    for (int j = 0; j < N; j++)
        v[j] = 1.0f;
}

template <int N, int type, int K>
static __device__ __forceinline__ void read_piece(const norm_job &a, backward_state<N, type, K> &s,
                                                  int piece, int k) {
    int64_t column = s.first + (int64_t)piece * N;
    read_some<N, type>(a.x, s.row, column, 0.0f, s.x[k]);
    read_some<N, type>(a.dy, s.row, column, 0.0f, s.dy[k]);
}

/* Calls `visit(piece, k)` for the thread's pieces, which then stand in x[k] and dy[k]. */
template <int N, int type, int K, class F>
static __device__ __forceinline__ void each_piece(const norm_job &a, backward_state<N, type, K> &s,
                                                  F visit) {
    if (K) {
#pragma unroll
        for (int k = 0; k < s.most; k++)
            if (s.index + k * s.team < s.pieces)
                visit(s.index + k * s.team, k);
    } else {
        for (int piece = s.index; piece < s.pieces; piece += s.team) {
            read_piece(a, s, piece, 0);
            visit(piece, 0);
        }
    }
}

/* Both sums over the team, at once; `parts` has 64 floats. */
template <bool whole_block>
static __device__ __forceinline__ void add_both(float &x, float &y, float *parts) {
    x = warp_sum(x);
    y = warp_sum(y);
    if (!whole_block)
        return;
    if (threadIdx.x % WARP == 0) {
        parts[threadIdx.x / WARP] = x;
        parts[WARP + threadIdx.x / WARP] = y;
    }
    __syncthreads();
    x = y = 0.0f;
#pragma unroll
    for (int i = 0; i < TEAMS; i++) {
        x += parts[i];
        y += parts[WARP + i];
    }
    __syncthreads();
}

template <int N, int type, bool whole_block, int K>
static __device__ __forceinline__ void backward_row(const norm_job &a,
                                                    backward_state<N, type, K> &s, float *parts,
                                                    float *sums, int64_t width) {
    const float count = (float)a.size;
    float total = 0.0f, squares = 0.0f, gradient = 0.0f, product = 0.0f, mean = 0.0f;
    if (K) {
#pragma unroll
        for (int k = 0; k < s.most; k++)
            if (s.index + k * s.team < s.pieces)
                read_piece(a, s, s.index + k * s.team, k);
    }
    if (a.centred) {
        each_piece(a, s, [&](int, int k) {
#pragma unroll
            for (int j = 0; j < N; j++)
                total += s.x[k][j];
        });
        mean = (whole_block ? block_sum(total, parts) : warp_sum(total)) / count;
    }
    each_piece(a, s, [&](int, int k) {
#pragma unroll
        for (int j = 0; j < N; j++)
            squares = fmaf(s.x[k][j] - mean, s.x[k][j] - mean, squares);
    });
    squares = whole_block ? block_sum(squares, parts) : warp_sum(squares);
    float scale = 1.0f / sqrtf(squares / count + a.eps);
    each_piece(a, s, [&](int piece, int k) {
        float w[N];
        read_weight<N>(a.w, s.first + (int64_t)piece * N, w);
#pragma unroll
        for (int j = 0; j < N; j++) {
            float g = s.dy[k][j] * w[j];
            gradient += g;
            product = fmaf(g, (s.x[k][j] - mean) * scale, product);
        }
    });
    add_both<whole_block>(gradient, product, parts);
    gradient = a.centred ? gradient / count : 0.0f;
    product /= count;
    each_piece(a, s, [&](int piece, int k) {
        int64_t column = s.first + (int64_t)piece * N;
        float w[N], dx[N];
        read_weight<N>(a.w, column, w);
#pragma unroll
        for (int j = 0; j < N; j++) {
            float dy = s.dy[k][j], x = (s.x[k][j] - mean) * scale;
            dx[j] = scale * (dy * w[j] - gradient - x * product);
            if (K) {
                s.dw[k][j] = fmaf(dy, x, s.dw[k][j]);
                s.db[k][j] += dy;
            } else if (sums) {
                sums[column + j] = fmaf(dy, x, sums[column + j]);
                sums[width + column + j] += dy;
            }
        }
        if (a.dx.data)
            store_some<N, type>(
                a.dx.data, a.dx.type,
                s.row * a.dx.stride[0] + (N == 1 ? column * a.dx.stride[1] : column), dx);
    });
}

template <int N, int type, bool whole_block, int K>
static __global__ void __launch_bounds__(THREADS, K == FEW ? 2 : 1)
    norm_backward(const __grid_constant__ struct norm_job a) {
    __shared__ float parts[2 * WARP];
    backward_state<N, type, K> s = {};
    s.team = whole_block ? (int)THREADS : (int)WARP;
    s.index = (int)threadIdx.x % s.team;
    s.pieces = (int)(a.size / N);
    s.first = (int64_t)blockIdx.y * a.size;
    int64_t team = whole_block ? blockIdx.x : (int64_t)blockIdx.x * TEAMS + threadIdx.x / WARP;
    int64_t width = a.groups * a.size;
    float *sums = a.sums ? a.sums + team * 2 * width : NULL;
    cuda_release();
    cuda_wait();
    if (team >= a.teams)
        return;
    if (!K && sums)
        for (int piece = s.index; piece < s.pieces; piece += s.team)
            for (int j = 0; j < N; j++)
                sums[s.first + (int64_t)piece * N + j] =
                    sums[width + s.first + (int64_t)piece * N + j] = 0.0f;
    for (s.row = team; s.row < a.rows; s.row += a.teams)
        backward_row<N, type, whole_block, K>(a, s, parts, sums, width);
#pragma unroll
    for (int k = 0; k < s.most; k++)
        if (K && sums && s.index + k * s.team < s.pieces)
            for (int j = 0; j < N; j++) {
                int64_t column = s.first + (int64_t)(s.index + k * s.team) * N + j;
                sums[column] = s.dw[k][j];
                sums[width + column] = s.db[k][j];
            }
}

/* ---- The kernels ---- */

typedef void norm_kernel(struct norm_job);

template <int type> static norm_kernel *kernel_of(bool whole_block, int kept) {
    if (whole_block)
        return kept == FEW    ? norm_backward<EIGHT, type, true, FEW>
               : kept == MANY ? norm_backward<EIGHT, type, true, MANY>
                              : norm_backward<EIGHT, type, true, 0>;
    return kept == FEW ? norm_backward<EIGHT, type, false, FEW>
                       : norm_backward<EIGHT, type, false, MANY>;
}

static norm_kernel *kernel_of(bool wide, int type, bool whole_block, int kept) {
    if (!wide && whole_block)
        return kept ? norm_backward<1, -1, true, SINGLES> : norm_backward<1, -1, true, 0>;
    if (!wide)
        return norm_backward<1, -1, false, SINGLES>;
    return type == DTYPE_F32    ? kernel_of<DTYPE_F32>(whole_block, kept)
           : type == DTYPE_BF16 ? kernel_of<DTYPE_BF16>(whole_block, kept)
                                : kernel_of<DTYPE_F16>(whole_block, kept);
}

/* How a backward is cut; `kept`: pieces of a thread that stay in registers. */
struct cut {
    bool whole_block, wide;
    int kept;
    int64_t teams;
};

static bool is_wide(const norm_job *a) {
    int64_t width = a->groups * a->size;
    bool wide = a->size % EIGHT == 0 && array_is_wide(a->w, a->w.type, 1, width);
    const cuda_array *const arrays[] = {&a->x, &a->dy, &a->dx};
    for (int i = 0; i < 3; i++)
        wide = wide && array_is_wide(*arrays[i], a->x.type, 2, width);
    return wide;
}

static cut cut_of(const norm_job *a, int processors) {
    cut c;
    c.wide = is_wide(a);
    int64_t pieces = c.wide ? a->size / EIGHT : a->size, most = c.wide ? (int)MANY : (int)SINGLES;
    c.whole_block = pieces > (int)WARP * most;
    int64_t team = c.whole_block ? (int)THREADS : (int)WARP;
    c.kept = pieces > team * most ? 0 : c.wide && pieces <= team * FEW ? (int)FEW : (int)most;
    int64_t blocks = 2 * processors;
    c.teams = (blocks + a->groups - 1) / a->groups * (c.whole_block ? 1 : (int)TEAMS);
    c.teams = c.teams < a->rows ? c.teams : a->rows;
    return c;
}

static norm_job make_job(const kernel_call *call, bool centred) {
    norm_job job = {};
    cuda_array *const arrays[AFFINE_ARGUMENTS] = {&job.x,  &job.w,  &job.b,  &job.y,
                                                  &job.dy, &job.dx, &job.dw, &job.db};
    for (int i = 0; i < AFFINE_ARGUMENTS; i++)
        *arrays[i] = cuda_kernel_array(call, i);
    job.rows = call->array[AFFINE_X].shape[0];
    job.groups = call->options.groups;
    job.size = call->array[AFFINE_X].shape[1] / job.groups;
    job.centred = centred;
    job.eps = (float)call->options.eps;
    return job;
}

static bool has_sums(const norm_job *job) {
    return job->dw.data || job->db.data;
}

static void place(norm_job *job, const cut *c, cuda_workspace *w) {
    job->teams = c->teams;
    if (has_sums(job))
        job->sums =
            (float *)cuda_workspace_take(w, c->teams * 2 * job->groups * job->size, sizeof(float));
}

static xlstm_status forward(const kernel_call *call, const norm_job *job) {
    struct cuda_norm_rows a = {};
    a.x = job->x.data;
    a.x_type = job->x.type;
    a.x_stride = job->x.stride[0];
    a.x_step = job->x.stride[1];
    a.weight = job->w.data;
    a.weight_type = job->w.type;
    a.weight_step = job->w.stride[0];
    a.bias = job->b.data;
    a.bias_type = job->b.type;
    a.bias_step = job->b.stride[0];
    a.out = job->y.data;
    a.out_type = job->y.type;
    a.out_stride = job->y.stride[0];
    a.out_step = job->y.stride[1];
    a.rows = job->rows;
    a.size = job->size;
    a.groups = job->groups;
    a.centred = job->centred;
    a.eps = job->eps;
    cuda_launch launch;
    cuda_norm_launch(&a, &launch);
    return cuda_kernel_launch(call, &launch);
}

static xlstm_status backward(const kernel_call *call, norm_job *job) {
    cuda_kernel_gpu gpu;
    xlstm_status status = cuda_kernel_gpu_now(&gpu);
    if (status != XLSTM_OK)
        return status;
    cuda_workspace w = cuda_workspace_of(call);
    cut c = cut_of(job, gpu.processors);
    place(job, &c, &w);
    int64_t blocks = c.whole_block ? c.teams : (c.teams + TEAMS - 1) / TEAMS;
    cuda_kernel_run(call, &status, "norm_backward",
                    kernel_of(c.wide, job->x.type, c.whole_block, c.kept),
                    dim3((unsigned)blocks, (unsigned)job->groups), THREADS, 0, *job);
    if (has_sums(job)) {
        column_sums sums = {};
        sums.sums = job->sums;
        sums.count = c.teams;
        sums.width = job->groups * job->size;
        sums.stride = 2 * sums.width;
        cuda_column_sums(call, &status, sums, AFFINE_DW);
        sums.sums += sums.width;
        cuda_column_sums(call, &status, sums, AFFINE_DB);
    }
    return status;
}

static xlstm_status run(const kernel_call *call, bool centred) {
    norm_job job = make_job(call, centred);
    xlstm_status status = job.y.data ? forward(call, &job) : XLSTM_OK;
    if (status == XLSTM_OK && call->options.backward != XLSTM_FORWARD)
        status = backward(call, &job);
    return status;
}

extern "C" xlstm_status cuda_kernel_rms_norm(const kernel_call *call) {
    return run(call, false);
}

extern "C" xlstm_status cuda_kernel_layer_norm(const kernel_call *call) {
    return run(call, true);
}

extern "C" xlstm_status cuda_kernel_norm_workspace(const kernel_call *call, size_t *bytes) {
    norm_job job = make_job(call, true);
    cuda_workspace w = {};
    cuda_kernel_gpu gpu;
    xlstm_status status = cuda_kernel_gpu_now(&gpu);
    if (status == XLSTM_OK && call->options.backward != XLSTM_FORWARD) {
        cut c = cut_of(&job, gpu.processors);
        place(&job, &c, &w);
    }
    *bytes = w.used;
    return status;
}
