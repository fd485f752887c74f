/* How the weights of a chain come into the rings of a block's warps: by a warp that fetches for all, or by each warp for
 * itself (chain_kernel.h). */
#ifndef OPS_CUDA_CHAIN_FETCH_H
#define OPS_CUDA_CHAIN_FETCH_H

#include "ops/cuda/async.h"
#include "ops/cuda/chain.h"

/* A stage has some 4 KB, and as a rule two rows: fewer copies bring it than of more rows, and a group of rows is not long under
 * way, which keeps warps, and blocks, together at the end of a step. */
template <class W> struct chain_shape {
    enum {
        PART = WARP * W::bytes, /* of a row: a unit of each lane */
        WHOLE = 4608 / ((int)W::rows * PART),
        UNITS = (int)WHOLE > 1 ? (int)WHOLE : 1, /* of a lane in a stage, of each row */
        SPAN = UNITS * PART,
        SLOT = SPAN + ((int)W::blocks > 0 ? 16 : 0),
        STAGE = W::rows * SLOT,
        RING_BYTES = 160 << 10, /* of a block; the rest is for the input */
        DEPTH = RING_BYTES / (CHAIN_WARPS * STAGE)
    };
    static_assert((int)DEPTH <= (int)CHAIN_DEPTH, "barriers for each stage");
};

/* Whether a warp fetches for all. */
static __device__ __forceinline__ bool chain_fetches(const chain_arguments &a) {
#if defined(__CUDACC__) && defined(__CUDA_ARCH__)
    (void)a;
    return __CUDA_ARCH__ >= 900;
#else
    return a.fetches;
#endif
}

/* ---- Rows and slices ---- */

