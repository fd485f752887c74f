/* What src/ops/cuda/mma.h has in assembly: products of a warp, fragments, copies that a thread waits for. */
#ifndef CUDA_DEVICE_MMA_FUNCTIONS_H
#define CUDA_DEVICE_MMA_FUNCTIONS_H

#include "cuda_device/language.h"

static inline double cuda_device_half_of(uint32_t pair, int which) {
    return (double)__uint_as_float(which ? pair & 0xffff0000u : pair << 16);
}

struct cuda_device_mma {
    float *d;
    const uint32_t *a, *b;
};
static void cuda_device_mma_all(void *const *operands, unsigned) {
    double a[16][16], b[8][16];
    for (int lane = 0; lane < 32; lane++) {
        auto *o = (const cuda_device_mma *)operands[lane];
        if (o == nullptr)
            cuda_device_fail("mma.sync: lane %d is not there", lane);
        int g = lane / 4, c = lane % 4 * 2;
        for (int i = 0; i < 2; i++) {
            a[g][c + i] = cuda_device_half_of(o->a[0], i);
            a[g + 8][c + i] = cuda_device_half_of(o->a[1], i);
            a[g][c + 8 + i] = cuda_device_half_of(o->a[2], i);
            a[g + 8][c + 8 + i] = cuda_device_half_of(o->a[3], i);
            b[g][c + i] = cuda_device_half_of(o->b[0], i);
            b[g][c + 8 + i] = cuda_device_half_of(o->b[1], i);
        }
    }
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
            int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            float *d = &((const cuda_device_mma *)operands[lane])->d[i];
            double sum = (double)*d;
            for (int k = 0; k < 16; k++)
                sum += a[row][k] * b[column][k];
            *d = (float)sum;
        }
}
static inline void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2],
                            CUDA_DEVICE_HERE) {
    cuda_device_mma operand = {d, a, b};
    cuda_device_meet_warp(0xffffffffu, &operand, cuda_device_mma_all, CUDA_DEVICE_SITE("mma_bf16"));
}

struct cuda_device_matrices {
    uint32_t *to;
    const uint32_t *row;
};
static void cuda_device_matrices_all(void *const *operands, unsigned) {
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++)
            ((const cuda_device_matrices *)operands[lane])->to[i] =
                ((const cuda_device_matrices *)operands[8 * i + lane / 4])->row[lane % 4];
}
static inline void load_matrices(uint32_t to[4], const void *row, CUDA_DEVICE_HERE) {
    if ((uintptr_t)row % 16 != 0 || !cuda_device_is_shared(row))
        cuda_device_fail("ldmatrix of a row at %p: not aligned, or not in shared memory", row);
    cuda_device_matrices operand = {to, (const uint32_t *)row};
    cuda_device_meet_warp(0xffffffffu, &operand, cuda_device_matrices_all,
                          CUDA_DEVICE_SITE("load_matrices"));
}

static void cuda_device_matrices_turned(void *const *operands, unsigned) {
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
            uint32_t pair = 0;
            for (int k = 0; k < 2; k++) {
                auto *from = (const cuda_device_matrices *)operands[8 * i + lane % 4 * 2 + k];
                pair |= (uint32_t)((const uint16_t *)from->row)[lane / 4] << 16 * k;
            }
            ((const cuda_device_matrices *)operands[lane])->to[i] = pair;
        }
}
static inline void load_matrices_turned(uint32_t to[4], const void *row, CUDA_DEVICE_HERE) {
    if ((uintptr_t)row % 16 != 0 || !cuda_device_is_shared(row))
        cuda_device_fail("ldmatrix of a row at %p: not aligned, or not in shared memory", row);
    cuda_device_matrices operand = {to, (const uint32_t *)row};
    cuda_device_meet_warp(0xffffffffu, &operand, cuda_device_matrices_turned,
                          CUDA_DEVICE_SITE("load_matrices_turned"));
}

static inline void copy_16(void *to, const void *from, bool there) {
    cuda_device_lane_copy(to, from, 16, there ? 16 : 0);
}
static inline void copies_commit() {
    cuda_device_lane_commit();
}
template <int left> static inline void copies_wait() {
    cuda_device_lane_wait(left);
}

#endif
