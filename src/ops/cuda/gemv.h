/* Products of matrices of weights with one token or a few. Decoding is reading the weights, so memory is kept busy
 * from one kernel to the next, and nothing else is worth mentioning.
 *
 * A warp owns a span of rows, as long as any other's to a row, and streams them through a ring of its own in shared
 * memory, a few rows and a slice of the width at a time. Weights are constants, so the ring is filled before the
 * kernel waits for those before it; the input rows (input.h) are laid while these bytes come. A lane takes units
 * (weights.h) `lane`, `lane + 32`, ... of each row, in this order, and lanes are added in a fixed one: a row's bits
 * depend on nothing but the row and its input, for one token and for many.
 *
 * Rows at addresses that copies of 16 bytes cannot take, or whose last unit is not whole, are put into the ring by
 * loads and stores. Matrices of a few rows that are stored in another, floating-point type than the rest (gates
 * beside quantised weights) belong to one more warp of each block, which reads them as they stand. */
#ifndef OPS_CUDA_GEMV_H
#define OPS_CUDA_GEMV_H

#include "ops/cuda/copy.h"
#include "ops/cuda/input.h"
#include "ops/cuda/streaming.h"
#include "ops/cuda/weights.h"

enum gemv_ending {
    GEMV_CAP,      /* out = cap(z) */
    GEMV_ADD,      /* out = residual + sign z */
    GEMV_MULTIPLY, /* out = act(z) residual */
    GEMV_GATED     /* out = act(z) (z of the same row of `up`) */
};

struct gemv_matrix {
    const uint8_t *weight;
    const void *bias; /* or NULL */
    int64_t row_bytes;
    int bias_type;
    int wide; /* copies of 16 bytes can take its rows */
};

struct gemv_part {
    struct gemv_matrix matrix, up; /* up: GEMV_GATED */
    void *out;                     /* f32, or bf16 where they are halves */
    const void *residual;          /* of the same type, or NULL */
    int64_t out_stride, residual_stride;
    int halves;            /* 0: f32; else the kernel is one with `halves` */
    int type, first, rows; /* rows [first, first + rows) of all parts of its kind */
    float soft_cap;
};

struct gemv_arguments {
    struct input_arguments input;
    struct gemv_part part[OPS_MAX_PROJECTIONS]; /* those that are streamed, then the few */
    int parts, few_parts;
    int rows, few_rows; /* of all of them together */
    int used_bytes;     /* of a streamed row */
    int depth;          /* stages of the ring, at most those of the weights' type */
    int row_floats;     /* from one token's input to the next, in shared memory */
    int ending, activation;
    float sign;
};

/* Bytes that a row has in a stage, and their place there: a row that begins between multiples of 16 has more. */
template <class W> struct gemv_shape {
    enum {
        span = WARP * W::bytes,
        slot = span + ((int)W::blocks > 0 ? 16 : 0),
        stage = W::rows * slot
    };
};

/* ---- Filling the ring ---- */

/* A row that a warp streams; at == NULL: there is none. */
struct gemv_row {
    const uint8_t *at;
    int wide;
    /* Where it begins in its slots. */
    __device__ __forceinline__ int lead(void) const {
        return wide ? (int)((uintptr_t)at & 15) : 0;
    }
};

static __device__ __forceinline__ const gemv_part &gemv_part_of(const gemv_arguments &a, int row) {
    int i = 0;
    while (i + 1 < a.parts && row >= a.part[i + 1].first)
        i++;
    return a.part[i];
}

/* The rows of group `group` of a warp that owns [begin, end). */
template <class W>
static __device__ __forceinline__ void gemv_rows_of(const gemv_arguments &a, int begin, int end,
                                                    int group, gemv_row rows[W::rows]) {
    const int step = a.ending == GEMV_GATED ? W::rows / 2 : W::rows;
#pragma unroll
    for (int r = 0; r < W::rows; r++) {
        int row = begin + group * step + r % step;
        const gemv_part &part = gemv_part_of(a, row);
        const gemv_matrix &m = r < step ? part.matrix : part.up;
        rows[r].at = row < end ? m.weight + (int64_t)(row - part.first) * m.row_bytes : NULL;
        rows[r].wide = m.wide;
    }
}

