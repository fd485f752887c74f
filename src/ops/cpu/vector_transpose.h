/* Squares of 16 x 16 floats (or of anything with 32 bits) turned over, in registers. */
#ifndef OPS_CPU_VECTOR_TRANSPOSE_H
#define OPS_CPU_VECTOR_TRANSPOSE_H

#include "ops/cpu/vector.h"

#if defined(__AVX512F__)
enum { SQUARE = 16 };

/* Lane j of row i goes to lane i of row j: single lanes, then pairs, change places within quarters,
 * and then the quarters do. */
ALWAYS_INLINE void transpose_square(__m512 r[SQUARE]) {
    __m512 t[SQUARE];
    UNROLL
    for (int i = 0; i < SQUARE; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    UNROLL
    for (int i = 0; i < SQUARE; i += 4) {
        for (int j = 0; j < 2; j++) {
            __m512d low = _mm512_castps_pd(t[i + j]), high = _mm512_castps_pd(t[i + j + 2]);
            r[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
            r[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
        }
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        __m512 even_low = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
        __m512 odd_low = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xDD);
        __m512 even_high = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        __m512 odd_high = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xDD);
        t[i] = _mm512_shuffle_f32x4(even_low, even_high, 0x88);
        t[i + 8] = _mm512_shuffle_f32x4(even_low, even_high, 0xDD);
        t[i + 4] = _mm512_shuffle_f32x4(odd_low, odd_high, 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(odd_low, odd_high, 0xDD);
    }
    UNROLL
    for (int i = 0; i < SQUARE; i++)
        r[i] = t[i];
}
#endif

#endif
