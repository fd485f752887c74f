/* The vector kernels of the CPU device: everything that runs per element lies behind this table.
 *
 * kernels*.c are compiled once for every instruction set, each time giving one table; dispatch.c
 * chooses one when a stream is created. Kernels know nothing of tensors, threads or batches: they
 * see plain rows of floats. What a kernel computes for one output never depends on which other
 * outputs are computed in the same call, so results do not depend on how work is cut up. Rows may
 * have any address; only where "padded" is said, a row can be read up to the next multiple of
 * CPU_PADDING floats, and there are zeros.
 */
#ifndef OPS_CPU_KERNELS_H
#define OPS_CPU_KERNELS_H

#include "ops/ops.h"

enum {
    CPU_PADDING = 16,                /* floats: the widest vector */
    CPU_PANEL_ROWS = 64,             /* most weight rows of one product */
    CPU_PANEL_TOKENS = 96,           /* most tokens of one product */
    CPU_PRODUCT_SCRATCH = 300 * 1024 /* floats that a product needs */
};

/* z [tokens][rows] = x [tokens][width] times weights [rows][width], transposed. Every z is summed
 * in the same way: lane j of a vector takes the terms at j, j + lanes, …, and one tree adds up the
 * lanes.
 */
typedef struct cpu_product {
    dtype type;          /* of the weights: any floating-point type or blocks */
    const char *weights; /* element-aligned at least; blocks anywhere */
    int64_t row_bytes;   /* from one weight row to the next */
    int64_t width;
    const float *x; /* padded rows */
    int64_t x_stride;
    float *z;
    int64_t z_stride;
    int rows, tokens; /* <= CPU_PANEL_ROWS, <= CPU_PANEL_TOKENS */
    float *scratch;   /* [CPU_PRODUCT_SCRATCH], aligned to 64 bytes */
} cpu_product;

/* ---- Many tokens in the profile fast ----
 *
 * z [tokens][rows] is computed in tiles. Weights are laid out anew in panels of `rows` rows and
 * `depth` columns, activations in blocks of `tokens` tokens and as many columns, both of them
 * in what the instruction set multiplies: f32, or bf16 with AMX. Sums are f32, one a block of
 * columns, added up in the order of the columns: they depend neither on the other tokens and rows
 * nor on how the work is cut up. */
enum {
    CPU_TILE_DEPTH = 512, /* most columns of a panel */
    CPU_TILE_UNIT = 32,   /* columns are filled up with zeros to a multiple of this */
    CPU_TILE_ROWS = 32,   /* most rows of a tile */
    CPU_TILE_TOKENS = 48  /* most tokens of a tile */
};

/* Columns [from, from + count) of the rows of a matrix; `from` is a multiple of CPU_TILE_UNIT, count
 * <= depth. */
typedef struct cpu_tile_weights {
    dtype type;       /* any that a matrix may have */
    const char *rows; /* element-aligned at least */
    int64_t row_bytes;
    int count_rows; /* 1 to tiles->rows; what is missing repeats the last */
    int64_t from, count;
    int64_t ahead; /* bytes from what is read to what is asked for meanwhile; 0: nothing */
} cpu_tile_weights;

/* Two rows of weights that are laid out next: asked for while something else is multiplied, so that the
 * memory is never idle. `step` is the bytes of CPU_TILE_UNIT columns, 0: nothing is asked for. */
typedef struct cpu_tile_ahead {
    const char *first, *second;
    int64_t step;
} cpu_tile_ahead;

typedef struct cpu_tiles {
    bool bf16;        /* what is multiplied is rounded to it; else f32 */
    int rows, tokens; /* of a tile */
    int depth;        /* columns of a panel: what the nearest cache holds of two operands */
    int least_tokens; /* below which cpu_product is faster */
    size_t panel_bytes, block_bytes;
    /* Before and after a thread multiplies: the state of AMX. */
    void (*begin)(void);
    void (*end)(void);
    /* A block of up to `tokens` rows of x, columns [0, count). */
    void (*pack)(const float *x, int64_t x_stride, int tokens, int64_t count, void *block);
    void (*convert)(const cpu_tile_weights *, void *panel);
    /* sums [rows * tokens], in an order of its own, = or with `add` += panel * block. */
    void (*multiply)(const void *panel, const void *block, int tokens, int64_t count, bool add,
                     const cpu_tile_ahead *, float *sums);
    /* z [tokens][rows] = sums. */
    void (*spread)(const float *sums, int tokens, float *z, int64_t z_stride);
    /* to [count] = from, past the caches where that is possible; done when `end` returns. */
    void (*put)(const float *from, int64_t count, float *to);
} cpu_tiles;

