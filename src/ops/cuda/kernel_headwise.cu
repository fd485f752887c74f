/* The linear map of each head in the kernel library, y = W x + b, and
 *   dx = W^T dy,  dW = sum over rows of dy x^T,  db = sum over rows of dy
 * Heads of four inputs and outputs, of arrays that can be taken by fours, are a thread's for a slice of the rows, their
 * weights in registers. Otherwise all are products z[r][c] = sum over k of a[r][k] b[k][c] of a head, which differ in the layout of their arrays. A block
 * has a tile of z, and takes a and b through shared memory. The sum over rows is cut into slices, which are added in
 * order (column_sums.h); db is a column of dW for which x is 1. */
#include "ops/cuda/column_sums.h"

enum {
    THREADS = 256,
    SIDE = 64,         /* of a tile of z */
    DEPTH = 16,        /* of what is taken of a and b at a time */
    OWN = 4,           /* rows and columns of a thread */
    LEAST_SLICE = 128, /* rows of a slice of a sum over rows */
    MOST_SLICES = 128
};

/* A matrix of each head in an array; `ones`: the column that is 1, past the last that is stored. */
struct matrix {
    const void *data;
    int type;
    int64_t head, row, column; /* strides */
    int64_t ones;              /* -1: none */
};

struct product_job {
    matrix a, b;
    cuda_array bias; /* [heads][columns] */
    cuda_array z;    /* [rows][heads][columns]; absent: sums */
    float *sums;     /* [slices][heads][rows][columns], without the column of ones */
    float *ones;     /* [slices][heads][rows]: that column */
    int64_t rows, columns, depth, slice, heads;
};

static __device__ __forceinline__ float matrix_at(const matrix &m, int64_t head, int64_t row,
                                                  int64_t column) {
    if (column == m.ones)
        return 1.0f;
    return load_as(m.data, m.type, head * m.head + row * m.row + column * m.column);
}

/* What a thread of the block fetches of a and b, DEPTH deep from `k` on; 0 beyond what there is. */
static __device__ __forceinline__ void fetch(const product_job &p, int64_t head, int64_t row,
                                             int64_t column, int64_t k, int64_t end,
                                             float (*a)[SIDE], float (*b)[SIDE]) {
    for (int i = (int)threadIdx.x; i < SIDE * DEPTH; i += THREADS) {
        /* neighbouring threads have what lies side by side */
        int r = p.a.column == 1 ? i / DEPTH : i % SIDE, j = p.a.column == 1 ? i % DEPTH : i / SIDE;
        a[j][r] = row + r < p.rows && k + j < end ? matrix_at(p.a, head, row + r, k + j) : 0.0f;
        int c = p.b.column == 1 ? i % SIDE : i / DEPTH;
        j = p.b.column == 1 ? i / SIDE : i % DEPTH;
        b[j][c] =
            column + c < p.columns && k + j < end ? matrix_at(p.b, head, k + j, column + c) : 0.0f;
    }
}

static __global__ void __launch_bounds__(THREADS)
    headwise_product(const __grid_constant__ struct product_job p) {
    __shared__ float a[DEPTH][SIDE], b[DEPTH][SIDE];
    int64_t tiles = (p.columns + SIDE - 1) / SIDE;
    int64_t row = (int64_t)blockIdx.x * SIDE, column = blockIdx.y % tiles * SIDE,
            head = blockIdx.y / tiles;
    int64_t first = (int64_t)blockIdx.z * p.slice,
            end = first + p.slice < p.depth ? first + p.slice : p.depth;
    int r = (int)threadIdx.x / (SIDE / OWN) * OWN, c = (int)threadIdx.x % (SIDE / OWN) * OWN;
    float z[OWN][OWN] = {};
    cuda_release();
    cuda_wait();
    for (int64_t k = first; k < end; k += DEPTH) {
        __syncthreads();
        fetch(p, head, row, column, k, end, a, b);
        __syncthreads();
#pragma unroll
        for (int j = 0; j < DEPTH; j++)
#pragma unroll
            for (int m = 0; m < OWN; m++)
#pragma unroll
                for (int n = 0; n < OWN; n++)
                    z[m][n] = fmaf(a[j][r + m], b[j][c + n], z[m][n]);
    }
    for (int m = 0; m < OWN; m++)
        for (int n = 0; n < OWN; n++) {
            int64_t i = row + r + m, j = column + c + n;
            if (i >= p.rows || j >= p.columns)
                continue;
            int64_t place = (blockIdx.z * p.heads + head) * p.rows + i; /* of sums */
            if (!p.sums)
                array_put(p.z, z[m][n] + array_get(p.bias, head, j), i, head, j);
            else if (j == p.b.ones)
                p.ones[place] = z[m][n];
            else
                p.sums[place * p.b.ones + j] = z[m][n];
        }
}

