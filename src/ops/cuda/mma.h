/* Tensor cores warp by warp (compute capability 8.0): copies into shared memory that go on meanwhile, fragments
 * from shared memory, and products of 16 x 16 by 16 x 8. The test device has these functions for itself
 * (tests/cuda_device). */
#ifndef OPS_CUDA_MMA_H
#define OPS_CUDA_MMA_H

#include <stdint.h>

#if defined(__CUDACC__)

/* d [16][8] += a [16][16] b [8][16]^T, bf16 with sums in f32. With g = lane / 4 and c = lane % 4 * 2, a lane has
 *   a: (g, c..c+1), (g + 8, c..), (g, c + 8..), (g + 8, c + 8..);  b: (g, c..), (g, c + 8..);
 *   d: (g, c), (g, c + 1), (g + 8, c), (g + 8, c + 1). */
static __device__ __forceinline__ void mma_bf16(float d[4], const uint32_t a[4],
                                                const uint32_t b[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* Four matrices of 8 rows of 16 bytes: lane l says where row l % 8 of matrix l / 8 begins, and gets of each
 * matrix the 4 bytes l % 4 of row l / 4. */
static __device__ __forceinline__ void load_matrices(uint32_t to[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row)));
}
/* The same of matrices of 16-bit values, transposed: gets of each the values of rows 2 (l % 4) and the next in
 * column l / 4. */
static __device__ __forceinline__ void load_matrices_turned(uint32_t to[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row)));
}
/* 16 bytes from device memory into shared memory, or zeros. */
static __device__ __forceinline__ void copy_16(void *to, const void *from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(to)),
                 "l"(from), "r"(there ? 16 : 0)
                 : "memory");
}
/* The copies since the last call are a group. */
static __device__ __forceinline__ void copies_commit(void) {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/* Until all of this thread's groups but the newest `left` have arrived. */
template <int left> static __device__ __forceinline__ void copies_wait(void) {
    asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}

#else
#include "mma_functions.h" /* the test device's */
#endif

#endif
