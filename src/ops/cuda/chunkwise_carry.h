/* The normalizer in the sweep of the chunkwise mLSTM (chunkwise_sweep.cu): n of a head of 128 keys goes through the chunks
 * beside the state, as does C. */
#ifndef OPS_CUDA_CHUNKWISE_CARRY_H
#define OPS_CUDA_CHUNKWISE_CARRY_H

#include "ops/cuda/chunkwise_sweep.h"

#if CUDA_WGMMA

/* Two elements of n before the sweep's first chunk. */
static __device__ float2 first_normalizer(const sweep_arguments &a, const sweep_task &t, int keys,
                                          int d, bool reads) {
    int64_t slot = a.shape.slot ? a.shape.slot[t.index] : t.index;
    int64_t at = slot * a.first_normalizer_slot + t.head * a.first_normalizer_head + d;
    if (reads && a.segments > 1)
        return *(const float2 *)(normalizer_border_of(a, t, t.segment, keys) + d);
    if (!a.first_normalizer || t.segment > 0 || slot < 0)
        return make_float2(0.0f, 0.0f);
    return make_float2(load_as(a.first_normalizer, a.first_type, at),
                       load_as(a.first_normalizer, a.first_type, at + 1));
}
static __device__ void last_normalizer(const sweep_arguments &a, const sweep_task &t, int keys,
                                       int d, bool reads, float2 n) {
    int64_t slot = a.shape.slot ? a.shape.slot[t.index] : t.index;
    int64_t at = slot * a.last_normalizer_slot + t.head * a.last_normalizer_head + d;
    if (!reads)
        *(float2 *)(normalizer_border_of(a, t, t.segment + 1, keys) + d) = n;
    if (reads && a.last_normalizer && t.segment == a.segments - 1 && slot >= 0) {
        store_as(a.last_normalizer, a.last_type, at, n.x);
        store_as(a.last_normalizer, a.last_type, at + 1, n.y);
    }
}

/* A row of tiles times n. */
static __device__ __forceinline__ float dot_row(const unsigned char *tiles, int row, int keys,
                                                const float *n) {
    float dot = 0.0f;
#pragma unroll 1 /* few registers */
    for (int d = 0; d < keys; d += 8)
        dot += dot_eight_floats(*(const uint4 *)(tiles + d / TILE_COLUMNS * TILE_BYTES +
                                                 tile_offset((unsigned)row, (unsigned)d % 64)),
                                n + d);
    return dot;
}
/* Two columns of a tile, the tokens weighed, DEPTH at a time: as many as there are registers for. */
template <int DEPTH>
static __device__ __forceinline__ float2 sum_columns(const unsigned char *tile, int column,
                                                     int tokens, const float *weights) {
    float2 sum = make_float2(0.0f, 0.0f);
#pragma unroll DEPTH
    for (int token = 0; token < tokens; token++) {
        uint32_t two = *(const uint32_t *)(tile + tile_offset((unsigned)token, (unsigned)column));
        sum.x += weights[token] * from_bf16((uint16_t)two);
        sum.y += weights[token] * from_bf16((uint16_t)(two >> 16));
    }
    return sum;
}

/* Two warps beside those that compute go through the chunks with n: q . n of every token where O is wanted, and n before
 * the chunk to memory where the backward wants it. A thread has a token, then two elements of n. */
template <class FORM>
static __device__ void carry_normalizer(const sweep_arguments &a, const sweep_task &t,
                                        unsigned char *slots, float *all_factors, float *both,
                                        struct sweep_barriers *b) {
    const int keys = FORM::slot_bytes / TILE_BYTES * TILE_COLUMNS;
    int me = (int)threadIdx.x - COMPUTING - WARP, item = 0;
    float2 n = first_normalizer(a, t, keys, 2 * me, FORM::reads);
    if (!FORM::reads && t.segment == 0)
        *(float2 *)(normalizer_border_of(a, t, 0, keys) + 2 * me) = n;
    for (int i = t.from; i < t.to; i++, item++) {
        int number = i - t.from, stage = number % FORM::stages;
        struct chunk c = chunk_at(t.sequence, i);
        float *table = all_factors + stage * (FORM::factor_bytes / 4);
        const struct chunk_factors *factors = (const struct chunk_factors *)table;
        barrier_wait(b->stage_full + stage, (unsigned)(number / FORM::stages & 1));
        if (FORM::reads) {
            struct sweep_scores *scores = (struct sweep_scores *)((char *)table + FACTOR_BYTES);
            int64_t at = (int64_t)(t.sequence.place + i) * a.shape.heads + t.head;
            float *shared = both + number % 2 * keys;
            *(float2 *)(shared + 2 * me) = n;
            if (a.keeps)
                *(float2 *)(a.shape.at.normalizer + at * keys + 2 * me) = n;
            threads_sync(4, NORMALIZER_WARPS * WARP);
            int slot = item % FORM::slots;
            barrier_wait(b->slot_full + slot, (unsigned)(item / FORM::slots & 1));
            scores->vector[me] = /* others clear the rows behind */
                me < c.tokens ? dot_row(slots + slot * FORM::slot_bytes, me, keys, shared) : 0.0f;
            warp_arrive(b->vector_full + stage);
            warp_arrive(b->slot_empty + slot);
            item++;
        }
        int slot = item % FORM::slots;
        barrier_wait(b->slot_full + slot, (unsigned)(item / FORM::slots & 1));
        float2 sum =
            sum_columns < FORM::reads
                ? 2
                : 8 > (slots + slot * FORM::slot_bytes + 2 * me / TILE_COLUMNS * TILE_BYTES,
                       2 * me % TILE_COLUMNS, c.tokens, factors->write);
        n = make_float2(factors->keep * n.x + sum.x, factors->keep * n.y + sum.y);
        warp_arrive(b->slot_empty + slot);
        warp_arrive(b->stage_empty + stage);
    }
    last_normalizer(a, t, keys, 2 * me, FORM::reads, n);
}

#endif

#endif
