/* Encoding: rows of floats into blocks of quantised values (base/blocks.h), with a search for the
 * scale (and offset) of every block. */
#ifndef FORMAT_QUANTISE_H
#define FORMAT_QUANTISE_H

#include "base/dtype.h"

/* Encodes one row of `count` values, a multiple of 32, into blocks of `type`. The scale of a block
 * is chosen to make the sum of importance[i] * (value - decoded value)^2 small, never larger than
 * with the scale that plain rounding takes; `importance` [count], none negative, may be NULL: all
 * equal. Where all importances of a block are 0 they count as equal. The result depends on nothing
 * else.
 * Returns `count`, or the index of a value that cannot be encoded: NaN, infinite, or so large that
 * the scale is no f16 (quantise_limit). */
int64_t quantise_row(dtype type, const float *values, const float *importance, int64_t count,
                     void *blocks);

/* What is known of the inputs of a matrix: H = mean of x x^T over many inputs x, within windows of
 * columns. Rounding errors e of a row cost e H e^T, so the error of one column can be made good in
 * part by the columns that are not rounded yet (Frantar et al., GPTQ, 2022). Columns are rounded a
 * block at a time. */
typedef struct quantise_columns {
    int64_t window;       /* columns [i * window, (i + 1) * window) go together; whole blocks */
    const int32_t *order; /* [count]: column order[j] is the j-th to be rounded; the 32 of a block
                                follow each other, and a window stays where it is */
    const float *importance; /* [count], of column order[j]: what an error costs after all has been
                                made good */
    const float *carry;      /* [count][window]: of the error of column order[j], how much the k-th
                                column of its window must fall; only for k after j */
    const float *h;          /* [count][window]: H of the same columns; only for k up to j, so that
                                both may be one array. NULL: rows stay as carrying leaves them */
} quantise_columns;

/* Encodes one row, with errors carried on. The scale of a block is chosen as by quantise_row, for
 * what the values have become when their block is reached, and for what of their errors is left when
 * it has made good what it can itself. Then, a few times, each value goes to the level that is best
 * with all others as they are, and each scale to its best. `work` has quantise_work_size bytes.
 * Returns what quantise_row does. */
int64_t quantise_row_carrying(dtype type, const float *values, const quantise_columns *columns,
                              int64_t count, float *work, void *blocks);
size_t quantise_work_size(int64_t count);
/* Every value up to this magnitude can be encoded. */
float quantise_limit(dtype type);

#endif