/* A slice of `span` bytes of a row, less where the row ends; past its end zeros up to a whole unit. */
template <class W, int span>
static __device__ __forceinline__ void gemv_fetch(const gemv_arguments &a, const gemv_row &row,
                                                  int slice, uint8_t *slot, int lane) {
    enum { together = 16 * WARP, most = span + ((int)W::blocks > 0 ? 16 : 0) };
    const uint8_t *from = row.at + (int64_t)slice * span;
    int bytes = min(span, a.used_bytes - slice * span);
    int whole = (bytes + W::bytes - 1) / W::bytes * W::bytes;
    if (row.wide) {
        int lead = row.lead();
#pragma unroll
        for (int first = 0; first < most; first += together) {
            int i = first + lane * 16;
            if (i < lead + whole)
                copy_16(slot + i, from - lead + i, (unsigned)max(0, min(16, lead + bytes - i)));
        }
        return;
    }
    for (int i = 2 * lane; i < whole; i += 2 * WARP)
        *(uint16_t *)(slot + i) = i < bytes ? *(const uint16_t *)(from + i) : (uint16_t)0;
}

/* What a warp fetches next. */
struct gemv_cursor {
    int group, slice, stage;
};

template <class W>
static __device__ __forceinline__ void
gemv_fetch_stage(const gemv_arguments &a, int begin, int end, int slices, gemv_cursor &c,
                 gemv_row rows[W::rows], uint8_t *ring, int lane) {
    if (c.slice == 0)
        gemv_rows_of<W>(a, begin, end, c.group, rows);
#pragma unroll
    for (int r = 0; r < W::rows; r++)
        if (rows[r].at)
            gemv_fetch<W, gemv_shape<W>::span>(
                a, rows[r], c.slice,
                ring + c.stage * gemv_shape<W>::stage + r * gemv_shape<W>::slot, lane);
    if (++c.slice == slices) {
        c.slice = 0;
        c.group++;
    }
    c.stage = c.stage + 1 == a.depth ? 0 : c.stage + 1;
}

/* ---- Sums ---- */

/* A lane's unit of each row times that of each token, added to `sums`. `x`: the unit's first value. */
template <class W, int tokens, bool blocks = (W::blocks > 0)> struct gemv_unit {
    static __device__ __forceinline__ void add(float (&sums)[W::rows][tokens],
                                               const uint8_t *(&unit)[W::rows], const float *x,
                                               int row_floats) {
        /* Four of eight lanes begin with the second half, so that together they meet all banks. */
        const bool swapped = threadIdx.x & 4;
        const int first = swapped ? 4 : 0;
        float y[tokens][UNIT_VALUES];
#pragma unroll
        for (int t = 0; t < tokens; t++) {
            *(float4 *)&y[t][0] = *(const float4 *)(x + t * row_floats + first);
            *(float4 *)&y[t][4] = *(const float4 *)(x + t * row_floats + 4 - first);
        }
#pragma unroll
        for (int r = 0; r < W::rows; r++) {
            float v[UNIT_VALUES];
            W::values(unit[r], v, swapped);
#pragma unroll
            for (int t = 0; t < tokens; t++) {
                float z = v[0] * y[t][0]; /* of the unit alone, beside those of other units */
#pragma unroll
                for (int j = 1; j < UNIT_VALUES; j++)
                    z = fmaf(v[j], y[t][j], z);
                sums[r][t] += z;
            }
        }
    }
};

