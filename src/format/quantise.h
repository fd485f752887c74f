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
/* Every value up to this magnitude can be encoded. */
float quantise_limit(dtype type);

#endif
