/* Rows for products on tensor cores: normed or gated, and rounded to bf16 on the way, or to e4m3 with a scale of each
 * token.
 *
 * A block takes a token. Where the norm has one group all warps work on it together; of several groups (the heads
 * of an mLSTM) each warp takes its own. Moments come first, in f32, in two passes; what a thread can keep of its
 * row it reads once. For e4m3 the largest magnitude of a token comes in between: values that are not kept are made twice. */
#include "ops/cuda/device.h"
#include "ops/cuda/e4m3.h"
#include "ops/cuda/fp8.h"
#include "ops/cuda/products.h"

enum { THREADS = 256, WIDE = 4, KEPT = 4 /* times WIDE: values of a row that a thread keeps */ };

/* Rows of [tokens][width], or with a stride of 0 one for all tokens. NULL: absent. */
struct row_source {
    const void *rows;
    int64_t stride;
    int type;
};

struct lay_arguments {
    struct row_source x, gate, skip, skip_input, weight, bias;
    void *out;    /* [tokens][out_stride], bf16 or e4m3 */
    float *scale; /* of e4m3: [tokens] */
    int64_t out_stride;
    int width, groups, norm, activation;
    float eps;
    bool wide; /* four values may be read together everywhere; none of them is f16 */
};

/* What a warp or the block does together: columns [first, end) of a token. */
struct row_span {
    int64_t token;
    int first, end, lane, lanes;
};

/* Four values from `at` on, or what is there of them, and zeros. */
static __device__ __forceinline__ float4 row_four(const struct row_source &r, const row_span &span,
                                                  int at, bool wide) {
    const int64_t from = span.token * r.stride + at;
    if (wide && r.type == DTYPE_F32)
        return *(const float4 *)((const float *)r.rows + from);
    if (wide) {
        uint2 u = *(const uint2 *)((const uint16_t *)r.rows + from);
        return make_float4(float_of_bits(u.x << 16), float_of_bits(u.x & 0xffff0000u),
                           float_of_bits(u.y << 16), float_of_bits(u.y & 0xffff0000u));
    }
    float y[WIDE];
    for (int j = 0; j < WIDE; j++)
        y[j] = at + j < span.end ? load_as(r.rows, r.type, from + j) : 0.0f;
    return make_float4(y[0], y[1], y[2], y[3]);
}

/* Calls f(column, index) for each fourth column that is this thread's. */
template <bool kept, class F>
static __device__ __forceinline__ void for_each_four(const row_span &span, F f) {
    const int first = span.first + span.lane * WIDE, step = span.lanes * WIDE;
    if (kept) {
#pragma unroll
        for (int j = 0; j < KEPT; j++)
            if (first + j * step < span.end)
                f(first + j * step, j);
    } else {
        for (int at = first; at < span.end; at += step)
            f(at, 0);
    }
}

static __device__ __forceinline__ float span_sum(float x, const row_span &span, float *parts) {
    return span.lanes == WARP ? warp_sum(x) : block_sum(x, parts);
}

struct moments {
    float mean, factor; /* factor: 1 / deviation */
};

/* Of x, which is kept in `x` or read once more. */
template <bool kept>
static __device__ __forceinline__ moments lay_moments(const struct lay_arguments &a,
                                                      const row_span &span, const float4 *x,
                                                      float *parts) {
    moments m = {0.0f, 1.0f};
    if (a.norm == OPS_NORM_NONE)
        return m;
    const float count = (float)(span.end - span.first);
    if (a.norm == OPS_NORM_LAYER) {
        float sum = 0.0f;
        for_each_four<kept>(span, [&](int at, int j) {
            const float4 v = kept ? x[j] : row_four(a.x, span, at, a.wide);
            sum += v.x + v.y + (v.z + v.w);
        });
        m.mean = span_sum(sum, span, parts) / count;
    }
    float squares = 0.0f;
    for_each_four<kept>(span, [&](int at, int j) {
        const float4 v = kept ? x[j] : row_four(a.x, span, at, a.wide);
        const float values[WIDE] = {v.x, v.y, v.z, v.w};
        for (int i = 0; i < WIDE; i++) {
            const float d = at + i < span.end ? values[i] - m.mean : 0.0f;
            squares = fmaf(d, d, squares);
        }
    });
    m.factor = 1.0f / sqrtf(span_sum(squares, span, parts) / count + a.eps);
    return m;
}

