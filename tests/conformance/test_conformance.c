/* The tester of all devices: every op of every device, in every type of weights and both profiles,
 * against the reference in double (see cases.h for how to add one). It prints a table of ops and
 * devices with the worst relative error, and checks that bits depend neither on the number of
 * threads nor on the other rows of a batch.
 *
 * With fast math, which no build has and which Metal's test device runs to show that nothing rests on the order of
 * sums, a row alone may be added up in another order than one of a batch: there each is to be as near to
 * the reference as the other. All else that is asked of bits is asked there too.
 *
 *     build/tests/conformance/test_conformance [--perf | TEST…]
 *
 * --perf, or XLSTM_PERF=1, measures speed instead; TESTs (names, with * and ?) are all that is run.
 * XLSTM_TEST_VARIANTS=odd or even: those pairs of variants of ops that have many. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "conformance/cases.h"
#include "conformance/checks.h"
#include "ops/cpu/kernels.h"
#include "support/support.h"

/* ---- The table ---- */

enum { MAX_COLUMNS = 256 };

/* A column: what all ops of a device run in. */
typedef struct column {
    setting as;
    bool exact;      /* f64 activations */
    bool narrow;     /* bf16 between the ops of a layer */
    const char *isa; /* instruction set, or NULL: the best */
} column;

/* The thread sanitizer sees who touches which memory, which the type of the weights changes only
 * between plain ones and blocks; and it takes minutes for all types. */
static bool is_listed(int weight) {
    dtype type = conformance_weights[weight];
    bool thread = strstr(TEST_SANITIZE, "thread") != NULL;
    return !thread || type == DTYPE_F32 || type == DTYPE_BF16 || type == DTYPE_Q4_0;
}

enum kind { KIND_EXACT, KIND_FAST, KIND_F64, KIND_NARROW, KINDS };

/* The reference is there too, as what f32 storage alone does to the result; profiles mean nothing
 * to it, and in f64 it would be compared with itself. */
static bool has_kind(const ops_device *device, enum kind kind) {
    bool reference = strcmp(device->name, "reference") == 0;
    return kind == KIND_EXACT ||
           (!reference && (kind == KIND_FAST || (kind == KIND_F64 && device->f64) ||
                           (kind == KIND_NARROW && device->narrow_from > 0)));
}

static int list_columns(column *columns) {
    int count = 0;
    for (int d = 0; ops_device_at(d); d++)
        for (int w = test_uses_device(ops_device_at(d)->name) ? 0 : conformance_weight_count;
             w < conformance_weight_count; w++)
            for (enum kind kind = KIND_EXACT; is_listed(w) && kind < KINDS && count < MAX_COLUMNS;
                 kind++) {
                setting as = {ops_device_at(d), kind == KIND_F64 ? DTYPE_F64 : DTYPE_F32,
                              conformance_weights[w],
                              kind == KIND_FAST || kind == KIND_NARROW ? OPS_FAST : OPS_EXACT, 2};
                if (has_kind(as.device, kind))
                    columns[count++] = (column){as, kind == KIND_F64, kind == KIND_NARROW, NULL};
            }
    return count;
}

static uint64_t seed_of(int c, int variant) {
    return (uint64_t)(c * 1000 + variant + 1);
}

static void run_side(side *s, const conformance_case *c, const setting *as, bool narrow, bool exact,
                     int variant, int64_t only) {
    ops_limits limits = c->limits(variant);
    side_open(s, as, exact, variant % 2, seed_of((int)(c - conformance_cases), variant), &limits);
    s->narrow = narrow;
    s->only = only;
    c->run(s, variant);
    side_finish(s, c->op);
}

static void require_equal(const side *s, const side *other, int64_t row, const conformance_case *c,
                          int variant, const char *what) {
    if (!side_equal(s, other, row))
        fail_msg("%s on %s, %s weights, variant %d: the bits depend on %s", c->op,
                 s->as.device->name, dtype_name(s->as.weight), variant, what);
}

/* Whether the device adds up in the order that its kernels are written in. */
static bool keeps_order(const ops_device *device) {
    const char *mode = getenv("XLSTM_METAL_TEST_MODE");
    return strcmp(device->name, "metal") != 0 || !mode || strcmp(mode, "fastmath") != 0;
}

