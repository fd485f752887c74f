/* The language of kernels for clang++: words, built-in variables, functions of warps and blocks, arithmetic.
 * `__shared__` is the business of ../../shared.sed. */
#ifndef CUDA_DEVICE_LANGUAGE_H
#define CUDA_DEVICE_LANGUAGE_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "cuda_device/meet.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __grid_constant__
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __maxnreg__(...)
#define __align__(n) __attribute__((aligned(n)))

#define threadIdx (cuda_device_now->thread)
#define warpSize 32

/* Where it is called, as the last parameter of a function that waits. */
#define CUDA_DEVICE_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define CUDA_DEVICE_SITE(what)                                                                     \
    cuda_device_site {                                                                             \
        what, file, line                                                                           \
    }

/* ---- Vectors ---- */

#define CUDA_DEVICE_MAKE(name, type)                                                               \
    static inline name##2 make_##name##2(type x, type y) {                                         \
        return {x, y};                                                                             \
    }                                                                                              \
    static inline name##3 make_##name##3(type x, type y, type z) {                                 \
        return {x, y, z};                                                                          \
    }                                                                                              \
    static inline name##4 make_##name##4(type x, type y, type z, type w) {                         \
        return {x, y, z, w};                                                                       \
    }
CUDA_DEVICE_MAKE(char, signed char)
CUDA_DEVICE_MAKE(uchar, unsigned char)
CUDA_DEVICE_MAKE(short, short)
CUDA_DEVICE_MAKE(ushort, unsigned short)
CUDA_DEVICE_MAKE(int, int)
CUDA_DEVICE_MAKE(uint, unsigned)
CUDA_DEVICE_MAKE(float, float)
CUDA_DEVICE_MAKE(double, double)
CUDA_DEVICE_MAKE(longlong, long long)
CUDA_DEVICE_MAKE(ulonglong, unsigned long long)

/* ---- Waiting for others ---- */

static inline void __syncthreads(CUDA_DEVICE_HERE) {
    cuda_device_barrier(0, 0, false, CUDA_DEVICE_SITE("__syncthreads"));
}
static inline void __syncwarp(uint32_t mask = 0xffffffffu, CUDA_DEVICE_HERE) {
    cuda_device_meet_warp(mask, nullptr, nullptr, CUDA_DEVICE_SITE("__syncwarp"));
}
static inline void __nanosleep(unsigned, CUDA_DEVICE_HERE) {
    cuda_device_poll(CUDA_DEVICE_SITE("__nanosleep"));
}
static inline void __threadfence() {
}
static inline void __threadfence_block() {
}
static inline void __threadfence_system() {
}

/* ---- Among the lanes of a warp ---- */

template <class T> struct cuda_device_shuffle {
    T value, result;
    int source; /* lane; -1: its own value */
};
template <class T> static void cuda_device_shuffle_all(void *const *operands, unsigned) {
    for (int i = 0; i < 32; i++) {
        auto *own = (cuda_device_shuffle<T> *)operands[i];
        if (own == nullptr)
            continue;
        auto *from = own->source < 0 ? own : (cuda_device_shuffle<T> *)operands[own->source];
        if (from != nullptr)
            own->result = from->value;
        else
            memset(&own->result, 0xff, sizeof own->result); /* undefined: nobody is there */
    }
}
template <class T>
static inline T cuda_device_shuffle_from(uint32_t mask, T value, int source,
                                         cuda_device_site site) {
    cuda_device_shuffle<T> operand = {value, value, source};
    cuda_device_meet_warp(mask, &operand, cuda_device_shuffle_all<T>, site);
    return operand.result;
}
static inline int cuda_device_lane_index() {
    return (int)(cuda_device_now->index % 32);
}
template <class T>
static inline T __shfl_sync(uint32_t mask, T value, int from, int width = 32, CUDA_DEVICE_HERE) {
    int segment = cuda_device_lane_index() & ~(width - 1);
    return cuda_device_shuffle_from(mask, value, segment | (from & (width - 1)),
                                    CUDA_DEVICE_SITE("__shfl_sync"));
}
template <class T>
static inline T __shfl_xor_sync(uint32_t mask, T value, int step, int width = 32,
                                CUDA_DEVICE_HERE) {
    int lane = cuda_device_lane_index(), last = lane | (width - 1), from = lane ^ step;
    return cuda_device_shuffle_from(mask, value, from > last ? -1 : from,
                                    CUDA_DEVICE_SITE("__shfl_xor_sync"));
}
template <class T>
static inline T __shfl_up_sync(uint32_t mask, T value, unsigned step, int width = 32,
                               CUDA_DEVICE_HERE) {
    int lane = cuda_device_lane_index(), from = lane - (int)step;
    return cuda_device_shuffle_from(mask, value, from < (lane & ~(width - 1)) ? -1 : from,
                                    CUDA_DEVICE_SITE("__shfl_up_sync"));
}
template <class T>
static inline T __shfl_down_sync(uint32_t mask, T value, unsigned step, int width = 32,
                                 CUDA_DEVICE_HERE) {
    int lane = cuda_device_lane_index(), from = lane + (int)step;
    return cuda_device_shuffle_from(mask, value, from > (lane | (width - 1)) ? -1 : from,
                                    CUDA_DEVICE_SITE("__shfl_down_sync"));
}

