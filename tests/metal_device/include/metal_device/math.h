/* Mathematics: float and half, and vectors of them. precise:: and fast:: are the same here.
 * What Metal does not have (log1p, expm1, erf) is not here either. */
#ifndef METAL_DEVICE_MATH_H
#define METAL_DEVICE_MATH_H

#define METAL_DEVICE_MATH_1(name, function)                                                        \
    inline float name(float x) {                                                                   \
        return function(x);                                                                        \
    }                                                                                              \
    inline half name(half x) {                                                                     \
        return (half)function((float)x);                                                           \
    }                                                                                              \
    inline bfloat name(bfloat x) {                                                                 \
        return (bfloat)function((float)x);                                                         \
    }                                                                                              \
    template <class T, int N> inline vec<T, N> name(vec<T, N> x) {                                 \
        vec<T, N> y;                                                                               \
        for (int i = 0; i < N; i++)                                                                \
            y[i] = name((T)x[i]);                                                                  \
        return y;                                                                                  \
    }
#define METAL_DEVICE_MATH_2(name, function)                                                        \
    inline float name(float x, float y) {                                                          \
        return function(x, y);                                                                     \
    }                                                                                              \
    inline half name(half x, half y) {                                                             \
        return (half)function((float)x, (float)y);                                                 \
    }                                                                                              \
    inline bfloat name(bfloat x, bfloat y) {                                                       \
        return (bfloat)function((float)x, (float)y);                                               \
    }                                                                                              \
    template <class T, int N> inline vec<T, N> name(vec<T, N> x, vec<T, N> y) {                    \
        vec<T, N> z;                                                                               \
        for (int i = 0; i < N; i++)                                                                \
            z[i] = name((T)x[i], (T)y[i]);                                                         \
        return z;                                                                                  \
    }
#define METAL_DEVICE_MATH_3(name, function)                                                        \
    inline float name(float x, float y, float z) {                                                 \
        return function(x, y, z);                                                                  \
    }                                                                                              \
    inline half name(half x, half y, half z) {                                                     \
        return (half)function((float)x, (float)y, (float)z);                                       \
    }                                                                                              \
    inline bfloat name(bfloat x, bfloat y, bfloat z) {                                             \
        return (bfloat)function((float)x, (float)y, (float)z);                                     \
    }                                                                                              \
    template <class T, int N> inline vec<T, N> name(vec<T, N> x, vec<T, N> y, vec<T, N> z) {       \
        vec<T, N> r;                                                                               \
        for (int i = 0; i < N; i++)                                                                \
            r[i] = name((T)x[i], (T)y[i], (T)z[i]);                                                \
        return r;                                                                                  \
    }

namespace metal_device {
inline float rsqrt(float x) {
    return 1.0f / __builtin_sqrtf(x);
}
inline float exp10(float x) {
    return __builtin_powf(10.0f, x);
}
inline float sinpi(float x) {
    return __builtin_sinf(x * 3.14159265358979323846f);
}
inline float cospi(float x) {
    return __builtin_cosf(x * 3.14159265358979323846f);
}
inline float fract(float x) {
    return __builtin_fminf(x - __builtin_floorf(x), 0x1.fffffep-1f);
}
inline float sign(float x) {
    return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x == 0.0f ? x : 0.0f;
}
inline float saturate(float x) {
    return __builtin_fminf(__builtin_fmaxf(x, 0.0f), 1.0f);
}
inline float max3(float x, float y, float z) {
    return __builtin_fmaxf(x, __builtin_fmaxf(y, z));
}
inline float min3(float x, float y, float z) {
    return __builtin_fminf(x, __builtin_fminf(y, z));
}
inline float mix(float x, float y, float a) {
    return x + (y - x) * a;
}
inline float step(float edge, float x) {
    return x < edge ? 0.0f : 1.0f;
}
inline float smoothstep(float low, float high, float x) {
    float t = saturate((x - low) / (high - low));
    return t * t * (3.0f - 2.0f * t);
}
inline float clamp(float x, float low, float high) {
    return __builtin_fminf(__builtin_fmaxf(x, low), high);
}
inline float fdim(float x, float y) {
    return x > y ? x - y : 0.0f;
}
} // namespace metal_device

