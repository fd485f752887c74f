/* The kernel of a chain (chain.h): a block on every multiprocessor, which stays.
 *
 * Each warp streams its rows of each projection through a ring of its own in shared memory, as gemv.h does, and but for
 * activations of eight bits with the same sums in the same order; but the ring does not end with the step. Weights are constants, so a warp asks for those of the
 * next two steps as soon as there is room, and memory stays busy while blocks wait for each other and lay their input.
 * A ring holds what the memory delivers in some 6 us. The slices of the mLSTM's C come early, too, to
 * level 2. */
#ifndef OPS_CUDA_CHAIN_KERNEL_H
#define OPS_CUDA_CHAIN_KERNEL_H

#include "ops/cuda/chain.h"
#include "ops/cuda/grid.h"
#include "ops/cuda/integers.h"

enum { CHAIN_THREADS = (CHAIN_WARPS + 1) * WARP };

template <class W> struct chain_shape {
    enum {
        UNITS = (int)W::blocks > 0 || W::bytes > 16 ? 1 : 2, /* of a lane in a stage, of each row */
        PART = WARP * W::bytes,                              /* of a row: a unit of each lane */
        SPAN = UNITS * PART,
        SLOT = SPAN + ((int)W::blocks > 0 ? 16 : 0),
        STAGE = W::rows * SLOT,
        RING_BYTES = 160 << 10, /* of a block; the rest is for the input */
        DEPTH = RING_BYTES / (CHAIN_WARPS * STAGE)
    };
};

/* ---- Fetching weights ---- */

/* What a warp fetches next: rows from `row` to `end` of a step, `together` at a time, a slice of SPAN bytes each. */
template <class W> struct chain_cursor {
    int step, row, end, together, slice, slices;
    int easy;       /* slices before this one, of this group, are whole copies of 16 bytes */
    unsigned there; /* which of the rows are, a bit each */
    gemv_row rows[W::rows];
    const uint8_t *from[W::rows]; /* the lane's first bytes of an easy slice */
};

/* Where the rows begin that warp number `owner` has. */
static __device__ __forceinline__ int chain_first(const gemv_arguments &a, unsigned owner) {
    const unsigned owners = gridDim.x * CHAIN_WARPS, rows = (unsigned)a.rows;
    return (int)(rows / owners * owner + rows % owners * owner / owners);
}
static __device__ __forceinline__ void chain_own(const gemv_arguments &a, int warp, int *begin,
                                                 int *end) {
    const unsigned owner = blockIdx.x * CHAIN_WARPS + (unsigned)warp;
    *begin = chain_first(a, owner);
    *end = chain_first(a, owner + 1);
}

static __device__ __forceinline__ int chain_together(const gemv_arguments &a, int rows) {
    return a.ending == GEMV_GATED ? rows / 2 : rows;
}

template <class W> static __device__ __forceinline__ int chain_slices(const gemv_arguments &a) {
    return (a.used_bytes + chain_shape<W>::SPAN - 1) / chain_shape<W>::SPAN;
}

/* Whether there is something left to fetch up to step `last`; goes to the next step where one is done. */
template <class W>
static __device__ __forceinline__ bool chain_more(const chain_step *near, int last, int warp,
                                                  chain_cursor<W> &c) {
    while (c.row >= c.end) {
        if (c.step >= last)
            return false;
        const chain_step &s = near[++c.step % CHAIN_NEAR];
        if (s.kind != CHAIN_PROJECT)
            continue;
        chain_own(s.project, warp, &c.row, &c.end);
        c.together = chain_together(s.project, W::rows);
        c.slice = 0;
        c.slices = chain_slices<W>(s.project);
    }
    return true;
}

/* The cursor comes to a group of rows. */
template <class W>
static __device__ __forceinline__ void chain_enter(const gemv_arguments &a, int lane,
                                                   chain_cursor<W> &c) {
    bool wide = true;
    gemv_rows_of<W>(a, c.row, c.end, 0, c.rows);
    c.there = 0;
#pragma unroll
    for (int r = 0; r < W::rows; r++) {
        if (!c.rows[r].at)
            continue;
        c.there |= 1u << r;
        wide = wide && c.rows[r].wide;
        c.from[r] = c.rows[r].at - c.rows[r].lead() + 16 * lane;
    }
    c.easy = wide ? a.used_bytes / chain_shape<W>::SPAN : 0;
}