/* With 1 and 7 threads; and some rows each alone, whose bits the profile `exact` promises. */
static void check_bits(const side *s, const side *exact, double tolerance,
                       const conformance_case *c, int variant) {
    static const int threads[] = {1, 7};
    bool threaded = s->as.device->stream_threads(s->stream) > 1;
    for (int i = 0; i < 2 && threaded; i++) {
        side other;
        setting as = s->as;
        as.threads = threads[i];
        run_side(&other, c, &as, s->narrow, false, variant, -1);
        require_equal(s, &other, -1, c, variant, "the number of threads");
        side_close(&other);
    }
    if (c->kind != CASE_ROWS || s->as.profile != OPS_EXACT)
        return;
    int64_t tokens = c->tokens(variant);
    for (int64_t row = 0; row < tokens; row += 1 + tokens / 4) {
        side other;
        run_side(&other, c, &s->as, s->narrow, false, variant, row);
        double error = keeps_order(s->as.device) ? 0 : side_row_error(&other, exact, row);
        if (keeps_order(s->as.device))
            require_equal(s, &other, row, c, variant, "the other rows of the batch");
        if (!(error <= tolerance))
            fail_msg("%s on %s, %s weights, variant %d: row %d alone has a relative error of %.1e, "
                     "tolerance %.1e",
                     c->op, s->as.device->name, dtype_name(s->as.weight), variant, (int)row, error,
                     tolerance);
        side_close(&other);
    }
}

/* Whether the op runs in this column: the device has it, and the type of weights matters. */
static bool is_run(const conformance_case *c, const column *in, int op) {
    return ops_device_has(in->as.device, op) && (c->between || !in->narrow) &&
           (in->as.weight == conformance_weights[0] ||
            c->weights >= (dtype_block(in->as.weight) > 1 ? WEIGHT_MATRICES : WEIGHT_FLOATS));
}

static bool takes_variant(const conformance_case *c, const column *in, int variant) {
    return c->limits(variant).width % dtype_block(in->as.weight) == 0;
}

/* Products in the profile fast may round what they multiply, and so may the mLSTM where that is bf16 already; embeddings
 * are copied. */
static double tolerance_of(const conformance_case *c, const column *in, int variant) {
    if (in->exact)
        return CONFORMANCE_F64;
    if ((c->weights != WEIGHT_MATRICES && !in->narrow) || c->tolerance == 0)
        return c->tolerance;
    if (in->as.profile != OPS_FAST)
        return conformance_sum_tolerance(c->limits(variant).width);
    return dtype_block(in->as.weight) > 1 ? CONFORMANCE_INTEGERS : FAST_TOLERANCE;
}

/* Of the variants of a column. */
typedef struct outcome {
    double worst; /* relative error */
    bool failed;
} outcome;

static void use_isa(const char *name) {
    if (name)
        setenv("XLSTM_CPU_ISA", name, 1);
}

/* One variant of an op in all columns; worst errors go up. One run of the reference in double
 * serves all columns that follow each other with the same types. */
static void run_variant(const conformance_case *c, int op, int variant, const column *columns,
                        int count, outcome *outcomes) {
    side exact;
    const column *current = NULL; /* of `exact` */
    for (int i = 0; i < count; i++) {
        const column *in = &columns[i];
        if (!is_run(c, in, op) || !takes_variant(c, in, variant))
            continue;
        if (!current || current->as.weight != in->as.weight || current->narrow != in->narrow ||
            current->as.activation != in->as.activation) {
            if (current)
                side_close(&exact);
            run_side(&exact, c, &in->as, in->narrow, true, variant, -1);
            current = in;
        }
        side s;
        use_isa(in->isa);
        run_side(&s, c, &in->as, in->narrow, false, variant, -1);
        double error = side_error(&s, &exact), tolerance = tolerance_of(c, in, variant);
        if (!(error <= outcomes[i].worst))
            outcomes[i].worst = error;
        outcomes[i].failed |= !(error <= tolerance);
        check_bits(&s, &exact, tolerance, c, variant);
        side_close(&s);
    }
    if (current)
        side_close(&exact);
}

static void print_cell(const conformance_case *c, const column *in, int op, const outcome *o) {
    if (is_run(c, in, op))
        printf(" %s %9.1e", o->failed ? "FAIL" : "pass", o->worst);
    else
        printf(" %14s", ops_device_has(in->as.device, op) ? "-" : "absent");
}

