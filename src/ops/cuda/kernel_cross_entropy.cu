/* Cross-entropy of rows and its gradient, in the kernel library. With the largest logit a = logits[top],
 *   others    = sum over v != top of exp(logits[v] - a)
 *   loss      = log1p(others) + (a - logits[target])
 *   dlogits_v = dloss (exp(logits[v] - a) / (1 + others) - [v = target])
 *             = -dloss others / (1 + others) where v = target = top
 * so that a row that is nearly certain keeps its small loss and gradient. A block has a row, which it reads once for the
 * sums and once more for the gradient. A target that is no index has a loss of NaN, and no gradient. */
#include "ops/cuda/kernel_values.h"

enum { THREADS = 512, WARPS = THREADS / 32 };

struct entropy_job {
    cuda_array logits, target, loss, dloss, dlogits;
    int64_t width, ignored;
};

/* Of some logits: the largest, the first place it has, and the sum of the others, relative to it. */
struct mass {
    float largest, others;
    int64_t top;
};

static __device__ __forceinline__ void add_logit(mass &m, float x, int64_t place) {
    if (x > m.largest) {
        m.others = m.largest == -INFINITY ? m.others : (m.others + 1.0f) * expf(m.largest - x);
        m.largest = x;
        m.top = place;
    } else if (x != -INFINITY) { /* NaN too */
        m.others += expf(x - m.largest);
    }
}

/* A sum that is NaN stays so, though its logit was never the largest. */
static __device__ __forceinline__ mass join(const mass &a, const mass &b) {
    bool a_wins = a.largest > b.largest || (a.largest == b.largest && a.top < b.top);
    float loser = a_wins ? b.largest : a.largest, left = a_wins ? b.others : a.others;
    mass m;
    m.largest = a_wins ? a.largest : b.largest;
    m.top = a_wins ? a.top : b.top;
    m.others = (a_wins ? a.others : b.others) +
               (loser == -INFINITY ? left : (left + 1.0f) * expf(loser - m.largest));
    return m;
}

static __device__ __forceinline__ mass warp_mass(mass m) {
    for (int step = WARP / 2; step > 0; step /= 2) {
        mass other;
        other.largest = __shfl_xor_sync(ALL_LANES, m.largest, step);
        other.others = __shfl_xor_sync(ALL_LANES, m.others, step);
        other.top = __shfl_xor_sync(ALL_LANES, m.top, step);
        m = join(m, other);
    }
    return m;
}

static __device__ __forceinline__ mass block_mass(mass m, mass *parts) {
    m = warp_mass(m);
    if (threadIdx.x % WARP == 0)
        parts[threadIdx.x / WARP] = m;
    __syncthreads();
    m = parts[0];
    for (int i = 1; i < WARPS; i++)
        m = join(m, parts[i]);
    return m;
}

static __device__ __forceinline__ int64_t target_of(const entropy_job &a, int64_t row) {
    int64_t at = row * a.target.stride[0];
    return a.target.type == DTYPE_I32 ? (int64_t)((const int32_t *)a.target.data)[at]
                                      : ((const int64_t *)a.target.data)[at];
}

/* What the gradient of a row needs. */
struct slopes {
    float largest, factor, at_top; /* dloss / (1 + others), that times others */
    float dloss;
    int64_t top, target;
};

static __device__ __forceinline__ float gradient_of(const slopes &s, float x, int64_t place) {
    if (place == s.target && place == s.top)
        return -s.at_top;
    float share = s.factor * expf(x - s.largest);
    return place == s.target ? share - s.dloss : share;
}