/* An easy slice. The 16 bytes behind it that a row between multiples of 16 needs may be the next row's, or behind the
 * buffer's end, where there is room. */
template <class W>
static __device__ __forceinline__ void chain_copy(uint8_t *to, int lane, chain_cursor<W> &c) {
    enum { SLOT = chain_shape<W>::SLOT, TOGETHER = 16 * WARP };
#pragma unroll
    for (int r = 0; r < W::rows; r++) {
        if (!(c.there >> r & 1u))
            continue;
#pragma unroll
        for (int i = 0; i < SLOT; i += TOGETHER)
            if (i + TOGETHER <= SLOT || i + 16 * lane < SLOT)
                copy_whole_16(to + r * SLOT + i + 16 * lane, c.from[r] + i);
        c.from[r] += chain_shape<W>::SPAN;
    }
}

/* A warp's ring, and how far it has come: stages fetched, and taken, and where the next of both are. */
template <class W> struct chain_ring {
    uint8_t *begin, *end, *to, *at;
    int depth;
    unsigned fetched, taken;
    chain_cursor<W> next;
};

template <class W> static __device__ __forceinline__ void chain_fetched(chain_ring<W> &r) {
    copy_close();
    r.fetched++;
    r.to += chain_shape<W>::STAGE;
    r.to = r.to == r.end ? r.begin : r.to;
    if (++r.next.slice == r.next.slices) {
        r.next.slice = 0;
        r.next.row += r.next.together;
    }
}

/* As much as there is room for, of steps up to `last`. */
template <class W>
static __device__ __forceinline__ void chain_fill(const chain_step *near, int last, int warp,
                                                  int lane, chain_ring<W> &r) {
    chain_cursor<W> &c = r.next;
    while (r.fetched - r.taken < (unsigned)r.depth && chain_more<W>(near, last, warp, c)) {
        const gemv_arguments &a = near[c.step % CHAIN_NEAR].project;
        if (c.slice == 0)
            chain_enter<W>(a, lane, c);
        if (c.slice < c.easy)
            chain_copy<W>(r.to, lane, c);
        else
#pragma unroll
            for (int i = 0; i < W::rows; i++)
                if (c.rows[i].at)
                    gemv_fetch<W, chain_shape<W>::SPAN>(a, c.rows[i], c.slice,
                                                        r.to + i * chain_shape<W>::SLOT, lane);
        chain_fetched<W>(r);
    }
}

/* A stage was taken: one more is asked for. */
template <class W>
static __device__ __forceinline__ void chain_refill(const chain_step *near, int last, int warp,
                                                    int lane, chain_ring<W> &r) {
    r.taken++;
    r.at += chain_shape<W>::STAGE;
    r.at = r.at == r.end ? r.begin : r.at;
    if (r.next.slice > 0 && r.next.slice < r.next.easy &&
        r.fetched - r.taken + 1 == (unsigned)r.depth) {
        chain_copy<W>(r.to, lane, r.next);
        chain_fetched<W>(r);
    } else {
        chain_fill<W>(near, last, warp, lane, r);
    }
}

/* Until all but the newest `left` stages have arrived, of at most `most` that can be under way. */
template <int most> static __device__ __forceinline__ void chain_wait(unsigned left) {
    if (most == 0 || left >= (unsigned)most)
        copy_wait<most>();
    else
        chain_wait<(most > 0 ? most - 1 : 0)>(left);
}

/* The oldest stage has arrived. */
template <class W> static __device__ __forceinline__ void chain_arrived(const chain_ring<W> &r) {
    chain_wait<chain_shape<W>::DEPTH - 1>(r.fetched - r.taken - 1);
    __syncwarp();
}

/* ---- A projection ---- */

