/* The loops of the measurements, with the widest vectors that this processor has.
 *
 * Reading: every thread walks sixteen address streams at once, prefetching a little ahead on each
 * and with distances that are no power of two, so that neither cache sets nor memory banks collide:
 * the fastest of the patterns tried (docs/SPEED.md). Updating: x = a x + b over the same memory, as
 * a decode step does with its state. Arithmetic: independent chains of fused multiply-adds in
 * registers, enough of them to hide the latency. Tiles have their own file, machine_amx.c. */
#include "engine/machine_kernels.h"

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

enum {
    STREAMS = MACHINE_STREAMS,
    LANES = MACHINE_LANES,
    AHEAD = 128, /* floats to prefetch ahead on each stream */
    CHAINS = 16  /* independent multiply-adds; 2 units of 4 cycles need 8 */
};

/* With plain C the compiler vectorises as far as the base instruction set goes. */
static float read_generic(const float *data, size_t count) {
    uint32_t sum[LANES] = {0};
    for (size_t i = 0; i < count; i += LANES) {
#pragma GCC unroll 16
        for (int s = 0; s < STREAMS; s++) {
            uint32_t words[LANES];
            __builtin_prefetch(data + (size_t)s * count + i + AHEAD);
            memcpy(words, data + (size_t)s * count + i, sizeof words);
            for (int l = 0; l < LANES; l++)
                sum[l] ^= words[l];
        }
    }
    uint32_t all = 0;
    for (int l = 0; l < LANES; l++)
        all ^= sum[l];
    return (float)all;
}

static void update_generic(float *data, size_t count) {
    for (size_t i = 0; i < count; i += LANES) {
#pragma GCC unroll 16
        for (int s = 0; s < STREAMS; s++) {
            float *at = data + (size_t)s * count + i;
            __builtin_prefetch(at + AHEAD);
            for (int l = 0; l < LANES; l++)
                at[l] = at[l] * 0.5f + 1.0f;
        }
    }
}

static float multiply_generic(int steps) {
    float chain[CHAINS * 4], sum = 0;
    for (int c = 0; c < CHAINS * 4; c++)
        chain[c] = (float)c;
    for (int i = 0; i < steps; i++) {
        for (int c = 0; c < CHAINS * 4; c++)
            chain[c] = chain[c] * 0.5f + 1.0f;
    }
    for (int c = 0; c < CHAINS * 4; c++)
        sum += chain[c];
    return sum;
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) static float read_avx2(const float *data, size_t count) {
    __m256i sum[STREAMS];
    for (int s = 0; s < STREAMS; s++)
        sum[s] = _mm256_setzero_si256();
    for (size_t i = 0; i < count; i += LANES) {
#pragma GCC unroll 16
        for (int s = 0; s < STREAMS; s++) {
            const __m256i *at = (const __m256i *)(const void *)(data + (size_t)s * count + i);
            __builtin_prefetch(data + (size_t)s * count + i + AHEAD);
            sum[s] = _mm256_xor_si256(sum[s], _mm256_load_si256(at));
            sum[s] = _mm256_xor_si256(sum[s], _mm256_load_si256(at + 1));
        }
    }
    for (int s = 1; s < STREAMS; s++)
        sum[0] = _mm256_xor_si256(sum[0], sum[s]);
    return _mm256_cvtss_f32(_mm256_cvtepi32_ps(sum[0]));
}

__attribute__((target("avx2,fma"))) static void update_avx2(float *data, size_t count) {
    const __m256 half = _mm256_set1_ps(0.5f), one = _mm256_set1_ps(1.0f);
    for (size_t i = 0; i < count; i += LANES) {
#pragma GCC unroll 16
        for (int s = 0; s < STREAMS; s++) {
            float *at = data + (size_t)s * count + i;
            __builtin_prefetch(at + AHEAD);
            _mm256_store_ps(at, _mm256_fmadd_ps(_mm256_load_ps(at), half, one));
            _mm256_store_ps(at + 8, _mm256_fmadd_ps(_mm256_load_ps(at + 8), half, one));
        }
    }
}

/* 12 chains and two constants fit the 16 registers. */
enum { CHAINS_AVX2 = 12 };

__attribute__((target("avx2,fma"))) static float multiply_avx2(int steps) {
    const __m256 half = _mm256_set1_ps(0.5f), one = _mm256_set1_ps(1.0f);
    __m256 chain[CHAINS_AVX2];
    for (int c = 0; c < CHAINS_AVX2; c++)
        chain[c] = _mm256_set1_ps((float)c);
    for (int i = 0; i < steps; i++) {
#pragma GCC unroll 12
        for (int c = 0; c < CHAINS_AVX2; c++)
            chain[c] = _mm256_fmadd_ps(chain[c], half, one);
    }
    for (int c = 1; c < CHAINS_AVX2; c++)
        chain[0] = _mm256_add_ps(chain[0], chain[c]);
    return _mm256_cvtss_f32(chain[0]);
}

