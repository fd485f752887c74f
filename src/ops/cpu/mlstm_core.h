/* One call of the mLSTM on the CPU: what the op of the seam (mlstm.c) and the kernel library
 * (kernel_mlstm.c) both hand to the code that computes (real_mlstm_*.c), which exists for every
 * instruction set and element type. All arrays are of that type, but for C and n in the forward. */
#ifndef OPS_CPU_MLSTM_CORE_H
#define OPS_CPU_MLSTM_CORE_H

#include "base/threads.h"
#include "ops/kernels.h"

enum { CPU_LONGEST_PIECE = 256 }; /* tokens that are taken at once */

/* Row `row` of a head lies at data + sequence S + head H + row R elements. A row's elements follow
 * each other. data is NULL for what is absent. */
typedef struct cpu_rows {
    void *data;
    int64_t sequence, head, row; /* strides */
} cpu_rows;

/* Tokens [start, start + tokens) of the arrays with tokens, with the state in slot `slot`. */
typedef struct cpu_sequence {
    int64_t slot, start, tokens;
    int64_t position; /* of the first token: chunks begin at multiples of their length */
} cpu_sequence;

/* The tokens of a state that C, n and m do not hold yet (struct ops_mlstm): at position t row t mod
 * `length`. */
typedef struct cpu_ring {
    int64_t length; /* 0: there is none */
    cpu_rows k, v;
    cpu_rows i, f; /* rows of one element */
} cpu_ring;

typedef struct cpu_mlstm_call {
    thread_pool *pool;
    int threads; /* of the pool */
    const cpu_sequence *sequences;
    int64_t sequence_count, heads, d_qk, d_v;
    int64_t longest;    /* tokens of the longest sequence */
    int64_t chunk_size; /* tokens; at least 1 */
    bool sigmoid, normalize;
    bool parallel;     /* the maximum is one over tokens: m begins as -inf */
    bool round_states; /* after every piece, m up: a call may end there and another go on */
    double eps;
    cpu_rows q, k, v, h; /* rows are tokens; h may be absent */
    cpu_rows i, f;       /* rows are tokens, of one element */
    dtype state;         /* type of c0, n0, c and n; where it is narrower, c is c0 */
    cpu_ring ring;       /* belongs to c0, n0, m0 and to c, n, m, which are the same then */
    cpu_rows c0, n0, m0; /* the state before; absent: 0. c has d_qk rows of d_v, n and m one */
    cpu_rows c, n, m;    /* the state after; may be the same memory as before; may be absent */
    cpu_rows all_c, all_n,
        all_m; /* states at chunk borders: d_qk rows of c, d_qk elements of n, one
                                     of m a border; outputs of the forward, may be absent */

    /* Backward. Absent gradients of outputs are 0. */
    bool exact, stored_states; /* stored_states: all_c, all_n, all_m are inputs */
    cpu_rows dh, dc, dn, dm, dq, dk, dv, di, df, dc0, dn0, dm0;
} cpu_mlstm_call;

#endif