/* Four values of the row, normed, with the skip, and times the gate. */
static __device__ __forceinline__ float4 lay_four(const struct lay_arguments &a,
                                                  const row_span &span, const moments &m, int at,
                                                  float4 x) {
    const float4 none = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    const bool norms = a.norm != OPS_NORM_NONE;
    const float4 w = norms ? row_four(a.weight, span, at, a.wide) : none;
    const float4 b = a.bias.rows ? row_four(a.bias, span, at, a.wide) : none;
    const float4 k = a.skip.rows ? row_four(a.skip, span, at, a.wide) : none;
    const float4 s = a.skip.rows ? row_four(a.skip_input, span, at, a.wide) : none;
    const float4 g = a.gate.rows ? row_four(a.gate, span, at, a.wide) : none;
    const float xs[WIDE] = {x.x, x.y, x.z, x.w}, ws[WIDE] = {w.x, w.y, w.z, w.w},
                bs[WIDE] = {b.x, b.y, b.z, b.w}, ks[WIDE] = {k.x, k.y, k.z, k.w},
                ss[WIDE] = {s.x, s.y, s.z, s.w}, gs[WIDE] = {g.x, g.y, g.z, g.w};
    float y[WIDE];
    for (int j = 0; j < WIDE; j++) {
        float v = norms ? fmaf((xs[j] - m.mean) * m.factor, ws[j], bs[j]) : xs[j];
        v = fmaf(ks[j], ss[j], v);
        y[j] = a.gate.rows ? activate(a.activation, gs[j]) * v : v;
    }
    return make_float4(y[0], y[1], y[2], y[3]);
}

/* Calls f(column, index, values) for each four of the span that are this thread's. */
template <bool kept, class F>
static __device__ __forceinline__ void lay_span(const struct lay_arguments &a, const row_span &span,
                                                float *parts, F f) {
    float4 x[KEPT];
    if (kept)
        for_each_four<kept>(span, [&](int at, int j) { x[j] = row_four(a.x, span, at, a.wide); });
    const moments m = lay_moments<kept>(a, span, x, parts);
    for_each_four<kept>(span, [&](int at, int j) {
        f(at, j, lay_four(a, span, m, at, kept ? x[j] : row_four(a.x, span, at, a.wide)));
    });
}

/* Calls f with each span that this thread has a part in. */
template <class F>
static __device__ __forceinline__ void each_span(const struct lay_arguments &a, F f) {
    const int64_t token = blockIdx.x;
    if (a.groups == 1) {
        f(row_span{token, 0, a.width, (int)threadIdx.x, THREADS});
        return;
    }
    const int size = a.width / a.groups, lane = (int)threadIdx.x % WARP;
    for (int i = (int)threadIdx.x / WARP; i < a.groups; i += THREADS / WARP)
        f(row_span{token, i * size, (i + 1) * size, lane, WARP});
}

static __device__ __forceinline__ void store_halves(const struct lay_arguments &a,
                                                    const row_span &span, int at, float4 v) {
    uint16_t *to = (uint16_t *)a.out + span.token * a.out_stride + at;
    const uint32_t y[WIDE] = {to_bf16(v.x), to_bf16(v.y), to_bf16(v.z), to_bf16(v.w)};
    if (a.wide)
        *(uint2 *)to = make_uint2(y[0] | y[1] << 16, y[2] | y[3] << 16);
    else
        for (int j = 0; j < WIDE && at + j < span.end; j++)
            to[j] = (uint16_t)y[j];
}

static __device__ __forceinline__ void
store_fp8(const struct lay_arguments &a, const row_span &span, int at, float4 v, float factor) {
    unsigned char *to = (unsigned char *)a.out + span.token * a.out_stride + at;
    const float y[WIDE] = {v.x, v.y, v.z, v.w};
    const uint32_t four = pack_e4m3_four(y, factor);
    if (a.wide)
        *(uint32_t *)to = four;
    else
        for (int j = 0; j < WIDE && at + j < span.end; j++)
            to[j] = (unsigned char)(four >> 8 * j);
}

/* Zeros from the width to the stride of this block's token. */
template <class T> static __device__ __forceinline__ void lay_zeros(const struct lay_arguments &a) {
    for (int64_t i = a.width + (int)threadIdx.x; i < a.out_stride; i += THREADS)
        ((T *)a.out)[blockIdx.x * a.out_stride + i] = 0;
}