template <int type>
static __device__ __forceinline__ mass row_mass(const entropy_job &a, int64_t row) {
    mass m = {-INFINITY, 0.0f, INT64_MAX};
    if (type >= 0)
#pragma unroll 2
        for (int64_t v = (int64_t)threadIdx.x * EIGHT; v < a.width; v += THREADS * EIGHT) {
            float x[EIGHT];
            array_get_eight<type>(a.logits, row * a.logits.stride[0] + v, x);
#pragma unroll
            for (int j = 0; j < EIGHT; j++)
                add_logit(m, x[j], v + j);
        }
    else
        for (int64_t v = threadIdx.x; v < a.width; v += THREADS)
            add_logit(m, array_get(a.logits, row, v), v);
    return m;
}

template <int type>
static __device__ __forceinline__ void write_gradient(const entropy_job &a, int64_t row,
                                                      const slopes &s, bool counts) {
    if (type >= 0)
#pragma unroll 2
        for (int64_t v = (int64_t)threadIdx.x * EIGHT; v < a.width; v += THREADS * EIGHT) {
            float x[EIGHT];
            array_get_eight<type>(a.logits, row * a.logits.stride[0] + v, x);
#pragma unroll
            for (int j = 0; j < EIGHT; j++)
                x[j] = counts ? gradient_of(s, x[j], v + j) : 0.0f;
            array_put_eight<type>(a.dlogits, row * a.dlogits.stride[0] + v, x);
        }
    else
        for (int64_t v = threadIdx.x; v < a.width; v += THREADS)
            array_put(a.dlogits, counts ? gradient_of(s, array_get(a.logits, row, v), v) : 0.0f,
                      row, v);
}

/* type: of logits and their gradient where both can be taken by eights, else -1. */
template <int type>
static __global__ void __launch_bounds__(THREADS)
    cross_entropy(const __grid_constant__ struct entropy_job a) {
    __shared__ mass parts[WARPS];
    int64_t row = blockIdx.x;
    cuda_release();
    cuda_wait();
    slopes s = {};
    s.target = target_of(a, row);
    bool counts = s.target != a.ignored, known = s.target >= 0 && s.target < a.width;
    mass m = {};
    if (counts && known) {
        m = block_mass(row_mass<type>(a, row), parts);
        if (fabsf(m.largest) == INFINITY) /* all are -inf, or one is +inf */
            m.others = NAN;
    }
    if (threadIdx.x == 0) {
        float loss = counts ? NAN : 0.0f;
        if (counts && known)
            loss = log1pf(m.others) + (m.largest - array_get(a.logits, row, s.target));
        array_put(a.loss, loss, row);
    }
    if (!a.dlogits.data)
        return;
    s.largest = m.largest;
    s.top = m.top;
    s.dloss = array_get(a.dloss, row);
    s.factor = s.dloss / (1.0f + m.others);
    s.at_top = s.factor * m.others;
    write_gradient<type>(a, row, s, counts && known);
}

extern "C" xlstm_status cuda_kernel_cross_entropy(const kernel_call *call) {
    struct entropy_job a = {};
    cuda_array *const arrays[CROSS_ENTROPY_ARGUMENTS] = {&a.logits, &a.target, &a.loss, &a.dloss,
                                                         &a.dlogits};
    for (int i = 0; i < CROSS_ENTROPY_ARGUMENTS; i++)
        *arrays[i] = cuda_kernel_array(call, i);
    a.width = call->array[CROSS_ENTROPY_LOGITS].shape[1];
    a.ignored = call->options.ignore_index;
    int type = a.logits.type;
    bool wide =
        array_is_wide(a.logits, type, 2, a.width) && array_is_wide(a.dlogits, type, 2, a.width);
    void (*kernel)(struct entropy_job) = !wide                ? cross_entropy<-1>
                                         : type == DTYPE_F32  ? cross_entropy<DTYPE_F32>
                                         : type == DTYPE_BF16 ? cross_entropy<DTYPE_BF16>
                                                              : cross_entropy<DTYPE_F16>;
    xlstm_status status = XLSTM_OK;
    cuda_kernel_run(call, &status, "cross_entropy", kernel,
                    dim3((unsigned)call->array[CROSS_ENTROPY_LOGITS].shape[0]), THREADS, 0, a);
    return status;
}