struct headwise_job {
    cuda_array x, w, b, y, dy, dx, dw, db;
    int64_t rows, heads, outputs, inputs;
    int64_t slices; /* of the sums over rows */
    float *sums, *ones;
};

/* ---- Heads of four ---- */

enum { FOUR = 4, FOUR_THREADS = 128 };

template <int type>
static __device__ __forceinline__ const void *four_at(const cuda_array &a, int64_t row,
                                                      int64_t head) {
    return (const char *)a.data + array_place(a, row, head) * (type == DTYPE_F32 ? 4 : 2);
}

/* The rows of the block's slice. */
struct row_span {
    int64_t first, end;
};
static __device__ __forceinline__ row_span slice_rows(const headwise_job &a) {
    int64_t length = (a.rows + gridDim.y - 1) / gridDim.y, first = blockIdx.y * length;
    return {first, first + length < a.rows ? first + length : a.rows};
}

static __device__ __forceinline__ void load_weights(const headwise_job &a, int64_t head,
                                                    float (*w)[FOUR]) {
#pragma unroll
    for (int o = 0; o < FOUR; o++)
#pragma unroll
        for (int i = 0; i < FOUR; i++)
            w[o][i] = array_get(a.w, head, o, i);
}

template <int type>
static __global__ void __launch_bounds__(FOUR_THREADS)
    headwise_fours(const __grid_constant__ struct headwise_job a) {
    int64_t head = (int64_t)blockIdx.x * FOUR_THREADS + threadIdx.x;
    float w[FOUR][FOUR], bias[FOUR];
    cuda_release();
    cuda_wait();
    if (head >= a.heads)
        return;
    load_weights(a, head, w);
#pragma unroll
    for (int o = 0; o < FOUR; o++)
        bias[o] = array_get(a.b, head, o);
    row_span rows = slice_rows(a);
#pragma unroll 4
    for (int64_t row = rows.first; row < rows.end; row++) {
        float x[FOUR], y[FOUR];
        load_four<type>(four_at<type>(a.x, row, head), x);
#pragma unroll
        for (int o = 0; o < FOUR; o++) {
            y[o] = bias[o];
#pragma unroll
            for (int i = 0; i < FOUR; i++)
                y[o] = fmaf(w[o][i], x[i], y[o]);
        }
        store_four<type>((void *)four_at<type>(a.y, row, head), y);
    }
}

