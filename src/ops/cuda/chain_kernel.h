/* The kernel of a chain (chain.h): a block on every multiprocessor, which stays.
 *
 * Blocks claim rows of each projection, and eight warps of each stream them through rings of their own in shared memory.
 * Weights are constants, so the rings do not end with the step: those of the next steps are asked for while blocks wait for
 * each other and lay their input, so that memory stays busy. Warps of their own claim and ask, and for these steps for no more
 * at a time than that takes (chain_fetch.h). GPUs without bulk copies (before compute capability 9.0) deal rows out and let each
 * warp ask for itself.
 *
 * In the profile exact a row is one warp's, with the same sums in the same order as in gemv.h. In fast warps take pieces of
 * rows, and the sums of a row's pieces are added in their order. Results of rows wait in shared memory for the step's end,
 * where a thread each puts them out.
 *
 * The slices of the mLSTM's C come early, too: what a block takes first into registers.
 *
 * There are two kernels for each type of weights. That of plain steps (chain.cu says which) has none of the code of others, and
 * nothing of it lies in local memory: what a step runs once comes from far away, and so does local memory, behind all
 * that is under way; a function that is called costs registers even where it is not (docs/SPEED.md). */
#ifndef OPS_CUDA_CHAIN_KERNEL_H
#define OPS_CUDA_CHAIN_KERNEL_H

#define FETCHING_WARPS 3 /* those that fetch and claim, the last of a block: device.h */

#include "ops/cuda/chain.h"
#include "ops/cuda/chain_fetch.h"
#include "ops/cuda/grid.h"
#include "ops/cuda/integers.h"

/* ---- A projection ---- */

