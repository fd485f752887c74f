/* Scalars, vectors, conversions. Vectors are those of the compiler: swizzles and strict operators come with them. */
#ifndef METAL_DEVICE_TYPES_H
#define METAL_DEVICE_TYPES_H

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long int64_t;
typedef unsigned long uint64_t;
typedef unsigned long size_t;
typedef long ptrdiff_t;
typedef _Float16 half;
typedef __bf16 bfloat;

constexpr half operator""h(long double x) {
    return (half)x;
}
constexpr bfloat operator"" bf(long double x) {
    return (bfloat)(float)x;
}

#define METAL_DEVICE_VECTORS(type)                                                                 \
    typedef type type##2 __attribute__((ext_vector_type(2)));                                      \
    typedef type type##3 __attribute__((ext_vector_type(3)));                                      \
    typedef type type##4 __attribute__((ext_vector_type(4)));                                      \
    typedef type packed_##type##2 __attribute__((ext_vector_type(2), aligned(__alignof__(type)))); \
    typedef type packed_##type##4 __attribute__((ext_vector_type(4), aligned(__alignof__(type)))); \
    struct packed_##type##3 {                                                                      \
        type x, y, z;                                                                              \
        operator type##3() const {                                                                 \
            type##3 v = {x, y, z};                                                                 \
            return v;                                                                              \
        }                                                                                          \
        packed_##type##3() = default;                                                              \
        packed_##type##3(type##3 v) : x(v.x), y(v.y), z(v.z) {                                     \
        }                                                                                          \
    };
METAL_DEVICE_VECTORS(char)
METAL_DEVICE_VECTORS(uchar)
METAL_DEVICE_VECTORS(short)
METAL_DEVICE_VECTORS(ushort)
METAL_DEVICE_VECTORS(int)
METAL_DEVICE_VECTORS(uint)
METAL_DEVICE_VECTORS(long)
METAL_DEVICE_VECTORS(ulong)
METAL_DEVICE_VECTORS(half)
METAL_DEVICE_VECTORS(bfloat)
METAL_DEVICE_VECTORS(float)
/* A comparison of vectors gives a vector of integers here, all bits set where it holds. */
typedef int bool2 __attribute__((ext_vector_type(2)));
typedef int bool3 __attribute__((ext_vector_type(3)));
typedef int bool4 __attribute__((ext_vector_type(4)));

namespace metal {
using ::bfloat;
using ::half;
using ::size_t;
using ::uchar;
using ::uint;
using ::ulong;
using ::ushort;

template <class T, int N> using vec = T __attribute__((ext_vector_type(N)));

template <class T, class F> inline T as_type(F from) {
    static_assert(sizeof(T) == sizeof(F), "as_type: the sizes differ");
    return __builtin_bit_cast(T, from);
}

template <class A, class B> struct is_same { static constexpr bool value = false; };
template <class A> struct is_same<A, A> { static constexpr bool value = true; };
template <class A, class B> constexpr bool is_same_v = is_same<A, B>::value;
template <bool B, class T = void> struct enable_if {};
template <class T> struct enable_if<true, T> { typedef T type; };
template <bool B, class T = void> using enable_if_t = typename enable_if<B, T>::type;
template <bool B, class T, class F> struct conditional { typedef T type; };
template <class T, class F> struct conditional<false, T, F> { typedef F type; };
template <bool B, class T, class F> using conditional_t = typename conditional<B, T, F>::type;
} // namespace metal
using metal::as_type; /* part of the language */

namespace metal_device {
template <class T> struct shape {
    typedef T element;
    static constexpr int size = 1;
};
template <class T, int N> struct shape<T __attribute__((ext_vector_type(N)))> {
    typedef T element;
    static constexpr int size = N;
};
template <class T, int N> using vector = T __attribute__((ext_vector_type(N)));

constexpr int sum_of() {
    return 0;
}
template <class... R> constexpr int sum_of(int first, R... rest) {
    return first + sum_of(rest...);
}

template <class T, int N, class A> inline void put(vector<T, N> &to, int &at, A part) {
    if constexpr (shape<A>::size == 1)
        to[at++] = (T)part;
    else
        for (int i = 0; i < shape<A>::size; i++)
            to[at++] = (T)part[i];
}

/* T4(a, b.xy, c): the parts in their order; or one scalar for all; or a conversion. */
template <class T, int N, class... A> inline vector<T, N> make(A... part) {
    vector<T, N> to = {};
    if constexpr (sizeof...(A) == 1 && sum_of(shape<A>::size...) == 1) {
        to = ((T)part, ...);
    } else {
        static_assert(sum_of(shape<A>::size...) == N, "a vector of other than its components");
        int at = 0;
        (put<T, N>(to, at, part), ...);
    }
    return to;
}

/* (T4)x, which the generator turns into cast<T4>() ->* x */
template <class V> struct cast {
    template <class A> V operator->*(A from) const {
        return make<typename shape<V>::element, shape<V>::size>(from);
    }
};
} // namespace metal_device

#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define HUGE_VALF __builtin_inff()
#define MAXFLOAT 3.402823466e+38f
#define FLT_MAX 3.402823466e+38f
#define FLT_MIN 1.175494351e-38f
#define FLT_EPSILON 1.1920928955e-7f
#define HALF_MAX 65504.0h
#define HALF_MIN 6.103515625e-05h
#define HALF_EPSILON 0.0009765625h
#define CHAR_BIT 8
#define SCHAR_MAX 127
#define UCHAR_MAX 255
#define SHRT_MAX 32767
#define SHRT_MIN (-32768)
#define USHRT_MAX 65535
#define INT_MAX 2147483647
#define INT_MIN (-2147483647 - 1)
#define UINT_MAX 4294967295u
#define LONG_MAX 9223372036854775807l
#define ULONG_MAX 18446744073709551615ul
#define M_E_F 2.71828182845904523536f
#define M_LOG2E_F 1.44269504088896340736f
#define M_LOG10E_F 0.43429448190325182765f
#define M_LN2_F 0.69314718055994530942f
#define M_LN10_F 2.30258509299404568402f
#define M_PI_F 3.14159265358979323846f
#define M_PI_2_F 1.57079632679489661923f
#define M_1_PI_F 0.31830988618379067154f
#define M_2_SQRTPI_F 1.12837916709551257390f
#define M_SQRT2_F 1.41421356237309504880f
#define M_SQRT1_2_F 0.70710678118654752440f

#endif
