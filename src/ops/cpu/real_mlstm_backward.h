/* Inside the backward of the mLSTM: what its two sweeps share. */
#ifndef OPS_CPU_REAL_MLSTM_BACKWARD_H
#define OPS_CPU_REAL_MLSTM_BACKWARD_H

#include "ops/cpu/real_mlstm.h"

/* Slices of columns; a slice is a multiple of BLOCK. */
typedef struct cut {
    int64_t slice, slices;
} cut;

typedef struct backward {
    const cpu_mlstm_call *a;
    tables t;
    int64_t first, count; /* units of the group */
    bool fresh;           /* the first window of a sweep */
    double scale;
    int64_t window, windows;
    int64_t *window_token; /* [windows]: the first token; all sequences are alike */
    double *window_m;      /* [units][windows]: m before it */
    double *m_now, *n;     /* [units], [units][d_qk] */
    double *rho, *e, *dm;  /* [units][longest] */
    double *q_dq;          /* [units][longest]: q^T dq of a token, without what it has of itself */
    double *sum_f, *sum_m; /* [units]: gradients that run backwards through the gates */
    double *left_out;      /* [units]: of sum_f, what the upstream form has not */
    bool *empty;           /* [units]: the initial state is 0 */
    real *y_weight;        /* of a token */
    real *y_q;             /* of a piece: [y_q_size] */
    int64_t y_q_size;
    real *p_keys; /* of a token: [p_stride]; the weights of q in dk, as p is of dh in dv */
    real *
        diagonal; /* of a token: its own element of p in the first, of p_keys in the second sweep */
    real *g;      /* of a token: [d_qk]: G, and dk where it is not wanted */
    real *transposed, *state; /* [units]: C^T, then dC^T with dn; dC: packed */
    int64_t transposed_size, state_size;
    real *z; /* of a thread */
    int64_t z_size;
    cpu_rows dh;
    real *zeros; /* [d_v] */
    cut keys, values;
} backward;

static inline unit unit_of(const backward *b, int64_t index) {
    return unit_at(b->a, b->first + index);
}

/* Of what is kept of every token: that of `token`. */
static inline int64_t kept(const backward *b, int64_t index, int64_t token) {
    return index * b->a->longest + token;
}

static inline bool begins_stored(const backward *b, int64_t token) {
    return b->a->stored_states && token % b->a->chunk_size == 0;
}

typedef struct scores {
    const backward *b;
    unit u;
    int64_t index, at;
} scores;

/* Columns [first, first + count) of the packed matrix of a unit with `rows` rows. */
static inline real *packed_columns(real *packed, int64_t rows, int64_t first) {
    return packed + rows * first;
}

#define query_gates_task PER_ISA(mlstm_query_gates_task)
#define query_scores_task PER_ISA(mlstm_query_scores_task)
#define query_columns_task PER_ISA(mlstm_query_columns_task)
#define queries_task PER_ISA(mlstm_queries_task)
#define turn_task PER_ISA(mlstm_turn_task)

/* The jobs of a window of the first sweep, in this order: gates, a task a unit; scores, a task a piece;
 * columns, a task a unit and slice of keys; dq, a task a piece. Their context is a struct backward. */
void query_gates_task(void *context, int64_t index, int worker);
void query_scores_task(void *context, int64_t at, int worker);
void query_columns_task(void *context, int64_t task, int worker);
void queries_task(void *context, int64_t at, int worker);
/* Between the sweeps, a task a unit: what the gradients of the last state begin with. */
void turn_task(void *context, int64_t index, int worker);

#endif