/* ---- Few tokens in the profile fast ---- */

/* Activations as integers of 8 bits in groups of 32, for products with weights in blocks: for all
 * tokens together so many bytes a column, for whole groups of 4 * 32, in an order that the kernels
 * know. */
enum { CPU_DOT_BYTES = 20, CPU_DOT_GROUP = 128 };

/* z [tokens][rows] = x [tokens][width] times weights [rows][width], transposed. */
typedef struct cpu_dot_product {
    dtype type; /* of the weights: blocks */
    const char *weights;
    int64_t row_bytes;
    int64_t width;
    const void *x; /* quantised, aligned to 64 bytes */
    float *z;
    int64_t z_stride;
    int rows, tokens; /* tokens <= most_tokens */
} cpu_dot_product;

typedef struct cpu_dot {
    int most_tokens;
    /* A token of several, whole blocks; where a value is not finite, what it is used for becomes NaN. */
    void (*quantise)(const float *x, int64_t width, int token, void *quantised);
    void (*multiply)(const cpu_dot_product *);
} cpu_dot;

typedef struct cpu_norm {
    enum ops_norm_kind kind;
    int groups;
    float eps;
    const float *weight, *bias; /* [width]; bias may be NULL */
} cpu_norm;

/* ---- Kernels for f32 and f64 alike; void: arrays of that type ---- */

/* z [rows][columns] = (with `add`: +=) a [rows][terms] b [terms][columns]. Every z is a sum in the
 * order of the terms, in blocks of CPU_COMBINE_BLOCK that are added up, however many rows and
 * columns there are. */
enum { CPU_COMBINE_BLOCK = 256 };
typedef struct cpu_combine {
    const void *a;
    int64_t a_row, a_term; /* strides */
    const void *b;
    int64_t b_stride;
    void *z;
    int64_t z_stride;
    int64_t rows, terms, columns;
    bool add;
} cpu_combine;

/* out [tokens][columns] = act(bias + sum over j < taps of weight[j] x[t - taps + 1 + j]), where
 * x[-1], x[-2] … are the rows of `before`, the last first; NULL: zeros. */
typedef struct cpu_convolution {
    const void *x, *before;
    int64_t x_stride, before_stride;
    const void *weight; /* [taps][columns], row stride weight_stride */
    int64_t weight_stride;
    const void *bias; /* [columns] or NULL */
    enum ops_activation activation;
    void *out;
    int64_t out_stride;
    int64_t tokens, columns;
    int taps;
} cpu_convolution;

/* The gradients of a convolution without activation; dy and ds (of the last taps - 1 inputs) may be
 * NULL, which is zeros, and dx, d_before and d_weight may be, which is unwanted. d_weight [taps]
 * [columns], row stride weight_stride, is added to, in sums of CPU_COMBINE_BLOCK tokens. */
typedef struct cpu_convolution_gradient {
    cpu_convolution of;
    const void *dy, *ds;
    int64_t dy_stride, ds_stride;
    void *dx, *d_before, *d_weight;
    int64_t dx_stride, d_before_stride;
} cpu_convolution_gradient;

/* One token of `count` units of the sLSTM or the LSTM: the equations of struct ops_slstm, with
 * raw_g = input_g + mixed_g + bias_g. States are updated in place. */
typedef struct cpu_cell {
    bool lstm;
    const void *input[4], *mixed[4], *bias[4];
    void *raw[4]; /* keeps raw_g; may be mixed_g, or NULL */
    void *y, *c, *n, *m;
    double clip; /* 0: none */
    int64_t count;
} cpu_cell;

/* Back through one token: gate[g] is raw_g and becomes its gradient; dc, dn, dm are those of the
 * states after the token and become those before it. dy is what comes from outside (NULL: 0),
 * dy_next what comes from the next token. */
typedef struct cpu_cell_gradient {
    bool lstm;
    void *gate[4];
    const void *c, *n, *m;     /* before the token */
    const void *c_new, *n_new; /* after it */
    const void *dy, *dy_next;
    void *dc, *dn, *dm;
    double clip;
    int64_t count;
} cpu_cell_gradient;