#define METAL_DEVICE_MATH                                                                          \
    METAL_DEVICE_MATH_1(exp, __builtin_expf)                                                       \
    METAL_DEVICE_MATH_1(exp2, __builtin_exp2f)                                                     \
    METAL_DEVICE_MATH_1(exp10, ::metal_device::exp10)                                              \
    METAL_DEVICE_MATH_1(log, __builtin_logf)                                                       \
    METAL_DEVICE_MATH_1(log2, __builtin_log2f)                                                     \
    METAL_DEVICE_MATH_1(log10, __builtin_log10f)                                                   \
    METAL_DEVICE_MATH_1(sqrt, __builtin_sqrtf)                                                     \
    METAL_DEVICE_MATH_1(rsqrt, ::metal_device::rsqrt)                                              \
    METAL_DEVICE_MATH_1(sin, __builtin_sinf)                                                       \
    METAL_DEVICE_MATH_1(cos, __builtin_cosf)                                                       \
    METAL_DEVICE_MATH_1(tan, __builtin_tanf)                                                       \
    METAL_DEVICE_MATH_1(sinpi, ::metal_device::sinpi)                                              \
    METAL_DEVICE_MATH_1(cospi, ::metal_device::cospi)                                              \
    METAL_DEVICE_MATH_1(asin, __builtin_asinf)                                                     \
    METAL_DEVICE_MATH_1(acos, __builtin_acosf)                                                     \
    METAL_DEVICE_MATH_1(atan, __builtin_atanf)                                                     \
    METAL_DEVICE_MATH_1(sinh, __builtin_sinhf)                                                     \
    METAL_DEVICE_MATH_1(cosh, __builtin_coshf)                                                     \
    METAL_DEVICE_MATH_1(tanh, __builtin_tanhf)                                                     \
    METAL_DEVICE_MATH_1(asinh, __builtin_asinhf)                                                   \
    METAL_DEVICE_MATH_1(acosh, __builtin_acoshf)                                                   \
    METAL_DEVICE_MATH_1(atanh, __builtin_atanhf)                                                   \
    METAL_DEVICE_MATH_1(floor, __builtin_floorf)                                                   \
    METAL_DEVICE_MATH_1(ceil, __builtin_ceilf)                                                     \
    METAL_DEVICE_MATH_1(trunc, __builtin_truncf)                                                   \
    METAL_DEVICE_MATH_1(rint, __builtin_rintf)                                                     \
    METAL_DEVICE_MATH_1(round, __builtin_roundf)                                                   \
    METAL_DEVICE_MATH_1(fabs, __builtin_fabsf)                                                     \
    METAL_DEVICE_MATH_1(abs, __builtin_fabsf)                                                      \
    METAL_DEVICE_MATH_1(fract, ::metal_device::fract)                                              \
    METAL_DEVICE_MATH_1(sign, ::metal_device::sign)                                                \
    METAL_DEVICE_MATH_1(saturate, ::metal_device::saturate)                                        \
    METAL_DEVICE_MATH_2(pow, __builtin_powf)                                                       \
    METAL_DEVICE_MATH_2(powr, __builtin_powf)                                                      \
    METAL_DEVICE_MATH_2(atan2, __builtin_atan2f)                                                   \
    METAL_DEVICE_MATH_2(fmod, __builtin_fmodf)                                                     \
    METAL_DEVICE_MATH_2(fmin, __builtin_fminf)                                                     \
    METAL_DEVICE_MATH_2(fmax, __builtin_fmaxf)                                                     \
    METAL_DEVICE_MATH_2(min, __builtin_fminf)                                                      \
    METAL_DEVICE_MATH_2(max, __builtin_fmaxf)                                                      \
    METAL_DEVICE_MATH_2(fdim, ::metal_device::fdim)                                                \
    METAL_DEVICE_MATH_2(copysign, __builtin_copysignf)                                             \
    METAL_DEVICE_MATH_2(step, ::metal_device::step)                                                \
    METAL_DEVICE_MATH_3(fma, __builtin_fmaf)                                                       \
    METAL_DEVICE_MATH_3(max3, ::metal_device::max3)                                                \
    METAL_DEVICE_MATH_3(min3, ::metal_device::min3)                                                \
    METAL_DEVICE_MATH_3(fmax3, ::metal_device::max3)                                               \
    METAL_DEVICE_MATH_3(fmin3, ::metal_device::min3)                                               \
    METAL_DEVICE_MATH_3(mix, ::metal_device::mix)                                                  \
    METAL_DEVICE_MATH_3(clamp, ::metal_device::clamp)                                              \
    METAL_DEVICE_MATH_3(smoothstep, ::metal_device::smoothstep)

namespace metal {
METAL_DEVICE_MATH
namespace precise {
METAL_DEVICE_MATH
}
namespace fast {
METAL_DEVICE_MATH
}

/* A vector and scalars that hold for each of its components. */
template <class T, int N> inline vec<T, N> clamp(vec<T, N> x, T low, T high) {
    return clamp(x, (vec<T, N>)low, (vec<T, N>)high);
}
template <class T, int N> inline vec<T, N> max(vec<T, N> x, T y) {
    return max(x, (vec<T, N>)y);
}
template <class T, int N> inline vec<T, N> min(vec<T, N> x, T y) {
    return min(x, (vec<T, N>)y);
}
template <class T, int N> inline vec<T, N> mix(vec<T, N> x, vec<T, N> y, T a) {
    return mix(x, y, (vec<T, N>)a);
}

inline bool isnan(float x) {
    return __builtin_isnan(x);
}
inline bool isnan(half x) {
    return __builtin_isnan((float)x);
}
inline bool isinf(float x) {
    return __builtin_isinf(x);
}
inline bool isinf(half x) {
    return __builtin_isinf((float)x);
}
inline bool isfinite(float x) {
    return __builtin_isfinite(x);
}
inline bool isfinite(half x) {
    return __builtin_isfinite((float)x);
}
inline bool isnormal(float x) {
    return __builtin_isnormal(x);
}
inline bool signbit(float x) {
    return __builtin_signbit(x);
}
inline bool signbit(half x) {
    return __builtin_signbit((float)x);
}
inline float ldexp(float x, int exponent) {
    return __builtin_ldexpf(x, exponent);
}
inline half ldexp(half x, int exponent) {
    return (half)__builtin_ldexpf((float)x, exponent);
}
inline float frexp(float x, thread int &exponent) {
    return __builtin_frexpf(x, &exponent);
}
inline int ilogb(float x) {
    return __builtin_ilogbf(x);
}
inline float modf(float x, thread float &whole) {
    return __builtin_modff(x, &whole);
}
inline float sincos(float x, thread float &cosine) {
    cosine = __builtin_cosf(x);
    return __builtin_sinf(x);
}
} // namespace metal

#endif
