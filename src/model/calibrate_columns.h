/* What follows from the inputs of a matrix for its rounding (quantise_columns). */
#ifndef MODEL_CALIBRATE_COLUMNS_H
#define MODEL_CALIBRATE_COLUMNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct calibrate_window {
    int64_t first;     /* of its columns within the row */
    int64_t columns;   /* n, whole blocks */
    int64_t stride;    /* of sums, >= n */
    float *sums;       /* [n][n]: of products of column j and column k >= j; becomes
                          the carry of those, and H where k <= j, in the order of rounding */
    int64_t rows;      /* that were added up */
    int32_t *order;    /* [n]: in columns of the row */
    float *importance; /* [n] */
} calibrate_window;

size_t calibrate_work_size(int64_t columns); /* bytes */
/* Fills order, importance, carry and H. False if a sum is not finite. */
bool calibrate_columns(calibrate_window *w, double *work);

#endif
