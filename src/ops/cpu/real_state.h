/* Vectors of a state of the mLSTM, which may be stored in a narrower type than it is computed in.
 *
 * Storing rounds to nearest, ties to even, for every value of a type: subnormal ones too, which the
 * processor's own conversion to bf16 would make zero. A NaN stays one; what is too large for f16
 * becomes infinite. `type` is a constant wherever these are inlined. */
#ifndef OPS_CPU_REAL_STATE_H
#define OPS_CPU_REAL_STATE_H

#include "ops/cpu/vector.h"

#if defined(KERNEL_F64)

enum { STATE_REAL = DTYPE_F64 };

ALWAYS_INLINE int64_t state_size(dtype type) {
    (void)type;
    return sizeof(real);
}

ALWAYS_INLINE vec load_state(dtype type, const char *p) {
    (void)type;
    return load(p);
}

ALWAYS_INLINE void store_state(dtype type, char *p, vec value) {
    (void)type;
    store(p, value);
}

#else

enum { STATE_REAL = DTYPE_F32 };

ALWAYS_INLINE int64_t state_size(dtype type) {
    return size_as(type);
}

ALWAYS_INLINE vec load_state(dtype type, const char *p) {
    return load_as(type, p);
}

/* The low half of every element. */
ALWAYS_INLINE void store_low_halves(char *p, vec_bits bits) {
#if defined(__AVX512F__)
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16((__m512i)bits));
#elif defined(__AVX2__)
    __m256i b = (__m256i)bits; /* at most 0xFFFF: packing does not saturate */
    __m256i halves = _mm256_permute4x64_epi64(_mm256_packus_epi32(b, b), 0x08);
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_castsi256_si128(halves));
#else
    *(vec_half *)(void *)p = __builtin_convertvector(bits, vec_half);
#endif
}

ALWAYS_INLINE void store_bf16(char *p, vec value) {
    vec_bits bits = (vec_bits)value, nan = (vec_bits)(value != value);
    vec_bits rounded = bits + (0x7FFF + (bits >> 16 & 1));
    rounded = (nan & (bits | 0x00400000)) | (~nan & rounded);
    store_low_halves(p, rounded >> 16);
}

ALWAYS_INLINE void store_f16(char *p, vec value) {
#if defined(__AVX512F__)
    _mm256_storeu_si256((__m256i *)(void *)p,
                        _mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
    _mm_storeu_si128((__m128i *)(void *)p,
                     _mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__aarch64__)
    vst1_u16((uint16_t *)(void *)p, vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)value)));
#else
    uint16_t halves[LANES];
    for (int i = 0; i < LANES; i++)
        halves[i] = float_to_f16(value[i]);
    memcpy(p, halves, sizeof halves);
#endif
}

ALWAYS_INLINE void store_state(dtype type, char *p, vec value) {
    if (type == DTYPE_BF16)
        store_bf16(p, value);
    else if (type == DTYPE_F16)
        store_f16(p, value);
    else
        store(p, value);
}

#endif

/* The first `count` lanes, zeros behind them. */
ALWAYS_INLINE vec load_state_part(dtype type, const char *p, int64_t count) {
    char bytes[VECTOR_BYTES] = {0};
    memcpy(bytes, p, (size_t)(count * state_size(type)));
    return load_state(type, bytes);
}

ALWAYS_INLINE void store_state_part(dtype type, char *p, vec value, int64_t count) {
    char bytes[VECTOR_BYTES];
    store_state(type, bytes, value);
    memcpy(p, bytes, (size_t)(count * state_size(type)));
}

ALWAYS_INLINE vec load_state_some(dtype type, const char *p, int64_t count) {
    return count >= LANES ? load_state(type, p) : load_state_part(type, p, count);
}

ALWAYS_INLINE void store_state_some(dtype type, char *p, vec value, int64_t count) {
    if (count >= LANES)
        store_state(type, p, value);
    else
        store_state_part(type, p, value, count);
}

#endif