static void print_heads(const column *columns, int count) {
    printf("%-20s", "");
    for (int i = 0; i < count; i++)
        printf(" %14s", columns[i].as.device->name);
    printf("\n%-20s", "");
    for (int i = 0; i < count; i++) {
        char text[40];
        snprintf(text, sizeof text, "%s %s",
                 columns[i].exact                     ? "f64"
                 : columns[i].narrow                  ? "narrow"
                 : columns[i].as.profile == OPS_EXACT ? "exact"
                                                      : "fast",
                 dtype_name(columns[i].as.weight));
        printf(" %14s", text);
    }
    printf("\n");
}

static const conformance_case *case_of(int op) {
    for (int i = 0; i < conformance_case_count; i++)
        if (strcmp(conformance_cases[i].op, ops_name(op)) == 0)
            return &conformance_cases[i];
    fail_msg("the op %s has no line in conformance_cases", ops_name(op));
    return NULL;
}

/* The variants to run: all, or of an op with more than twelve half of them, by pairs, since one of each pair has a
 * ragged layout and biases; the thread sanitizer is slow, and the shape of a tensor does not change who shares it. */
static bool is_taken(const conformance_case *c, int variant) {
    const char *half = strstr(TEST_SANITIZE, "thread") ? "odd" : getenv("XLSTM_TEST_VARIANTS");
    return c->variants <= 12 || !half || variant / 2 % 2 == (strcmp(half, "odd") == 0);
}

static void print_line(const conformance_case *c, int op, const column *columns, int count,
                       const outcome *outcomes, const char *isa) {
    printf("%-12s", c->op);
    printf(isa ? " %-12s" : "%8s", isa ? isa : "");
    for (int i = 0; i < count; i++)
        if (columns[i].isa == isa)
            print_cell(c, &columns[i], op, &outcomes[i]);
    printf("   <= %.0e: %s%s\n", c->tolerance, c->reason,
           c->weights == WEIGHT_MATRICES && c->tolerance > 0 ? "; fast: bf16, integers" : "");
    fflush(stdout);
}

/* An op in all columns, of every `step`-th variant; how many of its cells fail. */
static int run_op(const conformance_case *c, int op, int step, const column *columns, int count,
                  outcome *outcomes) {
    int variants = test_is_quick() ? c->quick_variants : c->variants, failures = 0;
    bool batches = false;
    for (int i = 0; i < count; i++)
        batches |= columns[i].as.device->batch_tokens > 0;
    for (int variant = variants - 1; variant >= 0; variant -= step)
        if (is_taken(c, variant) && (batches || !conformance_is_of_batches(c, variant)))
            run_variant(c, op, variant, columns, count, outcomes);
    for (int i = 0; i < count; i++)
        failures += outcomes[i].failed;
    return failures;
}

static void test_table(void **state) {
    (void)state;
    column columns[MAX_COLUMNS];
    int count = list_columns(columns), failures = 0;
    assert_true(count > 0 && count < MAX_COLUMNS);
    print_heads(columns, count);
    for (int op = 0; ops_name(op); op++) {
        const conformance_case *c = case_of(op);
        outcome outcomes[MAX_COLUMNS] = {0};
        failures += run_op(c, op, 1, columns, count, outcomes);
        print_line(c, op, columns, count, outcomes, NULL);
    }
    assert_int_equal(failures, 0);
}

/* Every column of the CPU with every instruction set of the build that runs here. */
static int list_isas(column *columns, const char **names, int *name_count) {
    column all[MAX_COLUMNS];
    int count = list_columns(all), used = 0;
    bool runs;
    *name_count = 0;
    for (int i = 0; cpu_kernels_at(i, &runs); i++) {
        const char *name = cpu_kernels_at(i, &runs)->name;
        if (runs)
            names[(*name_count)++] = name;
        else
            printf("cpu, instruction set %s: not run here\n", name);
    }
    for (int i = 0; i < count; i++)
        for (int n = 0; n < *name_count && strcmp(all[i].as.device->name, "cpu") == 0; n++) {
            columns[used] = all[i];
            columns[used++].isa = names[n];
        }
    return used;
}

