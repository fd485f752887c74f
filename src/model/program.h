/* The program: a wiring turned into steps over a few activation buffers.
 *
 * Steps stand in the order of the wiring. A branch whose only use is to be added to (or subtracted
 * from) one other value writes that sum itself, in place where the other value is not needed again:
 * so the sequential model runs on one residual stream, as it would be written by hand. The norm in
 * front of the head is left to the head, which works on selected rows only.
 */
#ifndef MODEL_PROGRAM_H
#define MODEL_PROGRAM_H

#include "format/config.h"
#include "model/wiring.h"
#include "ops/ops.h"

enum step_kind { STEP_EMBED, STEP_MLSTM, STEP_SLSTM, STEP_FFN, STEP_SUM, STEP_NORM };

/* Numbers of values are indices of [T][D] buffers. */
typedef struct step {
    enum step_kind kind;
    int node;  /* of the wiring */
    int block; /* whose weights: branches */
    int input_count;
    int input[OPS_MAX_TERMS]; /* one, except for sums */
    int sign[OPS_MAX_TERMS];
    int residual; /* a value, or -1: a branch writes residual + branch_sign * branch */
    int branch_sign;
    int output;
} step;

typedef struct program {
    step *steps;
    int count;
    int values;     /* buffers needed */
    int head_input; /* the value that the head reads */
    bool head_norm; /* through the out norm */
} program;

/* Also checks that the nodes' `weights` name weights of this config, and reports all that do not.
 */
xlstm_status program_compile(const wiring *graph, const model_config *config, program *out);
void program_free(program *p);

#endif
