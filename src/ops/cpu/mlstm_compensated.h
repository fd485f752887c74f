/* What the files of the compensated mLSTM share: the gates in two-float arithmetic, of a piece of
 * tokens (everything about it that is known without touching C and n) or of one, and the backward. */
#ifndef OPS_CPU_MLSTM_COMPENSATED_H
#define OPS_CPU_MLSTM_COMPENSATED_H

#include <stdbool.h>

#include "base/threads.h"
#include "ops/kernels.h"
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
/* The weights of one token, forward through the tokens like m. */
typedef struct compensated_token {
    two_float keep, write; /* F and I: of the state before it, and of what it stores itself */
    bool stored_anew;      /* m is its input gate */
} compensated_token;

compensated_token compensated_token_of(bool sigmoid, float i, float f, two_float *m);
/* m before the first token. */
two_float compensated_begin(const kernel_call *call, int64_t batch, int64_t head);
float compensated_weight(const compensated_gates *gates, int j, int l, two_float score);

xlstm_status compensated_backward(const kernel_call *call, thread_pool *pool);

#endif
