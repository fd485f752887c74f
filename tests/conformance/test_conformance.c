/* The tester of all devices: every op of every device, in every type of weights and both profiles,
 * against the reference in double (see cases.h for how to add one). It prints a table of ops and
 * devices with the worst relative error, and checks that bits depend neither on the number of
 * threads nor on the other rows of a batch.
 *
 *     build/tests/conformance/test_conformance [--perf]
 *
 * --perf, or XLSTM_PERF=1, measures speed instead. */
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
#include "support/support.h"

/* ---- The table ---- */

enum { MAX_COLUMNS = 64 };

/* A column: what all ops of a device run in. */
typedef struct column {
    setting as;
    bool exact; /* f64 activations */
} column;

static int list_columns(column *columns) {
    int count = 0;
    for (int d = 0; ops_device_at(d); d++)
        for (int w = 0; w < conformance_weight_count; w++)
            for (int kind = 0; kind < 3 && count < MAX_COLUMNS; kind++) {
                setting as = {ops_device_at(d), kind == 2 ? DTYPE_F64 : DTYPE_F32,
                              conformance_weights[w], kind == 1 ? OPS_FAST : OPS_EXACT, 2};
                /* f64 on the reference would compare it with itself */
                if (kind < 2 || (as.device->f64 && strcmp(as.device->name, "reference") != 0))
                    columns[count++] = (column){as, kind == 2};
            }
    return count;
}

static uint64_t seed_of(int c, int variant) {
    return (uint64_t)(c * 1000 + variant + 1);
}

static void run_side(side *s, const conformance_case *c, const setting *as, bool exact, int variant,
                     int64_t only) {
    ops_limits limits = c->limits(variant);
    side_open(s, as, exact, variant % 2, seed_of((int)(c - conformance_cases), variant), &limits);
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

/* With 1 and 7 threads; and some rows each alone, whose bits the profile `exact` promises. */
static void check_bits(const side *s, const conformance_case *c, int variant) {
    static const int threads[] = {1, 7};
    for (int i = 0; i < 2; i++) {
        side other;
        setting as = s->as;
        as.threads = threads[i];
        run_side(&other, c, &as, false, variant, -1);
        require_equal(s, &other, -1, c, variant, "the number of threads");
        side_close(&other);
    }
    if (c->kind != CASE_ROWS || s->as.profile != OPS_EXACT)
        return;
    int64_t tokens = c->tokens(variant);
    for (int64_t row = 0; row < tokens; row += 1 + tokens / 4) {
        side other;
        run_side(&other, c, &s->as, false, variant, row);
        require_equal(s, &other, row, c, variant, "the other rows of the batch");
        side_close(&other);
    }
}

/* The worst error of an op in a column. */
static double run_cell(const conformance_case *c, const column *in) {
    double worst = 0;
    int variants = test_is_quick() ? c->quick_variants : c->variants;
    for (int variant = 0; variant < variants; variant++) {
        side s, exact;
        run_side(&s, c, &in->as, false, variant, -1);
        run_side(&exact, c, &in->as, true, variant, -1);
        double error = side_error(&s, &exact);
        if (!(error <= worst))
            worst = error;
        check_bits(&s, c, variant);
        side_close(&s);
        side_close(&exact);
    }
    return worst;
}

static bool print_cell(const conformance_case *c, const column *in, int op) {
    if (!ops_device_has(in->as.device, op)) {
        printf(" %14s", "absent");
        return true;
    }
    if (!c->weights && in->as.weight != conformance_weights[0]) {
        printf(" %14s", "-");
        return true;
    }
    double error = run_cell(c, in), tolerance = in->exact ? CONFORMANCE_F64 : c->tolerance;
    bool pass = error <= tolerance;
    printf(" %s %9.1e", pass ? "pass" : "FAIL", error);
    fflush(stdout);
    return pass;
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
                 : columns[i].as.profile == OPS_EXACT ? "exact"
                                                      : "fast",
                 dtype_name(columns[i].as.weight));
        printf(" %14s", text);
    }
    printf("\n");
}

static void test_table(void **state) {
    (void)state;
    column columns[MAX_COLUMNS];
    int count = list_columns(columns), failures = 0;
    assert_true(count > 0 && count < MAX_COLUMNS);
    print_heads(columns, count);
    for (int op = 0; ops_name(op); op++) {
        const conformance_case *c = NULL;
        for (int i = 0; i < conformance_case_count; i++)
            if (strcmp(conformance_cases[i].op, ops_name(op)) == 0)
                c = &conformance_cases[i];
        if (!c)
            fail_msg("the op %s has no line in conformance_cases", ops_name(op));
        printf("%-20s", c->op);
        for (int i = 0; i < count; i++)
            failures += !print_cell(c, &columns[i], op);
        printf("   <= %.0e: %s\n", c->tolerance, c->reason);
    }
    assert_int_equal(failures, 0);
}

/* ---- The other checks, on every device ---- */

static void on_every_device(void (*check)(ops_device *)) {
    for (int d = 0; ops_device_at(d); d++)
        check(ops_device_at(d));
}

#define TEST(check)                                                                                \
    static void test_##check(void **state) {                                                       \
        (void)state;                                                                               \
        on_every_device(check_##check);                                                            \
    }
TEST(memory)
TEST(chunk_sizes)
TEST(splits)
TEST(threads_and_batches)
TEST(gate_extremes)
TEST(padding)
TEST(poisoned_gates)
TEST(nothing_stored)
TEST(sample_errors)

int main(int argc, char **argv) {
    const char *perf = getenv("XLSTM_PERF");
    if ((argc > 1 && strcmp(argv[1], "--perf") == 0) || (perf && strcmp(perf, "1") == 0)) {
        for (int d = 0; ops_device_at(d); d++)
            if (strcmp(ops_device_at(d)->name, "reference") != 0)
                measure_speed(ops_device_at(d));
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_chunk_sizes),
        cmocka_unit_test(test_splits),
        cmocka_unit_test(test_threads_and_batches),
        cmocka_unit_test(test_gate_extremes),
        cmocka_unit_test(test_padding),
        cmocka_unit_test(test_poisoned_gates),
        cmocka_unit_test(test_nothing_stored),
        cmocka_unit_test(test_sample_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