template <class W, int tokens> struct gemv_unit<W, tokens, true> {
    static __device__ __forceinline__ void add(float (&sums)[W::rows][tokens],
                                               const uint8_t *(&unit)[W::rows], const float *x,
                                               int row_floats) {
#pragma unroll
        for (int b = 0; b < W::blocks; b++) {
            float part[W::rows][tokens] = {}, all[tokens] = {};
#pragma unroll
            for (int j = 0; j < STEPS; j++) {
                float y[tokens][UNIT_VALUES];
#pragma unroll
                for (int t = 0; t < tokens; t++) {
                    const float *at = x + t * row_floats + b * 32 + 4 * j;
                    *(float4 *)&y[t][0] = *(const float4 *)at;
                    *(float4 *)&y[t][4] = *(const float4 *)(at + 16);
                    if (W::least)
#pragma unroll
                        for (int i = 0; i < UNIT_VALUES; i++)
                            all[t] += y[t][i];
                }
#pragma unroll
                for (int r = 0; r < W::rows; r++) {
                    float v[UNIT_VALUES];
                    W::step(unit[r], b, j, v);
#pragma unroll
                    for (int t = 0; t < tokens; t++)
#pragma unroll
                        for (int i = 0; i < UNIT_VALUES; i++)
                            part[r][t] = fmaf(v[i], y[t][i], part[r][t]);
                }
            }
#pragma unroll
            for (int r = 0; r < W::rows; r++) {
                float scale = W::scale(unit[r], b);
#pragma unroll
                for (int t = 0; t < tokens; t++) {
                    sums[r][t] = fmaf(scale, part[r][t], sums[r][t]);
                    if (W::least)
                        sums[r][t] = fmaf(W::offset(unit[r], b), all[t], sums[r][t]);
                }
            }
        }
    }
};

/* ---- On the way out ---- */

/* What a lane puts out of a group: row r, token t. What it needs is asked for when the group begins. */
struct gemv_output {
    void *at; /* NULL: nothing */
    float bias, residual, soft_cap;
    int type; /* of `at` */
};

static __device__ __forceinline__ float gemv_bias(const gemv_matrix &m, int row) {
    return m.bias ? load_as(m.bias, m.bias_type, row) : 0.0f;
}

template <bool halves = false>
static __device__ __forceinline__ gemv_output gemv_output_of(const gemv_arguments &a,
                                                             const gemv_part &part, bool up,
                                                             int row, int64_t token) {
    gemv_output o = {};
    o.bias = gemv_bias(up ? part.up : part.matrix, row);
    if (up || token >= a.input.tokens)
        return o;
    o.type = halves && part.halves ? DTYPE_BF16 : DTYPE_F32;
    o.at = (char *)part.out + (token * part.out_stride + row) * (o.type == DTYPE_F32 ? 4 : 2);
    o.soft_cap = part.soft_cap;
    if (part.residual)
        o.residual = load_as(part.residual, o.type, token * part.residual_stride + row);
    return o;
}

template <bool halves = false>
static __device__ __forceinline__ void gemv_store(const gemv_output &o, float y) {
    store_as(o.at, halves ? o.type : (int)DTYPE_F32, 0, y);
}

/* All of GEMV_GATED but the product of the two. `plain`: GEMV_MULTIPLY and activations other than SiLU do not come. */
template <bool plain = false>
static __device__ __forceinline__ float gemv_end(const gemv_arguments &a, const gemv_output &o,
                                                 float z) {
    switch (a.ending) {
    case GEMV_CAP:
        return o.soft_cap == 0.0f ? z : soft_cap(z, o.soft_cap);
    case GEMV_ADD:
        return fmaf(a.sign, z, o.residual);
    case GEMV_MULTIPLY:
        return plain ? z : activate_rarely(a.activation, z) * o.residual;
    default:
        if (plain || a.activation == OPS_SILU)
            return a.activation == OPS_SILU ? z * sigmoid(z) : z;
        return activate_rarely(a.activation, z);
    }
}

