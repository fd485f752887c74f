/* From H = mean(x^T x) to the order in which columns are rounded, and what the later ones make good.
 *
 * If column j of a row is off by e and the columns F after it are still free, the best they can do
 * is to change by -e H_jF H_FF^-1; what is left is e^2 (H_jj - H_jF H_FF^-1 H_Fj). For all j at once
 * both come from one factor H = R R^T with R upper triangular: the errors of a row cost
 * e H e^T = |e R|^2, whose first term has the first column alone.
 *
 * Blocks with the largest squares come first: what they lose can be made good by many, and those
 * that come last, with nobody after them, count least. */
#include "model/calibrate_columns.h"

#include <math.h>
#include <string.h>

#include "base/blocks.h"

size_t calibrate_work_size(int64_t columns) {
    return (size_t)(columns * columns + columns) * sizeof(double);
}

static double block_sum(const calibrate_window *w, int64_t first) {
    double sum = 0;
    for (int64_t j = first; j < first + BLOCK_ELEMENTS; j++)
        sum += (double)w->sums[j * w->stride + j];
    return sum;
}

/* Sorts blocks by insertion: equal ones stay in their order. The columns of a block stay in theirs:
 * the search for its scale sees to them. */
static void choose_order(calibrate_window *w, double *sums) {
    int64_t blocks = w->columns / BLOCK_ELEMENTS;
    for (int64_t b = 0; b < blocks; b++) {
        double sum = block_sum(w, b * BLOCK_ELEMENTS);
        int64_t at = b;
        for (; at > 0 && sums[at - 1] < sum; at--) {
            sums[at] = sums[at - 1];
            w->order[at * BLOCK_ELEMENTS] = w->order[(at - 1) * BLOCK_ELEMENTS];
        }
        sums[at] = sum;
        w->order[at * BLOCK_ELEMENTS] = (int32_t)(w->first + b * BLOCK_ELEMENTS);
    }
    for (int64_t j = 0; j < w->columns; j++)
        w->order[j] = w->order[j / BLOCK_ELEMENTS * BLOCK_ELEMENTS] + (int32_t)(j % BLOCK_ELEMENTS);
}

/* H in the order of rounding, its upper triangle. A hundredth of the mean square of all columns is
 * added to each: what was measured on few tokens is not relied upon too far, and columns that were
 * always 0 do no harm. */
static bool load(const calibrate_window *w, double *h) {
    int64_t n = w->columns;
    double trace = 0;
    for (int64_t j = 0; j < n; j++) {
        for (int64_t k = j; k < n; k++) {
            int64_t a = w->order[j] - w->first, b = w->order[k] - w->first;
            double sum = (double)(a < b ? w->sums[a * w->stride + b] : w->sums[b * w->stride + a]);
            h[j * n + k] = sum / (double)w->rows;
        }
        trace += h[j * n + j];
    }
    double mean = trace / (double)n;
    double extra = mean > 1e-30 ? mean / 100 : 1; /* H becomes float, and must not vanish */
    for (int64_t j = 0; j < n; j++)
        h[j * n + j] += extra;
    return isfinite(trace);
}

/* H = R R^T with R upper triangular, in place of H's upper triangle; `h` is [n][n]. */
static void factor(double *h, int64_t n) {
    for (int64_t j = n - 1; j >= 0; j--) {
        double *own = h + j * n;
        for (int64_t k = j + 1; k < n; k++)
            own[j] -= own[k] * own[k];
        own[j] = sqrt(own[j]);
        for (int64_t i = 0; i < j; i++) {
            double *other = h + i * n, sum = other[j];
            for (int64_t k = j + 1; k < n; k++)
                sum -= other[k] * own[k];
            other[j] = sum / own[j];
        }
    }
}

/* Row j of the inverse of R is, over its first element, how much of an error in column j each later
 * column makes good; what is left is R[j][j]^2 times the square of the error. `row` is [n]. */
static void carry_of_row(const double *r, int64_t n, int64_t j, double *row, float *carry,
                         float *importance) {
    memset(row, 0, (size_t)n * sizeof *row);
    *importance = (float)(r[j * n + j] * r[j * n + j]);
    for (int64_t l = j; l < n; l++) {
        row[l] = l == j ? 1 : -row[l] / r[l * n + l];
        if (l > j)
            carry[l] = (float)row[l];
        for (int64_t k = l + 1; k < n; k++)
            row[k] += row[l] * r[l * n + k];
    }
}

bool calibrate_columns(calibrate_window *w, double *work) {
    int64_t n = w->columns;
    choose_order(w, work);
    if (!load(w, work))
        return false;
    for (int64_t j = 0; j < n; j++)
        for (int64_t k = 0; k <= j; k++)
            w->sums[j * w->stride + k] = (float)work[k * n + j];
    factor(work, n);
    for (int64_t j = 0; j < n; j++)
        carry_of_row(work, n, j, work + n * n, w->sums + j * w->stride, &w->importance[j]);
    return true;
}