template <int type>
static __global__ void __launch_bounds__(FOUR_THREADS)
    headwise_fours_backward(const __grid_constant__ struct headwise_job a) {
    int64_t head = (int64_t)blockIdx.x * FOUR_THREADS + threadIdx.x;
    float w[FOUR][FOUR], dw[FOUR][FOUR] = {}, db[FOUR] = {};
    cuda_release();
    cuda_wait();
    if (head >= a.heads)
        return;
    load_weights(a, head, w);
    row_span rows = slice_rows(a);
#pragma unroll 4
    for (int64_t row = rows.first; row < rows.end; row++) {
        float x[FOUR], dy[FOUR], dx[FOUR] = {};
        load_four<type>(four_at<type>(a.x, row, head), x);
        load_four<type>(four_at<type>(a.dy, row, head), dy);
#pragma unroll
        for (int o = 0; o < FOUR; o++) {
            db[o] += dy[o];
#pragma unroll
            for (int i = 0; i < FOUR; i++) {
                dx[i] = fmaf(w[o][i], dy[o], dx[i]);
                dw[o][i] = fmaf(dy[o], x[i], dw[o][i]);
            }
        }
        if (a.dx.data)
            store_four<type>((void *)four_at<type>(a.dx, row, head), dx);
    }
    if (!a.sums)
        return;
    int64_t place = (blockIdx.y * a.heads + head) * FOUR; /* of sums */
#pragma unroll
    for (int o = 0; o < FOUR; o++) {
        store_four<DTYPE_F32>(a.sums + (place + o) * FOUR, dw[o]);
        a.ones[place + o] = db[o];
    }
}

static bool is_fours(const headwise_job *job) {
    const cuda_array *const arrays[] = {&job->x, &job->y, &job->dy, &job->dx};
    bool fours = job->inputs == FOUR && job->outputs == FOUR;
    for (int i = 0; i < 4; i++)
        fours = fours && (!arrays[i]->data ||
                          (arrays[i]->type == job->x.type && arrays[i]->stride[2] == 1 &&
                           arrays[i]->stride[0] % FOUR == 0 && arrays[i]->stride[1] % FOUR == 0 &&
                           (uintptr_t)arrays[i]->data % (job->x.type == DTYPE_F32 ? 16 : 8) == 0));
    return fours;
}

typedef void fours_kernel(struct headwise_job);

static void run_fours(const kernel_call *call, xlstm_status *status, const headwise_job *job,
                      bool backward) {
    fours_kernel *kernel = job->x.type == DTYPE_F32    ? headwise_fours<DTYPE_F32>
                           : job->x.type == DTYPE_BF16 ? headwise_fours<DTYPE_BF16>
                                                       : headwise_fours<DTYPE_F16>;
    if (backward)
        kernel = job->x.type == DTYPE_F32    ? headwise_fours_backward<DTYPE_F32>
                 : job->x.type == DTYPE_BF16 ? headwise_fours_backward<DTYPE_BF16>
                                             : headwise_fours_backward<DTYPE_F16>;
    cuda_kernel_run(
        call, status, "headwise_linear", kernel,
        dim3((unsigned)((job->heads + FOUR_THREADS - 1) / FOUR_THREADS), (unsigned)job->slices),
        FOUR_THREADS, 0, *job);
}

/* ---- The kernel ---- */

static headwise_job make_job(const kernel_call *call) {
    headwise_job job = {};
    cuda_array *const arrays[AFFINE_ARGUMENTS] = {&job.x,  &job.w,  &job.b,  &job.y,
                                                  &job.dy, &job.dx, &job.dw, &job.db};
    for (int i = 0; i < AFFINE_ARGUMENTS; i++)
        *arrays[i] = cuda_kernel_array(call, i);
    job.rows = call->array[AFFINE_X].shape[0];
    job.heads = call->array[AFFINE_W].shape[0];
    job.outputs = call->array[AFFINE_W].shape[1];
    job.inputs = call->array[AFFINE_W].shape[2];
    job.slices = (job.rows + LEAST_SLICE - 1) / LEAST_SLICE;
    job.slices = job.slices < MOST_SLICES ? job.slices : (int64_t)MOST_SLICES;
    return job;
}

static bool has_sums(const kernel_call *call, const headwise_job *job) {
    return call->options.backward != XLSTM_FORWARD && job->dy.data &&
           (job->dw.data || job->db.data);
}

static void place(const kernel_call *call, headwise_job *job, cuda_workspace *w) {
    int64_t rows = job->slices * job->heads * job->outputs;
    if (!has_sums(call, job))
        return;
    job->sums = (float *)cuda_workspace_take(w, rows * job->inputs, sizeof(float));
    job->ones = (float *)cuda_workspace_take(w, rows, sizeof(float));
}