/* The sums of all lanes, each to the lane that puts it out: row r and token t to lane r * tokens + t. */
template <class W, int tokens, bool halves = false>
static __device__ __forceinline__ void gemv_put(const gemv_arguments &a, const gemv_output &o,
                                                float (&sums)[W::rows][tokens], int lane) {
    float z = 0.0f;
#pragma unroll
    for (int i = 0; i < W::rows * tokens; i++) {
        float sum = warp_sum(sums[i / tokens][i % tokens]);
        if (lane == i)
            z = sum;
        sums[i / tokens][i % tokens] = 0.0f;
    }
    z += o.bias;
    float up = __shfl_down_sync(ALL_LANES, z, W::rows / 2 * tokens);
    if (o.at) {
        float y = gemv_end(a, o, z);
        gemv_store<halves>(o, a.ending == GEMV_GATED ? y * up : y);
    }
}

/* ---- The few ---- */

/* Eight values of a floating-point row from value i on; those past its end are 0. */
static __device__ __forceinline__ void gemv_few_values(const gemv_matrix &m, int type, int64_t row,
                                                       int i, int width, float v[UNIT_VALUES]) {
    const uint8_t *at = m.weight + row * m.row_bytes;
    if (m.wide && i + UNIT_VALUES <= width) {
        if (type == DTYPE_F32)
            f32_weights::values(at + 4 * i, v);
        else if (type == DTYPE_BF16)
            bf16_weights::values(at + 2 * i, v);
        else
            f16_weights::values(at + 2 * i, v);
        return;
    }
    for (int j = 0; j < UNIT_VALUES; j++)
        v[j] = i + j < width ? load_as(at, type, i + j) : 0.0f;
}

static __device__ __forceinline__ void gemv_few_prefetch(const gemv_arguments &a, int lane) {
    for (int row = (int)blockIdx.x; row < a.few_rows; row += (int)gridDim.x) {
        int i = a.parts;
        while (i + 1 < a.parts + a.few_parts && row >= a.part[i + 1].first)
            i++;
        const gemv_matrix &m = a.part[i].matrix;
        int bytes = a.input.width * (a.part[i].type == DTYPE_F32 ? 4 : 2);
        for (int at = 128 * lane; at < bytes; at += 128 * WARP)
            prefetch_line(m.weight + (int64_t)(row - a.part[i].first) * m.row_bytes + at);
    }
}

template <int tokens, bool halves = false, bool plain = false>
static __device__ __forceinline__ void gemv_few(const gemv_arguments &a, const float *x,
                                                int64_t token, int lane) {
    for (int row = (int)blockIdx.x; row < a.few_rows; row += (int)gridDim.x) {
        int p = a.parts;
        while (p + 1 < a.parts + a.few_parts && row >= a.part[p + 1].first)
            p++;
        const gemv_part &part = a.part[p];
        float sums[tokens] = {};
#pragma unroll 2
        for (int i = UNIT_VALUES * lane; i < a.input.width; i += UNIT_VALUES * WARP) {
            float v[UNIT_VALUES];
            gemv_few_values(part.matrix, part.type, row - part.first, i, a.input.width, v);
#pragma unroll
            for (int t = 0; t < tokens; t++)
#pragma unroll
                for (int j = 0; j < UNIT_VALUES; j++)
                    sums[t] = fmaf(v[j], x[t * a.row_floats + input_place(i + j)], sums[t]);
        }
#pragma unroll
        for (int t = 0; t < tokens; t++) {
            float z = warp_sum(sums[t]);
            gemv_output o = gemv_output_of<halves>(a, part, false, row - part.first, token + t);
            if (lane == 0 && o.at)
                gemv_store<halves>(o, gemv_end<plain>(a, o, z + o.bias));
        }
    }
}

/* ---- All of it ---- */

