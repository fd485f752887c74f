/* The cases of the tester. `conformance_cases` has a line for every op: a new op is a new line
 * there, a new device appears by itself (ops_device_at), a new weight type is a line in
 * `conformance_weights`. */
#ifndef CONFORMANCE_CASES_H
#define CONFORMANCE_CASES_H

#include "conformance/side.h"

enum case_kind {
    CASE_ROWS,  /* every token by itself: rows alone and together are compared too */
    CASE_MIXED, /* no such independence to test, or tested elsewhere */
};

/* What types of weights an op is worth running for. */
enum case_weights {
    WEIGHT_NONE,     /* one is enough */
    WEIGHT_FLOATS,   /* floating-point types */
    WEIGHT_MATRICES, /* blocks too, where the width is whole blocks */
};

typedef struct conformance_case {
    const char *op;
    enum case_kind kind;
    enum case_weights weights;
    int variants, quick_variants;
    int64_t (*tokens)(int variant); /* rows of a variant, for CASE_ROWS */
    ops_limits (*limits)(int variant);
    /* Builds the tensors, names the outputs, runs the op. */
    void (*run)(side *s, int variant);
    double tolerance; /* relative 2-norm, f32 activations; f64 has CONFORMANCE_F64 */
    const char *reason;
    bool between; /* takes or gives what lies between the ops of a layer, which may be bf16 */
} conformance_case;

/* Whether the variant is for devices of batches (batch_tokens) alone. */
bool conformance_is_of_batches(const conformance_case *c, int variant);

/* Rounding of f64, a few hundred additions deep. */
#define CONFORMANCE_F64 1e-13
/* Activations of 8 bits: each is off by at most 1/254 of the largest of its 32, by some 0.5 % of the
 * norm on average; sums of few terms, and gates, by some times that. */
#define CONFORMANCE_INTEGERS 3e-2
#define MLSTM_TOLERANCE 5e-6
/* Products of rows of so many terms. The narrowest vectors sum in four lanes, each a chain of terms / 4
 * additions. Terms of random signs grow to the root of their number, and each addition rounds what there is
 * by at most 2^-24: together by 2^-24 (terms / 4 / 2)^0.5 of the result, if that has its usual size. Three
 * times that is allowed, for results that cancel: a layer norm's rows have the sum 0, and weights of Q4_1 and
 * Q5_1, whose blocks have an offset, a mean (measured: 2.9e-6 of 4.1e-6 at 4,192 terms; with twice the lanes
 * 1.6e-6). At least 2e-6, which that exceeds beyond a thousand terms. */
double conformance_sum_tolerance(int64_t terms);
/* For products with matrices in the profile fast, where activations and weights may be rounded to
 * bf16: by 2^-9 at most, 2^-9 / 3^0.5 of the result's norm on average, and some times that in sums of
 * a few terms that cancel. */
#define FAST_TOLERANCE 1e-2

extern const conformance_case conformance_cases[];
extern const int conformance_case_count;
extern const dtype conformance_weights[];
extern const int conformance_weight_count;

/* In mlstm_case.c, recurrent_case.c and sample_case.c. */
enum { MLSTM_VARIANTS = 60, CONV_VARIANTS = 8, SLSTM_VARIANTS = 40, SAMPLE_VARIANTS = 12 };
ops_limits mlstm_case_limits(int variant);
void mlstm_case_run(side *s, int variant);
ops_limits conv_case_limits(int variant);
void conv_case_run(side *s, int variant);
ops_limits slstm_case_limits(int variant);
void slstm_case_run(side *s, int variant);
ops_limits sample_case_limits(int variant);
void sample_case_run(side *s, int variant);
enum { RETIRE_VARIANTS = 7 };
ops_limits retire_case_limits(int variant);
void retire_case_run(side *s, int variant);

#endif