/* One value of all lanes that are there, by `Op`. */
template <class T> struct cuda_device_reduction { T value; };
template <class T, T (*Op)(T, T)>
static void cuda_device_reduce_all(void *const *operands, unsigned) {
    T sum{};
    bool any = false;
    for (int i = 0; i < 32; i++)
        if (operands[i] != nullptr) {
            T value = ((cuda_device_reduction<T> *)operands[i])->value;
            sum = any ? Op(sum, value) : value;
            any = true;
        }
    for (int i = 0; i < 32; i++)
        if (operands[i] != nullptr)
            ((cuda_device_reduction<T> *)operands[i])->value = sum;
}
template <class T, T (*Op)(T, T)>
static inline T cuda_device_reduce(uint32_t mask, T value, cuda_device_site site) {
    cuda_device_reduction<T> operand = {value};
    cuda_device_meet_warp(mask, &operand, cuda_device_reduce_all<T, Op>, site);
    return operand.value;
}
template <class T> static T cuda_device_plus(T a, T b) {
    return (T)(a + b);
}
template <class T> static T cuda_device_less(T a, T b) {
    return b < a ? b : a;
}
template <class T> static T cuda_device_more(T a, T b) {
    return a < b ? b : a;
}
template <class T> static T cuda_device_both(T a, T b) {
    return (T)(a & b);
}
template <class T> static T cuda_device_either(T a, T b) {
    return (T)(a | b);
}
template <class T> static T cuda_device_one(T a, T b) {
    return (T)(a ^ b);
}
#define CUDA_DEVICE_REDUCE(name, type, op)                                                         \
    static inline type name(uint32_t mask, type x, CUDA_DEVICE_HERE) {                             \
        return cuda_device_reduce<type, op<type>>(mask, x, CUDA_DEVICE_SITE(#name));               \
    }
CUDA_DEVICE_REDUCE(__reduce_add_sync, unsigned, cuda_device_plus)
CUDA_DEVICE_REDUCE(__reduce_add_sync, int, cuda_device_plus)
CUDA_DEVICE_REDUCE(__reduce_min_sync, unsigned, cuda_device_less)
CUDA_DEVICE_REDUCE(__reduce_min_sync, int, cuda_device_less)
CUDA_DEVICE_REDUCE(__reduce_max_sync, unsigned, cuda_device_more)
CUDA_DEVICE_REDUCE(__reduce_max_sync, int, cuda_device_more)
CUDA_DEVICE_REDUCE(__reduce_and_sync, unsigned, cuda_device_both)
CUDA_DEVICE_REDUCE(__reduce_or_sync, unsigned, cuda_device_either)
CUDA_DEVICE_REDUCE(__reduce_xor_sync, unsigned, cuda_device_one)

static inline unsigned __ballot_sync(uint32_t mask, int predicate, CUDA_DEVICE_HERE) {
    return cuda_device_reduce<unsigned, cuda_device_either<unsigned>>(
        mask, predicate ? 1u << cuda_device_lane_index() : 0u, CUDA_DEVICE_SITE("__ballot_sync"));
}
static inline int __any_sync(uint32_t mask, int predicate, CUDA_DEVICE_HERE) {
    return __ballot_sync(mask, predicate, file, line) != 0;
}
static inline int __all_sync(uint32_t mask, int predicate, CUDA_DEVICE_HERE) {
    return __ballot_sync(mask, !predicate, file, line) == 0;
}
/* Lanes that come here one by one count as diverged, which the hardware may do, too. */
static inline unsigned __activemask() {
    return 1u << cuda_device_lane_index();
}

/* Of a block. */
static inline int cuda_device_block_vote(int predicate, unsigned *out, cuda_device_site site) {
    extern unsigned cuda_device_votes;
    cuda_device_barrier(0, 0, false, site);
    cuda_device_votes = 0;
    cuda_device_barrier(0, 0, false, site);
    cuda_device_votes += predicate != 0;
    cuda_device_barrier(0, 0, false, site);
    *out = cuda_device_votes;
    return 0;
}
static inline int __syncthreads_count(int predicate, CUDA_DEVICE_HERE) {
    unsigned votes;
    cuda_device_block_vote(predicate, &votes, CUDA_DEVICE_SITE("__syncthreads_count"));
    return (int)votes;
}
static inline int __syncthreads_or(int predicate, CUDA_DEVICE_HERE) {
    return __syncthreads_count(predicate, file, line) != 0;
}
static inline int __syncthreads_and(int predicate, CUDA_DEVICE_HERE) {
    return __syncthreads_count(!predicate, file, line) == 0;
}

/* ---- Atomic operations: one thread runs at a time ---- */

template <class T, class F> static inline T cuda_device_atomic(T *p, F change) {
    T old = *p;
    *p = change(old);
    cuda_device_progress();
    return old;
}
#define CUDA_DEVICE_ATOMIC(type)                                                                   \
    static inline type atomicAdd(type *p, type x) {                                                \
        return cuda_device_atomic(p, [x](type old) { return (type)(old + x); });                   \
    }                                                                                              \
    static inline type atomicExch(type *p, type x) {                                               \
        return cuda_device_atomic(p, [x](type) { return x; });                                     \
    }
#define CUDA_DEVICE_ATOMIC_INTEGER(type)                                                           \
    CUDA_DEVICE_ATOMIC(type)                                                                       \
    static inline type atomicMax(type *p, type x) {                                                \
        return cuda_device_atomic(p, [x](type old) { return old < x ? x : old; });                 \
    }                                                                                              \
    static inline type atomicMin(type *p, type x) {                                                \
        return cuda_device_atomic(p, [x](type old) { return x < old ? x : old; });                 \
    }                                                                                              \
    static inline type atomicOr(type *p, type x) {                                                 \
        return cuda_device_atomic(p, [x](type old) { return old | x; });                           \
    }                                                                                              \
    static inline type atomicAnd(type *p, type x) {                                                \
        return cuda_device_atomic(p, [x](type old) { return old & x; });                           \
    }                                                                                              \
    static inline type atomicCAS(type *p, type compare, type x) {                                  \
        return cuda_device_atomic(p, [compare, x](type old) { return old == compare ? x : old; }); \
    }
CUDA_DEVICE_ATOMIC(float)
CUDA_DEVICE_ATOMIC(double)
CUDA_DEVICE_ATOMIC_INTEGER(int)
CUDA_DEVICE_ATOMIC_INTEGER(unsigned)
CUDA_DEVICE_ATOMIC_INTEGER(unsigned long long)
static inline unsigned atomicSub(unsigned *p, unsigned x) {
    return atomicAdd(p, 0u - x);
}
static inline int atomicSub(int *p, int x) {
    return atomicAdd(p, -x);
}
static inline unsigned atomicInc(unsigned *p, unsigned last) {
    return cuda_device_atomic(p, [last](unsigned old) { return old >= last ? 0u : old + 1u; });
}

/* ---- Memory ---- */

#define CUDA_DEVICE_LOAD(name)                                                                     \
    template <class T> static inline T name(const T *p) {                                          \
        return *p;                                                                                 \
    }
CUDA_DEVICE_LOAD(__ldg)
CUDA_DEVICE_LOAD(__ldcg)
CUDA_DEVICE_LOAD(__ldca)
CUDA_DEVICE_LOAD(__ldcs)
CUDA_DEVICE_LOAD(__ldlu)
CUDA_DEVICE_LOAD(__ldcv)
#define CUDA_DEVICE_STORE(name)                                                                    \
    template <class T> static inline void name(T *p, T x) {                                        \
        *p = x;                                                                                    \
    }
CUDA_DEVICE_STORE(__stcs)
CUDA_DEVICE_STORE(__stcg)
CUDA_DEVICE_STORE(__stwb)
CUDA_DEVICE_STORE(__stwt)

static inline size_t __cvta_generic_to_shared(const void *p, CUDA_DEVICE_HERE) {
    return cuda_device_shared_address(p, CUDA_DEVICE_SITE("__cvta_generic_to_shared"));
}
static inline unsigned __isShared(const void *p) {
    return cuda_device_is_shared(p);
}
static inline void __builtin_prefetch_global(const void *) {
}

/* ---- Bits ---- */

template <class To, class From> static inline To cuda_device_bits(From x) {
    static_assert(sizeof(To) == sizeof(From), "of one size");
    To y;
    memcpy(&y, &x, sizeof y);
    return y;
}
static inline unsigned __float_as_uint(float x) {
    return cuda_device_bits<unsigned>(x);
}
static inline int __float_as_int(float x) {
    return cuda_device_bits<int>(x);
}
static inline float __uint_as_float(unsigned x) {
    return cuda_device_bits<float>(x);
}
static inline float __int_as_float(int x) {
    return cuda_device_bits<float>(x);
}
static inline long long __double_as_longlong(double x) {
    return cuda_device_bits<long long>(x);
}
static inline double __longlong_as_double(long long x) {
    return cuda_device_bits<double>(x);
}
static inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
static inline int __popcll(unsigned long long x) {
    return __builtin_popcountll(x);
}
static inline int __clz(int x) {
    return x == 0 ? 32 : __builtin_clz((unsigned)x);
}
static inline int __clzll(long long x) {
    return x == 0 ? 64 : __builtin_clzll((unsigned long long)x);
}
static inline int __ffs(int x) {
    return __builtin_ffs(x);
}
static inline unsigned __brev(unsigned x) {
    return __builtin_bitreverse32(x);
}
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    uint64_t both = (uint64_t)y << 32 | x;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) {
        unsigned s = selector >> (4 * i) & 15, byte = (unsigned)(both >> (8 * (s & 7))) & 0xff;
        if (s & 8)
            byte = byte & 0x80 ? 0xff : 0;
        out |= byte << (8 * i);
    }
    return out;
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return (unsigned)(((uint64_t)high << 32 | low) << (shift & 31) >> 32);
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return (unsigned)(((uint64_t)high << 32 | low) >> (shift & 31));
}
static inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++)
        c += (int8_t)(a >> (8 * i)) * (int8_t)(b >> (8 * i));
    return c;
}
static inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
    for (int i = 0; i < 4; i++)
        c += (a >> (8 * i) & 0xff) * (b >> (8 * i) & 0xff);
    return c;
}
static inline unsigned __umulhi(unsigned a, unsigned b) {
    return (unsigned)((uint64_t)a * b >> 32);
}
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}

