/* Norms of rows, as an op and in the kernel library. A group of a row (or the row) is a team's: a warp where it is
 * short, else a block. The team keeps it in registers from the first sum to the last product, where it fits there. The
 * order of sums depends on nothing but the group's length and layout. */
#include "ops/cuda/norm_rows.h"

#include "ops/cuda/values.h"

enum { THREADS = 256 };

/* What a thread keeps: pieces of eight values or one. */
template <int N> static constexpr int kept_pieces = N == 1 ? 8 : 4;

/* A group as a thread sees it: pieces of N values, of which it has every team-th. `kept`: they stay in v; else v[0] is
 * the last one it has read. */
template <int N, int type, bool whole_block, bool kept> struct group {
    static const int team = whole_block ? (int)THREADS : (int)WARP;
    static const int most = kept ? kept_pieces<N> : 1;

    const void *x;
    int x_type;
    int64_t at, step;  /* of the group's first element */
    int index, pieces; /* the thread's first; of the group */
    float v[most][N];
};

template <int N, int type, bool whole_block, bool kept>
static __device__ __forceinline__ void load(const group<N, type, whole_block, kept> &g, int piece,
                                            float *v) {
    load_some<N, type>(g.x, g.x_type, g.at + piece * (N * g.step), v);
}

template <int N, int type, bool whole_block, bool kept>
static __device__ __forceinline__ void keep(group<N, type, whole_block, kept> &g) {
    if (kept) {
#pragma unroll
        for (int k = 0; k < g.most; k++)
            if (g.index + k * g.team < g.pieces)
                load(g, g.index + k * g.team, g.v[k]);
    }
}

/* Calls `visit(piece, values)` for the thread's pieces. */
template <int N, int type, bool whole_block, bool kept, class F>
static __device__ __forceinline__ void each_piece(group<N, type, whole_block, kept> &g, F visit) {
    if (kept) {
#pragma unroll
        for (int k = 0; k < g.most; k++)
            if (g.index + k * g.team < g.pieces)
                visit(g.index + k * g.team, g.v[k]);
    } else {
        for (int piece = g.index; piece < g.pieces; piece += g.team) {
            load(g, piece, g.v[0]);
            visit(piece, g.v[0]);
        }
    }
}

/* The mean over the group of x, or of (x - mean)^2; known to the team. */
template <int N, int type, bool whole_block, bool kept>
static __device__ __forceinline__ float mean_of(group<N, type, whole_block, kept> &g, bool squares,
                                                float mean, int64_t size, float *parts) {
    float sum = 0.0f;
    each_piece(g, [&](int, const float *v) {
#pragma unroll
        for (int j = 0; j < N; j++)
            sum = squares ? fmaf(v[j] - mean, v[j] - mean, sum) : sum + v[j];
    });
    return (whole_block ? block_sum(sum, parts) : warp_sum(sum)) / (float)size;
}

template <int N, int type, bool whole_block, bool kept>
static __global__ void __launch_bounds__(THREADS)
    norm_rows(const __grid_constant__ struct cuda_norm_rows a) {
    __shared__ float parts[WARP];
    group<N, type, whole_block, kept> g;
    int64_t unit =
        whole_block ? blockIdx.x : (int64_t)blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP;
    cuda_release();
    cuda_wait();
    if (unit >= a.rows * a.groups)
        return;
    int64_t row = unit / a.groups, first = unit % a.groups * a.size;
    g.x = a.x;
    g.x_type = a.x_type;
    g.step = N == 1 ? a.x_step : 1;
    g.at = row * a.x_stride + first * g.step;
    g.index = (int)threadIdx.x % g.team;
    g.pieces = (int)(a.size / N);
    keep(g);
    float mean = a.centred ? mean_of(g, false, 0.0f, a.size, parts) : 0.0f;
    float scale = 1.0f / sqrtf(mean_of(g, true, mean, a.size, parts) + a.eps);
    each_piece(g, [&](int piece, const float *v) {
        int64_t at = first + (int64_t)piece * N;
        float w[N], b[N];
#pragma unroll
        for (int j = 0; j < N; j++)
            w[j] = 1.0f, b[j] = 0.0f;
        if (a.weight)
            load_some<N>(a.weight, a.weight_type, N == 1 ? at * a.weight_step : at, w);
        if (a.bias)
            load_some<N>(a.bias, a.bias_type, N == 1 ? at * a.bias_step : at, b);
#pragma unroll
        for (int j = 0; j < N; j++)
            w[j] = fmaf((v[j] - mean) * scale, w[j], b[j]);
        store_some<N, type>(a.out, a.out_type, row * a.out_stride + (N == 1 ? at * a.out_step : at),
                            w);
    });
}

