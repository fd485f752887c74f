/* What a token is to an earlier one: products of rows, and the weights that the gates give them. */
#include "ops/cpu/real_mlstm.h"

enum { SCORE_ROWS = REGISTERS == 32 ? 8 : 4, SCORE_COLUMNS = REGISTERS == 32 ? 3 : 2 };

typedef vec score_sums[SCORE_ROWS][SCORE_COLUMNS];

ALWAYS_INLINE void score_add(score_sums sums, const real *const *x, const real *const *y, int64_t i,
                             const bool part, int64_t count) {
    vec b[SCORE_COLUMNS];
    UNROLL
    for (int c = 0; c < SCORE_COLUMNS; c++)
        b[c] = part ? load_part(y[c] + i, count) : load(y[c] + i);
    UNROLL
    for (int r = 0; r < SCORE_ROWS; r++) {
        vec a = part ? load_part(x[r] + i, count) : load(x[r] + i);
        UNROLL
        for (int c = 0; c < SCORE_COLUMNS; c++)
            sums[r][c] = fused(a, b[c], sums[r][c]);
    }
}

/* Vectors run along the rows; past the last row it stands in for those that are not there. */
static void score_tile(int held, int tokens, int first, int column, int64_t width, const real *x,
                       int64_t x_stride, const real *y, int64_t y_stride, real *z,
                       int64_t z_stride) {
    const real *rows[SCORE_ROWS], *columns[SCORE_COLUMNS];
    for (int r = 0; r < SCORE_ROWS; r++)
        rows[r] = x + ((first + r < tokens ? first + r : tokens - 1) - held) * x_stride;
    for (int c = 0; c < SCORE_COLUMNS; c++)
        columns[c] = y + (column + c < tokens ? column + c : tokens - 1) * y_stride;
    score_sums sums;
    UNROLL
    for (int r = 0; r < SCORE_ROWS; r++) {
        UNROLL
        for (int c = 0; c < SCORE_COLUMNS; c++)
            sums[r][c] = (vec){0};
    }
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES)
        score_add(sums, rows, columns, i, false, LANES);
    if (i < width)
        score_add(sums, rows, columns, i, true, width - i);
    for (int c = 0; c < SCORE_COLUMNS && column + c < tokens; c++) {
        real products[SCORE_ROWS];
        UNROLL
        for (int r = 0; r < SCORE_ROWS; r += 4)
            store_folds(products + r, sums[r][c], sums[r + 1][c], sums[r + 2][c], sums[r + 3][c]);
        for (int r = 0; r < SCORE_ROWS && first + r < tokens; r++)
            z[(first + r) * z_stride + column + c] = products[r];
    }
}

void raw_scores(int held, int tokens, int64_t width, const real *x, int64_t x_stride, const real *y,
                int64_t y_stride, real *z, int64_t z_stride) {
    for (int first = held; first < tokens; first += SCORE_ROWS)
        for (int column = 0; column < first + SCORE_ROWS && column < tokens;
             column += SCORE_COLUMNS)
            score_tile(held, tokens, first, column, width, x, x_stride, y, y_stride, z, z_stride);
}

/* exponent[l] += log_f;  argument[l] = exponent[l] - top, as the type of the arrays. */
ALWAYS_INLINE void next_exponents(double *exponent, int count, double log_f, double top,
                                  real *argument) {
    for (int l = 0; l < count; l++) {
        exponent[l] += log_f;
        argument[l] = (real)(exponent[l] - top);
    }
}

/* The exponent D~_tl = log_i_l + sum of log_f over tokens l + 1 .. t is a sum of its own for every l:
 * differences of prefix sums would lose digits, and give -inf - -inf. */
void weigh_scores(const tables *t, int64_t at, score_row *row, void *context) {
    double exponent[CPU_LONGEST_PIECE];
    real weights[CPU_LONGEST_PIECE + LANES] = {0};
    int64_t first = at * t->length;
    for (int j = 0; j < terms_of(&t->piece[at]); j++) {
        double top = t->top[first + j];
        next_exponents(exponent, j, t->log_f[first + j], top, weights);
        exponent[j] = t->log_i[first + j];
        weights[j] = (real)(exponent[j] - top);
        if (j < t->piece[at].held)
            continue;
        bool empty = top == -INFINITY;
        for (int l = 0; l <= j; l += LANES) {
            vec weight = {0};
            if (!empty)
                weight = exp_vec(load(weights + l));
            store(weights + l, weight);
        }
        row(context, first + j, weights);
    }
}
