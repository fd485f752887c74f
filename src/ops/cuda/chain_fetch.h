/* How the weights of a chain come into the rings of a block's warps: by a warp that fetches for all, or by each warp for
 * itself (chain_kernel.h).
 *
 * Blocks claim chunks of rows one after the other, so that at any time all of them read about the same place of a matrix,
 * which memory likes best, and all end at the same time, though some multiprocessors are served a sixth faster than
 * others: without arithmetic, a layer of the 7B shape in bf16 whose blocks meet four times for 4.7 us took 129 us, and 154
 * with rows dealt out before; pauses alone are 19.
 *
 * Warps that stream do not ask: they would wait for room among the requests under way before they took what has arrived,
 * and rings would be full before the step's end, and memory idle behind it. */
#ifndef OPS_CUDA_CHAIN_FETCH_H
#define OPS_CUDA_CHAIN_FETCH_H

#include "ops/cuda/async.h"
#include "ops/cuda/chain.h"
#include "ops/cuda/grid.h"

#include <limits.h>

/* Weights of which a stage has one line: a long copy. */
template <class W> struct chain_single : W {
    enum { rows = 1 };
};

constexpr int chain_power_of_two(int x) { /* the largest up to x */
    return x < 2 ? 1 : 2 * chain_power_of_two(x / 2);
}