/* ---- Launches ---- */

typedef void norm_function(struct cuda_norm_rows);

template <int N, int type> static norm_function *kernel_of(bool whole_block, bool kept) {
    if (whole_block)
        return kept ? norm_rows<N, type, true, true> : norm_rows<N, type, true, false>;
    return norm_rows<N, type, false, true>;
}

static norm_function *kernel_of(bool wide, int type, bool whole_block, bool kept) {
    if (!wide)
        return kernel_of<1, -1>(whole_block, kept);
    return type == DTYPE_F32    ? kernel_of<8, DTYPE_F32>(whole_block, kept)
           : type == DTYPE_BF16 ? kernel_of<8, DTYPE_BF16>(whole_block, kept)
                                : kernel_of<8, DTYPE_F16>(whole_block, kept);
}

void cuda_norm_launch(const struct cuda_norm_rows *a, cuda_launch *launch) {
    bool wide = a->x_type == a->out_type && a->size % 8 == 0 &&
                rows_are_wide(a->x, a->x_stride, a->x_step) &&
                rows_are_wide(a->out, a->out_stride, a->out_step) &&
                rows_are_wide(a->weight, 0, a->weight_step) &&
                rows_are_wide(a->bias, 0, a->bias_step);
    int kept_values = wide ? 8 * kept_pieces<8> : kept_pieces<1>;
    bool whole_block = a->size > (int)WARP * kept_values;
    int64_t units = a->rows * a->groups, team = whole_block ? (int)THREADS : (int)WARP;
    memset(launch, 0, sizeof *launch);
    launch->kernel =
        (const void *)kernel_of(wide, a->x_type, whole_block, a->size <= team * kept_values);
    launch->name = "normalize";
    launch->arguments = a;
    launch->grid[0] = (unsigned)((units * team + THREADS - 1) / THREADS);
    launch->threads = THREADS;
}

/* ---- The op ---- */

/* Whether the device reads this type of a norm's weight or bias. */
static bool expect_type(ops_check *c, const char *name, const ops_tensor *t) {
    return !ops_present(t) ||
           ops_expect1(c, "normalize", name, t, OPS_FLOATS & ~(1 << DTYPE_F64), -1);
}

static bool check(ops_check *c, const struct ops_normalize *op) {
    return ops_expect2(c, "normalize", "x", &op->x, OPS_F32, -1, -1) &&
           ops_expect2(c, "normalize", "out", &op->out, OPS_F32, op->x.shape[0], op->x.shape[1]) &&
           ops_expect_norm(c, "normalize", &op->norm, op->x.shape[1]) &&
           (op->norm.kind == OPS_NORM_NONE ||
            (expect_type(c, "the norm's weight", &op->norm.weight) &&
             expect_type(c, "the norm's bias", &op->norm.bias)));
}

extern "C" void cuda_normalize(ops_stream *stream, const struct ops_normalize *op) {
    cuda_stream *s = (cuda_stream *)stream;
    if (ops_failed(&s->check) || !check(&s->check, op))
        return;
    if (op->norm.kind == OPS_NORM_NONE) {
        struct ops_sum copy = {};
        copy.count = copy.sign[0] = 1;
        copy.input[0] = op->x;
        copy.out = op->out;
        cuda_sum(stream, &copy);
        return;
    }
    struct cuda_norm_rows a = {};
    a.x = cuda_at(&op->x);
    a.x_stride = op->x.stride[0];
    a.out = cuda_at(&op->out);
    a.out_stride = op->out.stride[0];
    a.x_type = a.out_type = DTYPE_F32;
    a.x_step = a.out_step = a.weight_step = a.bias_step = 1;
    a.weight = cuda_at(&op->norm.weight);
    a.weight_type = op->norm.weight.dtype;
    a.bias = cuda_at(&op->norm.bias);
    a.bias_type = op->norm.bias.dtype;
    a.rows = op->x.shape[0];
    a.groups = op->norm.groups;
    a.size = op->x.shape[1] / a.groups;
    a.centred = op->norm.kind == OPS_NORM_LAYER;
    a.eps = (float)op->norm.eps;
    cuda_launch launch;
    cuda_norm_launch(&a, &launch);
    cuda_run_launch(s, &launch);
}