/* What a warp fetches next: rows from `row` to `end` of a step, `together` at a time, a slice of SPAN bytes each. */
template <class W> struct chain_cursor {
    int step, row, end, together, slice, slices;
    int easy;       /* slices before this one, of this group, are whole copies */
    unsigned there; /* which of the rows are, a bit each */
    gemv_row rows[W::rows];
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

/* The cursor comes to a step. */
template <class W>
static __device__ __forceinline__ void chain_open(const chain_step &s, int warp,
                                                  chain_cursor<W> &c) {
    if (s.kind != CHAIN_PROJECT)
        return;
    chain_own(s.project, warp, &c.row, &c.end);
    c.together = chain_together(s.project, W::rows);
    c.slice = 0;
    c.slices = chain_slices<W>(s.project);
}

/* The cursor comes to a group of rows; true: copies of 16 bytes can take all of them. */
template <class W>
static __device__ __forceinline__ bool chain_enter(const gemv_arguments &a, chain_cursor<W> &c) {
    bool wide = true;
    gemv_rows_of<W>(a, c.row, c.end, 0, c.rows);
    c.there = 0;
#pragma unroll
    for (int r = 0; r < W::rows; r++)
        if (c.rows[r].at) {
            c.there |= 1u << r;
            wide = wide && c.rows[r].wide;
        }
    return wide;
}

/* A slice was asked for. */
template <class W> static __device__ __forceinline__ void chain_asked(chain_cursor<W> &c) {
    if (++c.slice == c.slices) {
        c.slice = 0;
        c.row += c.together;
    }
}

/* A warp's ring, and how far it has come: stages fetched, and taken, and where the next of both are. */
template <class W> struct chain_ring {
    uint8_t *begin, *end, *to, *at;
    int depth;
    unsigned fetched, taken;
    chain_cursor<W> next; /* and above, `to` and `fetched`: where the warp asks for itself */
    int stage; /* where another asks: the next to take, its barriers, and how often the ring has come round */
    unsigned rounds;
    uint64_t *arrived, *freed;
};

/* ---- Each warp for itself ---- */

/* Whether there is something left to fetch up to step `last`; goes to the next step where one is done. */
template <class W>
static __device__ __forceinline__ bool chain_more(const chain_step *near, int last, int warp,
                                                  chain_cursor<W> &c) {
    while (c.row >= c.end) {
        if (c.step >= last)
            return false;
        chain_open<W>(near[++c.step % CHAIN_NEAR], warp, c);
    }
    return true;
}

/* An easy slice. The 16 bytes behind it that a row between multiples of 16 needs may be the next row's, or behind the
 * buffer's end, where there is room. */
template <class W>
static __device__ __forceinline__ void chain_copy(uint8_t *to, int lane, chain_cursor<W> &c) {
    enum { SLOT = chain_shape<W>::SLOT, SPAN = chain_shape<W>::SPAN, TOGETHER = 16 * WARP };
#pragma unroll
    for (int r = 0; r < W::rows; r++) {
        if (!(c.there >> r & 1u))
            continue;
        const uint8_t *from = c.rows[r].at - c.rows[r].lead() + (int64_t)c.slice * SPAN + 16 * lane;
#pragma unroll
        for (int i = 0; i < SLOT; i += TOGETHER)
            if (i + TOGETHER <= SLOT || i + 16 * lane < SLOT)
                copy_whole_16(to + r * SLOT + i + 16 * lane, from + i);
    }
}

template <class W> static __device__ __forceinline__ void chain_fetched(chain_ring<W> &r) {
    copy_close();
    r.fetched++;
    r.to += chain_shape<W>::STAGE;
    r.to = r.to == r.end ? r.begin : r.to;
    chain_asked<W>(r.next);
}

/* As much as there is room for, of steps up to `last`. */
template <class W>
static __device__ __forceinline__ void chain_fill(const chain_step *near, int last, int warp,
                                                  int lane, chain_ring<W> &r) {
    chain_cursor<W> &c = r.next;
    while (r.fetched - r.taken < (unsigned)r.depth && chain_more<W>(near, last, warp, c)) {
        const gemv_arguments &a = near[c.step % CHAIN_NEAR].project;
        if (c.slice == 0)
            c.easy = chain_enter<W>(a, c) ? a.used_bytes / chain_shape<W>::SPAN : 0;
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

/* ---- A warp for all ---- */

/* Slices of a group that come by bulk copies: those whose units are whole, where copies of 16 bytes can take the rows.
 * Others are handed over as they are, and the warp that takes them reads them itself. */
template <class W>
static __device__ __forceinline__ int chain_bulk_slices(const gemv_arguments &a, bool wide,
                                                        int slices) {
    if (!wide)
        return 0;
    return a.used_bytes % W::bytes == 0 ? slices : a.used_bytes / chain_shape<W>::SPAN;
}

/* The bytes that a bulk copy takes of a row for `bytes` of a slice. Up to 15 more than these may be the next row's, or
 * behind the buffer's end, where there is room. */
static __device__ __forceinline__ unsigned chain_bulk_bytes(const gemv_row &row, int bytes) {
    return (unsigned)(row.lead() + bytes + 15) / 16u * 16u;
}

/* One slice. */
template <class W>
static __device__ __forceinline__ void chain_ask(const gemv_arguments &a, const chain_cursor<W> &c,
                                                 uint8_t *to, uint64_t *arrived) {
    enum { SLOT = chain_shape<W>::SLOT, SPAN = chain_shape<W>::SPAN };
    if (c.slice >= c.easy) {
        barrier_arrive(arrived);
        return;
    }
    const int before = c.slice * SPAN, bytes = min((int)SPAN, a.used_bytes - before);
    unsigned all = 0;
#pragma unroll
    for (int r = 0; r < W::rows; r++)
        if (c.there >> r & 1u)
            all += chain_bulk_bytes(c.rows[r], bytes);
    barrier_arrive_for(arrived, all);
#pragma unroll
    for (int r = 0; r < W::rows; r++)
        if (c.there >> r & 1u)
            copy_bulk(to + r * SLOT, c.rows[r].at - c.rows[r].lead() + before,
                      chain_bulk_bytes(c.rows[r], bytes), arrived);
}

/* Whether the lane's warp has something left to fetch in a step that is there; says which are done. */
template <class W>
static __device__ __forceinline__ bool chain_come(chain_head &h, int count, int warp,
                                                  chain_cursor<W> &c) {
    while (c.row >= c.end) {
        const int next = c.step + 1, place = next % CHAIN_NEAR;
        if (next == count ||
            !barrier_tested(&h.step_there[place], (unsigned)(next / CHAIN_NEAR) & 1u))
            return false;
        if (c.step >= 0)
            barrier_arrive(&h.step_done[c.step % CHAIN_NEAR]);
        c.step = next;
        chain_open<W>(h.near[place], warp, c);
    }
    return true;
}

/* The warp that fetches: lane w for warp w, each a stage at a time as there is room, until the last step. */
template <class W>
static __device__ __forceinline__ void chain_fetch(const chain_arguments &all, chain_head &h,
                                                   uint8_t *rings, int lane) {
    chain_cursor<W> c = {};
    int stage = 0;
    unsigned rounds = 0;
    c.step = -1;
    if (lane >= CHAIN_WARPS)
        return;
    while (c.row < c.end || c.step + 1 < all.count) {
        if (!chain_come<W>(h, all.count, lane, c) ||
            !barrier_tested(&h.taken[lane][stage], (rounds & 1u) ^ 1u))
            continue;
        const gemv_arguments &a = h.near[c.step % CHAIN_NEAR].project;
        if (c.slice == 0)
            c.easy = chain_bulk_slices<W>(a, chain_enter<W>(a, c), c.slices);
        chain_ask<W>(a, c, rings + (lane * all.depth + stage) * chain_shape<W>::STAGE,
                     &h.arrived[lane][stage]);
        chain_asked<W>(c);
        if (++stage == all.depth) {
            stage = 0;
            rounds++;
        }
    }
}

/* ---- Taking ---- */

/* The oldest stage is there. */
template <class W>
static __device__ __forceinline__ void chain_arrived(const chain_arguments &all,
                                                     const chain_ring<W> &r) {
    if (chain_fetches(all)) {
        warp_wait(r.arrived + r.stage, r.rounds & 1u);
        return;
    }
    chain_wait<chain_shape<W>::DEPTH - 1>(r.fetched - r.taken - 1);
    __syncwarp();
}

/* A slice that was handed over without its bytes: the warp reads it. */
template <class W>
static __device__ __forceinline__ void chain_read(const gemv_arguments &a,
                                                  const gemv_row (&rows)[W::rows], int slice,
                                                  uint8_t *to, int lane) {
#pragma unroll
    for (int r = 0; r < W::rows; r++)
        if (rows[r].at)
            gemv_fetch<W, chain_shape<W>::SPAN>(a, rows[r], slice, to + r * chain_shape<W>::SLOT,
                                                lane);
    copy_close();
    copy_wait<0>();
    fence_async(); /* bulk copies come here again */
    __syncwarp();
}

/* A stage was taken. */
template <class W>
static __device__ __forceinline__ void chain_took(const chain_arguments &all,
                                                  const chain_step *near, int last, int warp,
                                                  int lane, chain_ring<W> &r) {
    __syncwarp();
    if (!chain_fetches(all)) {
        chain_refill<W>(near, last, warp, lane, r);
        return;
    }
    if (warp_speaker())
        barrier_arrive(r.freed + r.stage);
    r.at += chain_shape<W>::STAGE;
    if (++r.stage == r.depth) {
        r.stage = 0;
        r.rounds++;
        r.at = r.begin;
    }
}

#endif