/* The input of a step as units of weights meet it: floats, or integers behind them. */
template <class W, bool integers = (W::integers != 0)> struct chain_input {
    typedef float value;
    enum { PASS = (WARP * W::elements / 64) * 68 }; /* input_place(WARP * W::elements) */
    static __device__ __forceinline__ void lay(const gemv_arguments &, const float *) {
    }
    static __device__ __forceinline__ const value *first(const gemv_arguments &, const float *x,
                                                         int lane) {
        return x + input_place(lane * W::elements);
    }
    static __device__ __forceinline__ void add(float (&sums)[W::rows][1],
                                               const uint8_t *(&unit)[W::rows], const value *y) {
        gemv_unit<W, 1>::add(sums, unit, y, 0);
    }
};

template <class W> struct chain_input<W, true> {
    typedef uint8_t value;
    enum { UNIT = W::blocks * (GROUP_VALUES + 8) + W::blocks % 2 * 8, PASS = WARP * UNIT };
    static __device__ __forceinline__ void lay(const gemv_arguments &a, float *x) {
        __syncthreads();
        integers_lay<W::blocks>(x, a.input.padded, (uint8_t *)(x + a.row_floats));
    }
    static __device__ __forceinline__ const value *first(const gemv_arguments &a, const float *x,
                                                         int lane) {
        return (const uint8_t *)(x + a.row_floats) + lane * UNIT;
    }
    static __device__ __forceinline__ void add(float (&sums)[W::rows][1],
                                               const uint8_t *(&unit)[W::rows], const value *y) {
        integer_unit<W>::add(sums, unit, y);
    }
};

template <class W>
static __device__ __forceinline__ void chain_stream(const chain_step *near, int step, int last,
                                                    const float *x, int warp, int lane,
                                                    chain_ring<W> &ring) {
    typedef chain_shape<W> shape;
    typedef chain_input<W> input;
    const gemv_arguments &a = near[step % CHAIN_NEAR].project;
    const int together = chain_together(a, W::rows), slices = chain_slices<W>(a);
    const int units = (a.input.width + W::elements - 1) / W::elements;
    int begin, end;
    chain_own(a, warp, &begin, &end);
    for (; begin < end; begin += together) {
        gemv_row rows[W::rows];
        gemv_output out = {};
        float sums[W::rows][1] = {};
        gemv_rows_of<W>(a, begin, end, 0, rows);
        const int row = begin + lane % together;
        if (lane < W::rows && row < end) {
            const gemv_part &part = gemv_part_of(a, row);
            out = gemv_output_of(a, part, lane >= together, row - part.first, 0);
        }
        int place[W::rows]; /* the lane's first unit of each row, in a stage */
#pragma unroll
        for (int r = 0; r < W::rows; r++)
            place[r] =
                r * shape::SLOT + ((int)W::blocks > 0 ? rows[r].lead() : 0) + lane * W::bytes;
        int unit = lane;
        const typename input::value *y = input::first(a, x, lane);
        for (int slice = 0; slice < slices; slice++) {
            chain_arrived<W>(ring);
#pragma unroll
            for (int u = 0; u < shape::UNITS; u++) {
                if (unit < units) {
                    const uint8_t *at[W::rows];
#pragma unroll
                    for (int r = 0; r < W::rows; r++)
                        at[r] = ring.at + place[r] + u * shape::PART;
                    input::add(sums, at, y);
                }
                unit += WARP;
                y += input::PASS;
            }
            __syncwarp();
            chain_refill<W>(near, last, warp, lane, ring);
        }
        gemv_put<W, 1>(a, out, sums, lane);
    }
}

/* ---- The mLSTM: one token, slices of a head's C as in mlstm.h ---- */

template <int TYPE>
static __device__ __forceinline__ int chain_slice_count(const mlstm_arguments &a) {
    const int columns = mlstm_vector<TYPE>::COLUMNS;
    return (a.d_v + columns - 1) / columns;
}

static __device__ __forceinline__ bool chain_has_slot(const mlstm_arguments &a) {
    return a.batch.slot[0] >= 0 && a.batch.slot[0] < a.batch.slots;
}

template <int TYPE>
static __device__ __forceinline__ mlstm_slice chain_slice_of(const mlstm_arguments &a, int item) {
    const int slices = chain_slice_count<TYPE>(a);
    return mlstm_slice_at<TYPE>(a, a.batch.slot[0], item / slices,
                                item % slices * mlstm_vector<TYPE>::COLUMNS);
}

