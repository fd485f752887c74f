/* Products of small matrices: rows of b are weighed by the elements of a and added up. Every
 * element of the result is a sum of its own in a fixed order, whatever the tiles are. */
#include "ops/cpu/vector.h"

enum { TILE_ROWS = 4, TILE_VECTORS = REGISTERS == 32 ? 4 : 2 };

/* A block of terms for `rows` rows and `vectors` vectors of columns; both are constants wherever
 * this is inlined. b points to the first term and column of the block. */
ALWAYS_INLINE void tile(const real *a, int64_t a_row, int64_t a_term, const real *b,
                        int64_t b_stride, real *z, int64_t z_stride, int64_t terms, int rows,
                        int vectors, int64_t columns, bool add) {
    vec sum[TILE_ROWS][TILE_VECTORS] = {{{0}}};
    for (int64_t k = 0; k < terms; k++, a += a_term, b += b_stride) {
        vec row[TILE_VECTORS];
        UNROLL
        for (int v = 0; v < vectors; v++)
            row[v] = load(b + v * LANES);
        UNROLL
        for (int r = 0; r < rows; r++) {
            vec weight = splat(a[r * a_row]);
            UNROLL
            for (int v = 0; v < vectors; v++)
                sum[r][v] = fused(weight, row[v], sum[r][v]);
        }
    }
    for (int r = 0; r < rows; r++, z += z_stride)
        for (int v = 0; v < vectors; v++) {
            int64_t left = columns - v * LANES;
            vec before = add ? load_optional(z, v * LANES, left) : (vec){0};
            store_some(z + v * LANES, before + sum[r][v], left);
        }
}

/* All rows of one strip of columns. */
ALWAYS_INLINE void strip(const cpu_combine *c, int64_t term, int64_t terms, int64_t column,
                         const real *b, int64_t b_stride, int vectors, int64_t columns, bool add) {
    int64_t i = 0;
    const real *a = (const real *)c->a + term * c->a_term;
    real *z = (real *)c->z + column;
    for (; i + TILE_ROWS <= c->rows; i += TILE_ROWS)
        tile(a + i * c->a_row, c->a_row, c->a_term, b, b_stride, z + i * c->z_stride, c->z_stride,
             terms, TILE_ROWS, vectors, columns, add);
    for (; i < c->rows; i++)
        tile(a + i * c->a_row, c->a_row, c->a_term, b, b_stride, z + i * c->z_stride, c->z_stride,
             terms, 1, vectors, columns, add);
}

/* The last columns, filled up with zeros to a vector. */
static void last_strip(const cpu_combine *c, int64_t term, int64_t terms, int64_t column,
                       bool add) {
    real packed[CPU_COMBINE_BLOCK * LANES];
    memset(packed, 0, (size_t)terms * LANES * sizeof *packed);
    const real *b = c->b;
    int64_t columns = c->columns - column;
    for (int64_t k = 0; k < terms; k++)
        for (int64_t j = 0; j < columns; j++)
            packed[k * LANES + j] = b[(term + k) * c->b_stride + column + j];
    strip(c, term, terms, column, packed, LANES, 1, columns, add);
}

void PER_ISA(cpu_combine)(const cpu_combine *c) {
    for (int64_t term = 0; term < c->terms; term += CPU_COMBINE_BLOCK) {
        int64_t left = c->terms - term, terms = left < CPU_COMBINE_BLOCK ? left : CPU_COMBINE_BLOCK;
        bool add = c->add || term > 0;
        const real *b = (const real *)c->b + term * c->b_stride;
        int64_t j = 0;
        for (; j + TILE_VECTORS * LANES <= c->columns; j += TILE_VECTORS * LANES)
            strip(c, term, terms, j, b + j, c->b_stride, TILE_VECTORS, TILE_VECTORS * LANES, add);
        for (; j + LANES <= c->columns; j += LANES)
            strip(c, term, terms, j, b + j, c->b_stride, 1, LANES, add);
        if (j < c->columns)
            last_strip(c, term, terms, j, add);
    }
}
