/* The causal convolution of each channel by itself. A thread has a channel of CONV_TOKENS tokens of a sequence;
 * neighbouring threads have neighbouring channels.
 *
 * The state is read and written by the thread that has a sequence's first tokens, and by no other: what lies before
 * the sequence reaches less than CONV_TOKENS tokens far, and where there are more, the new state is inputs alone. */
#include "ops/cuda/batch.h"

enum { THREADS = 128, CONV_TOKENS = 64, FEW_TAPS = 4 };
static_assert((int)CONV_TOKENS >= (int)OPS_MAX_TAPS, "a state must not reach the second part");

struct conv_arguments {
    cuda_batch batch;
    const float *x;
    const void *weight, *bias;
    float *state, *out;
    int64_t x_stride, out_stride, weight_stride, slot_stride, state_stride;
    int width, taps, activation, weight_type, bias_type;
};

/* A channel of a sequence. */
struct channel {
    const float *x;
    float *state, *out; /* state: NULL with one tap */
    int64_t length;     /* of the sequence */
    float bias;
};

/* Input `at` of the channel, counted from the first one in the state. */
static __device__ __forceinline__ float input_at(const struct conv_arguments &a, const channel &c,
                                                 int64_t at) {
    int before = a.taps - 1;
    return at < before ? c.state[at * a.state_stride] : c.x[(at - before) * a.x_stride];
}

/* FEW_TAPS taps at most: weights and inputs stay in registers. */
static __device__ __forceinline__ void convolve_few(const struct conv_arguments &a,
                                                    const channel &c, int64_t first_weight,
                                                    int64_t from, int64_t to) {
    float w[FEW_TAPS], window[FEW_TAPS]; /* the last taps of them */
    const int skipped = FEW_TAPS - a.taps;
#pragma unroll
    for (int j = 0; j < FEW_TAPS; j++) {
        bool there = j >= skipped;
        w[j] = there ? load_as(a.weight, a.weight_type, first_weight + j - skipped) : 0.0f;
        window[j] = there && j + 1 < FEW_TAPS ? input_at(a, c, from + j - skipped) : 0.0f;
    }
#pragma unroll 4
    for (int64_t t = from; t < to; t++) {
        window[FEW_TAPS - 1] = c.x[t * a.x_stride];
        float z = c.bias;
#pragma unroll
        for (int j = 0; j < FEW_TAPS; j++)
            z = j < skipped ? z : fmaf(w[j], window[j], z);
        c.out[t * a.out_stride] = activate(a.activation, z);
#pragma unroll
        for (int j = 0; j + 1 < FEW_TAPS; j++)
            window[j] = window[j + 1];
    }
}

static __device__ __forceinline__ void convolve_many(const struct conv_arguments &a,
                                                     const channel &c, int64_t first_weight,
                                                     int64_t from, int64_t to) {
    for (int64_t t = from; t < to; t++) {
        float z = c.bias;
        for (int j = 0; j < a.taps; j++)
            z = fmaf(load_as(a.weight, a.weight_type, first_weight + j), input_at(a, c, t + j), z);
        c.out[t * a.out_stride] = activate(a.activation, z);
    }
}

/* The state becomes the last inputs; what it reads of itself lies behind what it has written. */
static __device__ __forceinline__ void update_state(const struct conv_arguments &a,
                                                    const channel &c) {
    for (int j = 0; j + 1 < a.taps; j++)
        c.state[j * a.state_stride] = input_at(a, c, c.length + j);
}

template <bool few>
static __global__ void __launch_bounds__(THREADS)
    causal_conv(const __grid_constant__ struct conv_arguments a) {
    cuda_release();
    cuda_wait();
    if (!batch_is_sound(a.batch))
        return;
    int sequence = (int)blockIdx.z, d = (int)(blockIdx.x * THREADS + threadIdx.x);
    int64_t start = a.batch.start[sequence], from = (int64_t)blockIdx.y * CONV_TOKENS;
    channel c;
    c.length = a.batch.start[sequence + 1] - start;
    if (d >= a.width || from >= c.length)
        return;
    int64_t to = from + CONV_TOKENS < c.length ? from + CONV_TOKENS : c.length;
    c.x = a.x + start * a.x_stride + d;
    c.out = a.out + start * a.out_stride + d;
    c.state = a.taps > 1 ? a.state + a.batch.slot[sequence] * a.slot_stride + d : NULL;
    c.bias = a.bias ? load_as(a.bias, a.bias_type, d) : 0.0f;
    if (few)
        convolve_few(a, c, d * a.weight_stride, from, to);
    else
        convolve_many(a, c, d * a.weight_stride, from, to);
    if (from == 0)
        update_state(a, c);
}

extern "C" void cuda_causal_conv(ops_stream *stream, const struct ops_causal_conv *op) {
    cuda_stream *s = (cuda_stream *)stream;
    if (ops_failed(&s->check) ||
        !ops_expect_causal_conv(&s->check, op, OPS_FLOATS & ~(1 << DTYPE_F64)))
        return;
    struct conv_arguments a = {};
    a.taps = (int)op->weight.shape[1];
    a.batch = cuda_batch_of(s, &op->batch, a.taps > 1 ? op->state.shape[0] : INT32_MAX);
    a.x = (const float *)cuda_at(&op->x);
    a.x_stride = op->x.stride[0];
    a.width = (int)op->x.shape[1];
    a.weight = cuda_at(&op->weight);
    a.weight_type = op->weight.dtype;
    a.weight_stride = op->weight.stride[0];
    a.bias = cuda_at(&op->bias);
    a.bias_type = op->bias.dtype;
    a.activation = op->activation;
    a.out = (float *)cuda_at(&op->out);
    a.out_stride = op->out.stride[0];
    if (a.taps > 1) {
        a.state = (float *)cuda_at(&op->state);
        a.slot_stride = op->state.stride[0];
        a.state_stride = op->state.stride[1];
    }
    dim3 grid((unsigned)((a.width + THREADS - 1) / THREADS),
              (unsigned)((op->batch.longest + CONV_TOKENS - 1) / CONV_TOKENS),
              (unsigned)op->batch.sequences);
    cuda_run(s, "causal_conv", a.taps <= FEW_TAPS ? causal_conv<true> : causal_conv<false>, grid,
             THREADS, 0, a);
}