/* A slice. All threads of the block come here, and the first 256 work. */
template <int TYPE>
static __device__ __forceinline__ void chain_step_slice(const mlstm_arguments &a, int item,
                                                        const mlstm_step_room &room) {
    const int most = mlstm_vector<TYPE>::COUNT, columns = mlstm_vector<TYPE>::COLUMNS;
    const int slices = chain_slice_count<TYPE>(a), head = item / slices, slot = a.batch.slot[0];
    const int first = item % slices * columns, thread = (int)threadIdx.x;
    const mlstm_slice own = chain_slice_of<TYPE>(a, item);
    const mlstm_terms terms = {1, 0, 0};
    uint4 raw[MLSTM_ROWS];
    if (thread < MLSTM_WING)
        mlstm_fetch<TYPE>(a, own, 0, raw);
    mlstm_stage_token(a, 0, head, room);
    for (int d = thread; d < a.d_qk; d += (int)blockDim.x)
        room.n[d] = mlstm_load(a.n, slot, head, 0, d);
    if (thread < WARP) {
        mlstm_step_gate gate = mlstm_gate_of(a, 0, head);
        mlstm_exponents e;
        mlstm_maximum m = {mlstm_load(a.m, slot, 0, 0, head), 0.0f};
        mlstm_no_terms(&e, m);
        mlstm_step_gates<false>(gate, 1, true, &e, room.s);
    }
    mlstm_maximum value[most];
    float v[most], sum[most];
#pragma unroll
    for (int i = 0; i < most; i++)
        v[i] = thread < MLSTM_WING && i < own.count ? mlstm_load(a.v, 0, head, 0, own.column + i)
                                                    : 0.0f;
    __syncthreads();
    bool last = false;
    if (thread == WARP) /* it has what it needs of n and m */
        last = atomicInc(a.arrivals + head, (unsigned)slices - 1) == (unsigned)slices - 1;
#pragma unroll
    for (int i = 0; i < most; i++) {
        value[i] = mlstm_weighted<TYPE>(room.s->note.weight, v[i]);
        sum[i] = 0.0f;
    }
    mlstm_step_normalizer<TYPE, false>(a, terms, slot, head, true, room);
    if (thread < MLSTM_WING) {
        for (int row = 0; row < a.d_qk; row += MLSTM_ROWS * MLSTM_GROUPS) {
            if (row > 0)
                mlstm_fetch<TYPE>(a, own, row, raw);
            mlstm_step_rows<TYPE>(a, own, row, raw, value, room, sum);
        }
        mlstm_leave_sums<TYPE>(sum, room.parts, thread / WARP, own.vector);
    }
    if (thread == WARP)
        room.s->note.last = last;
    __syncthreads();
    mlstm_step_out<TYPE, false>(a, 1, head, 0, first, columns, room);
    if (room.s->note.last) {
        for (int d = thread; d < a.d_qk; d += (int)blockDim.x)
            mlstm_store(a.n, slot, head, 0, d, room.n[d]);
        if (thread == 0)
            mlstm_store(a.m, slot, 0, 0, head, room.s->note.stored_m);
    }
    __syncthreads();
}

/* Brings the block's slices to level 2, while others are still at the step before. */
template <int TYPE>
static __device__ __forceinline__ void chain_mlstm_begin(const mlstm_arguments &a) {
    if (threadIdx.x >= MLSTM_WING || !chain_has_slot(a))
        return;
    for (int item = (int)blockIdx.x; item < a.heads * chain_slice_count<TYPE>(a);
         item += (int)gridDim.x) {
        const mlstm_slice own = chain_slice_of<TYPE>(a, item);
        for (int row = (int)threadIdx.x; own.count > 0 && row < a.d_qk; row += MLSTM_WING)
            prefetch_line(own.c + row * own.row_bytes);
    }
}