/* A row of RMSNorm or LayerNorm; y, or dx and what is added to dw and db, are wanted unless NULL. */
typedef struct cpu_norm_row {
    bool centred; /* LayerNorm */
    int64_t width;
    int groups;
    double eps;
    const void *x, *w, *b, *dy; /* w NULL: ones; b, dy NULL: zeros */
    void *y, *dx, *dw, *db;
} cpu_norm_row;

enum cpu_gate_kind { CPU_SOFT_CAP, CPU_SWIGLU, CPU_GELU_GATE };
/* y = act(x) u and its gradients; u is 1 for the soft cap; outputs are wanted unless NULL. */
typedef struct cpu_gate_row {
    enum cpu_gate_kind kind;
    double soft_cap;
    int64_t count;
    const void *x, *u, *dy; /* dy NULL: zeros */
    void *y, *dx, *du;
} cpu_gate_row;

/* The loss of a row of logits, and dlogits = dloss (softmax(logits) - [target]) unless NULL. */
typedef struct cpu_loss_row {
    const void *logits;
    int64_t count, target;
    double dloss;
    void *dlogits;
} cpu_loss_row;

struct cpu_mlstm_call;

/* What exists for f32 and f64, from the same source (real_*.c): the arrays are of that type. */
typedef struct cpu_library {
    int lanes; /* elements in a vector */
    void (*exponential)(const void *x, int64_t count, void *y);
    void (*hyperbolic_tangent)(const void *x, int64_t count, void *y);
    void (*sigmoid)(const void *x, int64_t count, void *y);
    /* y = act(z + bias) * (u + u_bias); biases may be NULL. */
    void (*gated)(enum ops_activation, const void *z, const void *bias, const void *u,
                  const void *u_bias, int64_t count, void *y);
    /* y = act(z) * (y + skip * x); skip may be NULL, and then x is not read. */
    void (*gate)(enum ops_activation, const void *z, const void *skip, const void *x, int64_t count,
                 void *y);
    void (*combine)(const cpu_combine *);
    void (*convolve)(const cpu_convolution *);
    void (*convolve_gradient)(const cpu_convolution_gradient *);
    void (*cell)(const cpu_cell *);
    void (*cell_gradient)(const cpu_cell_gradient *);
    /* y is kept within [-bound, bound]. */
    void (*bound)(double bound, int64_t count, void *y);
    void (*norm_row)(const cpu_norm_row *);
    void (*gate_row)(const cpu_gate_row *);
    double (*loss_row)(const cpu_loss_row *);
    /* The mLSTM (mlstm_core.h). Bytes of scratch memory, aligned to 64, that a call needs; SIZE_MAX if
     * they cannot be counted. */
    size_t (*mlstm_forward_scratch)(const struct cpu_mlstm_call *);
    void (*mlstm_forward)(const struct cpu_mlstm_call *, void *scratch);
    size_t (*mlstm_backward_scratch)(const struct cpu_mlstm_call *);
    void (*mlstm_backward)(const struct cpu_mlstm_call *, void *scratch);
} cpu_library;

typedef struct cpu_kernels {
    const char *name; /* of the instruction set */
    const cpu_library *f32, *f64;
    const struct cpu_compensated *compensated;
    int lanes; /* floats in a vector */

    void (*product)(const cpu_product *);
    const cpu_tiles *tiles;
    const cpu_dot *dot;
    const cpu_dot *dot_tiles; /* for more tokens; may be NULL */
    /* y [count] = x [count] of a floating-point type, or of blocks, whole ones. */
    void (*widen)(dtype type, const void *x, int64_t count, float *y);
    /* y = norm(x); y may be x. */
    void (*normalize)(const cpu_norm *, const float *x, int64_t count, float *y);
    /* y = cap(z + bias), bias may be NULL; cap as in ops_projection. */
    void (*cap)(const float *z, const float *bias, float soft_cap, int64_t count, float *y);
    /* y = residual + sign * (z + bias); residual and bias may be NULL, y may be residual. */
    void (*add)(const float *residual, float sign, const float *z, const float *bias, int64_t count,
                float *y);
} cpu_kernels;

/* The tables of this build, best first, and whether they run on this processor; NULL past the last. */
const cpu_kernels *cpu_kernels_at(int index, bool *runs);
/* The best table for this processor, or the one that the environment variable XLSTM_CPU_ISA names;
 * NULL with an error if it names none that runs here. */
const cpu_kernels *cpu_kernels_choose(void);

#endif
