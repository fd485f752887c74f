/* Arguments of the kernels of the mLSTM, all of which take the same struct. */
#ifndef OPS_METAL_MLSTM_ARGUMENTS_H
#define OPS_METAL_MLSTM_ARGUMENTS_H

#if !defined(__METAL_VERSION__)
#include <stdint.h>
typedef uint32_t uint;
#endif

enum {
    MLSTM_THREADS = 256,   /* of a threadgroup */
    MLSTM_QUADS = 16,      /* of columns of C in a threadgroup: a quad is 4 */
    MLSTM_COLUMNS = 64,    /* of C in a threadgroup */
    MLSTM_ROW_GROUPS = 16, /* rows of C are dealt to so many threads of a quad */
    MLSTM_LONGEST = 64,    /* terms: tokens of a chunk, or of a ring */
    MLSTM_SHORTEST = 16,   /* tokens of a chunk that is cut into chunks */
    MLSTM_TABLE = 8        /* floats of a token and head in the tables: enum mlstm_table */
};

/* What the kernel of the gates leaves to those of the scores and columns, and these to the columns. */
enum mlstm_table {
    MLSTM_FORGET,  /* log of F */
    MLSTM_INPUT,   /* log of I */
    MLSTM_MAXIMUM, /* m, the sum of two floats */
    MLSTM_REST,    /* the second of them */
    MLSTM_WRITE,   /* weight of the token in C after its chunk */
    MLSTM_KEEP,    /* of a chunk's first token: weight of C before the chunk in C after it */
    MLSTM_CARRIED, /* weight of C before the chunk in h */
    MLSTM_DIVISOR  /* of h; 0: h is 0; negative: NaN */
};

/* Which tokens of a sequence a dispatch takes: those that fill up a ring, whole rings behind them, the
 * rest; or all. */
enum mlstm_span { MLSTM_ALL, MLSTM_LEAD, MLSTM_BODY, MLSTM_TAIL };

/* Firsts, and strides of which `slot`, `token`, `head`, `row` are the dimension: all in elements. */
typedef struct mlstm_arguments {
    uint heads, d_qk, d_v;
    uint ring;           /* R; 1: there is none */
    uint chunk;          /* tokens */
    uint span;           /* enum mlstm_span */
    uint wide_c, wide_v; /* quads of C, of v are aligned */
    float eps, scale;    /* 1 / sqrt(d_qk) */
    uint q_first, k_first, v_first, i_first, f_first, h_first;
    uint c_first, n_first, m_first;
    uint ring_k_first, ring_v_first, ring_i_first, ring_f_first;
    uint slot_first, start_first, position_first;
    uint tables_first, borders_first, scores_first;
    uint q_token, q_head, k_token, k_head, v_token, v_head, h_token, h_head, i_token, f_token;
    uint c_slot, c_head, c_row, n_slot, n_head, m_slot;
    uint ring_k_slot, ring_k_head, ring_k_row, ring_v_slot, ring_v_head, ring_v_row;
    uint ring_i_slot, ring_i_head, ring_f_slot, ring_f_head;
    uint zero; /* 0, which no compiler knows (gates.h) */
} mlstm_arguments;

#endif