/* On its own, so that projections have the registers that it needs, and nothing of C is read before the barrier. */
template <int TYPE>
static __device__ __noinline__ void chain_mlstm_run(const mlstm_arguments &a, float *x) {
    const mlstm_step_room room = mlstm_step_room_of(a, (mlstm_step_shared *)x,
                                                    x + sizeof(mlstm_step_shared) / sizeof(float));
    if (__syncthreads_or(mlstm_find_wrong(a.batch)))
        return;
    for (int item = (int)blockIdx.x; item < a.heads * chain_slice_count<TYPE>(a);
         item += (int)gridDim.x)
        chain_step_slice<TYPE>(a, item, room);
}

/* ---- All of it ---- */

static __device__ __forceinline__ void chain_load(const chain_arguments &a, int step,
                                                  chain_step *near) {
    enum { WORDS = sizeof(chain_step) / sizeof(uint4) };
    const uint4 *from = (const uint4 *)(a.steps + step);
    uint4 *to = (uint4 *)(near + step % CHAIN_NEAR);
    if (step < a.count)
        for (int i = (int)threadIdx.x; i < WORDS; i += (int)blockDim.x)
            to[i] = from[i];
}

/* What can be done of a step before the one in front has ended everywhere. */
static __device__ __forceinline__ void chain_begin(const chain_step &s, float *x, bool few,
                                                   int lane) {
    if (s.kind == CHAIN_PROJECT) {
        input_begin(s.project.input, x);
        if (few)
            gemv_few_prefetch(s.project, lane);
    } else if (s.mlstm.c.type == DTYPE_F32) {
        chain_mlstm_begin<DTYPE_F32>(s.mlstm);
    } else {
        chain_mlstm_begin<DTYPE_BF16>(s.mlstm);
    }
}

template <class W>
static __global__ void __launch_bounds__(CHAIN_THREADS, 1)
    chain(const __grid_constant__ chain_arguments a) {
    extern __shared__ float4 chain_shared[];
    enum { AHEAD = CHAIN_NEAR - 2 };
    chain_step *near = (chain_step *)chain_shared;
    float *parts = (float *)(near + CHAIN_NEAR), *x = parts + WARP;
    const int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    const bool streams = warp < CHAIN_WARPS;
    const int ring_bytes = a.depth * chain_shape<W>::STAGE;
    chain_ring<W> ring = {};
    ring.begin = ring.to = ring.at = (uint8_t *)(x + a.x_floats) + warp * ring_bytes;
    ring.end = ring.begin + ring_bytes;
    ring.depth = a.depth;
    ring.next.step = -1;
    for (int i = 0; i <= AHEAD; i++)
        chain_load(a, i, near);
    __syncthreads();
    for (int i = 0; i < a.count; i++) {
        const chain_step &s = near[i % CHAIN_NEAR];
        const int last = min(i + AHEAD, a.count - 1);
        if (streams)
            chain_fill<W>(near, last, warp, lane, ring);
        chain_begin(s, x, !streams, lane);
        if (i > 0 && threadIdx.x == 0)
            grid_await(a.counter, a.base + (unsigned)i * gridDim.x);
        __syncthreads();
        chain_load(a, i + AHEAD + 1, near);
        if (s.kind == CHAIN_PROJECT) {
            input_lay(s.project.input, 0, x, parts);
            chain_input<W>::lay(s.project, x);
            __syncthreads();
            if (streams)
                chain_stream<W>(near, i, last, x, warp, lane, ring);
            else
                gemv_few<1>(s.project, x, 0, lane);
        } else if (s.mlstm.c.type == DTYPE_F32) {
            chain_mlstm_run<DTYPE_F32>(s.mlstm, x);
        } else {
            chain_mlstm_run<DTYPE_BF16>(s.mlstm, x);
        }
        __syncthreads();
        if (i + 1 < a.count && threadIdx.x == 0)
            grid_arrive(a.counter);
    }
}

template <class W> static chain_variant chain_variant_of(void) {
    chain_variant v = {};
    v.kernel = chain<W>;
    v.depth = chain_shape<W>::DEPTH;
    v.stage_bytes = chain_shape<W>::STAGE;
    v.rows = W::rows;
    v.span = chain_shape<W>::SPAN;
    v.elements = W::elements;
    v.unit_bytes = W::integers ? integer_unit_bytes(W::blocks) : 0;
    return v;
}

#endif
