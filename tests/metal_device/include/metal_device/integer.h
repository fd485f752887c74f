/* Functions of integers, and of truth values. */
#ifndef METAL_DEVICE_INTEGER_H
#define METAL_DEVICE_INTEGER_H

namespace metal {
#define METAL_DEVICE_INTEGER(T)                                                                    \
    inline T min(T x, T y) {                                                                       \
        return x < y ? x : y;                                                                      \
    }                                                                                              \
    inline T max(T x, T y) {                                                                       \
        return x > y ? x : y;                                                                      \
    }                                                                                              \
    inline T clamp(T x, T low, T high) {                                                           \
        return min(max(x, low), high);                                                             \
    }                                                                                              \
    inline T absdiff(T x, T y) {                                                                   \
        return (T)(x > y ? x - y : y - x);                                                         \
    }                                                                                              \
    inline T popcount(T x) {                                                                       \
        T n = 0;                                                                                   \
        for (unsigned i = 0; i < sizeof(T) * 8; i++)                                               \
            n = (T)(n + ((x >> i) & 1));                                                           \
        return n;                                                                                  \
    }                                                                                              \
    inline T clz(T x) {                                                                            \
        T n = 0;                                                                                   \
        while (n < (T)(sizeof(T) * 8) && !((x >> (sizeof(T) * 8 - 1 - (unsigned)n)) & 1))          \
            n++;                                                                                   \
        return n;                                                                                  \
    }                                                                                              \
    inline T ctz(T x) {                                                                            \
        T n = 0;                                                                                   \
        while (n < (T)(sizeof(T) * 8) && !((x >> n) & 1))                                          \
            n++;                                                                                   \
        return n;                                                                                  \
    }                                                                                              \
    inline T reverse_bits(T x) {                                                                   \
        T y = 0;                                                                                   \
        for (unsigned i = 0; i < sizeof(T) * 8; i++)                                               \
            y = (T)(y | (((x >> i) & 1) << (sizeof(T) * 8 - 1 - i)));                              \
        return y;                                                                                  \
    }                                                                                              \
    inline T select(T x, T y, bool second) {                                                       \
        return second ? y : x;                                                                     \
    }
METAL_DEVICE_INTEGER(char)
METAL_DEVICE_INTEGER(uchar)
METAL_DEVICE_INTEGER(short)
METAL_DEVICE_INTEGER(ushort)
METAL_DEVICE_INTEGER(int)
METAL_DEVICE_INTEGER(uint)
METAL_DEVICE_INTEGER(long)
METAL_DEVICE_INTEGER(ulong)

inline int abs(int x) {
    return x < 0 ? -x : x;
}
inline long abs(long x) {
    return x < 0 ? -x : x;
}
inline short abs(short x) {
    return (short)(x < 0 ? -x : x);
}
inline uint mulhi(uint x, uint y) {
    return (uint)(((ulong)x * y) >> 32);
}
inline int mulhi(int x, int y) {
    return (int)(((long)x * y) >> 32);
}
inline uint mul24(uint x, uint y) {
    return (x & 0xffffff) * (y & 0xffffff);
}
inline uint mad24(uint x, uint y, uint z) {
    return mul24(x, y) + z;
}
inline uint rotate(uint x, uint by) {
    by &= 31;
    return by ? x << by | x >> (32 - by) : x;
}
inline uint extract_bits(uint x, uint first, uint bits) {
    return bits == 0 ? 0 : (x >> first) & (bits >= 32 ? ~0u : (1u << bits) - 1);
}
inline float select(float x, float y, bool second) {
    return second ? y : x;
}
inline half select(half x, half y, bool second) {
    return second ? y : x;
}
inline bfloat select(bfloat x, bfloat y, bool second) {
    return second ? y : x;
}
template <class T, class B, int N> inline vec<T, N> select(vec<T, N> x, vec<T, N> y, vec<B, N> c) {
    vec<T, N> r;
    for (int i = 0; i < N; i++)
        r[i] = c[i] ? y[i] : x[i];
    return r;
}
template <class B, int N> inline bool all(vec<B, N> x) {
    bool r = true;
    for (int i = 0; i < N; i++)
        r = r && x[i];
    return r;
}
template <class B, int N> inline bool any(vec<B, N> x) {
    bool r = false;
    for (int i = 0; i < N; i++)
        r = r || x[i];
    return r;
}
inline bool all(bool x) {
    return x;
}
inline bool any(bool x) {
    return x;
}
} // namespace metal

#endif