/* kept: a thread can keep what is its of a group, which is then read once. */
template <bool kept>
static __global__ void __launch_bounds__(THREADS)
    lay_halves(const __grid_constant__ struct lay_arguments a) {
    __shared__ float parts[WARP];
    cuda_wait();
    cuda_release();
    each_span(a, [&](const row_span &span) {
        lay_span<kept>(a, span, parts,
                       [&](int at, int, float4 v) { store_halves(a, span, at, v); });
    });
    lay_zeros<uint16_t>(a);
}

/* kept: a thread can keep what is its of the token, of which it has one span at most. */
template <bool kept>
static __global__ void __launch_bounds__(THREADS)
    lay_fp8(const __grid_constant__ struct lay_arguments a) {
    __shared__ float parts[WARP];
    float4 y[KEPT];
    float most = 0.0f;
    cuda_wait();
    cuda_release();
    each_span(a, [&](const row_span &span) {
        lay_span<kept>(a, span, parts, [&](int at, int j, float4 v) {
            if (kept)
                y[j] = v;
            const float values[WIDE] = {v.x, v.y, v.z, v.w};
            for (int i = 0; i < WIDE; i++)
                most = fmaxf(most, at + i < span.end ? fabsf(values[i]) : 0.0f);
        });
    });
    most = block_max(most, parts);
    const float factor = e4m3_factor(most);
    each_span(a, [&](const row_span &span) {
        if (kept)
            for_each_four<kept>(span, [&](int at, int j) { store_fp8(a, span, at, y[j], factor); });
        else
            lay_span<kept>(a, span, parts,
                           [&](int at, int, float4 v) { store_fp8(a, span, at, v, factor); });
    });
    lay_zeros<unsigned char>(a);
    if (threadIdx.x == 0)
        a.scale[blockIdx.x] = e4m3_scale(most);
}

static struct row_source source_of(const ops_tensor *t) {
    struct row_source r = {};
    if (ops_present(t)) {
        r.rows = cuda_at(t);
        r.stride = t->rank > 1 ? t->stride[0] : 0;
        r.type = t->dtype;
    }
    return r;
}

/* Whether every fourth value begins at a multiple of what four take. */
static bool is_wide(const struct row_source *r) {
    const uintptr_t bytes = WIDE * dtype_size((dtype)r->type);
    return !r->rows ||
           (r->type != DTYPE_F16 && (uintptr_t)r->rows % bytes == 0 && r->stride % WIDE == 0);
}

static struct lay_arguments arguments_of(const cuda_input *in) {
    const ops_norm *norm = &in->norm;
    struct lay_arguments a = {};
    a.x = source_of(&in->x);
    a.gate = source_of(&in->gate);
    a.skip = source_of(&in->skip);
    a.skip_input = source_of(&in->skip_input);
    a.width = (int)in->x.shape[1];
    a.norm = norm->kind;
    a.groups = norm->kind == OPS_NORM_NONE ? 1 : norm->groups;
    a.activation = in->activation;
    a.eps = (float)norm->eps;
    if (norm->kind != OPS_NORM_NONE) {
        a.weight = source_of(&norm->weight);
        a.bias = source_of(&norm->bias);
    }
    a.wide = a.width / a.groups % WIDE == 0 && is_wide(&a.x) && is_wide(&a.gate) &&
             is_wide(&a.skip) && is_wide(&a.skip_input) && is_wide(&a.weight) && is_wide(&a.bias);
    return a;
}

static bool is_kept(const struct lay_arguments *a) {
    return a->width / a->groups <= KEPT * WIDE * (a->groups == 1 ? (int)THREADS : (int)WARP);
}

void cuda_lay_halves(cuda_stream *s, const cuda_input *in, const ops_tensor *halves) {
    struct lay_arguments a = arguments_of(in);
    a.out = cuda_at(halves);
    a.out_stride = halves->stride[0];
    cuda_run(s, "lay_halves", is_kept(&a) ? lay_halves<true> : lay_halves<false>,
             dim3((unsigned)in->x.shape[0]), THREADS, 0, a);
}

void cuda_lay_fp8(cuda_stream *s, const cuda_input *in, unsigned char *out, int64_t stride,
                  float *scale) {
    struct lay_arguments a = arguments_of(in);
    a.out = out;
    a.out_stride = stride;
    a.scale = scale;
    const bool kept = is_kept(&a) && a.groups <= THREADS / (int)WARP;
    cuda_run(s, "lay_fp8", kept ? lay_fp8<true> : lay_fp8<false>, dim3((unsigned)in->x.shape[0]),
             THREADS, 0, a);
}
