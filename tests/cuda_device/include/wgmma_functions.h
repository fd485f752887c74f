/* What src/ops/cuda/wgmma.h has in assembly: warpgroups and tiles. Products are done when they are begun; d is written by
 * the last thread that comes. */
#ifndef CUDA_DEVICE_WGMMA_FUNCTIONS_H
#define CUDA_DEVICE_WGMMA_FUNCTIONS_H

#include <string.h>

#include "async_functions.h"
#include "cuda_device/language.h"
#include "cuda_device/tensor_map.h"
#include "e4m3_functions.h"

/* ---- Operands in shared memory: the address, and for transposed ones the distance of tiles ---- */

static inline uint64_t tile_straight(const void *tile) {
    if ((uintptr_t)tile % 32 != 0)
        cuda_device_fail("an operand of wgmma at %p, which is no 16 of K of a tile", tile);
    return (uint64_t)(uintptr_t)tile;
}
static inline uint64_t tile_transposed(const void *tile, unsigned tile_bytes) {
    if (tile_bytes >= 1u << 20 || tile_bytes % 16 != 0)
        cuda_device_fail("tiles %u bytes apart", tile_bytes);
    return (uint64_t)(uintptr_t)tile | (uint64_t)(tile_bytes >> 4) << 48;
}
static inline uint64_t tile_advance(uint64_t descriptor, unsigned bytes) {
    return descriptor + bytes;
}

/* Element `at` of M or N, `k` of K: pieces of 16 bytes are swizzled by the address of their row, modulo 1024. */
static inline float cuda_device_tile_element(uint64_t descriptor, int transposed, unsigned at,
                                             unsigned k) {
    auto base = (uintptr_t)(descriptor & 0xffffffffffffull);
    unsigned apart = (unsigned)(descriptor >> 48) << 4;
    uintptr_t linear =
        base + (transposed ? at / 64 * apart + k * 128 + at % 64 * 2 : at * 128 + k * 2);
    uintptr_t swizzled = linear ^ ((linear >> 7 & 7) << 4);
    uint16_t bits;
    memcpy(&bits, (const void *)swizzled, 2);
    return __uint_as_float((uint32_t)bits << 16);
}

/* ---- wgmma ---- */

static inline void wgmma_begin() {
}
static inline void wgmma_commit() {
}
template <int PENDING> static inline void wgmma_wait() {
}
template <int N> static inline void wgmma_settle(float (&)[N]) {
}