/* The rows of a warp, after its ring was filled. `c`: what it fetches next. */
template <class W, int tokens, bool halves = false>
static __device__ __forceinline__ void
gemv_stream(const gemv_arguments &a, int begin, int end, int slices, int total, gemv_cursor &c,
            gemv_row fetched[W::rows], uint8_t *ring, const float *x, int64_t token, int lane) {
    const int step = a.ending == GEMV_GATED ? W::rows / 2 : W::rows;
    const int units = (a.input.width + W::elements - 1) / W::elements;
    float sums[W::rows][tokens] = {};
    gemv_row rows[W::rows];
    gemv_output out = {};
    int group = 0, slice = 0, stage = 0;
    for (int i = 0; i < total; i++) {
        if (slice == 0) {
            gemv_rows_of<W>(a, begin, end, group, rows);
            int r = lane / tokens, row = begin + group * step + r % step;
            out = {};
            if (r < W::rows && row < end) {
                const gemv_part &part = gemv_part_of(a, row);
                out = gemv_output_of<halves>(a, part, r >= step, row - part.first,
                                             token + lane % tokens);
            }
        }
        if (a.depth == W::depth)
            copy_wait<W::depth - 1>();
        else
            copy_wait<0>();
        __syncwarp();
        int unit = slice * WARP + lane;
        if (unit < units) {
            const uint8_t *at[W::rows];
#pragma unroll
            for (int r = 0; r < W::rows; r++)
                at[r] = ring + stage * gemv_shape<W>::stage + r * gemv_shape<W>::slot +
                        rows[r].lead() + lane * W::bytes;
            gemv_unit<W, tokens>::add(sums, at, x + input_place(unit * W::elements), a.row_floats);
        }
        __syncwarp();
        if (i + a.depth < total)
            gemv_fetch_stage<W>(a, begin, end, slices, c, fetched, ring, lane);
        copy_close();
        stage = stage + 1 == a.depth ? 0 : stage + 1;
        if (++slice == slices) {
            gemv_put<W, tokens, halves>(a, out, sums, lane);
            slice = 0;
            group++;
        }
    }
}

/* A block of INPUT_WARPS warps, and one more where there are a few rows; blocks along y take `tokens` tokens each.
 * halves: rows that go in or come out may be bf16. */
template <class W, int tokens, bool halves>
static __global__ void __launch_bounds__(INPUT_THREADS + WARP, 1)
    gemv(const __grid_constant__ struct gemv_arguments a) {
    extern __shared__ float4 gemv_shared[];
    float *x = (float *)gemv_shared, *parts = x + tokens * a.row_floats;
    const int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    uint8_t *ring = (uint8_t *)(parts + WARP) + warp * a.depth * gemv_shape<W>::stage;
    const bool streams = warp < INPUT_WARPS;
    cuda_release();
    const int64_t owner = (int64_t)blockIdx.x * INPUT_WARPS + warp,
                  owners = (int64_t)gridDim.x * INPUT_WARPS;
    const int begin = streams ? (int)(a.rows * owner / owners) : 0;
    const int end = streams ? (int)(a.rows * (owner + 1) / owners) : 0;
    const int step = a.ending == GEMV_GATED ? W::rows / 2 : W::rows;
    const int slices = (a.used_bytes + gemv_shape<W>::span - 1) / gemv_shape<W>::span;
    const int total = (end - begin + step - 1) / step * slices;
    gemv_cursor c = {};
    gemv_row fetched[W::rows] = {};
    for (int i = 0; i < a.depth; i++) {
        if (i < total)
            gemv_fetch_stage<W>(a, begin, end, slices, c, fetched, ring, lane);
        copy_close();
    }
    const int64_t token = (int64_t)blockIdx.y * tokens;
    const int count = (int)min((int64_t)tokens, a.input.tokens - token);
    for (int t = 0; t < count; t++)
        input_begin(a.input, x + t * a.row_floats);
    if (!streams)
        gemv_few_prefetch(a, lane);
    cuda_wait();
    for (int t = 0; t < count; t++)
        input_lay<halves>(a.input, token + t, x + t * a.row_floats, parts);
    __syncthreads();
    if (streams)
        gemv_stream<W, tokens, halves>(a, begin, end, slices, total, c, fetched, ring, x, token,
                                       lane);
    else
        gemv_few<tokens, halves>(a, x, token, lane);
}

#endif
