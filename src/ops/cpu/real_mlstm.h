/* Inside the mLSTM of the CPU: what real_mlstm_*.c share.
 *
 * A unit is a head of a sequence. Its tokens are taken in pieces, stretches of at most `length`
 * tokens within a chunk; a window is a few pieces of each of a group of units, and all that is kept
 * between the jobs of a window are tables of a bounded size, however long the sequences are. Where C
 * and n are stored in a narrower type, they are computed with as `real` all the same.
 *
 * Everything that touches a matrix state is one and the same sweep over the pieces (tiles.c):
 *     o_t = inter_t x_t^T S + sum over l of p_tl z_l,     S <- keep S + sum over l of y_l z_l^T
 *   forward:              x q   y I k    z v    S C      l <= t
 *   backward, dq:         x dh  y I v    z k    S C^T    l <= t
 *   backward, dk:         x v   y dh     z q    S dC^T   l >= t, pieces from the last to the first
 *   backward, dv:         x k   y q      z dh   S dC     l >= t
 * The columns of S, which are those of z and o, never meet: they are cut up for the threads at will.
 */
#ifndef OPS_CPU_REAL_MLSTM_H
#define OPS_CPU_REAL_MLSTM_H

#include "ops/cpu/mlstm_core.h"
#include "ops/cpu/vector.h"

enum {
    TILE_ROWS = REGISTERS == 32 ? 8 : 4,
    TILE_VECTORS = 3,
    BLOCK = TILE_VECTORS * LANES, /* columns of a block of a packed matrix */
    WINDOW_ROWS = 8192            /* tokens of all units of a window, unless one piece is more */
};

typedef struct unit {
    const cpu_mlstm_call *a;
    const cpu_sequence *sequence;
    int64_t head;
} unit;

static inline unit unit_at(const cpu_mlstm_call *a, int64_t index) {
    return (unit){a, &a->sequences[index / a->heads], index % a->heads};
}

/* Row `t` of an array with tokens, and row `row` of a state. */
static inline real *token_row(const cpu_rows *rows, const unit *u, int64_t t) {
    int64_t slot = rows->sequence * (u->sequence - u->a->sequences);
    return (real *)rows->data + slot + u->head * rows->head + (u->sequence->start + t) * rows->row;
}

static inline int64_t state_element(const cpu_rows *rows, const unit *u, int64_t row) {
    return u->sequence->slot * rows->sequence + u->head * rows->head + row * rows->row;
}

static inline real *state_row(const cpu_rows *rows, const unit *u, int64_t row) {
    return (real *)rows->data + state_element(rows, u, row);
}

/* Of C or n, whose type may be narrower. */
static inline char *typed_row(const cpu_rows *rows, const unit *u, int64_t row) {
    return (char *)rows->data + state_element(rows, u, row) * (int64_t)dtype_size(u->a->state);
}

/* With a ring, a piece of less tokens than it holds has its keys, values and gates there: first those
 * that were `held` before, then its own. All of them are the terms of its sums. */
typedef struct piece {
    int64_t first; /* token of the sequence: the first of its own */
    int tokens;    /* its own; 0: there is no piece */
    int held;
    bool ring;
    bool folds; /* the state becomes the one after it */
} piece;

static inline int terms_of(const piece *p) {
    return p->held + p->tokens;
}

/* Row of the first term in an array with tokens, or in its ring; and from one row to the next. */
static inline const real *term_rows(const cpu_rows *rows, const cpu_rows *ring, const unit *u,
                                    const piece *p) {
    return p->ring ? state_row(ring, u, 0) : token_row(rows, u, p->first);
}

static inline int64_t term_stride(const cpu_rows *rows, const cpu_rows *ring, const piece *p) {
    return p->ring ? ring->row : rows->row;
}

/* The tables of a window. What is of a token has the index (unit * pieces + piece) * length + term,
 * `unit` being counted in the group; what is of a piece, unit * pieces + piece. */
typedef struct tables {
    int64_t units;  /* most of a group */
    int64_t pieces; /* of a unit in a window */
    int length;     /* most terms of a piece */
    int64_t p_stride;
    int64_t rows, all_pieces; /* room in the tables, at least units * pieces (* length) */

    piece *piece;
    int64_t *next;              /* [units]: the first token that is in no window yet */
    double *m_before, *m_after; /* of a piece */
    double *log_i, *log_f;
    double *top;           /* m of each token */
    double *carried;       /* weight of the state before the piece in each token */
    real *write;           /* weight of each token in the state after the piece */
    bool *used;            /* log_i is not -inf */
    real *keep;            /* of a piece: the weight of the state before it in the state after it */
    double *n;             /* of a piece: [d_qk], n before it */
    real *inter, *divisor; /* as in struct sweep */
    real *p;               /* of a token: [p_stride] */
    real *y;               /* of a piece: [y_size], panels */
    int64_t y_size;
} tables;