struct cuda_device_wgmma {
    float *d;
    const uint32_t *a; /* NULL: a_tile */
    uint64_t a_tile, b_tile;
    int columns, transpose_a, transpose_b, add;
};
static void cuda_device_wgmma_all(void *const *operands, unsigned) {
    static float a[64][16], b[16][256];
    auto *first = (const cuda_device_wgmma *)operands[0];
    for (int t = 0; t < 128; t++) {
        auto *o = (const cuda_device_wgmma *)operands[t];
        if (o->b_tile != first->b_tile || o->a_tile != first->a_tile || o->add != first->add)
            cuda_device_fail("wgmma: the operands of threads 0 and %d of the warpgroup differ", t);
        for (int i = 0; i < 4 && o->a != nullptr; i++)
            for (int k = 0; k < 2; k++)
                a[16 * (t / 32) + t % 32 / 4 + 8 * (i % 2)][2 * (t % 4) + 8 * (i / 2) + k] =
                    __uint_as_float(k ? o->a[i] & 0xffff0000u : o->a[i] << 16);
    }
    for (unsigned k = 0; k < 16; k++) {
        for (unsigned m = 0; m < 64 && first->a == nullptr; m++)
            a[m][k] = cuda_device_tile_element(first->a_tile, first->transpose_a, m, k);
        for (unsigned n = 0; n < (unsigned)first->columns; n++)
            b[k][n] = cuda_device_tile_element(first->b_tile, first->transpose_b, n, k);
    }
    for (int t = 0; t < 128; t++) {
        auto *o = (const cuda_device_wgmma *)operands[t];
        for (int i = 0; i < o->columns / 2; i++) {
            int row = 16 * (t / 32) + t % 32 / 4 + 8 * (i / 2 % 2),
                column = 8 * (i / 4) + 2 * (t % 4) + i % 2;
            float sum = o->add ? o->d[i] : 0.0f;
            for (int k = 0; k < 16; k++)
                sum += a[row][k] * b[k][column];
            o->d[i] = sum;
        }
    }
}
template <int TRANSPOSE_A, int TRANSPOSE_B, int N>
static inline void wgmma_shared(float (&d)[N], uint64_t a, uint64_t b, int add, CUDA_DEVICE_HERE) {
    cuda_device_wgmma operand = {d, nullptr, a, b, 2 * N, TRANSPOSE_A, TRANSPOSE_B, add};
    cuda_device_meet_group(128, &operand, cuda_device_wgmma_all, CUDA_DEVICE_SITE("wgmma"));
}
template <int TRANSPOSE_B, int N>
static inline void wgmma_registers(float (&d)[N], const uint32_t *a, uint64_t b, int add,
                                   CUDA_DEVICE_HERE) {
    cuda_device_wgmma operand = {d, a, 0, b, 2 * N, 0, TRANSPOSE_B, add};
    cuda_device_meet_group(128, &operand, cuda_device_wgmma_all, CUDA_DEVICE_SITE("wgmma"));
}

/* e4m3: value [row][k] of a tile of bytes. */
static inline float cuda_device_tile_byte(uint64_t descriptor, unsigned at, unsigned k) {
    const uintptr_t linear = (uintptr_t)descriptor + at * 128 + k;
    return cuda_device_from_e4m3(*(const uint8_t *)(linear ^ ((linear >> 7 & 7) << 4)));
}
/* Sums of 32 products are exact enough in f32, in any order; those that stood in d come first. */
static void cuda_device_wgmma_bytes(void *const *operands, unsigned) {
    static float a[64][32], b[32][128], d[64][128];
    auto *first = (const cuda_device_wgmma *)operands[0];
    for (unsigned k = 0; k < 32; k++) {
        for (unsigned m = 0; m < 64; m++)
            a[m][k] = cuda_device_tile_byte(first->a_tile, m, k);
        for (unsigned n = 0; n < 128; n++)
            b[k][n] = cuda_device_tile_byte(first->b_tile, n, k);
    }
    for (int back = 0; back < 2; back++) {
        for (int t = 0; t < 128; t++) {
            auto *o = (const cuda_device_wgmma *)operands[t];
            if (o->b_tile != first->b_tile || o->a_tile != first->a_tile || o->add != first->add)
                cuda_device_fail("wgmma: the operands of threads 0 and %d of the warpgroup differ",
                                 t);
            for (int i = 0; i < 64; i++) {
                float *at = &d[16 * (t / 32) + t % 32 / 4 + 8 * (i / 2 % 2)]
                              [8 * (i / 4) + 2 * (t % 4) + i % 2];
                if (back)
                    o->d[i] = *at;
                else
                    *at = o->add ? o->d[i] : 0.0f;
            }
        }
        for (unsigned m = 0; m < 64 && !back; m++)
            for (unsigned k = 0; k < 32; k++)
                for (unsigned n = 0; n < 128; n++)
                    d[m][n] += a[m][k] * b[k][n];
    }
}
static inline void wgmma_e4m3(float (&d)[64], uint64_t a, uint64_t b, int add, CUDA_DEVICE_HERE) {
    cuda_device_wgmma operand = {d, nullptr, a, b, 128, 0, 0, add};
    cuda_device_meet_group(128, &operand, cuda_device_wgmma_bytes, CUDA_DEVICE_SITE("wgmma"));
}

/* ---- Warps ---- */

