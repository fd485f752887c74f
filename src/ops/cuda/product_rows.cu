/* Rows for products on tensor cores: normed or gated, and rounded to bf16 on the way, or to e4m3 with a scale of each
 * token.
 *
 * A block takes a token. Where the norm has one group all warps work on it together; of several groups (the heads
 * of an mLSTM) each warp takes its own. Moments come first, in f32, in two passes. For e4m3 the largest magnitude of a
 * token comes in between.
 *
 * What the 7B model has (rows and groups that a thread can keep its share of, by fours, a gate of the same type) goes
 * by kernels that ask for all they read at once and read it once. They are short: at 128 tokens a block is alone on its
 * multiprocessor, and waits for instructions where there are many. All else goes by loops that read a row as often as
 * they need it. */
#include "ops/cuda/device.h"
#include "ops/cuda/e4m3.h"
#include "ops/cuda/fp8.h"
#include "ops/cuda/products.h"

enum {
    THREADS = 256,
    WIDE = 4,
    KEPT = 4, /* times WIDE: values of a row that a thread keeps */
    EIGHT = 8,
    PLAIN = 6 /* times EIGHT: of a row to which nothing is done */
};

/* Rows of [tokens][width], or with a stride of 0 one for all tokens. NULL: absent. */
struct row_source {
    const void *rows;
    int64_t stride;
    int type;
};

struct lay_arguments {
    struct row_source x, gate, skip, skip_input, weight, bias;
    uint16_t *halves;   /* [tokens][halves_stride], bf16; beside e4m3 it may be NULL */
    unsigned char *fp8; /* [tokens][fp8_stride], e4m3 */
    float *scale;       /* of e4m3: [tokens] */
    int64_t halves_stride, fp8_stride;
    int width, groups, norm, activation;
    float eps;
    bool wide; /* four values may be read together everywhere; none of them is f16 */
};

/* What a warp or the block does together: columns [first, end) of a token. */
struct row_span {
    int64_t token;
    int first, end, lane, lanes;
};

/* Calls f with each span that this thread has a part in. */
template <class F>
static __device__ __forceinline__ void each_span(const struct lay_arguments &a, F f) {
    const bool together = a.groups == 1;
    const int size = a.width / a.groups, thread = (int)threadIdx.x;
    const int lane = together ? thread : thread % WARP, lanes = together ? (int)THREADS : WARP;
#pragma unroll 1
    for (int i = together ? 0 : thread / WARP; i < a.groups; i += THREADS / WARP)
        f(row_span{blockIdx.x, i * size, (i + 1) * size, lane, lanes});
}

static __device__ __forceinline__ float span_sum(float x, const row_span &span, float *parts) {
    return span.lanes == WARP ? warp_sum(x) : block_sum(x, parts);
}

struct moments {
    float mean, factor; /* factor: 1 / deviation */
};

/* each(f) calls f with all values of the span that are this thread's. */
template <class E>
static __device__ __forceinline__ moments lay_moments(const struct lay_arguments &a,
                                                      const row_span &span, float *parts, E each) {
    moments m = {0.0f, 1.0f};
    if (a.norm == OPS_NORM_NONE)
        return m;
    const float count = (float)(span.end - span.first);
#pragma unroll 1
    for (int squares = a.norm == OPS_NORM_LAYER ? 0 : 1; squares < 2; squares++) {
        float sum = 0.0f;
        each([&](float x) { sum = fmaf(x - m.mean, squares ? x - m.mean : 1.0f, sum); });
        const float mean = span_sum(sum, span, parts) / count;
        if (squares)
            m.factor = 1.0f / sqrtf(mean + a.eps);
        else
            m.mean = mean;
    }
    return m;
}

/* ---- Where results go ---- */

/* Of four values from `at` on, those within the span; wide: all of them, together. */
template <bool wide>
static __device__ __forceinline__ void store_halves(const struct lay_arguments &a,
                                                    const row_span &span, int at, float4 v) {
    uint16_t *to = a.halves + span.token * a.halves_stride + at;
    const uint32_t y[WIDE] = {to_bf16(v.x), to_bf16(v.y), to_bf16(v.z), to_bf16(v.w)};
    if (wide)
        *(uint2 *)to = make_uint2(y[0] | y[1] << 16, y[2] | y[3] << 16);
    else
        for (int j = 0; j < WIDE && at + j < span.end; j++)
            to[j] = (uint16_t)y[j];
}

template <bool wide>
static __device__ __forceinline__ void
store_fp8(const struct lay_arguments &a, const row_span &span, int at, float4 v, float factor) {
    unsigned char *to = a.fp8 + span.token * a.fp8_stride + at;
    const float y[WIDE] = {v.x, v.y, v.z, v.w};
    const uint32_t four = pack_e4m3_four(y, factor);
    if (wide)
        *(uint32_t *)to = four;
    else
        for (int j = 0; j < WIDE && at + j < span.end; j++)
            to[j] = (unsigned char)(four >> 8 * j);
}

