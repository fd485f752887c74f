/* Cases of the ops that work row by row, and the table of all cases. */
#include "conformance/cases.h"

#include <math.h>

#include "support/support.h"

/* Sizes: one, powers of two, primes, more than a vector, more than a cache line, more than any
 * block; whole blocks of 32, for the types that have them. The layout of odd ones is ragged, so that what asks for
 * aligned rows is for even ones. Every second one, from the last back, is for every instruction set. */
static const struct sizes {
    int64_t tokens;
    int groups;
    int64_t group; /* width = groups * group */
    int64_t outputs;
} all_sizes[] = {
    {1, 1, 1, 1},
    {5, 3, 7, 17},
    {2, 1, 32, 8},
    {7, 2, 61, 131},
    {4, 5, 64, 23},
    {2, 4, 257, 3},
    {5, 1, 96, 2},
    {19, 3, 32, 67}, /* many tokens and rows: tiles */
    {18, 1, 41, 34},
    /* beyond the quick ones */
    {67, 4, 32, 66},
    {101, 1, 73, 67},
    {3, 1, 2053, 200},
    {16, 5, 32, 131},
    {13, 8, 24, 1},
    {3, 1, 2080, 5},
    {1, 2, 515, 521},
    {1, 4, 1048, 9},
    {1, 3, 32, 67},
    {9, 1, 544, 70},
    /* for devices of batches, which divide their work by these */
    {131, 4, 40, 72},
    {35, 4, 64, 96},
    {1, 43, 64, 300},   /* rows of several pieces that begin between multiples of 16 bytes */
    {150, 1, 192, 264}, /* more tokens than a tile, and rows than two */
    {1, 4, 257, 300},   /* rows of f32 that end between multiples of 32 bytes, in both layouts */
    {1, 4, 257, 300},
    {1, 1, 32, 2601}, /* more rows than a GPU of two multiprocessors keeps results of */
    {1, 130, 64, 12}, /* rows of several pieces in every type, in both layouts */
    {1, 130, 64, 12},
};
enum {
    SIZES = sizeof all_sizes / sizeof *all_sizes,
    BATCH_SIZES = 9,
    QUICK_SIZES = 9,
    MOST_TOKENS = 150
};

static int64_t width_of(int variant) {
    return all_sizes[variant].groups * all_sizes[variant].group;
}

static int64_t rows_limit(int variant) {
    return all_sizes[variant].tokens;
}

bool conformance_is_of_batches(const conformance_case *c, int variant) {
    return c->tokens == rows_limit && variant >= SIZES - BATCH_SIZES;
}

static ops_limits size_limits(int variant) {
    const struct sizes *z = &all_sizes[variant];
    int64_t width = width_of(variant);
    return (ops_limits){.tokens = z->tokens,
                        .sequences = 1,
                        .width = width,
                        .heads = z->groups,
                        .head_dim_qk = z->group,
                        .head_dim_v = z->group,
                        .vocab = z->outputs};
}

static ops_norm draw_norm(side *s, enum ops_norm_kind kind, int groups, int64_t width, bool bias) {
    /* now and then an eps that can be seen in f32 */
    ops_norm norm = {.kind = kind, .groups = groups, .eps = s->seed % 3 ? 0.1 : 1e-6};
    if (kind == OPS_NORM_NONE)
        return norm;
    norm.weight = side_draw(s, SIDE_WEIGHT, 1, &width, 1, 0.3);
    if (bias)
        norm.bias = side_draw(s, SIDE_WEIGHT, 1, &width, 0, 0.5);
    return norm;
}

static ops_tensor draw_weight(side *s, int64_t outputs, int64_t inputs) {
    return side_draw(s, SIDE_WEIGHT, 2, (int64_t[]){outputs, inputs}, 0, 1 / sqrt((double)inputs));
}

/* The same of another type. */
static ops_tensor draw_other_weight(side *s, int64_t outputs, int64_t inputs) {
    dtype type = s->as.weight;
    s->as.weight = type == DTYPE_BF16 ? DTYPE_F32 : DTYPE_BF16;
    ops_tensor weight = draw_weight(s, outputs, inputs);
    s->as.weight = type;
    return weight;
}

static ops_tensor draw_bias(side *s, bool there, int64_t outputs) {
    return there ? side_draw(s, SIDE_WEIGHT, 1, &outputs, 0, 0.5) : (ops_tensor){0};
}

