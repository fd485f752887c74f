/* One side of a comparison: a device, or the reference in double, that a case builds its tensors
 * on.
 *
 * A case is written once and run on several sides. The values it draws depend on the seed and on
 * their place in the case alone, and are rounded to the types of the setting on every side, so that
 * all sides see the same numbers; the exact side then holds them as f64. Around every tensor, and
 * between rows where the layout is ragged, lie bytes 0xFF (NaN in every floating-point type): an op
 * that reads them spoils its result, and one that writes them is found by side_finish. Outputs
 * start as NaN too. */
#ifndef CONFORMANCE_SIDE_H
#define CONFORMANCE_SIDE_H

#include "ops/ops.h"

typedef struct setting {
    ops_device *device;
    dtype activation, weight;
    ops_profile profile;
    int threads;
} setting;

typedef struct side {
    setting as;
    bool exact;   /* the reference in double */
    bool ragged;  /* odd offsets, gaps between rows */
    bool narrow;  /* what lies between the ops of a layer is bf16 */
    int64_t only; /* >= 0: the case is to build this row alone of its batch */
    uint64_t seed;
    ops_stream *stream;
    struct side_block *blocks; /* the buffers, and what they must hold at the end */
    int block_count, drawn;
    struct side_output {
        const char *name; /* NULL: not compared */
        ops_tensor tensor;
        double smallest; /* norm a value that an error is relative to, at least */
        double *values;  /* dense, after side_finish */
    } * outputs;
    int output_count;
} side;

void side_open(side *s, const setting *as, bool exact, bool ragged, uint64_t seed,
               const ops_limits *limits);
void side_close(side *s);

/* A tensor with these values (dense, rounded to `type`), or full of NaN if they are NULL. */
ops_tensor side_place(side *s, dtype type, int rank, const int64_t *shape, const double *values);
ops_tensor side_i32(side *s, int64_t count, const int32_t *values);
ops_tensor side_i64(side *s, int64_t count, const int64_t *values);

/* Normally distributed values. SIDE_ROWS: activations, a row a token, only row `only` if that is
 * set; SIDE_BETWEEN: the same of what lies between the ops of a layer; SIDE_TABLE: activations that
 * are always whole; SIDE_WEIGHT: a weight. Where the setting has weights in blocks, matrices are
 * blocks of random bits and other weights f32. */
enum side_kind { SIDE_ROWS, SIDE_BETWEEN, SIDE_TABLE, SIDE_WEIGHT };
ops_tensor side_draw(side *s, enum side_kind kind, int rank, const int64_t *shape, double mean,
                     double spread);
/* An output of the activation type, full of NaN. */
ops_tensor side_poison(side *s, int rank, const int64_t *shape);
/* The same of what lies between the ops of a layer, and its type. */
ops_tensor side_poison_between(side *s, int rank, const int64_t *shape);
dtype side_between(const side *s);
/* Columns [first, first + count) of a matrix. */
ops_tensor side_columns(const ops_tensor *t, int64_t first, int64_t count);
/* How many rows a case of `tokens` rows builds, and which is the first. */
int64_t side_rows(const side *s, int64_t tokens);
int64_t side_first_row(const side *s);

/* Says that an op writes `t`, and that it is to be compared. */
void side_output(side *s, const char *name, const ops_tensor *t);
/* The same for exponents (m): their error counts relative to 1 where they are smaller. */
void side_output_exponent(side *s, const char *name, const ops_tensor *t);
/* The same for sums, which may cancel: relative to 1.5, which is less than they are on average. */
void side_output_sum(side *s, const char *name, const ops_tensor *t);
/* Says that an op may write `t`, whatever. */
void side_scratch(side *s, const ops_tensor *t);
/* Waits, reads the outputs, and looks at every byte that no output owns. Fails the test if the
 * stream failed or such a byte has changed. */
void side_finish(side *s, const char *what);
/* The dense values of a tensor now. Released with free. */
double *side_read(side *s, const ops_tensor *t);

/* The largest relative error of an output of s against the same output of `exact`. */
double side_error(const side *s, const side *exact);
/* The largest relative error of an output of s, which has one row, against row `row` of `exact`. */
double side_row_error(const side *s, const side *exact, int64_t row);
/* Whether all outputs are equal bit by bit; `row` >= 0: only row `row` of s to the one row of
 * `other`. */
bool side_equal(const side *s, const side *other, int64_t row);

/* A uniform pseudo-random integer in [0, below). */
int64_t draw_integer(uint64_t seed, uint64_t counter, int64_t below);
/* Normal numbers `first` … of a stream: a place in one stored sequence, cheap and the same
 * everywhere. */
void draw_normal(uint64_t seed, uint64_t stream, int64_t first, int64_t count, double mean,
                 double spread, double *values);
/* ||a - b|| / ||b||, where b counts as `smallest` a value at least. Equal infinities are equal; any
 * other value that is not finite in one of them is an infinite error. */
double distance(const double *a, const double *b, int64_t count, double smallest);
double round_to(dtype type, double value);
/* malloc that fails the test instead of returning NULL. */
void *must_allocate(size_t size);

#endif
