/* What this machine can do, measured.
 *
 * Reading: every thread walks sixteen address streams at once, prefetching a little ahead on each
 * and with distances that are no power of two, so that neither cache sets nor memory banks collide:
 * the fastest of the patterns tried (docs/SPEED.md). The memory is far larger than the
 * caches, or the number would be that of a cache. Updating: x = a x + b over the same memory, as a
 * decode step does with its state; bytes read plus bytes written. Arithmetic: independent chains of
 * fused multiply-adds in registers, enough of them to hide the latency.
 *
 * The loops are written with the widest vectors the processor has, chosen at run time. Their
 * results go into an atomic variable, so that no compiler can leave them out. */
#include "engine/machine.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "base/clock.h"
#include "base/error.h"
#include "base/threads.h"

enum {
    STREAMS = 16,  /* addresses that a thread reads at once */
    AHEAD = 128,   /* floats to prefetch ahead of each */
    UNEVEN = 1040, /* floats by which a stream is no multiple of 8 KiB */
    CHAINS = 16,   /* independent multiply-adds; 2 units of 4 cycles need 8 */
    LANES = 16,    /* floats of one step of a stream: 64 bytes */
    FMA_STEPS = 1 << 17,
    MOST_RUNS = 25
};

/* ---- Kernels ---- */

/* count: floats of one stream, a multiple of LANES; streams follow each other in memory. */
typedef struct machine_kernels {
    float (*read)(const float *data, size_t count);
    void (*update)(float *data, size_t count);
    float (*multiply)(int steps);
    double flops_per_step;
} machine_kernels;

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

static machine_kernels choose_kernels(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f"))
        return (machine_kernels){read_avx512, update_avx512, multiply_avx512, 2.0 * 16 * CHAINS};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return (machine_kernels){read_avx2, update_avx2, multiply_avx2, 2.0 * 8 * CHAINS_AVX2};
#elif defined(__aarch64__)
    return (machine_kernels){read_neon, update_neon, multiply_neon, 2.0 * 4 * CHAINS};
#endif
    return (machine_kernels){read_generic, update_generic, multiply_generic, 2.0 * 4 * CHAINS};
}

/* ---- Jobs ---- */

typedef struct measurement {
    machine_kernels kernels;
    thread_pool *pool;
    float *data;
    size_t chunk; /* floats of one task: STREAMS streams */
    int64_t chunks;
    _Atomic float sink; /* where results go, so that no compiler can leave the loops out */
} measurement;

static void read_task(void *context, int64_t task, int worker) {
    measurement *m = context;
    (void)worker;
    m->sink = m->kernels.read(m->data + (size_t)task * m->chunk, m->chunk / STREAMS);
}

static void update_task(void *context, int64_t task, int worker) {
    measurement *m = context;
    (void)worker;
    m->kernels.update(m->data + (size_t)task * m->chunk, m->chunk / STREAMS);
}

static void multiply_task(void *context, int64_t task, int worker) {
    measurement *m = context;
    (void)task;
    (void)worker;
    m->sink = m->kernels.multiply(FMA_STEPS);
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Runs a job until `seconds` have passed, at least three times after one that does not count; the
 * median, in units of `amount` a second. */
static double measure(measurement *m, int64_t tasks, thread_task task, double amount,
                      double seconds) {
    double rates[MOST_RUNS];
    int runs = 0;
    thread_pool_run(m->pool, tasks, task, m);
    double start = clock_seconds();
    while (runs < MOST_RUNS && (runs < 3 || clock_seconds() - start < seconds)) {
        double before = clock_seconds();
        thread_pool_run(m->pool, tasks, task, m);
        double passed = clock_seconds() - before;
        rates[runs++] = amount / (passed > 1e-9 ? passed : 1e-9);
    }
    qsort(rates, (size_t)runs, sizeof *rates, compare_doubles);
    return rates[runs / 2];
}

/* A quarter of what is free, between 64 MiB and 1 GiB (2 GiB for many threads): more than any
 * cache. */
static size_t choose_size(int threads) {
    size_t wanted = (size_t)1 << (threads > 16 ? 31 : 30), least = (size_t)64 << 20;
    int64_t available = memory_available();
    if (available > 0 && (size_t)(available / 4) < wanted)
        wanted = (size_t)(available / 4);
    return wanted < least ? least : wanted;
}

static xlstm_status map_memory(measurement *m, int threads, size_t *size) {
    size_t tasks = (size_t)threads * 8;
    *size = choose_size(threads);
    size_t stream = *size / sizeof(float) / tasks / STREAMS / 2048 * 2048 - 2048 + UNEVEN;
    m->chunk = stream * STREAMS;
    m->chunks = (int64_t)tasks;
    void *data = mmap(NULL, *size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    if (data == MAP_FAILED)
        return error_memory(*size, "measuring this machine's memory");
#ifdef MADV_HUGEPAGE
    madvise(data, *size,
            MADV_HUGEPAGE); /* the limit is what the memory can do, not the page table */
#endif
    m->data = data;
    for (size_t i = 0; i < *size / sizeof(float); i++)
        m->data[i] = 1.0f; /* a page that was never written is one shared page of zeros */
    return XLSTM_OK;
}

xlstm_status machine_measure(int threads, double seconds, machine_limits *limits) {
    measurement m = {.kernels = choose_kernels()};
    if (threads == 0)
        threads = threads_available();
    if (seconds <= 0)
        seconds = 2;
    xlstm_status status = thread_pool_create(threads, &m.pool);
    if (status != XLSTM_OK)
        return status;
    size_t size;
    status = map_memory(&m, threads, &size);
    if (status == XLSTM_OK) {
        double bytes = (double)m.chunk * (double)m.chunks * sizeof(float);
        int64_t tasks = (int64_t)threads * 4;
        *limits = (machine_limits){
            .read_bytes_per_second = measure(&m, m.chunks, read_task, bytes, 0.35 * seconds),
            .update_bytes_per_second =
                measure(&m, m.chunks, update_task, 2 * bytes, 0.35 * seconds),
            .fma_flops_per_second =
                measure(&m, tasks, multiply_task,
                        (double)tasks * FMA_STEPS * m.kernels.flops_per_step, 0.15 * seconds),
            .threads = threads,
        };
        munmap(m.data, size);
    }
    thread_pool_free(m.pool);
    return status;
}
