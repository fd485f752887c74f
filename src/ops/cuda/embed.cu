/* Ops that move rows: embedding, picking rows, sums of rows. A thread takes a piece of eight values of a row
 * (blocks.h), or four values of a sum. */
#include "ops/cuda/blocks.h"

enum { THREADS = 128, SUM_THREADS = 256 };

/* ---- Rows by their number ---- */

struct take_arguments {
    const char *table;
    int64_t row_bytes, rows, width;
    const int32_t *ids;
    float *out;
    int64_t out_stride;
    unsigned *faults;
    int fault; /* enum cuda_fault */
    bool aligned, out_aligned;
};

static __device__ __forceinline__ void store_four(float *row, int64_t first, int64_t width,
                                                  bool aligned, const float *v) {
    if (aligned && first + 4 <= width) {
        *(float4 *)(row + first) = make_float4(v[0], v[1], v[2], v[3]);
        return;
    }
    for (int j = 0; j < 4; j++)
        if (first + j < width)
            row[first + j] = v[j];
}

/* out[t] = table[ids[t]]; an id that is no row is a fault, and its row of out stays as it is. */
template <int type>
static __global__ void take_kernel(const __grid_constant__ struct take_arguments a) {
    int index = (int)(blockIdx.y * blockDim.x + threadIdx.x);
    int64_t token = blockIdx.x;
    cuda_release();
    cuda_wait();
    int64_t id = a.ids[token];
    if (id < 0 || id >= a.rows) {
        if (index == 0)
            cuda_report(a.faults, (enum cuda_fault)a.fault, (unsigned)token);
        return;
    }
    if ((int64_t)PIECE * index >= a.width)
        return;
    float v[PIECE];
    load_piece<type>(a.table + id * a.row_bytes, index, a.width, a.aligned, v);
    float *row = a.out + token * a.out_stride;
    store_four(row, piece_first<type>(index), a.width, a.out_aligned, v);
    store_four(row, piece_second<type>(index), a.width, a.out_aligned, v + 4);
}

typedef void take_function(struct take_arguments);

static take_function *kernel_of(dtype type) {
    switch (type) {
    case DTYPE_F16:
        return take_kernel<DTYPE_F16>;
    case DTYPE_BF16:
        return take_kernel<DTYPE_BF16>;
    case DTYPE_Q8_0:
        return take_kernel<DTYPE_Q8_0>;
    case DTYPE_Q5_0:
        return take_kernel<DTYPE_Q5_0>;
    case DTYPE_Q5_1:
        return take_kernel<DTYPE_Q5_1>;
    case DTYPE_Q4_0:
        return take_kernel<DTYPE_Q4_0>;
    case DTYPE_Q4_1:
        return take_kernel<DTYPE_Q4_1>;
    case DTYPE_IQ4_NL:
        return take_kernel<DTYPE_IQ4_NL>;
    default:
        return take_kernel<DTYPE_F32>;
    }
}

/* Whether rows of f32 begin at multiples of 16 bytes. */
static bool is_aligned(const ops_tensor *t) {
    return (uintptr_t)cuda_at(t) % 16 == 0 && ops_row_bytes(t) % 16 == 0;
}

static void take(cuda_stream *s, const char *op, enum cuda_fault fault, const ops_tensor *source,
                 int types, const ops_tensor *index, const ops_tensor *out) {
    if (ops_failed(&s->check) ||
        !ops_expect_take(&s->check, op, source, types & ~(1 << DTYPE_F64), index, out))
        return;
    struct take_arguments a = {};
    a.table = (const char *)cuda_at(source);
    a.row_bytes = ops_row_bytes(source);
    a.rows = source->shape[0];
    a.width = source->shape[1];
    a.ids = (const int32_t *)cuda_at(index);
    a.out = (float *)cuda_at(out);
    a.out_stride = out->stride[0];
    a.faults = cuda_fault_words(s);
    a.fault = fault;
    a.aligned = is_aligned(source);
    a.out_aligned = is_aligned(out);
    unsigned pieces = (unsigned)((a.width + PIECE - 1) / PIECE);
    cuda_run(s, op, kernel_of(source->dtype),
             dim3((unsigned)index->shape[0], (pieces + THREADS - 1) / THREADS), THREADS, 0, a);
}

extern "C" void cuda_embed(ops_stream *stream, const struct ops_embed *op) {
    take((cuda_stream *)stream, "embed", CUDA_FAULT_EMBED, &op->table, OPS_MATRICES, &op->ids,
         &op->out);
}

extern "C" void cuda_take_rows(ops_stream *stream, const struct ops_take_rows *op) {
    take((cuda_stream *)stream, "take_rows", CUDA_FAULT_TAKE_ROWS, &op->x, OPS_F32, &op->rows,
         &op->out);
}

/* ---- Sums ---- */

struct sum_arguments {
    const float *input[OPS_MAX_TERMS];
    int64_t stride[OPS_MAX_TERMS];
    float sign[OPS_MAX_TERMS];
    float *out;
    int64_t out_stride, width;
    int count;
};

/* out may be one of the inputs: a thread reads all that it needs before it writes. */
template <bool wide>
static __global__ void sum_kernel(const __grid_constant__ struct sum_arguments a) {
    int64_t row = blockIdx.x, index = (int64_t)blockIdx.y * blockDim.x + threadIdx.x;
    cuda_release();
    cuda_wait();
    if (index * (wide ? 4 : 1) >= a.width)
        return;
    if (!wide) {
        float total = 0.0f;
        for (int i = 0; i < a.count; i++)
            total += a.sign[i] * a.input[i][row * a.stride[i] + index];
        a.out[row * a.out_stride + index] = total;
        return;
    }
    float4 total = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
    for (int i = 0; i < OPS_MAX_TERMS; i++)
        if (i < a.count) {
            float4 x = ((const float4 *)(a.input[i] + row * a.stride[i]))[index];
            total.x += a.sign[i] * x.x;
            total.y += a.sign[i] * x.y;
            total.z += a.sign[i] * x.z;
            total.w += a.sign[i] * x.w;
        }
    ((float4 *)(a.out + row * a.out_stride))[index] = total;
}

extern "C" void cuda_sum(ops_stream *stream, const struct ops_sum *op) {
    cuda_stream *s = (cuda_stream *)stream;
    if (ops_failed(&s->check) || !ops_expect_sum(&s->check, op))
        return;
    struct sum_arguments a = {};
    a.count = op->count;
    a.width = op->out.shape[1];
    a.out = (float *)cuda_at(&op->out);
    a.out_stride = op->out.stride[0];
    bool wide = a.width % 4 == 0 && is_aligned(&op->out);
    for (int i = 0; i < op->count; i++) {
        a.input[i] = (const float *)cuda_at(&op->input[i]);
        a.stride[i] = op->input[i].stride[0];
        a.sign[i] = (float)op->sign[i];
        wide = wide && is_aligned(&op->input[i]);
    }
    unsigned threads = (unsigned)(wide ? a.width / 4 : a.width);
    dim3 grid((unsigned)op->out.shape[0], (threads + SUM_THREADS - 1) / SUM_THREADS);
    cuda_run(s, "sum", wide ? sum_kernel<true> : sum_kernel<false>, grid, SUM_THREADS, 0, a);
}