/* A stage has some 4 KB of as many lines as the variant has rows. */
template <class W> struct chain_shape {
    enum {
        PART = WARP * W::bytes, /* of a line: a unit of each lane */
        UNITS = chain_power_of_two(4608 /
                                   ((int)W::rows * PART)), /* of a lane in a stage, of each line */
        SPAN = UNITS * PART,
        SLOT = SPAN + ((int)W::blocks > 0 ? (int)CHAIN_LINE : 0),
        STAGE = W::rows * SLOT,
        RING_BYTES = 160 << 10, /* of a block; the rest is for the input */
        DEPTH = RING_BYTES / (CHAIN_WARPS * STAGE)
    };
    static_assert((int)DEPTH <= (int)CHAIN_DEPTH, "barriers for each stage");
    static_assert(STAGE % (int)CHAIN_LINE == 0, "stages begin where rings do (chain_lead)");
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

/* ---- Lines, items and slices ---- */

/* Where a line begins in its slot: at the same place of 128 bytes as in memory. Where the two differ bulk copies are slower, and
 * a token took up to a tenth longer (docs/SPEED.md); so rings begin at such a place, too (chain.cu). */
template <class W> static __device__ __forceinline__ int chain_lead(const gemv_row &row) {
    return (int)W::blocks > 0 && row.wide ? (int)((uintptr_t)row.at % CHAIN_LINE) : 0;
}
/* The same for copies, which begin with the 16 bytes that a line begins in. */
template <class W> static __device__ __forceinline__ int chain_lead_16(const gemv_row &row) {
    return chain_lead<W>(row) & ~15;
}

template <class W> static __device__ __forceinline__ int chain_slices(const gemv_arguments &a) {
    return (a.used_bytes + chain_shape<W>::SPAN - 1) / chain_shape<W>::SPAN;
}

/* Where a line belongs. */
struct chain_place {
    int row;
    bool up;
};
template <class W>
static __device__ __forceinline__ chain_place chain_place_of(bool gated, int line) {
    enum { BOTH = 2 * W::rows };
    if (!gated)
        return {line, false};
    return {line / BOTH * W::rows + line % W::rows, line % BOTH >= W::rows};
}

/* What items of a step are made of, in registers: as few instructions as can be lie between a claim and its items. */
struct chain_plan {
    chain_division division;
    gemv_matrix matrix, up; /* of the first part */
    const gemv_part *part;
    int parts, rows, used_bytes, slices;
    bool gated;
};
template <class W> static __device__ __forceinline__ chain_plan chain_plan_of(const chain_step &s) {
    chain_plan p;
    p.division = s.division;
    p.matrix = s.project.part[0].matrix;
    p.up = s.project.part[0].up;
    p.part = s.project.part;
    p.parts = s.project.parts;
    p.rows = s.project.rows;
    p.used_bytes = s.project.used_bytes;
    p.slices = chain_slices<W>(s.project);
    p.gated = s.project.ending == GEMV_GATED;
    return p;
}

/* A line of a step; at == NULL: there is none. */
template <class W>
static __device__ __forceinline__ gemv_row chain_line(const chain_plan &p, int line) {
    const chain_place place = chain_place_of<W>(p.gated, line);
    gemv_matrix m = place.up ? p.up : p.matrix;
    int first = 0;
    if (p.parts > 1) {
        int i = 0;
#pragma unroll
        for (int k = 1; k < OPS_MAX_PROJECTIONS; k++)
            if (k < p.parts && place.row >= p.part[k].first)
                i = k;
        first = p.part[i].first;
        m = place.up ? p.part[i].up : p.part[i].matrix;
    }
    gemv_row r;
    r.at = place.row < p.rows ? m.weight + (int64_t)(place.row - first) * m.row_bytes : NULL;
    r.wide = m.wide;
    return r;
}

/* The lines of an item as rows. */
template <class W>
static __device__ __forceinline__ void chain_rows(const chain_item &item,
                                                  gemv_row (&rows)[W::rows]) {
    static_assert((int)W::rows <= 2, "places for lines in chain_item");
#pragma unroll
    for (int r = 0; r < W::rows; r++)
        rows[r] = {item.at[r], item.wide >> r & 1};
}

/* Slices that come by bulk copies: those whose units are whole, where copies of 16 bytes can take the rows.
 * Others are handed over as they are, and the warp that takes them reads them itself. */
template <class W>
static __device__ __forceinline__ int chain_bulk_slices(const chain_plan &p, bool wide) {
    if (!wide)
        return 0;
    return p.used_bytes % W::bytes == 0 ? p.slices : p.used_bytes / chain_shape<W>::SPAN;
}

/* Items of a chunk. */
static __device__ __forceinline__ int chain_items(const chain_division &d, int chunk) {
    return min(d.chunk_groups, d.groups - chunk * d.chunk_groups) * d.group_items;
}

/* i / n, by what inverse_of() in chain.cu gives for n; i n < 2^32. */
static __device__ __forceinline__ int chain_quotient(int i, unsigned inverse) {
    return inverse == 0 ? i : (int)__umulhi((unsigned)i, inverse);
}

/* Item i of a chunk that is number `number` of the block's part of the step. */
template <class W>
static __device__ __forceinline__ chain_item chain_item_of(const chain_plan &p, bool fetches,
                                                           int chunk, int number, int i) {
    const chain_division &d = p.division;
    const int group = chain_quotient(i, d.by_group_items), at = i - group * d.group_items;
    const int lines = chain_quotient(at, d.by_pieces), chunk_groups = d.chunk_groups;
    bool wide = true;
    chain_item item;
    item.line = (chunk * chunk_groups + group) * d.group_lines + lines * W::rows;
    item.piece = at - lines * d.pieces;
    item.group = number * chunk_groups + group;
    item.wide = 0;
    item.at[W::rows - 1] = NULL;
#pragma unroll
    for (int r = 0; r < W::rows; r++) {
        const gemv_row row = chain_line<W>(p, item.line + r);
        item.at[r] = row.at;
        item.wide = (int8_t)(item.wide | (row.wide ? 1 : 0) << r);
        wide = wide && (row.wide || !row.at);
    }
    item.bulk = (int16_t)chain_bulk_slices<W>(p, wide);
    item.joined = W::rows == 2 && p.slices == 1 && item.bulk == 1 && fetches &&
                  item.at[W::rows - 1] == item.at[0] + p.used_bytes;
    return item;
}

/* Where a warp's items are: what it fetches next. */
template <class W> struct chain_cursor {
    int step;
    bool open, has;      /* a step; a chunk of it */
    unsigned number;     /* of the chunk, of all that the block has come to */
    int of_step, groups; /* the same, of those of the step; groups of these */
    int chunk, items;    /* which one of the step, where the warp fetches for itself; -1: none */
    int next;            /* of the chunk's items */
    chain_item item;
    int slice, last; /* of the item: the next, and the one behind it */
};

/* The cursor comes to a step. */
template <class W>
static __device__ __forceinline__ void chain_open(const chain_step &s, int warp,
                                                  chain_cursor<W> &c) {
    c.open = s.kind == CHAIN_PROJECT;
    c.has = false;
    c.chunk = -1;
    c.of_step = c.groups = 0;
    c.next = warp;
    c.slice = c.last = 0;
}

/* The chunk behind the cursor's: from those that the block claims, or, where each warp fetches for itself, dealt out. False:
 * it is not claimed yet. */
template <class W>
static __device__ __forceinline__ bool chain_next_chunk(const chain_arguments &all, chain_head &h,
                                                        const chain_step &s, chain_cursor<W> &c) {
    const unsigned place = c.number % CHAIN_CLAIMS, round = c.number / CHAIN_CLAIMS;
    if (!chain_fetches(all)) {
        c.chunk = c.chunk < 0 ? (int)blockIdx.x : c.chunk + (int)gridDim.x;
        c.items = c.chunk < s.division.chunks ? chain_items(s.division, c.chunk) : -1 - c.groups;
        c.groups += c.items > 0 ? c.items / s.division.group_items : 0;
    } else if (barrier_tested(&h.claimed[place], round & 1u)) {
        c.items = h.items[place];
    } else {
        return false;
    }
    c.has = true;
    return true;
}

/* The cursor leaves its chunk. */
template <class W>
static __device__ __forceinline__ void chain_leave(const chain_arguments &all, chain_head &h,
                                                   chain_cursor<W> &c) {
    if (chain_fetches(all))
        barrier_arrive(&h.released[c.number % CHAIN_CLAIMS]);
    c.number++;
    c.of_step++;
    c.has = false;
}

/* To the warp's next item of the step that is open, or to its end (line -1); false: that is not known yet. `chunks`: items of
 * the chunks that are claimed. */
template <class W>
static __device__ __forceinline__ bool chain_find(const chain_arguments &all, chain_head &h,
                                                  const chain_item *chunks, const chain_step &s,
                                                  chain_cursor<W> &c) {
    for (;;) {
        if (!c.has && !chain_next_chunk<W>(all, h, s, c))
            return false;
        if (c.items < 0) {
            c.item.line = -1;
            c.item.group = -1 - c.items;
            c.last = c.slice + 1;
            return true;
        }
        if (c.next < c.items)
            break;
        c.next -= c.items;
        chain_leave<W>(all, h, c);
    }
    c.item = chain_fetches(all)
                 ? chunks[(int)(c.number % CHAIN_CLAIMS) * all.chunk_items + c.next]
                 : chain_item_of<W>(chain_plan_of<W>(s), false, c.chunk, c.of_step, c.next);
    c.next += CHAIN_WARPS;
    c.slice = c.item.piece * s.division.piece_slices;
    c.last = min(c.slice + s.division.piece_slices, chain_slices<W>(s.project));
    return true;
}

/* A slice was asked for, or the end of a step was told. */
template <class W>
static __device__ __forceinline__ void chain_asked(const chain_arguments &all, chain_head &h,
                                                   chain_cursor<W> &c) {
    if (++c.slice == c.last && c.item.line < 0) {
        chain_leave<W>(all, h, c);
        c.open = false;
    }
}

/* A warp's ring, and how far it has come: stages fetched, and taken, and where the next of both are. */
template <class W> struct chain_ring {
    uint8_t *begin, *end, *to, *at;
    int depth;
    unsigned fetched, taken;
    chain_cursor<W> next; /* and above, `to` and `fetched`: where the warp asks for itself */
    int stage; /* the next to take, its barriers where another warp asks, and how often the ring has come round */
    unsigned rounds;
    uint64_t *arrived, *freed;
    chain_item *item; /* of each stage */
};

/* ---- Each warp for itself ---- */

/* A slice whose units are whole. The 16 bytes behind it that a row between multiples of 16 needs may be the next row's, or
 * behind the buffer's end, where there is room. */
template <class W>
static __device__ __forceinline__ void chain_copy(const gemv_row (&rows)[W::rows], int slice,
                                                  uint8_t *to, int lane) {
    enum { SPAN = chain_shape<W>::SPAN, TOGETHER = 16 * WARP };
    const int bytes = SPAN + ((int)W::blocks > 0 ? 16 : 0);
#pragma unroll
    for (int r = 0; r < W::rows; r++) {
        if (!rows[r].at)
            continue;
        const uint8_t *from = rows[r].at - rows[r].lead() + (int64_t)slice * SPAN + 16 * lane;
        uint8_t *slot = to + r * chain_shape<W>::SLOT + chain_lead_16<W>(rows[r]) + 16 * lane;
#pragma unroll
        for (int i = 0; i < bytes; i += TOGETHER)
            if (i + TOGETHER <= bytes || i + 16 * lane < bytes)
                copy_whole_16(slot + i, from + i);
    }
}

/* Any slice. */
template <class W>
static __device__ __forceinline__ void chain_copy_any(const gemv_arguments &a,
                                                      const gemv_row (&rows)[W::rows], int slice,
                                                      uint8_t *to, int lane) {
#pragma unroll
    for (int r = 0; r < W::rows; r++)
        if (rows[r].at)
            gemv_fetch<W, chain_shape<W>::SPAN>(
                a, rows[r], slice, to + r * chain_shape<W>::SLOT + chain_lead_16<W>(rows[r]), lane);
}

/* As much as there is room for, of steps up to `last`. */
template <class W>
static __device__ __forceinline__ void chain_fill(const chain_arguments &all, chain_head &h,
                                                  int last, int warp, int lane, chain_ring<W> &r) {
    chain_cursor<W> &c = r.next;
    while (r.fetched - r.taken < (unsigned)r.depth) {
        while (!c.open && c.step < last) {
            c.step++;
            chain_open<W>(h.near[c.step % CHAIN_NEAR], warp, c);
        }
        if (!c.open)
            return;
        const chain_step &s = h.near[c.step % CHAIN_NEAR];
        if (c.slice == c.last)
            chain_find<W>(all, h, NULL, s, c);
        if (lane == 0)
            r.item[r.fetched % (unsigned)r.depth] = c.item;
        if (c.item.line >= 0) {
            gemv_row rows[W::rows];
            chain_rows<W>(c.item, rows);
            if (c.item.bulk > 0 &&
                (c.slice + 1) * (int)chain_shape<W>::SPAN <= s.project.used_bytes)
                chain_copy<W>(rows, c.slice, r.to, lane);
            else
                chain_copy_any<W>(s.project, rows, c.slice, r.to, lane);
        }
        copy_close();
        r.fetched++;
        r.to += chain_shape<W>::STAGE;
        r.to = r.to == r.end ? r.begin : r.to;
        chain_asked<W>(all, h, c);
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
    if (c.item.line < 0 || c.slice >= c.item.bulk) {
        barrier_arrive(arrived);
        return;
    }
    const int before = c.slice * SPAN, bytes = min((int)SPAN, a.used_bytes - before);
    gemv_row rows[W::rows];
    unsigned all = 0;
    chain_rows<W>(c.item, rows);
    if (c.item.joined) {
        all = chain_bulk_bytes(rows[0], W::rows * a.used_bytes);
        barrier_arrive_for(arrived, all);
        copy_bulk(to + chain_lead_16<W>(rows[0]), rows[0].at - rows[0].lead(), all, arrived);
        return;
    }
#pragma unroll
    for (int r = 0; r < W::rows; r++)
        if (rows[r].at)
            all += chain_bulk_bytes(rows[r], bytes);
    barrier_arrive_for(arrived, all);
#pragma unroll
    for (int r = 0; r < W::rows; r++)
        if (rows[r].at)
            copy_bulk(to + r * SLOT + chain_lead_16<W>(rows[r]),
                      rows[r].at - rows[r].lead() + before, chain_bulk_bytes(rows[r], bytes),
                      arrived);
}

/* The next step, once it is there. */
template <class W>
static __device__ __forceinline__ void chain_come(chain_head &h, int warp, chain_cursor<W> &c) {
    const int next = c.step + 1, place = next % CHAIN_NEAR;
    if (!barrier_tested(&h.step_there[place], (unsigned)(next / CHAIN_NEAR) & 1u))
        return;
    c.step = next;
    chain_open<W>(h.near[place], warp, c);
    if (!c.open)
        barrier_arrive(&h.step_done[place]);
}

/* Whether a warp's next stage may be asked for yet: of a step whose input the block has not laid, when its last one has come. That
 * keeps memory busy. More would stand in the way of what blocks need to come there: results of the step in front, the grid's
 * counter, inputs; a token in bf16 took 4 to 5 % longer (docs/SPEED.md). */
static __device__ __forceinline__ bool chain_may_ask(chain_head &h, int step, int warp, int stage,
                                                     unsigned rounds, int depth) {
    if (barrier_tested(&h.step_laid[step % CHAIN_NEAR], (unsigned)(step / CHAIN_NEAR) & 1u))
        return true;
    if (stage > 0)
        return barrier_tested(&h.arrived[warp][stage - 1], rounds & 1u);
    return rounds == 0 || barrier_tested(&h.arrived[warp][depth - 1], (rounds - 1) & 1u);
}

/* A warp that fetches for others, lane by lane for warps `first` and following: each a stage at a time as there is room
 * and chain_may_ask() lets it, until the last step. Lanes copy one after the other, and a copy takes some 90 clocks, so few large ones are best. */
template <class W>
static __device__ __forceinline__ void chain_fetch(const chain_arguments &all, chain_head &h,
                                                   const chain_item *chunks, uint8_t *rings,
                                                   int first, int lane) {
    const int warp = first + lane;
    chain_cursor<W> c = {};
    int stage = 0;
    unsigned rounds = 0;
    c.step = -1;
    if (lane >= CHAIN_WARPS / CHAIN_FETCHERS)
        return;
    while (c.open || c.step + 1 < all.count) {
        if (!c.open) {
            chain_come<W>(h, warp, c);
            continue;
        }
        const int place = c.step % CHAIN_NEAR;
        const chain_step &s = h.near[place];
        if (c.slice == c.last && !chain_find<W>(all, h, chunks, s, c))
            continue;
        if (!barrier_tested(&h.taken[warp][stage], (rounds & 1u) ^ 1u) ||
            !chain_may_ask(h, c.step, warp, stage, rounds, all.depth))
            continue;
        h.item[warp][stage] = c.item;
        chain_ask<W>(s.project, c, rings + (warp * all.depth + stage) * chain_shape<W>::STAGE,
                     &h.arrived[warp][stage]);
        chain_asked<W>(all, h, c);
        if (!c.open)
            barrier_arrive(&h.step_done[place]);
        if (++stage == all.depth) {
            stage = 0;
            rounds++;
        }
    }
}

/* The warp that claims chunks, one ahead of that whose items it writes down, as long as there is room for them. */
template <class W>
static __device__ __forceinline__ void chain_claim(const chain_arguments &all, chain_head &h,
                                                   chain_item *chunks, int lane) {
    unsigned number = 0;
    for (int step = 0; step < all.count; step++) {
        const int place = step % CHAIN_NEAR;
        barrier_wait(&h.step_there[place], (unsigned)(step / CHAIN_NEAR) & 1u);
        const chain_step &s = h.near[place];
        if (s.kind == CHAIN_PROJECT) {
            const chain_plan p = chain_plan_of<W>(s);
            const int last = p.division.chunks,
                      most = p.division.most > 0 ? p.division.most : INT_MAX;
            unsigned claimed = 0;
            if (lane == 0)
                claimed = grid_claim(all.claims + step);
            int groups = 0;
            for (int taken = 0, items = 1; items > 0; taken++, number++) {
                const unsigned at = number % CHAIN_CLAIMS, round = number / CHAIN_CLAIMS;
                const int chunk = __shfl_sync(ALL_LANES, (int)claimed, 0);
                if (lane == 0 && chunk < last && taken + 1 < most)
                    claimed = grid_claim(all.claims + step);
                if (round > 0)
                    barrier_wait(&h.released[at], (round - 1) & 1u);
                items = chunk < last && taken < most ? chain_items(p.division, chunk) : -1 - groups;
                groups += items > 0 ? chain_quotient(items, p.division.by_group_items) : 0;
                for (int i = lane; i < items; i += WARP)
                    chunks[(int)at * all.chunk_items + i] =
                        chain_item_of<W>(p, true, chunk, taken, i);
                if (lane == 0)
                    h.items[at] = items;
                warp_arrive(&h.claimed[at]);
            }
        }
        warp_arrive(&h.step_done[place]);
    }
}

/* ---- Taking ---- */

/* The oldest stage is there. */
template <class W>
static __device__ __forceinline__ void chain_arrived(const chain_arguments &all,
                                                     const chain_ring<W> &r) {
    if (!chain_fetches(all))
        chain_wait<chain_shape<W>::DEPTH - 1>(r.fetched - r.taken - 1);
    else
        barrier_wait(r.arrived + r.stage, r.rounds & 1u);
    __syncwarp();
}

/* A slice that was handed over without its bytes: the warp reads it. */
template <class W>
static __device__ __forceinline__ void chain_read(const gemv_arguments &a,
                                                  const gemv_row (&rows)[W::rows], int slice,
                                                  uint8_t *to, int lane) {
    chain_copy_any<W>(a, rows, slice, to, lane);
    copy_close();
    copy_wait<0>();
    fence_async(); /* bulk copies come here again */
    __syncwarp();
}

/* A stage was taken. */
template <class W>
static __device__ __forceinline__ void chain_took(const chain_arguments &all, chain_head &h,
                                                  int last, int warp, int lane, chain_ring<W> &r) {
    __syncwarp();
    if (chain_fetches(all) && warp_speaker())
        barrier_arrive(r.freed + r.stage);
    r.at += chain_shape<W>::STAGE;
    if (++r.stage == r.depth) {
        r.stage = 0;
        r.rounds++;
        r.at = r.begin;
    }
    if (!chain_fetches(all)) {
        r.taken++;
        chain_fill<W>(all, h, last, warp, lane, r);
    }
}

#endif