extern "C" xlstm_status cuda_kernel_headwise_workspace(const kernel_call *call, size_t *bytes) {
    headwise_job job = make_job(call);
    cuda_workspace w = {};
    place(call, &job, &w);
    *bytes = w.used;
    return XLSTM_OK;
}

/* The matrix of each head with these dimensions of the array as head, row and column. */
static matrix matrix_of(const cuda_array &a, int head, int row, int column) {
    return {a.data, a.type, a.stride[head], a.stride[row], a.stride[column], -1};
}

static void run_product(const kernel_call *call, xlstm_status *status, const headwise_job *job,
                        product_job p) {
    int64_t tiles = (p.columns + SIDE - 1) / SIDE, slices = p.sums ? job->slices : 1;
    p.heads = job->heads;
    p.slice = (p.depth + slices - 1) / slices;
    cuda_kernel_run(call, status, "headwise_linear", headwise_product,
                    dim3((unsigned)((p.rows + SIDE - 1) / SIDE), (unsigned)(tiles * job->heads),
                         (unsigned)slices),
                    THREADS, 0, p);
}

static void run_forward(const kernel_call *call, xlstm_status *status, const headwise_job *job) {
    product_job p = {};
    p.a = matrix_of(job->x, 1, 0, 2);
    p.b = matrix_of(job->w, 0, 2, 1);
    p.bias = job->b;
    p.z = job->y;
    p.rows = job->rows;
    p.columns = job->outputs;
    p.depth = job->inputs;
    run_product(call, status, job, p);
}

static void run_input_gradient(const kernel_call *call, xlstm_status *status,
                               const headwise_job *job) {
    product_job p = {};
    p.a = matrix_of(job->dy, 1, 0, 2);
    p.b = matrix_of(job->w, 0, 1, 2);
    p.z = job->dx;
    p.rows = job->rows;
    p.columns = job->inputs;
    p.depth = job->dy.data ? job->outputs : 0;
    run_product(call, status, job, p);
}

static void run_sums(const kernel_call *call, xlstm_status *status, const headwise_job *job) {
    product_job p = {};
    p.a = matrix_of(job->dy, 1, 2, 0);
    p.b = matrix_of(job->x, 1, 0, 2);
    p.b.ones = job->inputs;
    p.rows = job->outputs;
    p.columns = job->inputs + 1;
    p.depth = job->rows;
    p.sums = job->sums;
    p.ones = job->ones;
    run_product(call, status, job, p);
}

/* Without dy the sums are of nothing. */
static void add_sums(const kernel_call *call, xlstm_status *status, const headwise_job *job) {
    column_sums sums = {};
    sums.sums = job->sums;
    sums.count = job->sums ? job->slices : 0;
    sums.width = sums.stride = job->heads * job->outputs * job->inputs;
    cuda_column_sums(call, status, sums, AFFINE_DW);
    sums.sums = job->ones;
    sums.width = sums.stride = job->heads * job->outputs;
    cuda_column_sums(call, status, sums, AFFINE_DB);
}

extern "C" xlstm_status cuda_kernel_headwise(const kernel_call *call) {
    headwise_job job = make_job(call);
    cuda_workspace w = cuda_workspace_of(call);
    place(call, &job, &w);
    xlstm_status status = XLSTM_OK;
    bool fours = is_fours(&job);
    if (job.y.data && fours)
        run_fours(call, &status, &job, false);
    else if (job.y.data)
        run_forward(call, &status, &job);
    if (call->options.backward == XLSTM_FORWARD)
        return status;
    if (fours && job.dy.data) {
        run_fours(call, &status, &job, true);
        add_sums(call, &status, &job);
        return status;
    }
    if (job.dx.data)
        run_input_gradient(call, &status, &job);
    if (job.sums)
        run_sums(call, &status, &job);
    add_sums(call, &status, &job);
    return status;
}
