/* Rows and packed blocks of C and n in the types that states are stored in. */
#include "ops/cpu/real_mlstm.h"
#include "ops/cpu/real_state.h"

typedef void row_function(const dtype, char *, int64_t, real *);

ALWAYS_INLINE void widen_row(const dtype type, char *row, int64_t count, real *values) {
    for (int64_t i = 0; i < count; i += LANES)
        store_some(values + i, load_state_some(type, row + i * state_size(type), count - i),
                   count - i);
}

ALWAYS_INLINE void narrow_row(const dtype type, char *row, int64_t count, real *values) {
    for (int64_t i = 0; i < count; i += LANES)
        store_state_some(type, row + i * state_size(type), load_optional(values, i, count - i),
                         count - i);
}

ALWAYS_INLINE void with_type(row_function *function, dtype type, char *row, int64_t count,
                             real *values) {
    if (type == DTYPE_BF16)
        function(DTYPE_BF16, row, count, values);
    else if (type == DTYPE_F16)
        function(DTYPE_F16, row, count, values);
    else
        function((dtype)STATE_REAL, row, count, values);
}

static void widen(dtype type, const void *row, int64_t count, real *values) {
    with_type(widen_row, type, (char *)(uintptr_t)row, count, values);
}

static void narrow(dtype type, const real *values, int64_t count, void *row) {
    with_type(narrow_row, type, row, count, (real *)(uintptr_t)values);
}

enum { SOME = 4 * LANES };

void read_row(dtype type, const void *row, int64_t count, double *values) {
    real some[SOME];
    for (int64_t i = 0; i < count; i += SOME) {
        int64_t left = count - i < SOME ? count - i : SOME;
        widen(type, (const char *)row + i * (int64_t)dtype_size(type), left, some);
        for (int64_t j = 0; j < left; j++)
            values[i + j] = (double)some[j];
    }
}

void write_row(dtype type, const double *values, int64_t count, void *row) {
    real some[SOME];
    for (int64_t i = 0; i < count; i += SOME) {
        int64_t left = count - i < SOME ? count - i : SOME;
        for (int64_t j = 0; j < left; j++)
            some[j] = (real)values[i + j];
        narrow(type, some, left, (char *)row + i * (int64_t)dtype_size(type));
    }
}

void pack_state(dtype type, const void *p, int64_t stride, int64_t rows, int64_t columns,
                real *packed) {
    if (type == (dtype)STATE_REAL) {
        pack(p, stride, rows, columns, packed);
        return;
    }
    int64_t size = (int64_t)dtype_size(type);
    for (int64_t column = 0; column < columns; column += BLOCK) {
        int64_t count = columns - column < BLOCK ? columns - column : BLOCK;
        int64_t width = round_up(count, LANES);
        for (int64_t r = 0; r < rows; r++, packed += width) {
            widen(type, (const char *)p + (r * stride + column) * size, count, packed);
            for (int64_t i = count; i < width; i++)
                packed[i] = 0;
        }
    }
}

void unpack_state(dtype type, const real *packed, int64_t rows, int64_t columns, void *p,
                  int64_t stride) {
    if (type == (dtype)STATE_REAL) {
        unpack(packed, rows, columns, p, stride);
        return;
    }
    int64_t size = (int64_t)dtype_size(type);
    for (int64_t column = 0; column < columns; column += BLOCK) {
        int64_t count = columns - column < BLOCK ? columns - column : BLOCK;
        int64_t width = round_up(count, LANES);
        for (int64_t r = 0; r < rows; r++, packed += width)
            narrow(type, packed, count, (char *)p + (r * stride + column) * size);
    }
}

void round_to_type(dtype type, int64_t count, real *values) {
    char bytes[SOME * sizeof(real)];
    if (type == (dtype)STATE_REAL)
        return;
    for (int64_t i = 0; i < count; i += SOME) {
        int64_t left = count - i < SOME ? count - i : SOME;
        narrow(type, values + i, left, bytes);
        widen(type, bytes, left, values + i);
    }
}
