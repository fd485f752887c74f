/* What the encoders of rows share beside the search. */
#ifndef FORMAT_QUANTISE_PACK_H
#define FORMAT_QUANTISE_PACK_H

#include "base/dtype.h"

/* Writes one block; q[32] are within the levels of `type`. */
void quantise_pack(dtype type, float d, float m, const int *q, uint8_t *block);
/* Index of the first value that cannot be encoded, or `count`, a multiple of 32. */
int64_t quantise_check(dtype type, const float *values, int64_t count);

#endif