/* ---- Arithmetic ---- */

#define CUDA_DEVICE_EXTREMES(type)                                                                 \
    static inline type min(type a, type b) {                                                       \
        return b < a ? b : a;                                                                      \
    }                                                                                              \
    static inline type max(type a, type b) {                                                       \
        return a < b ? b : a;                                                                      \
    }
CUDA_DEVICE_EXTREMES(int)
CUDA_DEVICE_EXTREMES(unsigned)
CUDA_DEVICE_EXTREMES(long)
CUDA_DEVICE_EXTREMES(unsigned long)
CUDA_DEVICE_EXTREMES(long long)
CUDA_DEVICE_EXTREMES(unsigned long long)
static inline unsigned min(int a, unsigned b) {
    return min((unsigned)a, b);
}
static inline unsigned min(unsigned a, int b) {
    return min(a, (unsigned)b);
}
static inline unsigned max(int a, unsigned b) {
    return max((unsigned)a, b);
}
static inline unsigned max(unsigned a, int b) {
    return max(a, (unsigned)b);
}
static inline long min(int a, long b) {
    return min((long)a, b);
}
static inline long min(long a, int b) {
    return min(a, (long)b);
}
static inline long max(int a, long b) {
    return max((long)a, b);
}
static inline long max(long a, int b) {
    return max(a, (long)b);
}
static inline float min(float a, float b) {
    return fminf(a, b);
}
static inline float max(float a, float b) {
    return fmaxf(a, b);
}
static inline double min(double a, double b) {
    return fmin(a, b);
}
static inline double max(double a, double b) {
    return fmax(a, b);
}