/* The ops with matrices on every instruction set in the build; not for the thread sanitizer. */
static void test_instruction_sets(void **state) {
    (void)state;
    if (strstr(TEST_SANITIZE, "thread") || !test_uses_device("cpu"))
        skip(); /* which instructions a thread uses does not change what it shares */
    static column columns[MAX_COLUMNS];
    const char *names[16], *before = getenv("XLSTM_CPU_ISA");
    int name_count, used = list_isas(columns, names, &name_count), failures = 0;
    char *kept = before ? strdup(before) : NULL;
    for (int op = 0; ops_name(op); op++) {
        const conformance_case *c = case_of(op);
        if (c->weights != WEIGHT_MATRICES)
            continue;
        outcome outcomes[MAX_COLUMNS] = {0};
        failures += run_op(c, op, 2, columns, used, outcomes);
        for (int n = 0; n < name_count; n++)
            print_line(c, op, columns, used, outcomes, names[n]);
    }
    unsetenv("XLSTM_CPU_ISA");
    if (kept)
        setenv("XLSTM_CPU_ISA", kept, 1);
    free(kept);
    assert_int_equal(failures, 0);
}

/* ---- The other checks, on every device ---- */

static void on_every_device(void (*check)(ops_device *)) {
    for (int d = 0; ops_device_at(d); d++)
        if (test_uses_device(ops_device_at(d)->name))
            check(ops_device_at(d));
}

#define TEST(check)                                                                                \
    static void test_##check(void **state) {                                                       \
        (void)state;                                                                               \
        on_every_device(check_##check);                                                            \
    }
TEST(memory)
TEST(order)
TEST(row_ids)
TEST(chunk_sizes)
TEST(splits)
TEST(threads_and_batches)
TEST(gate_extremes)
TEST(padding)
TEST(poisoned_gates)
TEST(nothing_stored)
TEST(kept_weights)
TEST(prompts)
TEST(state_rounding)
TEST(deferral)
TEST(sample_errors)
TEST(sample_reads)
TEST(sample_sums)
TEST(caps)
TEST(layers)
TEST(beside)
TEST(wrong_batches)
TEST(projection_counts)
TEST(recurrent_batches)
TEST(recurrent_limits)
TEST(recurrent_wrong_calls)

static void test_failed_launch(void **state) {
    bool ran = false;
    (void)state;
    for (int d = 0; ops_device_at(d); d++)
        if (strcmp(ops_device_at(d)->name, "cuda") == 0 && test_uses_device("cuda"))
            ran = check_failed_launch(ops_device_at(d));
    if (!ran) {
        printf("skipped: only the CUDA test device fails launches\n");
        skip();
    }
}

int main(int argc, char **argv) {
    const char *perf = getenv("XLSTM_PERF");
    if ((argc > 1 && strcmp(argv[1], "--perf") == 0) || (perf && strcmp(perf, "1") == 0)) {
        for (int d = 0; ops_device_at(d); d++)
            if (strcmp(ops_device_at(d)->name, "reference") != 0)
                measure_speed(ops_device_at(d));
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory),           cmocka_unit_test(test_order),
        cmocka_unit_test(test_row_ids),          cmocka_unit_test(test_table),
        cmocka_unit_test(test_instruction_sets), cmocka_unit_test(test_chunk_sizes),
        cmocka_unit_test(test_splits),           cmocka_unit_test(test_threads_and_batches),
        cmocka_unit_test(test_gate_extremes),    cmocka_unit_test(test_padding),
        cmocka_unit_test(test_poisoned_gates),   cmocka_unit_test(test_nothing_stored),
        cmocka_unit_test(test_kept_weights),     cmocka_unit_test(test_prompts),
        cmocka_unit_test(test_state_rounding),   cmocka_unit_test(test_deferral),
        cmocka_unit_test(test_sample_errors),    cmocka_unit_test(test_sample_reads),
        cmocka_unit_test(test_sample_sums),      cmocka_unit_test(test_caps),
        cmocka_unit_test(test_layers),           cmocka_unit_test(test_beside),
        cmocka_unit_test(test_wrong_batches),    cmocka_unit_test(test_projection_counts),
        cmocka_unit_test(test_failed_launch),    cmocka_unit_test(test_recurrent_batches),
        cmocka_unit_test(test_recurrent_limits), cmocka_unit_test(test_recurrent_wrong_calls),
    };
    if (!test_uses_device("cpu"))
        cmocka_set_skip_filter("test_instruction_sets");
    int failed = argc > 1 ? 0 : cmocka_run_group_tests(tests, NULL, NULL);
    for (int i = 1; i < argc; i++) {
        cmocka_set_test_filter(argv[i]);
        failed += cmocka_run_group_tests(tests, NULL, NULL);
    }
    return failed > 0;
}
