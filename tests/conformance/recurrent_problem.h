/* Problems of the ops that carry a state beside the mLSTM's: the causal convolution, the sLSTM and
 * the LSTM. */
#ifndef CONFORMANCE_RECURRENT_PROBLEM_H
#define CONFORMANCE_RECURRENT_PROBLEM_H

#include "conformance/side.h"

enum { RECURRENT_MOST_SEQUENCES = 19 };

typedef struct recurrent_shape {
    int sequences;
    int lengths[RECURRENT_MOST_SEQUENCES];
    int heads;
    int64_t size; /* of a head; heads * size channels of the convolution */
    int taps;
} recurrent_shape;

enum recurrent_gates {
    GATES_NORMAL,
    GATES_CAPPED,  /* up to +-15 */
    GATES_WIDE,    /* up to +-100 */
    GATES_EXTREME, /* now and then i = -inf, f = +-inf */
    GATES_EQUAL,   /* all the same */
    GATES_KEPT     /* what the first token stores is kept almost as it is, under a large m */
};

typedef struct recurrent_problem {
    const recurrent_shape *shape;
    uint64_t seed;
    enum recurrent_gates gates;
    bool lstm, empty; /* states begin as 0 */
    double clip;
    double
        poison; /* where it is not 0: the input gate of a token and unit, or with `closed` what that */
    bool closed; /* gate would let in, while it is -inf */
    int64_t poisoned_token, poisoned_unit;
    enum ops_activation activation;
    bool bias;
} recurrent_problem;

/* The part of a problem's tokens that one call takes: of each of `count` sequences, from sequence
 * `first` on, the tokens [from, to) (to: 0 is its end). */
typedef struct recurrent_part {
    int first, count;
    int64_t from, to;
} recurrent_part;

ops_limits recurrent_limits(const recurrent_shape *shape);
int64_t recurrent_tokens(const recurrent_shape *shape);
/* Where the states of a sequence are. */
int32_t recurrent_slot(const recurrent_shape *shape, int sequence);

/* Everything of a problem on a side, ready to be run in parts. */
typedef struct recurrent_tensors {
    const recurrent_problem *problem;
    bool conv;
    ops_tensor x;   /* [T][width] or, i, f, z, o side by side, [T][4 * width] */
    ops_tensor out; /* [T][width] */
    ops_tensor weight, bias, state[4];
} recurrent_tensors;

recurrent_tensors recurrent_place_conv(side *s, const recurrent_problem *p);
recurrent_tensors recurrent_place_slstm(side *s, const recurrent_problem *p);
void recurrent_run(side *s, const recurrent_tensors *t, const recurrent_part *part);

#endif