static ops_tensor draw_rows(side *s, int64_t tokens, int64_t width, double spread) {
    return side_draw(s, SIDE_ROWS, 2, (int64_t[]){side_rows(s, tokens), width}, 0.3, spread);
}

static ops_tensor draw_between(side *s, int64_t tokens, int64_t width, double spread) {
    return side_draw(s, SIDE_BETWEEN, 2, (int64_t[]){side_rows(s, tokens), width}, 0.3, spread);
}

/* ids of the rows that are built: a scattered sequence below `limit`. */
static ops_tensor row_ids(side *s, int64_t tokens, int64_t limit) {
    int32_t ids[MOST_TOKENS];
    int64_t rows = side_rows(s, tokens), first = side_first_row(s);
    for (int64_t t = 0; t < rows; t++)
        ids[t] = (int32_t)draw_integer(s->seed, (uint64_t)(first + t), limit);
    return side_i32(s, rows, ids);
}

static void run_embed(side *s, int variant) {
    const struct sizes *z = &all_sizes[variant];
    int64_t width = width_of(variant);
    struct ops_embed op = {.table = draw_weight(s, z->outputs, width),
                           .ids = row_ids(s, z->tokens, z->outputs),
                           .out = side_poison(s, 2, (int64_t[]){side_rows(s, z->tokens), width})};
    side_output(s, "out", &op.out);
    s->as.device->ops.embed(s->stream, &op);
}

static void run_take_rows(side *s, int variant) {
    const struct sizes *z = &all_sizes[variant];
    int64_t width = width_of(variant);
    struct ops_take_rows op = {
        .x = side_draw(s, SIDE_TABLE, 2, (int64_t[]){z->outputs, width}, 0, 1),
        .rows = row_ids(s, z->tokens, z->outputs),
        .out = side_poison(s, 2, (int64_t[]){side_rows(s, z->tokens), width})};
    side_output(s, "out", &op.out);
    s->as.device->ops.take_rows(s->stream, &op);
}

static void run_sum(side *s, int variant) {
    const struct sizes *z = &all_sizes[variant];
    struct ops_sum op = {.count = 1 + variant % OPS_MAX_TERMS};
    for (int i = 0; i < op.count; i++) {
        op.input[i] = draw_rows(s, z->tokens, width_of(variant), 1);
        op.sign[i] = (i + variant) % 3 ? 1 : -1;
    }
    op.out = variant % 2 ? op.input[0] : side_poison(s, 2, op.input[0].shape);
    side_output(s, "out", &op.out);
    s->as.device->ops.sum(s->stream, &op);
}

static void run_normalize(side *s, int variant) {
    const struct sizes *z = &all_sizes[variant];
    int64_t width = width_of(variant);
    static const enum ops_norm_kind kinds[] = {OPS_NORM_RMS, OPS_NORM_LAYER};
    ops_tensor x = draw_rows(s, z->tokens, width, 2);
    for (int i = 0; i < 4; i++) {
        struct ops_normalize op = {
            .x = x, .norm = draw_norm(s, kinds[i % 2], i < 2 ? 1 : z->groups, width, i % 2)};
        op.out = i == 3 ? x : side_poison(s, 2, x.shape); /* in place, once the others are done */
        side_output(s, "out", &op.out);
        s->as.device->ops.normalize(s->stream, &op);
    }
}

/* Outputs of several projections are columns of one wide matrix, those of few rows (gates) of another. The third is capped,
 * but for some, which can go with the first; so are gates of several rows. */
static void run_norm_project(side *s, int variant) {
    const struct sizes *z = &all_sizes[variant];
    int64_t width = width_of(variant), rows = side_rows(s, z->tokens);
    int64_t step = s->ragged ? z->outputs + 1 : (z->outputs + 7) / 8 * 8;
    static const enum ops_norm_kind kinds[] = {OPS_NORM_RMS, OPS_NORM_LAYER, OPS_NORM_NONE};
    struct ops_norm_project op = {.x = draw_rows(s, z->tokens, width, 2),
                                  .norm = draw_norm(s, kinds[variant % 3], 1, width, variant % 2),
                                  .count = 1 + variant % 4};
    ops_tensor wide = side_poison_between(s, 2, (int64_t[]){rows, op.count * step});
    const int64_t few = variant < SIZES - BATCH_SIZES ? 1 : 8;
    ops_tensor gates = side_poison(s, 2, (int64_t[]){rows, op.count * few});
    for (int i = 0; i < op.count; i++) {
        int64_t outputs = i % 2 ? few : z->outputs;
        op.projection[i] = (ops_projection){
            .weight = draw_weight(s, outputs, width),
            .bias = draw_bias(s, i != 1, outputs),
            .soft_cap = (i == 2 && variant % 8 != 6) || (i == 1 && few > 1) ? 1.5 : 0,
            .out = i % 2 ? side_columns(&gates, i * few, few)
                         : side_columns(&wide, i * step, outputs)};
        side_output_sum(s, "out", &op.projection[i].out);
    }
    s->as.device->ops.norm_project(s->stream, &op);
}