__attribute__((target("avx512f"))) static float read_avx512(const float *data, size_t count) {
    __m512i sum[STREAMS];
    for (int s = 0; s < STREAMS; s++)
        sum[s] = _mm512_setzero_si512();
    for (size_t i = 0; i < count; i += LANES) {
#pragma GCC unroll 16
        for (int s = 0; s < STREAMS; s++) {
            const float *at = data + (size_t)s * count + i;
            __builtin_prefetch(at + AHEAD);
            sum[s] = _mm512_xor_si512(sum[s], _mm512_load_si512(at));
        }
    }
    for (int s = 1; s < STREAMS; s++)
        sum[0] = _mm512_xor_si512(sum[0], sum[s]);
    return _mm512_cvtss_f32(_mm512_cvtepi32_ps(sum[0]));
}

__attribute__((target("avx512f"))) static void update_avx512(float *data, size_t count) {
    const __m512 half = _mm512_set1_ps(0.5f), one = _mm512_set1_ps(1.0f);
    for (size_t i = 0; i < count; i += LANES) {
#pragma GCC unroll 16
        for (int s = 0; s < STREAMS; s++) {
            float *at = data + (size_t)s * count + i;
            __builtin_prefetch(at + AHEAD);
            _mm512_store_ps(at, _mm512_fmadd_ps(_mm512_load_ps(at), half, one));
        }
    }
}

__attribute__((target("avx512f"))) static float multiply_avx512(int steps) {
    const __m512 half = _mm512_set1_ps(0.5f), one = _mm512_set1_ps(1.0f);
    __m512 chain[CHAINS];
    for (int c = 0; c < CHAINS; c++)
        chain[c] = _mm512_set1_ps((float)c);
    for (int i = 0; i < steps; i++) {
#pragma GCC unroll 16
        for (int c = 0; c < CHAINS; c++)
            chain[c] = _mm512_fmadd_ps(chain[c], half, one);
    }
    for (int c = 1; c < CHAINS; c++)
        chain[0] = _mm512_add_ps(chain[0], chain[c]);
    return _mm512_cvtss_f32(chain[0]);
}
#elif defined(__aarch64__)
static float read_neon(const float *data, size_t count) {
    uint32x4_t sum[STREAMS];
    for (int s = 0; s < STREAMS; s++)
        sum[s] = vdupq_n_u32(0);
    for (size_t i = 0; i < count; i += LANES) {
#pragma GCC unroll 16
        for (int s = 0; s < STREAMS; s++) {
            const float *at = data + (size_t)s * count + i;
            __builtin_prefetch(at + AHEAD);
            for (int l = 0; l < LANES; l += 4)
                sum[s] = veorq_u32(sum[s], vreinterpretq_u32_f32(vld1q_f32(at + l)));
        }
    }
    for (int s = 1; s < STREAMS; s++)
        sum[0] = veorq_u32(sum[0], sum[s]);
    return (float)vaddvq_u32(sum[0]);
}

static void update_neon(float *data, size_t count) {
    const float32x4_t half = vdupq_n_f32(0.5f), one = vdupq_n_f32(1.0f);
    for (size_t i = 0; i < count; i += LANES) {
#pragma GCC unroll 16
        for (int s = 0; s < STREAMS; s++) {
            float *at = data + (size_t)s * count + i;
            __builtin_prefetch(at + AHEAD);
            for (int l = 0; l < LANES; l += 4)
                vst1q_f32(at + l, vfmaq_f32(one, vld1q_f32(at + l), half));
        }
    }
}

static float multiply_neon(int steps) {
    const float32x4_t half = vdupq_n_f32(0.5f), one = vdupq_n_f32(1.0f);
    float32x4_t chain[CHAINS];
    for (int c = 0; c < CHAINS; c++)
        chain[c] = vdupq_n_f32((float)c);
    for (int i = 0; i < steps; i++) {
#pragma GCC unroll 16
        for (int c = 0; c < CHAINS; c++)
            chain[c] = vfmaq_f32(one, chain[c], half);
    }
    for (int c = 1; c < CHAINS; c++)
        chain[0] = vaddq_f32(chain[0], chain[c]);
    return vaddvq_f32(chain[0]);
}
#endif

static machine_kernels choose_vectors(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f"))
        return (machine_kernels){.read = read_avx512,
                                 .update = update_avx512,
                                 .multiply = multiply_avx512,
                                 .multiply_flops = 2.0 * 16 * CHAINS};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return (machine_kernels){.read = read_avx2,
                                 .update = update_avx2,
                                 .multiply = multiply_avx2,
                                 .multiply_flops = 2.0 * 8 * CHAINS_AVX2};
#elif defined(__aarch64__)
    return (machine_kernels){.read = read_neon,
                             .update = update_neon,
                             .multiply = multiply_neon,
                             .multiply_flops = 2.0 * 4 * CHAINS};
#endif
    return (machine_kernels){.read = read_generic,
                             .update = update_generic,
                             .multiply = multiply_generic,
                             .multiply_flops = 2.0 * 4 * CHAINS};
}

machine_kernels machine_kernels_choose(void) {
    machine_kernels kernels = choose_vectors();
    machine_amx_add(&kernels);
    return kernels;
}