static inline float __fmaf_rn(float a, float b, float c) {
    return __builtin_fmaf(a, b, c);
}
static inline float __fadd_rn(float a, float b) {
    return a + b;
}
static inline float __fsub_rn(float a, float b) {
    return a - b;
}
static inline float __fmul_rn(float a, float b) {
    return a * b;
}
static inline float __fdiv_rn(float a, float b) {
    return a / b;
}
static inline float __frcp_rn(float a) {
    return 1.0f / a;
}
static inline float __fsqrt_rn(float a) {
    return sqrtf(a);
}
static inline float __frsqrt_rn(float a) {
    return (float)(1.0 / sqrt((double)a));
}
static inline double __dadd_rn(double a, double b) {
    return a + b;
}
static inline double __dmul_rn(double a, double b) {
    return a * b;
}
static inline double __fma_rn(double a, double b, double c) {
    return __builtin_fma(a, b, c);
}
static inline float __fdividef(float a, float b) {
    return a / b;
}
/* Names that the C library has, too. */
#define __expf(x) expf(x)
#define __exp2f(x) exp2f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __powf(x, y) powf(x, y)
#define __tanhf(x) tanhf(x)
static inline float __saturatef(float x) {
    return x != x ? 0.0f : fminf(fmaxf(x, 0.0f), 1.0f);
}
static inline float rsqrtf(float x) {
    return (float)(1.0 / sqrt((double)x));
}
static inline double rsqrt(double x) {
    return 1.0 / sqrt(x);
}
static inline float normcdff(float x) {
    return (float)(0.5 * erfc((double)x * -0.70710678118654752440));
}
static inline double normcdf(double x) {
    return 0.5 * erfc(x * -0.70710678118654752440);
}
/* Numbers that the type does not have become the nearest that it has; NaN becomes 0 in 32 bits. */
template <class T> static inline T cuda_device_saturate(double x, double least, double most) {
    if (x != x)
        return sizeof(T) == 4 ? (T)0 : (T)(1ull << 63);
    if (x < least)
        return sizeof(T) == 4 && least < 0 ? (T)INT32_MIN : least < 0 ? (T)INT64_MIN : (T)0;
    if (x >= most)
        return least < 0 ? (T)(sizeof(T) == 4 ? INT32_MAX : INT64_MAX) : (T)~0ull;
    return (T)x;
}
#define CUDA_DEVICE_CONVERT(name, from, type, least, most, round)                                  \
    static inline type name(from x) {                                                              \
        return cuda_device_saturate<type>(round((double)x), least, most);                          \
    }