static void run_norm_project_gated(side *s, int variant) {
    const struct sizes *z = &all_sizes[variant];
    int64_t width = width_of(variant);
    struct ops_norm_project_gated op = {
        .x = draw_rows(s, z->tokens, width, 2),
        .norm = draw_norm(s, variant % 3 ? OPS_NORM_RMS : OPS_NORM_LAYER, 1, width, variant % 2),
        /* SiLU, which has kernels of its own, for an aligned one of few and of many tokens */
        .activation = (enum ops_activation)((variant + 6) % (OPS_IDENTITY + 1)),
        .gate_weight = draw_weight(s, z->outputs, width),
        .gate_bias = draw_bias(s, variant % 2, z->outputs),
        .up_weight = (variant % 9 == 2 ? draw_other_weight : draw_weight)(s, z->outputs, width),
        .up_bias = draw_bias(s, variant % 2, z->outputs),
        .out = side_poison_between(s, 2, (int64_t[]){side_rows(s, z->tokens), z->outputs})};
    side_output_sum(s, "out", &op.out);
    s->as.device->ops.norm_project_gated(s->stream, &op);
}

static void run_project_add(side *s, int variant) {
    const struct sizes *z = &all_sizes[variant];
    struct ops_project_add op = {.x = draw_between(s, z->tokens, width_of(variant), 1),
                                 .weight = draw_weight(s, z->outputs, width_of(variant)),
                                 .bias = draw_bias(s, variant % 2, z->outputs),
                                 .sign = variant % 3 ? 1 : -1};
    if (variant % 5)
        op.residual = draw_rows(s, z->tokens, z->outputs, 1);
    op.out = variant % 5 > 1 ? op.residual
                             : side_poison(s, 2, (int64_t[]){side_rows(s, z->tokens), z->outputs});
    side_output(s, "out", &op.out);
    s->as.device->ops.project_add(s->stream, &op);
}

static void run_mlstm_output(side *s, int variant) {
    const struct sizes *z = &all_sizes[variant];
    int64_t width = width_of(variant);
    ops_tensor h = draw_between(s, z->tokens, width, 1);
    struct ops_mlstm_output op = {.h = ops_tensor_split(&h, z->groups, z->group),
                                  .output_gate = draw_between(s, z->tokens, width, 4),
                                  .activation = variant % 4 == 1 ? OPS_SILU : OPS_SIGMOID,
                                  .norm =
                                      draw_norm(s, variant % 3 == 2 ? OPS_NORM_RMS : OPS_NORM_LAYER,
                                                z->groups, width, variant % 2),
                                  .weight = draw_weight(s, z->outputs, width),
                                  .bias = draw_bias(s, variant % 2, z->outputs),
                                  .residual = draw_rows(s, z->tokens, z->outputs, 1),
                                  .sign = variant % 3 ? 1 : -1};
    if (variant % 4 < 2) {
        op.skip = side_draw(s, SIDE_TABLE, 1, &width, 1, 0.5);
        op.skip_input = draw_rows(s, z->tokens, width, 1);
    }
    op.out = variant % 2 ? op.residual : side_poison(s, 2, op.residual.shape);
    side_output(s, "out", &op.out);
    s->as.device->ops.mlstm_output(s->stream, &op);
}