static inline int64_t round_up(int64_t count, int64_t unit_size) {
    return (count + unit_size - 1) / unit_size * unit_size;
}

/* Elements of a packed matrix. */
static inline int64_t packed_size(int64_t rows, int64_t columns) {
    return rows * round_up(columns, LANES);
}

/* Of rows that serve as y: panels of TILE_ROWS elements. */
static inline int64_t panels_size(int length, int64_t depth) {
    return round_up(depth, TILE_ROWS) * length;
}

/* Hands out pieces of a block of memory; with no block it only counts. */
typedef struct carver {
    char *base;
    size_t used;
    bool overflow;
} carver;

#define carve PER_ISA(mlstm_carve)
#define lay_out PER_ISA(mlstm_lay_out)
#define scan_gates PER_ISA(mlstm_scan_gates)
#define begin_unit PER_ISA(mlstm_begin_unit)
#define add_keys PER_ISA(mlstm_add_keys)
#define raw_scores PER_ISA(mlstm_raw_scores)
#define weigh_scores PER_ISA(mlstm_weigh_scores)
#define pack PER_ISA(mlstm_pack)
#define unpack PER_ISA(mlstm_unpack)
#define pack_transposed PER_ISA(mlstm_pack_transposed)
#define pack_panels PER_ISA(mlstm_pack_panels)
#define sweep_piece PER_ISA(mlstm_sweep_piece)
#define step_token PER_ISA(mlstm_step_token)
#define read_row PER_ISA(mlstm_read_row)
#define write_row PER_ISA(mlstm_write_row)
#define pack_state PER_ISA(mlstm_pack_state)
#define unpack_state PER_ISA(mlstm_unpack_state)
#define round_to_type PER_ISA(mlstm_round_to_type)
#define dot PER_ISA(mlstm_dot)
#define dot_double PER_ISA(mlstm_dot_double)
#define blend PER_ISA(mlstm_blend)

/* ---- gates.c ---- */

/* NULL while counting, or when `overflow` has been set. */
void *carve(carver *c, size_t element, int64_t a, int64_t b, int64_t d);
/* Sizes of a window, for groups of at most `most_units`, and its tables; y of `y_depth` elements. What
 * is carved for a call is enough for fewer units and shorter sequences, with the same length. */
tables lay_out(carver *c, const cpu_mlstm_call *a, int64_t most_units, int64_t y_depth);
/* m before the first token, as a state holds it. */
double begin_unit(const unit *u);
/* Fills the tables of unit `index` of the group for its next window; returns m after it. */
double scan_gates(const tables *t, const unit *u, int64_t index, double m);
/* n = keep n + sum of write[l] k[l] for a piece that folds. */
void add_keys(const tables *t, const unit *u, int64_t at, double *n);

double dot(const real *x, const real *y, int64_t count); /* summed in double */
double dot_double(const real *x, const double *y, int64_t count);
/* y = a y + b x */
void blend(double a, double b, const real *x, int64_t count, double *y);

static inline double log_sigmoid(double x) {
    return x >= 0 ? -log1p(exp(-x)) : x - log1p(exp(x));
}

/* The larger one; NaN if either is NaN. */
static inline double larger(double a, double b) {
    return a > b || isnan(a) ? a : b;
}

/* exp(exponent - maximum): the weight of a term; 0 where nothing is stored. */
static inline double weight_of(double exponent, double maximum) {
    return maximum == -INFINITY ? 0 : exp(exponent - maximum);
}

/* `value` in the type of the arrays; infinity where it is too large for it. */
static inline real to_real(double value) {
    return sizeof(real) == sizeof(double) || !(value > 3.4028234663852886e38) ? (real)value
                                                                              : (real)INFINITY;
}

/* max(|qn|, exp(-m)), or the like of the sigmoid input gate; without normalization never used. */
static inline double normalizer(const cpu_mlstm_call *a, double qn, double m) {
    return larger(fabs(qn), a->sigmoid ? 1 : exp(-m));
}

/* ---- scores.c ---- */

/* z[t][l] = x[t] y[l] for t in [held, tokens), at least for l <= t; x begins with row `held`. */
void raw_scores(int held, int tokens, int64_t width, const real *x, int64_t x_stride, const real *y,
                int64_t y_stride, real *z, int64_t z_stride);