/* The input of a step as units of weights meet it: floats, or integers behind them. */
template <class W, bool integers = (W::integers != 0)> struct chain_input {
    typedef float value;
    enum { PASS = (WARP * W::elements / 64) * 68 }; /* input_place(WARP * W::elements) */
    template <bool plain>
    static __device__ __forceinline__ void lay(const gemv_arguments &a, float *x, float *parts) {
        input_lay<false, plain>(a.input, 0, x, parts);
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
    template <bool plain>
    static __device__ __forceinline__ void lay(const gemv_arguments &a, float *x, float *parts) {
        input_lay<false, plain>(a.input, 0, x, parts);
        block_meet();
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

/* What a warp knows of the chain. */
template <class W> struct chain_warp {
    const chain_arguments *all;
    chain_head *head;
    int warp, lane;
    chain_ring<W> ring;
};

/* Where results of the block's groups stand until the step's end: their first lines, what is added to their rows, and the sums
 * of pieces, by line and piece. */
struct chain_results {
    int *line;
    float *residual, *sums;
};
template <class W>
static __device__ __forceinline__ chain_results chain_results_of(const chain_division &d,
                                                                 float *x) {
    const int groups = d.most * d.chunk_groups;
    chain_results r;
    r.line = (int *)(x + d.sums);
    r.residual = x + d.sums + groups;
    r.sums = r.residual + groups * W::rows;
    return r;
}

/* What the lane's line of an item adds to: its row's residual, which the first piece asks for. */
template <class W>
static __device__ __forceinline__ float chain_residual(const gemv_arguments &a,
                                                       const chain_item &item, int lane) {
    const gemv_part &part = a.part[0]; /* where there is one, no other is */
    const int row = item.line + lane;
    if (!part.residual || item.piece > 0 || lane >= W::rows || row >= a.rows)
        return 0.0f;
    return ((const float *)part.residual)[row];
}

/* A stage whose units are all there, and one where some may not be. */
template <class W>
static __device__ __forceinline__ void
chain_add_all(float (&sums)[W::rows][1], const uint8_t *stage, const int (&place)[W::rows],
              const typename chain_input<W>::value *y) {
#pragma unroll
    for (int u = 0; u < chain_shape<W>::UNITS; u++) {
        const uint8_t *at[W::rows];
#pragma unroll
        for (int r = 0; r < W::rows; r++)
            at[r] = stage + place[r] + u * chain_shape<W>::PART;
        chain_input<W>::add(sums, at, y + u * chain_input<W>::PASS);
    }
}
template <class W>
static __device__ __forceinline__ void
chain_add_some(float (&sums)[W::rows][1], const uint8_t *stage, const int (&place)[W::rows],
               const typename chain_input<W>::value *y, int units) {
#pragma unroll 1
    for (int u = 0; u < units; u++) {
        const uint8_t *at[W::rows];
#pragma unroll
        for (int r = 0; r < W::rows; r++)
            at[r] = stage + place[r] + u * chain_shape<W>::PART;
        chain_input<W>::add(sums, at, y + u * chain_input<W>::PASS);
    }
}

static __device__ __forceinline__ float chain_sum(const float *of_pieces, int pieces) {
    float z = of_pieces[0];
    for (int i = 1; i < pieces; i++)
        z += of_pieces[i];
    return z;
}

/* A row, if it is one: the sum z, what is added, and what a gated one is multiplied by. */
template <bool plain>
static __device__ __forceinline__ void chain_put_row(const gemv_arguments &a, int row, float z,
                                                     float residual, float up) {
    if (row >= a.rows)
        return;
    const gemv_part &part = gemv_part_of(a, row);
    gemv_output out = {};
    out.bias = gemv_bias(part.matrix, row - part.first);
    out.residual = residual;
    out.soft_cap = part.soft_cap;
    const float y = gemv_end<plain>(a, out, z + out.bias);
    ((float *)part.out)[row - part.first] = a.ending == GEMV_GATED ? y * up : y;
}

/* An item, whose first stage has arrived. */
template <class W, bool plain>
static __device__ __forceinline__ void chain_take(chain_warp<W> &own, const chain_step &s, int last,
                                                  const chain_item &item, const float *x,
                                                  const chain_results &results) {
    typedef chain_shape<W> shape;
    typedef chain_input<W> input;
    enum { TOGETHER = shape::UNITS * WARP };
    const gemv_arguments &a = s.project;
    const chain_division &d = s.division;
    const int lane = own.lane, slices = chain_slices<W>(a);
    const int units = (a.input.width + W::elements - 1) / W::elements;
    const int first = item.piece * d.piece_slices, end = min(first + d.piece_slices, slices);
    const float residual = chain_residual<W>(a, item, lane);
    gemv_row rows[W::rows];
    chain_rows<W>(item, rows);
    int place[W::rows]; /* the lane's first unit of each line, in a stage */
#pragma unroll
    for (int r = 0; r < W::rows; r++)
        place[r] = (r > 0 && item.joined ? chain_lead<W>(rows[0]) + r * a.used_bytes
                                         : r * shape::SLOT + chain_lead<W>(rows[r])) +
                   lane * W::bytes;
    float sums[W::rows][1] = {};
    const typename input::value *y = input::first(a, x, lane);
    for (int slice = first; slice < end; slice++) {
        if (slice > first)
            chain_arrived<W>(*own.all, own.ring);
        if (chain_fetches(*own.all) && slice >= item.bulk)
            chain_read<W>(a, rows, slice, own.ring.at, lane);
        const typename input::value *of = y + slice * shape::UNITS * input::PASS;
        const int left = units - slice * TOGETHER; /* of all lanes */
        if (left >= TOGETHER)
            chain_add_all<W>(sums, own.ring.at, place, of);
        else
            chain_add_some<W>(sums, own.ring.at, place, of, (left - lane + WARP - 1) / WARP);
        chain_took<W>(*own.all, *own.head, last, own.warp, lane, own.ring);
    }
    float z = 0.0f; /* of the lane's line */
#pragma unroll
    for (int r = 0; r < W::rows; r++) {
        const float sum = warp_sum(sums[r][0]);
        if (lane == r)
            z = sum;
    }
    if (lane >= W::rows)
        return;
    if (d.most == 0) {
        chain_put_row<plain>(a, item.line + lane, z, residual, 1.0f);
        return;
    }
    const int line = item.line & (d.group_lines - 1); /* of the group */
    results.sums[(item.group * d.group_lines + line + lane) * d.pieces + item.piece] = z;
    if (item.piece > 0 || line > 0)
        return;
    results.residual[item.group * W::rows + lane] = residual;
    if (lane == 0)
        results.line[item.group] = item.line;
}

/* The rows of a step, a thread each, behind a barrier. */
template <class W, bool plain>
static __device__ __forceinline__ void chain_put(const chain_step &s, int groups,
                                                 const chain_results &results) {
    const gemv_arguments &a = s.project;
    const chain_division &d = s.division;
    for (int i = (int)threadIdx.x; i < groups * W::rows; i += block_threads()) {
        const int group = i / W::rows, r = i % W::rows;
        const int row = chain_place_of<W>(a.ending == GEMV_GATED, results.line[group] + r).row;
        const float *sums = results.sums + (group * d.group_lines + r) * d.pieces;
        float up = 1.0f;
        if (a.ending == GEMV_GATED && row < a.rows)
            up = chain_sum(sums + W::rows * d.pieces, d.pieces) + gemv_bias(a.part[0].up, row);
        chain_put_row<plain>(a, row, chain_sum(sums, d.pieces), results.residual[i], up);
    }
}

/* A warp's items of a step. */
template <class W, bool plain>
static __device__ __forceinline__ void chain_stream(chain_warp<W> &own, int step, int last,
                                                    const float *x, const chain_results &results) {
    const chain_step &s = own.head->near[step % CHAIN_NEAR];
    for (;;) {
        chain_arrived<W>(*own.all, own.ring);
        const chain_item item = own.ring.item[own.ring.stage];
        if (item.line < 0) {
            if (own.warp == 0 && own.lane == 0)
                own.head->groups = item.group;
            break;
        }
        chain_take<W, plain>(own, s, last, item, x, results);
    }
    chain_took<W>(*own.all, *own.head, last, own.warp, own.lane, own.ring);
}

/* ---- The mLSTM: one token, slices of a head's C as in mlstm.h ---- */

template <int TYPE>
static __device__ __forceinline__ int chain_slice_count(const mlstm_arguments &a) {
    const int columns = mlstm_vector<TYPE>::COLUMNS;
    return (a.d_v + columns - 1) / columns;
}

template <int TYPE>
static __device__ __forceinline__ mlstm_slice chain_slice_of(const mlstm_arguments &a, int item) {
    const int slices = chain_slice_count<TYPE>(a);
    return mlstm_slice_at<TYPE>(a, a.batch.slot[0], item / slices,
                                item % slices * mlstm_vector<TYPE>::COLUMNS);
}

/* What of a slice can be read before the step in front has ended: C, n and m of the head. Nobody writes them before
 * every block of the head has come to the step. */
template <int TYPE, bool plain>
static __device__ __forceinline__ mlstm_slice chain_take_slice(const mlstm_arguments &a, int item,
                                                               uint4 *raw, float *m,
                                                               const mlstm_step_room &room) {
    const int slot = a.batch.slot[0], head = item / chain_slice_count<TYPE>(a);
    const mlstm_slice own = chain_slice_of<TYPE>(a, item);
    if (threadIdx.x < MLSTM_WING)
        mlstm_fetch<TYPE, plain>(a, own, 0, raw);
    for (int d = (int)threadIdx.x; d < a.d_qk; d += block_threads())
        room.n[d] = mlstm_load(a.n, slot, head, 0, d);
    *m = threadIdx.x < WARP ? mlstm_load(a.m, slot, 0, 0, head) : 0.0f;
    return own;
}

/* What a slice needs of the token: asked for together, since each answer takes longer than all that is done with it. */
template <int TYPE, bool plain>
static __device__ __forceinline__ mlstm_step_gate chain_take_token(const mlstm_arguments &a,
                                                                   int head, const mlstm_slice &own,
                                                                   float *v,
                                                                   const mlstm_step_room &room) {
    const int most = mlstm_vector<TYPE>::COUNT, thread = (int)threadIdx.x;
    const bool works = thread < MLSTM_WING, keys = thread < a.d_qk;
    mlstm_step_gate gate = {};
    if (!plain) {
        gate = mlstm_gate_of(a, 0, head);
        mlstm_stage_token(a, 0, head, room);
#pragma unroll
        for (int i = 0; i < most; i++)
            v[i] = works && i < own.count ? mlstm_load(a.v, 0, head, 0, own.column + i) : 0.0f;
        return gate;
    }
    const float *values = (const float *)a.v.data + head * a.v.head + own.column;
    gate.input = ((const float *)a.i.data)[head];
    gate.forget = ((const float *)a.f.data)[head];
    const float q = keys ? ((const float *)a.q.data)[head * a.q.head + thread] : 0.0f;
    const float k = keys ? ((const float *)a.k.data)[head * a.k.head + thread] : 0.0f;
#pragma unroll
    for (int i = 0; i < most; i++)
        v[i] = works && own.count ? values[i] : 0.0f;
    if (keys) {
        room.q[thread] = q;
        room.k[thread] = k;
    }
    return gate;
}

/* A slice. All threads that meet come here, and the first 256 work. */
template <int TYPE, bool plain>
static __device__ __forceinline__ void chain_step_slice(const mlstm_arguments &a, int item,
                                                        const mlstm_slice &own, uint4 *raw, float m,
                                                        const mlstm_step_room &room) {
    const int most = mlstm_vector<TYPE>::COUNT, columns = mlstm_vector<TYPE>::COLUMNS;
    const int slices = chain_slice_count<TYPE>(a), head = item / slices, slot = a.batch.slot[0];
    const int first = item % slices * columns, thread = (int)threadIdx.x;
    const mlstm_terms terms = {1, 0, 0};
    mlstm_maximum value[most];
    float v[most], sum[most];
    const mlstm_step_gate gate = chain_take_token<TYPE, plain>(a, head, own, v, room);
    if (thread < WARP) {
        mlstm_exponents e;
        mlstm_maximum before = {m, 0.0f};
        mlstm_no_terms(&e, before);
        mlstm_step_gates<false>(gate, 1, true, &e, room.s);
    }
    block_meet();
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
        mlstm_step_rows<TYPE, plain>(a, own, 0, raw, value, room, sum);
        for (int row = MLSTM_KEYS; !plain && row < a.d_qk; row += MLSTM_KEYS) {
            mlstm_fetch<TYPE>(a, own, row, raw);
            mlstm_step_rows<TYPE>(a, own, row, raw, value, room, sum);
        }
        mlstm_leave_sums<TYPE>(sum, room.parts, thread / WARP, own.vector);
    }
    if (thread == WARP)
        room.s->note.last = last;
    block_meet();
    mlstm_step_out<TYPE, false>(a, 1, head, 0, first, columns, room);
    if (room.s->note.last) {
        for (int d = thread; d < a.d_qk; d += block_threads())
            mlstm_store(a.n, slot, head, 0, d, room.n[d]);
        if (thread == 0)
            mlstm_store(a.m, slot, 0, 0, head, room.s->note.stored_m);
    }
}

/* Until the step in front has ended in all blocks. */
static __device__ __forceinline__ void chain_await(const chain_arguments &a, int step) {
    if (step > 0 && threadIdx.x == CHAIN_WARPS * WARP)
        grid_await(a.counter, a.base + (unsigned)step * gridDim.x);
    block_meet();
}

template <int TYPE, bool plain>
static __device__ __forceinline__ void
chain_mlstm_run(const chain_arguments &all, const mlstm_arguments &a, int step, float *x) {
    const mlstm_step_room room = mlstm_step_room_of(a, (mlstm_step_shared *)x,
                                                    x + sizeof(mlstm_step_shared) / sizeof(float));
    const int items = a.heads * chain_slice_count<TYPE>(a);
    const bool sound = batch_has(a.batch, 0); /* written before the chain */
    uint4 raw[MLSTM_ROWS];
    mlstm_slice own = {};
    float m = 0.0f;
    if (sound && (int)blockIdx.x < items)
        own = chain_take_slice<TYPE, plain>(a, (int)blockIdx.x, raw, &m, room);
    chain_await(all, step);
    if (!sound) {
        if (threadIdx.x == 0)
            cuda_report(a.batch.faults, CUDA_FAULT_BATCH, 0);
        return;
    }
    for (int item = (int)blockIdx.x; item < items; item += (int)gridDim.x) {
        if (item >= (int)gridDim.x) {
            block_meet(); /* room is free */
            own = chain_take_slice<TYPE, plain>(a, item, raw, &m, room);
        }
        chain_step_slice<TYPE, plain>(a, item, own, raw, m, room);
    }
}

/* ---- All of it ---- */

/* Arguments of steps come into shared memory, by one warp: of those that are not there yet, up to `last`. */
static __device__ __forceinline__ void chain_load(const chain_arguments &a, int last, int lane,
                                                  chain_head &h) {
    enum { WORDS = sizeof(chain_step) / sizeof(uint4) };
    for (int step = h.loaded; step <= min(last, a.count - 1); step++) {
        const uint4 *from = (const uint4 *)(a.steps + step);
        uint4 *to = (uint4 *)(h.near + step % CHAIN_NEAR);
        if (step >= CHAIN_NEAR && chain_fetches(a))
            barrier_wait(&h.step_done[step % CHAIN_NEAR], (unsigned)(step / CHAIN_NEAR - 1) & 1u);
        for (int i = lane; i < WORDS; i += WARP)
            to[i] = from[i];
        warp_arrive(&h.step_there[step % CHAIN_NEAR]);
    }
    __syncwarp();
    if (lane == 0)
        h.loaded = last + 1;
    __syncwarp();
}

/* What the kernel begins with. All threads of the block come here. */
static __device__ __forceinline__ void chain_begin(const chain_arguments &a, chain_head &h) {
    if (threadIdx.x == 0) {
        h.loaded = 0;
        for (int i = 0; i < CHAIN_NEAR; i++) {
            barrier_make(&h.step_there[i], WARP_ARRIVALS);
            barrier_make(&h.step_done[i], CHAIN_WARPS + WARP_ARRIVALS);
            barrier_make(&h.step_laid[i], 1);
        }
        for (int i = 0; i < CHAIN_CLAIMS; i++) {
            barrier_make(&h.claimed[i], WARP_ARRIVALS);
            barrier_make(&h.released[i], CHAIN_WARPS);
        }
        for (int i = 0; i < CHAIN_WARPS * CHAIN_DEPTH; i++) {
            barrier_make(&h.arrived[0][0] + i, 1);
            barrier_make(&h.taken[0][0] + i, WARP_ARRIVALS);
        }
        if (chain_fetches(a))
            barrier_made();
    }
    for (int i = (int)threadIdx.x; blockIdx.x == 0 && i < CHAIN_STEPS; i += (int)blockDim.x)
        a.clear[i] = 0;
    __syncthreads();
}

/* The input of a projection is laid; an mLSTM step, of which nothing is fetched, says so, too: one arrival a step, so that the
 * place's parity is the step's. */
static __device__ __forceinline__ void chain_laid(const chain_arguments &a, chain_head &h,
                                                  int step) {
    if (threadIdx.x == 0 && chain_fetches(a))
        barrier_arrive(&h.step_laid[step % CHAIN_NEAR]);
}

/* A projection: of a block's warps but the one that fetches. */
template <class W, bool plain>
static __device__ __forceinline__ void chain_run_project(const chain_arguments &a, chain_head &h,
                                                         float *x, int step, int last,
                                                         chain_warp<W> &own) {
    const chain_step &s = h.near[step % CHAIN_NEAR];
    const gemv_arguments &p = s.project;
    const bool streams = own.warp < CHAIN_WARPS;
    input_begin<plain>(p.input, x);
    if (!streams)
        gemv_few_prefetch(p, own.lane);
    chain_await(a, step);
    chain_input<W>::template lay<plain>(p, x, h.parts);
    block_meet();
    const chain_results results = chain_results_of<W>(s.division, x);
    chain_laid(a, h, step);
    if (streams)
        chain_stream<W, plain>(own, step, last, x, results);
    else
        gemv_few<1, false, plain>(p, x, 0, own.lane);
    if (!streams) /* while the others are busy; nobody is at the step in front any more */
        chain_load(a, step + CHAIN_NEAR - 1, own.lane, h);
    block_meet();
    chain_put<W, plain>(s, s.division.most > 0 ? h.groups : 0, results);
}

template <class W, bool plain>
static __global__ void __launch_bounds__(CHAIN_THREADS, 1)
    chain(const __grid_constant__ chain_arguments a) {
    extern __shared__ float4 chain_shared[];
    enum { AHEAD = CHAIN_NEAR - 3 }; /* steps that are there in any case: the mLSTM loads none */
    chain_head &h = *(chain_head *)chain_shared;
    chain_item *chunks = (chain_item *)(&h + 1);
    float *x = (float *)(chunks + CHAIN_CLAIMS * a.chunk_items);
    uint8_t *rings = (uint8_t *)chain_shared + a.rings;
    const int ring_bytes = a.depth * chain_shape<W>::STAGE;
    chain_warp<W> own = {};
    own.all = &a;
    own.head = &h;
    own.warp = (int)threadIdx.x / WARP;
    own.lane = (int)threadIdx.x % WARP;
    chain_begin(a, h);
    if (own.warp == CHAIN_WARPS)
        chain_load(a, CHAIN_NEAR - 1, own.lane, h);
    __syncthreads();
    if (own.warp > CHAIN_WARPS) {
        const int fetcher = own.warp - CHAIN_WARPS - 1;
        if (chain_fetches(a) && fetcher < CHAIN_FETCHERS)
            chain_fetch<W>(a, h, chunks, rings, fetcher * (CHAIN_WARPS / CHAIN_FETCHERS), own.lane);
        else if (chain_fetches(a))
            chain_claim<W>(a, h, chunks, own.lane);
        return;
    }
    own.ring.begin = own.ring.to = own.ring.at = rings + own.warp * ring_bytes;
    own.ring.end = own.ring.begin + ring_bytes;
    own.ring.depth = a.depth;
    own.ring.next.step = -1;
    own.ring.arrived = h.arrived[own.warp < CHAIN_WARPS ? own.warp : 0];
    own.ring.freed = h.taken[own.warp < CHAIN_WARPS ? own.warp : 0];
    own.ring.item = h.item[own.warp < CHAIN_WARPS ? own.warp : 0];
    for (int i = 0; i < a.count; i++) {
        const chain_step &s = h.near[i % CHAIN_NEAR];
        const int last = min(i + AHEAD, a.count - 1);
        if (own.warp < CHAIN_WARPS && !chain_fetches(a))
            chain_fill<W>(a, h, last, own.warp, own.lane, own.ring);
        if (s.kind == CHAIN_MLSTM)
            chain_laid(a, h, i);
        if (s.kind == CHAIN_PROJECT)
            chain_run_project<W, plain>(a, h, x, i, last, own);
        else if (s.mlstm.c.type == DTYPE_F32)
            chain_mlstm_run<DTYPE_F32, plain>(a, s.mlstm, i, x);
        else
            chain_mlstm_run<DTYPE_BF16, plain>(a, s.mlstm, i, x);
        block_meet();
        if (i + 1 < a.count && threadIdx.x == CHAIN_WARPS * WARP)
            grid_arrive(a.counter);
    }
}

template <class W> static chain_variant chain_variant_of(void) {
    chain_variant v = {};
    v.plain = chain<W, true>;
    v.kernel = chain<W, false>;
    v.depth = chain_shape<W>::DEPTH;
    v.stage_bytes = chain_shape<W>::STAGE;
    v.rows = W::rows;
    v.span = chain_shape<W>::SPAN;
    v.elements = W::elements;
    v.unit_bytes = W::integers ? integer_unit_bytes(W::blocks) : 0;
    return v;
}

#endif