static void run_headwise(side *s, int variant) {
    const struct sizes *z = &all_sizes[variant];
    ops_tensor x = draw_rows(s, z->tokens, width_of(variant), 1);
    ops_tensor out =
        side_poison(s, 2, (int64_t[]){side_rows(s, z->tokens), z->groups * z->outputs});
    struct ops_headwise op = {.x = ops_tensor_split(&x, z->groups, z->group),
                              .weight = side_draw(s, SIDE_WEIGHT, 3,
                                                  (int64_t[]){z->groups, z->outputs, z->group}, 0,
                                                  1 / sqrt((double)z->group)),
                              .out = ops_tensor_split(&out, z->groups, z->outputs)};
    if (variant % 2)
        op.bias = side_draw(s, SIDE_WEIGHT, 2, (int64_t[]){z->groups, z->outputs}, 0, 0.5);
    side_output(s, "out", &op.out);
    s->as.device->ops.headwise(s->stream, &op);
}

const dtype conformance_weights[] = {DTYPE_F32,  DTYPE_BF16, DTYPE_F16,  DTYPE_Q8_0,  DTYPE_Q5_0,
                                     DTYPE_Q5_1, DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_IQ4_NL};
const int conformance_weight_count = sizeof conformance_weights / sizeof *conformance_weights;

#define EXACT "a copy has no error"
#define ROUNDED "f32 sums in any order (more for more terms: conformance_sum_tolerance)"

double conformance_sum_tolerance(int64_t terms) {
    return fmax(2e-6, 3 * 0x1p-24 * sqrt((double)terms / 8));
}

const conformance_case conformance_cases[] = {
    {"embed", CASE_ROWS, WEIGHT_MATRICES, SIZES, QUICK_SIZES, rows_limit, size_limits, run_embed, 0,
     EXACT, false},
    {"take_rows", CASE_ROWS, WEIGHT_NONE, SIZES, QUICK_SIZES, rows_limit, size_limits,
     run_take_rows, 0, EXACT, false},
    {"sum", CASE_ROWS, WEIGHT_NONE, SIZES, QUICK_SIZES, rows_limit, size_limits, run_sum, 5e-7,
     "f32 sums of up to 8 terms", false},
    {"normalize", CASE_ROWS, WEIGHT_FLOATS, SIZES, QUICK_SIZES, rows_limit, size_limits,
     run_normalize, 2e-6, "f32 sums of up to 8320 terms, in any order", false},
    {"norm_project", CASE_ROWS, WEIGHT_MATRICES, SIZES, QUICK_SIZES, rows_limit, size_limits,
     run_norm_project, 2e-6, ROUNDED, true},
    {"norm_project_gated", CASE_ROWS, WEIGHT_MATRICES, SIZES, QUICK_SIZES, rows_limit, size_limits,
     run_norm_project_gated, 2e-6, ROUNDED, true},
    {"project_add", CASE_ROWS, WEIGHT_MATRICES, SIZES, QUICK_SIZES, rows_limit, size_limits,
     run_project_add, 2e-6, ROUNDED, true},
    {"mlstm_output", CASE_ROWS, WEIGHT_MATRICES, SIZES, QUICK_SIZES, rows_limit, size_limits,
     run_mlstm_output, 2e-6, ROUNDED, true},
    {"mlstm", CASE_MIXED, WEIGHT_NONE, MLSTM_VARIANTS, 18, NULL, mlstm_case_limits, mlstm_case_run,
     MLSTM_TOLERANCE, "f32 rounds m in every step, and C and n with it, by some 2^-24", true},
    {"causal_conv", CASE_MIXED, WEIGHT_FLOATS, CONV_VARIANTS, 6, NULL, conv_case_limits,
     conv_case_run, 2e-6, "f32 sums of up to 64 terms", false},
    {"headwise", CASE_ROWS, WEIGHT_FLOATS, SIZES, QUICK_SIZES, rows_limit, size_limits,
     run_headwise, 2e-6, "f32 sums of up to 2053 terms, in blocks of 64", false},
    {"slstm", CASE_MIXED, WEIGHT_NONE, SLSTM_VARIANTS, 16, NULL, slstm_case_limits, slstm_case_run,
     2e-5, "f32 rounds every state in every step, and R mixes the errors", false},
    {"sample", CASE_MIXED, WEIGHT_NONE, SAMPLE_VARIANTS, 4, NULL, sample_case_limits,
     sample_case_run, 0, "the rules say which id", false},
    {"retire", CASE_MIXED, WEIGHT_NONE, RETIRE_VARIANTS, RETIRE_VARIANTS, NULL, retire_case_limits,
     retire_case_run, 0, "integers have no error", false},
};
const int conformance_case_count = sizeof conformance_cases / sizeof *conformance_cases;
