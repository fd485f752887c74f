/* The linear map of each head: a block-diagonal matrix, often of very small blocks. A warp has 32 / lanes rows of
 * weights and HEADWISE_TOKENS tokens; the lanes of a row interleave along it. The order of a sum depends on the row's
 * length alone. */
#include "ops/cuda/device.h"

enum { THREADS = 128, HEADWISE_TOKENS = 8, VALUES_A_LANE = 8 /* before lanes share a row */ };

struct headwise_arguments {
    const float *x;
    const void *weight, *bias;
    float *out;
    int64_t x_stride, x_head_stride, weight_head_stride, weight_row_stride, bias_head_stride,
        out_stride, out_head_stride;
    int64_t tokens;
    int heads, outputs, inputs, lanes, weight_type, bias_type;
};

static __global__ void __launch_bounds__(THREADS)
    headwise(const __grid_constant__ struct headwise_arguments a) {
    int64_t index = ((int64_t)blockIdx.y * THREADS + threadIdx.x) / a.lanes;
    int64_t head = index / a.outputs, output = index % a.outputs;
    int64_t token = (int64_t)blockIdx.x * HEADWISE_TOKENS, left = a.tokens - token;
    int part = (int)threadIdx.x % a.lanes;
    bool there = head < a.heads;
    float sums[HEADWISE_TOKENS] = {};
    cuda_release();
    cuda_wait();
    if (there) {
        int64_t row = head * a.weight_head_stride + output * a.weight_row_stride;
        const float *x = a.x + token * a.x_stride + head * a.x_head_stride;
        for (int i = part; i < a.inputs; i += a.lanes) {
            float w = load_as(a.weight, a.weight_type, row + i);
#pragma unroll
            for (int t = 0; t < HEADWISE_TOKENS; t++)
                if (t < left)
                    sums[t] = fmaf(w, x[t * a.x_stride + i], sums[t]);
        }
    }
    for (int step = a.lanes / 2; step > 0; step /= 2)
#pragma unroll
        for (int t = 0; t < HEADWISE_TOKENS; t++)
            sums[t] += __shfl_xor_sync(ALL_LANES, sums[t], step);
    if (!there || part != 0)
        return;
    float bias = 0.0f;
    if (a.bias)
        bias = load_as(a.bias, a.bias_type, head * a.bias_head_stride + output);
    float *out = a.out + token * a.out_stride + head * a.out_head_stride + output;
#pragma unroll
    for (int t = 0; t < HEADWISE_TOKENS; t++)
        if (t < left)
            out[t * a.out_stride] = sums[t] + bias;
}

extern "C" void cuda_headwise(ops_stream *stream, const struct ops_headwise *op) {
    cuda_stream *s = (cuda_stream *)stream;
    if (ops_failed(&s->check) ||
        !ops_expect_headwise(&s->check, op, OPS_FLOATS & ~(1 << DTYPE_F64)))
        return;
    struct headwise_arguments a = {};
    a.x = (const float *)cuda_at(&op->x);
    a.x_stride = op->x.stride[0];
    a.x_head_stride = op->x.stride[1];
    a.weight = cuda_at(&op->weight);
    a.weight_type = op->weight.dtype;
    a.weight_head_stride = op->weight.stride[0];
    a.weight_row_stride = op->weight.stride[1];
    a.bias = cuda_at(&op->bias);
    a.bias_type = op->bias.dtype;
    a.bias_head_stride = op->bias.stride[0];
    a.out = (float *)cuda_at(&op->out);
    a.out_stride = op->out.stride[0];
    a.out_head_stride = op->out.stride[1];
    a.tokens = op->x.shape[0];
    a.heads = (int)op->weight.shape[0];
    a.outputs = (int)op->weight.shape[1];
    a.inputs = (int)op->weight.shape[2];
    a.lanes = 1;
    while (a.lanes < (int)WARP && a.lanes * VALUES_A_LANE < a.inputs)
        a.lanes *= 2;
    int64_t threads = (int64_t)a.heads * a.outputs * a.lanes;
    cuda_run(s, "headwise", headwise,
             dim3((unsigned)((a.tokens + HEADWISE_TOKENS - 1) / HEADWISE_TOKENS),
                  (unsigned)((threads + THREADS - 1) / THREADS)),
             THREADS, 0, a);
}
