/* Products and lengths of vectors. */
#ifndef METAL_DEVICE_GEOMETRIC_H
#define METAL_DEVICE_GEOMETRIC_H

namespace metal {
template <class T, int N> inline T dot(vec<T, N> x, vec<T, N> y) {
    T sum = x[0] * y[0];
    for (int i = 1; i < N; i++)
        sum += x[i] * y[i];
    return sum;
}
template <class T, int N> inline T length_squared(vec<T, N> x) {
    return dot(x, x);
}
template <class T, int N> inline T length(vec<T, N> x) {
    return sqrt(dot(x, x));
}
template <class T, int N> inline T distance(vec<T, N> x, vec<T, N> y) {
    return length(x - y);
}
template <class T, int N> inline vec<T, N> normalize(vec<T, N> x) {
    return x * rsqrt(dot(x, x));
}
template <class T> inline vec<T, 3> cross(vec<T, 3> x, vec<T, 3> y) {
    return x.yzx * y.zxy - x.zxy * y.yzx;
}
} // namespace metal

#endif
