/* The gates of a piece of tokens in two-float arithmetic: everything about a piece that is known
 * without touching C and n. */
#ifndef OPS_CPU_MLSTM_COMPENSATED_H
#define OPS_CPU_MLSTM_COMPENSATED_H

#include <stdbool.h>

#include "ops/two_float.h"

enum { COMPENSATED_PIECE = 64 }; /* most tokens of a piece */

/* The weight of token l in token j >= l is exp(row[j] - column[l]), and 0 for l < begin[j]. */
typedef struct compensated_gates {
    two_float row[COMPENSATED_PIECE], column[COMPENSATED_PIECE];
    two_float inter[COMPENSATED_PIECE]; /* the weight of the state before the piece */
    two_float floor[COMPENSATED_PIECE]; /* exp(-m); 1 with the sigmoid input gate */
    int begin[COMPENSATED_PIECE];
    float write[COMPENSATED_PIECE]; /* the weight of a token in the state after the piece */
    two_float keep;                 /* that of the state before it */
} compensated_gates;

/* i, f: pre-activations of `tokens` tokens; m is carried along (sigmoid input gate: stays 0). */
void compensated_gates_of(bool sigmoid, const float *i, const float *f, int tokens, two_float *m,
                          compensated_gates *gates);
float compensated_weight(const compensated_gates *gates, int j, int l, two_float score);

#endif