CUDA_DEVICE_CONVERT(__float2int_rn, float, int, -0x1p31, 0x1p31, rint)
CUDA_DEVICE_CONVERT(__float2int_rz, float, int, -0x1p31, 0x1p31, trunc)
CUDA_DEVICE_CONVERT(__float2int_rd, float, int, -0x1p31, 0x1p31, floor)
CUDA_DEVICE_CONVERT(__float2int_ru, float, int, -0x1p31, 0x1p31, ceil)
CUDA_DEVICE_CONVERT(__float2uint_rn, float, unsigned, 0, 0x1p32, rint)
CUDA_DEVICE_CONVERT(__float2uint_rz, float, unsigned, 0, 0x1p32, trunc)
CUDA_DEVICE_CONVERT(__double2int_rn, double, int, -0x1p31, 0x1p31, rint)
CUDA_DEVICE_CONVERT(__double2int_rz, double, int, -0x1p31, 0x1p31, trunc)
CUDA_DEVICE_CONVERT(__double2ll_rn, double, long long, -0x1p63, 0x1p63, rint)
CUDA_DEVICE_CONVERT(__double2ull_rn, double, unsigned long long, 0, 0x1p64, rint)
CUDA_DEVICE_CONVERT(__double2ull_rz, double, unsigned long long, 0, 0x1p64, trunc)
static inline float __int2float_rn(int x) {
    return (float)x;
}
static inline float __uint2float_rn(unsigned x) {
    return (float)x;
}

#endif