static __device__ __forceinline__ float largest(float most, float4 v) {
    return fmaxf(fmaxf(fmaxf(most, fabsf(v.x)), fmaxf(fabsf(v.y), fabsf(v.z))), fabsf(v.w));
}

/* Zeros from the width to the stride of this block's token. */
template <class T>
static __device__ __forceinline__ void lay_zeros(T *rows, int64_t stride, int width) {
#pragma unroll 1
    for (int64_t i = width + (int)threadIdx.x; rows && i < stride; i += THREADS)
        rows[blockIdx.x * stride + i] = 0;
}

/* ---- Any rows ---- */

/* Four values from `at` on, or what is there of them, and zeros. */
static __device__ __forceinline__ float4 any_four(const struct row_source &r, const row_span &span,
                                                  int at, bool wide) {
    const int64_t from = span.token * r.stride + at;
    if (!r.rows)
        return make_float4(0.0f, 0.0f, 0.0f, 0.0f);
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

/* Four values of the row, normed, with the skip, and times the gate. */
static __device__ __forceinline__ float4 any_result(const struct lay_arguments &a,
                                                    const row_span &span, const moments &m,
                                                    int at) {
    const bool norms = a.norm != OPS_NORM_NONE;
    const float4 x = any_four(a.x, span, at, a.wide), w = any_four(a.weight, span, at, a.wide),
                 b = any_four(a.bias, span, at, a.wide), k = any_four(a.skip, span, at, a.wide),
                 s = any_four(a.skip_input, span, at, a.wide),
                 g = any_four(a.gate, span, at, a.wide);
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

/* Calls f(span, column, values) for each four of the token that are this thread's; values past the span are 0. */
template <class F>
static __device__ __forceinline__ void lay_any(const struct lay_arguments &a, float *parts, F f) {
    each_span(a, [&](const row_span &span) {
        const int first = span.first + span.lane * WIDE, step = span.lanes * WIDE;
        const moments m = lay_moments(a, span, parts, [&](auto take) {
#pragma unroll 1
            for (int at = first; at < span.end; at += step) {
                const float4 v = any_four(a.x, span, at, a.wide);
                const float values[WIDE] = {v.x, v.y, v.z, v.w};
                for (int i = 0; i < WIDE; i++)
                    if (at + i < span.end)
                        take(values[i]);
            }
        });
#pragma unroll 1
        for (int at = first; at < span.end; at += step) {
            const float4 v = any_result(a, span, m, at);
            const float4 there =
                make_float4(v.x, at + 1 < span.end ? v.y : 0.0f, at + 2 < span.end ? v.z : 0.0f,
                            at + 3 < span.end ? v.w : 0.0f);
            f(span, at, there);
        }
    });
}

static __device__ __forceinline__ void any_halves(const struct lay_arguments &a,
                                                  const row_span &span, int at, float4 v) {
    if (a.wide)
        store_halves<true>(a, span, at, v);
    else
        store_halves<false>(a, span, at, v);
}

static __global__ void __launch_bounds__(THREADS)
    lay_halves(const __grid_constant__ struct lay_arguments a) {
    __shared__ float parts[WARP];
    cuda_wait();
    cuda_release();
    lay_any(a, parts, [&](const row_span &span, int at, float4 v) { any_halves(a, span, at, v); });
    lay_zeros(a.halves, a.halves_stride, a.width);
}

/* Values are made twice: for the largest magnitude, and for good. */
static __global__ void __launch_bounds__(THREADS)
    lay_fp8(const __grid_constant__ struct lay_arguments a) {
    __shared__ float parts[WARP];
    float most = 0.0f;
    cuda_wait();
    cuda_release();
#pragma unroll 1
    for (int pass = 0; pass < 2; pass++) {
        const float factor = e4m3_factor(most);
        lay_any(a, parts, [&](const row_span &span, int at, float4 v) {
            if (pass == 0) {
                most = largest(most, v);
                if (a.halves)
                    any_halves(a, span, at, v);
            } else if (a.wide)
                store_fp8<true>(a, span, at, v, factor);
            else
                store_fp8<false>(a, span, at, v, factor);
        });
        if (pass == 0)
            most = block_max(most, parts);
    }
    lay_zeros(a.halves, a.halves_stride, a.width);
    lay_zeros(a.fp8, a.fp8_stride, a.width);
    if (threadIdx.x == 0)
        a.scale[blockIdx.x] = e4m3_scale(most);
}

/* ---- Rows whose values threads keep ---- */

/* Four values of type T. */
template <class T> struct four;
template <> struct four<float> {
    float4 bits;
    __device__ __forceinline__ float4 values() const {
        return bits;
    }
};
template <> struct four<uint16_t> {
    uint2 bits;
    __device__ __forceinline__ float4 values() const {
        return make_float4(float_of_bits(bits.x << 16), float_of_bits(bits.x & 0xffff0000u),
                           float_of_bits(bits.y << 16), float_of_bits(bits.y & 0xffff0000u));
    }
};

/* This thread's fours of a row. */
template <class T> struct kept_row {
    four<T> v[KEPT];
    __device__ __forceinline__ void read(const struct row_source &r, const row_span &span) {
        const four<T> *from =
            (const four<T> *)((const T *)r.rows + span.token * r.stride + span.first) + span.lane;
#pragma unroll
        for (int j = 0; j < KEPT; j++)
            v[j] = span.first + (span.lane + j * span.lanes) * WIDE < span.end
                       ? from[j * span.lanes]
                       : four<T>{};
    }
};

/* Calls f(column, index) for each four of a span that is this thread's. */
template <class F> static __device__ __forceinline__ void kept_each(const row_span &span, F f) {
#pragma unroll
    for (int j = 0; j < KEPT; j++) {
        const int at = span.first + (span.lane + j * span.lanes) * WIDE;
        if (at < span.end)
            f(at, j);
    }
}

/* silu or sigmoid of the gate, times v. */
static __device__ __forceinline__ float kept_gated(bool silu, float gate, float v) {
    return __fdividef(silu ? gate : 1.0f, 1.0f + __expf(-gate)) * v;
}

/* Rows of type X, weights of type W. Calls f(span, column, index, values) for each four of the token that are this
 * thread's. */
template <class X, class W, bool gated, class F>
static __device__ __forceinline__ void lay_kept(const struct lay_arguments &a, float *parts, F f) {
    const bool silu = a.activation == OPS_SILU;
    each_span(a, [&](const row_span &span) {
        kept_row<X> x, gate;
        kept_row<W> weight;
        x.read(a.x, span);
        if (gated)
            gate.read(a.gate, span);
        weight.read(a.weight, span);
        const moments m = lay_moments(a, span, parts, [&](auto take) {
            kept_each(span, [&](int, int j) {
                const float4 v = x.v[j].values();
                take(v.x), take(v.y), take(v.z), take(v.w);
            });
        });
        kept_each(span, [&](int at, int j) {
            const float4 v = x.v[j].values(), w = weight.v[j].values();
            float4 y =
                make_float4((v.x - m.mean) * m.factor * w.x, (v.y - m.mean) * m.factor * w.y,
                            (v.z - m.mean) * m.factor * w.z, (v.w - m.mean) * m.factor * w.w);
            if (gated) {
                const float4 g = gate.v[j].values();
                y = make_float4(kept_gated(silu, g.x, y.x), kept_gated(silu, g.y, y.y),
                                kept_gated(silu, g.z, y.z), kept_gated(silu, g.w, y.w));
            }
            f(span, at, j, y);
        });
    });
}

template <class X, class W, bool gated>
static __global__ void __launch_bounds__(THREADS, 3)
    lay_halves_kept(const __grid_constant__ struct lay_arguments a) {
    __shared__ float parts[WARP];
    cuda_wait();
    cuda_release();
    lay_kept<X, W, gated>(a, parts, [&](const row_span &span, int at, int, float4 v) {
        store_halves<true>(a, span, at, v);
    });
    lay_zeros(a.halves, a.halves_stride, a.width);
}

/* A thread has one span at most. */
template <class X, class W, bool gated>
static __global__ void __launch_bounds__(THREADS, 4)
    lay_fp8_kept(const __grid_constant__ struct lay_arguments a) {
    __shared__ float parts[WARP];
    float4 y[KEPT];
    float most = 0.0f;
    cuda_wait();
    cuda_release();
    lay_kept<X, W, gated>(a, parts, [&](const row_span &span, int at, int j, float4 v) {
        y[j] = v;
        most = largest(most, v);
        if (a.halves)
            store_halves<true>(a, span, at, v);
    });
    most = block_max(most, parts);
    const float factor = e4m3_factor(most);
    each_span(a, [&](const row_span &span) {
        kept_each(span, [&](int at, int j) { store_fp8<true>(a, span, at, y[j], factor); });
    });
    lay_zeros(a.halves, a.halves_stride, a.width);
    lay_zeros(a.fp8, a.fp8_stride, a.width);
    if (threadIdx.x == 0)
        a.scale[blockIdx.x] = e4m3_scale(most);
}

/* Rows of bf16 as they are, eights of which begin at multiples of 16 bytes. */
static __global__ void __launch_bounds__(THREADS)
    lay_fp8_plain(const __grid_constant__ struct lay_arguments a) {
    __shared__ float parts[WARP];
    const int first = (int)threadIdx.x * EIGHT;
    four<uint16_t> v[PLAIN][2];
    float most = 0.0f;
    cuda_wait();
    cuda_release();
    const uint16_t *x = (const uint16_t *)a.x.rows + blockIdx.x * a.x.stride;
#pragma unroll
    for (int j = 0; j < PLAIN; j++) {
        const int at = first + j * THREADS * EIGHT;
        const uint4 bits = at < a.width ? *(const uint4 *)(x + at) : make_uint4(0, 0, 0, 0);
        v[j][0].bits = make_uint2(bits.x, bits.y);
        v[j][1].bits = make_uint2(bits.z, bits.w);
    }
#pragma unroll
    for (int j = 0; j < PLAIN; j++)
        most = largest(largest(most, v[j][0].values()), v[j][1].values());
    most = block_max(most, parts);
    const float factor = e4m3_factor(most);
    unsigned char *to = a.fp8 + blockIdx.x * a.fp8_stride;
#pragma unroll
    for (int j = 0; j < PLAIN; j++) {
        const int at = first + j * THREADS * EIGHT;
        const float4 low = v[j][0].values(), high = v[j][1].values();
        const float y[EIGHT] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
        if (at < a.width)
            *(uint2 *)(to + at) =
                make_uint2(pack_e4m3_four(y, factor), pack_e4m3_four(y + WIDE, factor));
    }
    lay_zeros(a.fp8, a.fp8_stride, a.width);
    if (threadIdx.x == 0)
        a.scale[blockIdx.x] = e4m3_scale(most);
}

/* ---- The host's part ---- */

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

typedef void lay_kernel(struct lay_arguments);

/* The kernels for rows that threads keep. */
struct kept_kernels {
    lay_kernel *halves, *fp8;
};
template <class X, class W> static struct kept_kernels kernels_of(bool gated) {
    if (gated)
        return {lay_halves_kept<X, W, true>, lay_fp8_kept<X, W, true>};
    return {lay_halves_kept<X, W, false>, lay_fp8_kept<X, W, false>};
}
static struct kept_kernels kernels_for(const struct lay_arguments *a) {
    const bool gated = a->gate.rows != NULL, halves = a->x.type == DTYPE_BF16;
    if (a->weight.type == DTYPE_BF16)
        return halves ? kernels_of<uint16_t, uint16_t>(gated) : kernels_of<float, uint16_t>(gated);
    return halves ? kernels_of<uint16_t, float>(gated) : kernels_of<float, float>(gated);
}

static bool is_kept(const struct lay_arguments *a) {
    const int threads = a->groups == 1 ? (int)THREADS : (int)WARP;
    const bool gates =
        a->gate.type == a->x.type && (a->activation == OPS_SILU || a->activation == OPS_SIGMOID);
    return a->wide && a->norm != OPS_NORM_NONE && !a->bias.rows && !a->skip.rows &&
           (!a->gate.rows || gates) && a->width / a->groups <= KEPT * WIDE * threads;
}

static bool is_plain(const struct lay_arguments *a) {
    return a->norm == OPS_NORM_NONE && !a->gate.rows && !a->skip.rows && !a->halves &&
           a->x.type == DTYPE_BF16 && a->width % EIGHT == 0 && a->x.stride % EIGHT == 0 &&
           (uintptr_t)a->x.rows % 16 == 0 && a->width <= PLAIN * EIGHT * THREADS;
}

static void add_halves(struct lay_arguments *a, const ops_tensor *halves) {
    a->halves = (uint16_t *)cuda_at(halves);
    a->halves_stride = halves->stride[0];
}

void cuda_lay_halves(cuda_stream *s, const cuda_input *in, const ops_tensor *halves) {
    struct lay_arguments a = arguments_of(in);
    add_halves(&a, halves);
    cuda_run(s, "lay_halves", is_kept(&a) ? kernels_for(&a).halves : lay_halves,
             dim3((unsigned)in->x.shape[0]), THREADS, 0, a);
}

void cuda_lay_fp8(cuda_stream *s, const cuda_input *in, unsigned char *out, int64_t stride,
                  float *scale, const ops_tensor *halves) {
    struct lay_arguments a = arguments_of(in);
    a.fp8 = out;
    a.fp8_stride = stride;
    a.scale = scale;
    if (halves)
        add_halves(&a, halves);
    const bool kept = is_kept(&a) && a.groups <= THREADS / (int)WARP;
    lay_kernel *kernel = is_plain(&a) ? lay_fp8_plain : kept ? kernels_for(&a).fp8 : lay_fp8;
    cuda_run(s, "lay_fp8", kernel, dim3((unsigned)in->x.shape[0]), THREADS, 0, a);
}