template <int COUNT> static inline void registers_fewer() {
}
template <int COUNT> static inline void registers_more() {
}

struct cuda_device_transposed {
    uint32_t *r;
    uint16_t *row;
};
static void cuda_device_transposed_load(void *const *operands, unsigned) {
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
            uint32_t out = 0;
            for (int k = 0; k < 2; k++)
                out |=
                    (uint32_t)((const cuda_device_transposed *)operands[8 * i + lane % 4 * 2 + k])
                        ->row[lane / 4]
                    << (16 * k);
            ((const cuda_device_transposed *)operands[lane])->r[i] = out;
        }
}
static void cuda_device_transposed_store(void *const *operands, unsigned) {
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++)
            for (int k = 0; k < 2; k++)
                ((const cuda_device_transposed *)operands[8 * i + lane % 4 * 2 + k])
                    ->row[lane / 4] =
                    (uint16_t)(((const cuda_device_transposed *)operands[lane])->r[i] >> (16 * k));
}
static inline void cuda_device_matrix_row(const void *row) {
    if ((uintptr_t)row % 16 != 0 || !cuda_device_is_shared(row))
        cuda_device_fail("a row of a matrix at %p: not aligned, or not in shared memory", row);
}
static inline void matrices_load_transposed(uint32_t (&r)[4], const void *row, CUDA_DEVICE_HERE) {
    cuda_device_matrix_row(row);
    cuda_device_transposed operand = {r, (uint16_t *)(uintptr_t)row};
    cuda_device_meet_warp(0xffffffffu, &operand, cuda_device_transposed_load,
                          CUDA_DEVICE_SITE("matrices_load_transposed"));
}
static inline void matrices_store_transposed(void *row, uint32_t r0, uint32_t r1, uint32_t r2,
                                             uint32_t r3, CUDA_DEVICE_HERE) {
    cuda_device_matrix_row(row);
    uint32_t r[4] = {r0, r1, r2, r3};
    cuda_device_transposed operand = {r, (uint16_t *)row};
    cuda_device_meet_warp(0xffffffffu, &operand, cuda_device_transposed_store,
                          CUDA_DEVICE_SITE("matrices_store_transposed"));
}
static inline uint32_t cuda_device_to_bf16(float x) {
    uint32_t bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return 0x7fffu;
    return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}
static inline uint32_t pack_bf16(float low, float high) {
    return cuda_device_to_bf16(low) | cuda_device_to_bf16(high) << 16;
}

/* ---- Clusters ---- */

static inline unsigned cluster_rank() {
    return cuda_device_cluster_rank();
}
static inline float *cluster_at(float *here, unsigned rank) {
    return (float *)cuda_device_cluster_map(here, rank);
}
static inline void cluster_sync(CUDA_DEVICE_HERE) {
    cuda_device_cluster_sync(CUDA_DEVICE_SITE("cluster_sync"));
}
static inline void barrier_arrive_at(uint64_t *barrier, unsigned rank, CUDA_DEVICE_HERE) {
    auto *there = (uint64_t *)cuda_device_cluster_map(barrier, rank);
    cuda_device_mbarrier b = cuda_device_mbarrier_read(there, "an arrival from another block");
    if (b.is.pending == 0)
        cuda_device_fail("more arrivals than the barrier's %u", (unsigned)b.is.arrivals);
    b.is.pending = b.is.pending - 1;
    cuda_device_mbarrier_set(there, b);
    cuda_device_poll(CUDA_DEVICE_SITE("barrier_arrive_at"));
}

/* ---- Tiles ---- */

