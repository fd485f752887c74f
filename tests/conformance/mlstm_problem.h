/* A problem for the mLSTM: gates, queries, keys, values of several sequences and the states they
 * start from, to be run whole, in pieces, or one sequence alone. */
#ifndef CONFORMANCE_MLSTM_PROBLEM_H
#define CONFORMANCE_MLSTM_PROBLEM_H

#include "conformance/side.h"

enum { MLSTM_MAX_SEQUENCES = 8 };

typedef struct mlstm_shape {
    int sequences;
    int64_t length[MLSTM_MAX_SEQUENCES], position[MLSTM_MAX_SEQUENCES];
    int heads;
    int64_t d_qk, d_v;
} mlstm_shape;

/* Arrays are dense; tokens are packed sequence by sequence. State arrays have a row a slot. */
typedef struct mlstm_problem {
    mlstm_shape shape;
    int64_t start[MLSTM_MAX_SEQUENCES + 1];
    int slots;
    int32_t slot[MLSTM_MAX_SEQUENCES];
    double eps;
    dtype state;       /* of C and n; DTYPE_F64 (0): the activation's */
    int deferred;      /* with a ring that holds padding, and NaN for keys and values */
    bool halves;       /* q, k, v and h are bf16, at multiples of 16 bytes */
    double *q, *k, *v; /* [tokens][heads][d] */
    double *i, *f;     /* [tokens][heads] */
    double *c, *n, *m; /* [slots][heads]… */
} mlstm_problem;

typedef struct mlstm_result {
    double *h;         /* [tokens][heads][d_v] */
    double *c, *n, *m; /* [slots][heads]… */
} mlstm_result;

/* Values rounded to `type`. Slots are given out in an odd order, and one is left over. */
mlstm_problem mlstm_problem_make(const mlstm_shape *shape, dtype type, uint64_t seed);
void mlstm_problem_free(mlstm_problem *p);
ops_limits mlstm_limits(const mlstm_shape *shape);

/* Places states and tokens on a side and runs them in one op; states and h become outputs of the
 * side. */
void mlstm_place_and_run(side *s, const mlstm_problem *p, int chunk_size);

/* How to run: cut at these absolute positions (rising), or only one sequence. */
typedef struct mlstm_plan {
    int chunk_size;
    const int64_t *cuts;
    int cut_count;
    bool every_token; /* instead of cuts */
    int only;         /* sequence, or -1 */
} mlstm_plan;

mlstm_result mlstm_run(const setting *as, bool exact, const mlstm_problem *p,
                       const mlstm_plan *plan);
void mlstm_result_free(mlstm_result *r);

/* The largest relative error over h, c, n, m. */
double mlstm_error(const mlstm_problem *p, const mlstm_result *r, const mlstm_result *exact);
/* Bit by bit; sequence -1: all. */
bool mlstm_equal(const mlstm_problem *p, const mlstm_result *a, const mlstm_result *b,
                 int sequence);

#endif
