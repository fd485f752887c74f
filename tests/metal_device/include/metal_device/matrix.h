/* simdgroup_matrix<T, 8, 8>: two elements a lane. Elements that were never set are NaN.
 * Products are formed in float; the order of the sum is that of the inner index. */
#ifndef METAL_DEVICE_MATRIX_H
#define METAL_DEVICE_MATRIX_H

namespace metal_device {
/* Which two neighbours of a row a lane holds. */
struct place {
    unsigned row, column;
};
METAL_DEVICE_UNCHECKED inline place place_of(unsigned lane) {
    unsigned quad = lane / 4;
    return {(quad & 4) + (lane / 2) % 4, (quad & 2) * 2 + (lane % 2) * 2};
}
struct operands {
    float a[2], b[2], c[2];
};
METAL_DEVICE_UNCHECKED inline void all_lanes(void *, unsigned active) {
    if (active != 32)
        metal_device_fault("a matrix of a SIMD-group with fewer than 32 lanes");
}
METAL_DEVICE_UNCHECKED inline void multiply_matrices(void *slots, unsigned active) {
    all_lanes(slots, active);
    float a[8][8], b[8][8];
    for (unsigned lane = 0; lane < 32; lane++) {
        place p = place_of(lane);
        operands &o = of<operands>(slots, lane);
        for (unsigned e = 0; e < 2; e++) {
            a[p.row][p.column + e] = o.a[e];
            b[p.row][p.column + e] = o.b[e];
        }
    }
    for (unsigned lane = 0; lane < 32; lane++) {
        place p = place_of(lane);
        operands &o = of<operands>(slots, lane);
        for (unsigned e = 0; e < 2; e++) {
            float sum = o.c[e];
            for (unsigned k = 0; k < 8; k++)
                sum += a[p.row][k] * b[k][p.column + e];
            o.c[e] = sum;
        }
    }
}
METAL_DEVICE_UNCHECKED inline void together(const char *what, const char *file, int line) {
    meet<int>(all_lanes, 0, what, file, line);
}
} // namespace metal_device

namespace metal {
template <class T, int Columns, int Rows = Columns> struct simdgroup_matrix {
    static_assert(Columns == 8 && Rows == 8, "matrices of SIMD-groups are 8 x 8");
    typedef vec<T, 2> storage_type;
    storage_type element;

    METAL_DEVICE_UNCHECKED simdgroup_matrix() {
        element = (storage_type)(T)__builtin_nanf("");
    }
    METAL_DEVICE_UNCHECKED explicit simdgroup_matrix(T diagonal) {
        metal_device::place p = metal_device::place_of(metal_device_lane());
        element[0] = p.row == p.column ? diagonal : (T)0;
        element[1] = p.row == p.column + 1 ? diagonal : (T)0;
    }
    thread storage_type &thread_elements() {
        return element;
    }
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;

template <class T, int C, int R>
inline simdgroup_matrix<T, C, R> make_filled_simdgroup_matrix(T x) {
    simdgroup_matrix<T, C, R> m;
    m.element = (vec<T, 2>)x;
    return m;
}

#define METAL_DEVICE_MATRIX_MEMORY(space)                                                          \
    template <class T>                                                                             \
    inline void simdgroup_load(thread simdgroup_matrix<T, 8, 8> &m, const space T *from,           \
                               ulong per_row = 8, ulong2 origin = {0, 0}, bool transpose = false,  \
                               METAL_DEVICE_HERE) {                                                \
        metal_device::together("simdgroup_load", file, line);                                      \
        metal_device::place p = metal_device::place_of(metal_device_lane());                       \
        for (uint e = 0; e < 2; e++) {                                                             \
            ulong row = p.row, column = p.column + e;                                              \
            m.element[e] = transpose ? from[(column + origin.y) * per_row + row + origin.x]        \
                                     : from[(row + origin.y) * per_row + column + origin.x];       \
        }                                                                                          \
    }
#define METAL_DEVICE_MATRIX_STORE(space)                                                           \
    template <class T>                                                                             \
    inline void simdgroup_store(simdgroup_matrix<T, 8, 8> m, space T *to, ulong per_row = 8,       \
                                ulong2 origin = {0, 0}, bool transpose = false,                    \
                                METAL_DEVICE_HERE) {                                               \
        metal_device::together("simdgroup_store", file, line);                                     \
        metal_device::place p = metal_device::place_of(metal_device_lane());                       \
        for (uint e = 0; e < 2; e++) {                                                             \
            ulong row = p.row, column = p.column + e;                                              \
            if (transpose)                                                                         \
                to[(column + origin.y) * per_row + row + origin.x] = m.element[e];                 \
            else                                                                                   \
                to[(row + origin.y) * per_row + column + origin.x] = m.element[e];                 \
        }                                                                                          \
    }
METAL_DEVICE_MATRIX_MEMORY(device)
METAL_DEVICE_MATRIX_STORE(device)
#ifdef METAL_DEVICE_TYPES
METAL_DEVICE_MATRIX_MEMORY(threadgroup)
METAL_DEVICE_MATRIX_STORE(threadgroup)
#endif

template <class D, class A, class B, class C>
METAL_DEVICE_UNCHECKED inline void
simdgroup_multiply_accumulate(thread simdgroup_matrix<D, 8, 8> &d, simdgroup_matrix<A, 8, 8> a,
                              simdgroup_matrix<B, 8, 8> b, simdgroup_matrix<C, 8, 8> c,
                              METAL_DEVICE_HERE) {
    metal_device::operands mine = {{(float)a.element[0], (float)a.element[1]},
                                   {(float)b.element[0], (float)b.element[1]},
                                   {(float)c.element[0], (float)c.element[1]}};
    mine = metal_device::meet<metal_device::operands>(metal_device::multiply_matrices, mine,
                                                      "simdgroup_multiply_accumulate", file, line);
    d.element[0] = (D)mine.c[0];
    d.element[1] = (D)mine.c[1];
}
template <class D, class A, class B>
METAL_DEVICE_UNCHECKED inline void
simdgroup_multiply(thread simdgroup_matrix<D, 8, 8> &d, simdgroup_matrix<A, 8, 8> a,
                   simdgroup_matrix<B, 8, 8> b, METAL_DEVICE_HERE) {
    simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<D, 8, 8>((D)0), file, line);
}
} // namespace metal

#endif