/* Calls row(element address, its piece of 16 bytes in the box, whether it is there). */
template <class F>
static inline unsigned cuda_device_box(const cuda_device_tensor_map *m, const int *x, char *tile,
                                       F piece) {
    unsigned per_row = m->box[0] * m->item / 16u, rows = 1, number = 0;
    for (int i = 1; i < m->rank; i++)
        rows *= m->box[i];
    for (unsigned row = 0; row < rows; row++) {
        uint64_t address = m->address;
        bool there = true;
        unsigned rest = row;
        for (int i = 1; i < m->rank; i++) {
            int64_t at = (int64_t)x[i] + rest % m->box[i];
            rest /= m->box[i];
            there = there && at >= 0 && at <= (int64_t)m->size[i];
            address += (uint64_t)at * m->bytes[i];
        }
        for (unsigned p = 0; p < per_row; p++, number++) {
            uintptr_t to = (uintptr_t)tile + number * 16u;
            if (m->swizzle)
                to ^= (to >> 7 & 7) << 4;
            int64_t begin = (int64_t)x[0] + p * 16u / m->item;
            int64_t count = (int64_t)m->size[0] + 1 - begin;
            int64_t most = 16 / m->item;
            count = count < 0 || begin < 0 || !there ? 0 : count > most ? most : count;
            piece((char *)(address + (uint64_t)begin * m->item), (char *)to,
                  (unsigned)count * m->item);
        }
    }
    return number * 16;
}
static inline const cuda_device_tensor_map *cuda_device_map(const void *map, const void *tile) {
    auto *m = (const cuda_device_tensor_map *)map;
    if (m->made != CUDA_DEVICE_TENSOR_MAP || (uintptr_t)map % 64 != 0)
        cuda_device_fail("a tensor map at %p that was not made, or is not aligned", map);
    if ((uintptr_t)tile % (m->swizzle ? 1024 : 128) != 0 || !cuda_device_is_shared(tile))
        cuda_device_fail("a tile at %p: not aligned, or not in shared memory", tile);
    return m;
}
static inline void tile_map_prefetch(const tile_map *) {
}
static inline void tile_ask(const tile_map *, int, int, int, int) {
}
static inline void tile_load(void *to, const tile_map *map, int x0, int x1, int x2, int x3,
                             uint64_t *barrier) {
    auto *m = cuda_device_map(map, to);
    const int x[4] = {x0, x1, x2, x3};
    cuda_device_mbarrier_at(barrier, "tile_load");
    /* Boxes arrive at once; who does not wait finds it in copy_bulk's tests. */
    unsigned bytes = cuda_device_box(m, x, (char *)to, [](const char *from, char *at, unsigned n) {
        memcpy(at, from, n);
        memset(at + n, 0, 16 - n);
    });
    cuda_device_mbarrier_bytes(barrier, bytes);
}
static inline void tile_load_shared(void *to, const tile_map *map, int x0, int x1, int x2, int x3,
                                    uint64_t *barrier, unsigned blocks) {
    enum { MOST = 256 * 128 };
    alignas(1024) static char box[MOST];
    auto *m = cuda_device_map(map, to);
    const int x[4] = {x0, x1, x2, x3};
    cuda_device_mbarrier_at(barrier, "tile_load_shared");
    unsigned bytes = cuda_device_box(m, x, box, [](const char *from, char *at, unsigned n) {
        memcpy(at, from, n);
        memset(at + n, 0, 16 - n);
    });
    for (unsigned rank = 0; blocks >> rank != 0; rank++)
        if (blocks >> rank & 1) {
            memcpy(cuda_device_cluster_map(to, rank), box, bytes);
            cuda_device_mbarrier_bytes(cuda_device_cluster_map(barrier, rank), bytes);
        }
}
static inline void tile_store(const tile_map *map, const void *from, int x0, int x1, int x2,
                              int x3) {
    auto *m = cuda_device_map(map, from);
    const int x[4] = {x0, x1, x2, x3};
    cuda_device_box(m, x, (char *)(uintptr_t)from,
                    [](char *to, const char *at, unsigned n) { memcpy(to, at, n); });
}
static inline void tile_stores_commit() {
}
template <int PENDING> static inline void tile_stores_wait() {
}

#endif