/* For each own token t of the piece at `at`, and all terms l <= t: visits the row with the weights of
 * the l in t, exp(D~_tl - m_t). `row` is called with weights of l in [0, t]. */
typedef void score_row(void *context, int64_t token, const real *weights);
void weigh_scores(const tables *t, int64_t at, score_row *row, void *context);

/* ---- tiles.c ---- */

/* The matrix of rows [rows][columns] at p as blocks of BLOCK columns, each [rows][BLOCK or what is
 * left, a multiple of LANES], with zeros past the columns; and back. p NULL: zeros. */
void pack(const real *p, int64_t stride, int64_t rows, int64_t columns, real *packed);
void unpack(const real *packed, int64_t rows, int64_t columns, real *p, int64_t stride);
/* The same of the transpose of p [columns][rows]; packed rows in all may be more than `rows`. */
void pack_transposed(const real *p, int64_t stride, int64_t rows, int64_t columns,
                     int64_t packed_rows, real *packed);
/* weights[l] * row[l] for `tokens` rows of `depth` elements, and last[l] behind each if not NULL, as
 * panels [depth / TILE_ROWS][length][TILE_ROWS]. */
void pack_panels(const real *rows, int64_t stride, const real *weights, const real *last,
                 int tokens, int length, int64_t depth, real *panels);

typedef struct sweep {
    real *state; /* packed [depth, and 1 with `extra`][columns] */
    int64_t depth;
    bool extra; /* x has a further element, 1, and y one too */
    int64_t columns;
    int held;           /* the first tokens have no x and o */
    int tokens, length; /* of the piece, with them; of panels */
    bool reverse;       /* l >= t instead of l <= t */
    const real *x;      /* [tokens - held][depth] */
    int64_t x_stride;
    const real *p; /* p[t][l] at t p_row + l p_term */
    int64_t p_row, p_term;
    const real *z; /* [tokens][columns] */
    int64_t z_stride;
    real *z_packed;       /* scratch for z, packed */
    const real *y;        /* panels */
    const real *y_weight; /* [tokens]: where 0, y is not added, whatever it holds */
    const bool *used;     /* [tokens] or NULL: which l are */
    const real *inter;    /* [tokens] */
    const real *divisor;  /* [tokens] or NULL */
    real keep;
    real *o; /* [tokens - held][columns], or NULL: not wanted */
    int64_t o_stride;
    bool update; /* S is */
} sweep;

void sweep_piece(const sweep *s);

/* ---- state.c ---- */

/* A row of n or C of a type, as doubles, and back. */
void read_row(dtype type, const void *row, int64_t count, double *values);
void write_row(dtype type, const double *values, int64_t count, void *row);
/* As pack and unpack, of a state of a type. */
void pack_state(dtype type, const void *p, int64_t stride, int64_t rows, int64_t columns,
                real *packed);
void unpack_state(dtype type, const real *packed, int64_t rows, int64_t columns, void *p,
                  int64_t stride);
/* values = what is left of them in a type. */
void round_to_type(dtype type, int64_t count, real *values);

/* ---- step.c ---- */

/* One token of the mLSTM for `columns` of the value dimension, in one pass over C:
 *   h = (inter q^T C + sum over terms l of p[l] v[l]) / divisor
 *   C = keep C + sum over terms l of write[l] k[l] v[l]^T
 * The token is the last term; further ones stand in a ring. Terms that are not used are not read, and
 * with write 0 nothing is added to C, whatever k and v hold. */
typedef struct step {
    char *c;          /* [d_qk][columns] of type `state`, row stride c_stride */
    int64_t c_stride; /* elements */
    dtype state;
    int64_t d_qk, columns;
    const real *q; /* [d_qk] */
    int terms;
    const real *v; /* [terms][columns] */
    int64_t v_stride;
    const real *y; /* panels of write[l] k[l]; not read where nothing is written */
    int length;    /* of panels */
    const real *write, *p;
    const bool *used;
    real keep, inter, divisor;
    real *h; /* [columns] */
} step;

void step_token(const step *s);

/* ---- The jobs ---- */

size_t PER_ISA(mlstm_forward_scratch)(const cpu_mlstm_call *);
void PER_ISA(mlstm_forward)(const cpu_mlstm_call *, void *scratch);
size_t PER_ISA(mlstm_backward_scratch)(const cpu_mlstm_call *);
void PER_ISA(mlstm_backward)(const cpu_mlstm_call *, void *scratch);

#endif
