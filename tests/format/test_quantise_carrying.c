/* Rows rounded with errors carried on, against the same thing written plainly: what a column makes
 * good comes from solving linear systems, the levels from the scales that the row was given, and the
 * scales are compared with all that there are. */
#include "format/quantise.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/blocks.h"
#include "base/normal.h"
#include "support/support.h"

enum { COUNT = 160, WINDOW = 96, ROWS = 48, SAMPLES = 400 }; /* the last window is shorter */

static const dtype kinds[] = {DTYPE_Q8_0, DTYPE_Q5_0, DTYPE_Q5_1,
                              DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_IQ4_NL};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

typedef struct problem {
    double h[COUNT][COUNT]; /* 0 between windows */
    int32_t order[COUNT];
    float importance[COUNT], carry[COUNT * WINDOW]; /* carry: and H, up to the diagonal */
    float rows[ROWS][COUNT];
    quantise_columns columns;
} problem;

static int64_t window_end(int64_t j) {
    int64_t end = (j / WINDOW + 1) * WINDOW;
    return end < COUNT ? end : COUNT;
}

/* Inputs that have something in common: each is a neighbour's half and something of its own, of
 * various sizes. */
static void make_h(problem *p, normal_generator *g) {
    static double x[COUNT];
    for (int s = 0; s < SAMPLES; s++) {
        double common = normal_next(g);
        for (int i = 0; i < COUNT; i++)
            x[i] = 0.6 * (i > 0 ? x[i - 1] : 0) + 0.5 * common +
                   (0.2 + 0.02 * (i % 37)) * normal_next(g);
        for (int i = 0; i < COUNT; i++)
            for (int j = 0; j < COUNT; j++)
                if (i / WINDOW == j / WINDOW)
                    p->h[i][j] += x[i] * x[j] / SAMPLES;
    }
}

/* Blocks and columns change places, within windows and blocks. */
static void make_order(problem *p) {
    static const int blocks[COUNT / 32] = {2, 0, 1, 4, 3};
    for (int j = 0; j < COUNT; j++)
        p->order[j] = blocks[j / 32] * 32 + (j % 32 * 11 + 5) % 32;
}

/* With column j off by e (value - rounded), the errors of those after it are best -e H_FF^-1 H_Fj:
 * their values rise by as much as that is negative. */
static void make_carry_of(problem *p, int j) {
    static double a[WINDOW * WINDOW], b[WINDOW];
    int n = (int)window_end(j) - j - 1;
    for (int i = 0; i < n; i++) {
        b[i] = p->h[p->order[j]][p->order[j + 1 + i]];
        for (int k = 0; k < n; k++)
            a[i * n + k] = p->h[p->order[j + 1 + i]][p->order[j + 1 + k]];
    }
    test_solve(a, b, n);
    double left = p->h[p->order[j]][p->order[j]];
    for (int i = 0; i < n; i++) {
        left -= b[i] * p->h[p->order[j]][p->order[j + 1 + i]];
        p->carry[j * WINDOW + j % WINDOW + 1 + i] = -(float)b[i];
    }
    p->importance[j] = (float)left;
}

static problem *make_problem(void) {
    static problem p;
    normal_table table;
    normal_table_init(&table);
    normal_generator g = normal_sequence(&table, 7, 2, 3);
    memset(&p, 0, sizeof p);
    make_h(&p, &g);
    make_order(&p);
    for (int j = 0; j < COUNT; j++) {
        make_carry_of(&p, j);
        for (int k = j / WINDOW * WINDOW; k <= j; k++)
            p.carry[j * WINDOW + k % WINDOW] = (float)p.h[p.order[j]][p.order[k]];
    }
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < COUNT; i++)
            p.rows[r][i] = 0.05f * (float)normal_next(&g) + (i / 32 == 1 ? 0.1f : 0);
    p.columns = (quantise_columns){
        .window = WINDOW, .order = p.order, .importance = p.importance, .carry = p.carry};
    return &p;
}

/* e H e^T of a row and what it was rounded to. */
static double cost_of(const problem *p, const float *row, const float *decoded) {
    double sum = 0;
    for (int i = 0; i < COUNT; i++)
        for (int j = 0; j < COUNT; j++)
            sum += ((double)row[i] - (double)decoded[i]) * p->h[i][j] *
                   ((double)row[j] - (double)decoded[j]);
    return sum;
}

static void encode(const problem *p, dtype type, int row, uint8_t *blocks, float *decoded) {
    float work[4 * COUNT];
    assert_true(quantise_work_size(COUNT) <= sizeof work);
    assert_int_equal(quantise_row_carrying(type, p->rows[row], &p->columns, COUNT, work, blocks),
                     COUNT);
    blocks_decode(type, blocks, COUNT, decoded);
}

static bool has_offset(dtype type) {
    return type == DTYPE_Q5_1 || type == DTYPE_Q4_1;
}

static void limits_of(dtype type, int *lowest, int *highest) {
    *lowest = type == DTYPE_Q8_0 ? -127 : type == DTYPE_Q5_0 ? -16 : type == DTYPE_Q4_0 ? -8 : 0;
    *highest = type == DTYPE_Q8_0                         ? 127
               : type == DTYPE_Q5_1                       ? 31
               : type == DTYPE_Q5_0 || type == DTYPE_Q4_1 ? 15
                                                          : 7;
}

/* The value nearest to x that a block with this scale and offset can hold. */
static double nearest(dtype type, double d, double m, double x) {
    double best = m, least = INFINITY;
    int lowest, highest;
    limits_of(type, &lowest, &highest);
    if (type == DTYPE_IQ4_NL)
        lowest = 0, highest = 15;
    for (int q = lowest; q <= highest; q++) {
        double value = d * (type == DTYPE_IQ4_NL ? block_levels[q] : q) + m;
        if (fabs(x - value) < least)
            least = fabs(x - value), best = value;
    }
    return best;
}

static double half_at(const uint8_t *bytes) {
    uint16_t half;
    memcpy(&half, bytes, sizeof half);
    return (double)f16_to_float(half);
}

/* Rounds 32 columns from the j-th on, and carries their errors to the end of the window or of the
 * block; returns the sum of what is left of the squares. */
static double round_block(const problem *p, dtype type, double d, double m, int j, int end,
                          double *values, double *rounded) {
    double left = 0;
    for (int a = j; a < j + 32; a++) {
        rounded[a] = nearest(type, d, m, values[a]);
        double error = values[a] - rounded[a];
        left += (double)p->importance[a] * error * error;
        for (int k = a + 1; k < end; k++)
            values[k] -= error * (double)p->carry[a * WINDOW + k % WINDOW];
    }
    return left;
}

/* A row with the scales that it was given. */
static double round_row(const problem *p, dtype type, int row, const uint8_t *blocks,
                        double *rounded) {
    double values[COUNT], left = 0;
    for (int j = 0; j < COUNT; j++)
        values[j] = (double)p->rows[row][p->order[j]];
    for (int j = 0; j < COUNT; j += 32) {
        const uint8_t *block = blocks + p->order[j] / 32 * (int)dtype_size(type);
        double d = half_at(block), m = has_offset(type) ? half_at(block + 2) : 0;
        left += round_block(p, type, d, m, j, (int)window_end(j), values, rounded);
    }
    return left;
}

/* A tie may be decided otherwise in floats, and changes what follows it. */
static void test_as_written_plainly(void **state) {
    (void)state;
    const problem *p = make_problem();
    for (int k = 0; k < KINDS; k++) {
        int different = 0;
        for (int row = 0; row < ROWS; row++) {
            uint8_t blocks[COUNT * 2];
            float decoded[COUNT];
            double rounded[COUNT];
            encode(p, kinds[k], row, blocks, decoded);
            double left = round_row(p, kinds[k], row, blocks, rounded);
            bool same = true;
            for (int j = 0; j < COUNT; j++)
                same = same && fabs((double)decoded[p->order[j]] - rounded[j]) < 1e-5;
            different += !same;
            /* What is left column by column is what the row costs in all. */
            if (same)
                assert_true(fabs(left / cost_of(p, p->rows[row], decoded) - 1) < 1e-3);
        }
        print_message("%s: %d of %d rows differ\n", dtype_name(kinds[k]), different, ROWS);
        assert_true(different <= 1);
    }
}

/* Against each block for itself, with the mean squares as weights. */
static void test_costs_less(void **state) {
    (void)state;
    const problem *p = make_problem();
    float squares[COUNT];
    for (int i = 0; i < COUNT; i++)
        squares[i] = (float)p->h[i][i];
    for (int k = 0; k < KINDS; k++) {
        double plain = 0, carried = 0;
        for (int row = 0; row < ROWS; row++) {
            uint8_t blocks[COUNT * 2];
            float decoded[COUNT];
            encode(p, kinds[k], row, blocks, decoded);
            carried += cost_of(p, p->rows[row], decoded);
            quantise_row(kinds[k], p->rows[row], squares, COUNT, blocks);
            blocks_decode(kinds[k], blocks, COUNT, decoded);
            plain += cost_of(p, p->rows[row], decoded);
        }
        print_message("%s: %.3f of the cost\n", dtype_name(kinds[k]), carried / plain);
        assert_true(carried < 0.6 * plain);
    }
}

/* The first block of a row, of which nothing has changed yet, with every f16 as its scale. */
static void test_near_the_best_scale(void **state) {
    (void)state;
    const problem *p = make_problem();
    static const dtype symmetric[] = {DTYPE_Q5_0, DTYPE_Q4_0, DTYPE_IQ4_NL};
    for (int k = 0; k < 3; k++) {
        double sum = 0;
        int rows = 0;
        for (int row = 0; row < ROWS; row += 8, rows++) {
            uint8_t blocks[COUNT * 2];
            float decoded[COUNT];
            double values[COUNT], start[COUNT], rounded[COUNT], best = INFINITY;
            encode(p, symmetric[k], row, blocks, decoded);
            for (int j = 0; j < COUNT; j++)
                start[j] = (double)p->rows[row][p->order[j]];
            double d = half_at(blocks + p->order[0] / 32 * (int)dtype_size(symmetric[k]));
            memcpy(values, start, sizeof values);
            double got = round_block(p, symmetric[k], d, 0, 0, 32, values, rounded);
            uint16_t from = float_to_f16((float)fabs(d) / 3), to = float_to_f16((float)fabs(d) * 2);
            for (uint32_t bits = from; bits <= to; bits++)
                for (int sign = -1; sign <= 1; sign += 2) {
                    double other = sign * (double)f16_to_float((uint16_t)bits);
                    memcpy(values, start, sizeof values);
                    best =
                        fmin(best, round_block(p, symmetric[k], other, 0, 0, 32, values, rounded));
                }
            sum += got / best;
        }
        print_message("%s: %.3f of the least cost\n", dtype_name(symmetric[k]), sum / rows);
        assert_true(sum / rows < 1.15);
    }
}

/* H is given too. */
static void encode_with_sweeps(const problem *p, dtype type, int row, uint8_t *blocks,
                               float *decoded) {
    float work[4 * COUNT];
    quantise_columns columns = p->columns;
    columns.h = columns.carry;
    assert_int_equal(quantise_row_carrying(type, p->rows[row], &columns, COUNT, work, blocks),
                     COUNT);
    blocks_decode(type, blocks, COUNT, decoded);
}

/* Whether one value of the row on another level of its block would cost less. */
static bool can_be_improved(const problem *p, dtype type, int row, const uint8_t *blocks,
                            const float *decoded, int i, double cost) {
    const uint8_t *block = blocks + i / 32 * (int)dtype_size(type);
    double d = half_at(block), m = has_offset(type) ? half_at(block + 2) : 0;
    double further = type == DTYPE_IQ4_NL ? 15 : 1.01; /* levels of the table are 11 to 24 apart */
    float other[COUNT];
    memcpy(other, decoded, sizeof other);
    for (int step = -1; step <= 1; step += 2) {
        double beyond = (double)decoded[i] + step * further * fabs(d);
        other[i] = (float)nearest(type, d, m, beyond);
        if (cost_of(p, p->rows[row], other) < cost * (1 - 1e-5))
            return true;
    }
    return false;
}

/* Sweeps never make a row worse, and leave little that a single value could make better. The first
 * pass leaves them few values: so they also begin at plain rounding, with nothing carried on. */
static void check_sweeps(bool carried) {
    problem *p = make_problem();
    for (int j = 0; j < COUNT && !carried; j++)
        for (int k = j % WINDOW + 1; k < WINDOW; k++)
            p->carry[j * WINDOW + k] = 0;
    for (int k = 0; k < KINDS; k++) {
        double without = 0, with = 0;
        int improvable[2] = {0};
        for (int row = 0; row < ROWS; row += 4) {
            uint8_t blocks[COUNT * 2];
            float decoded[COUNT];
            encode(p, kinds[k], row, blocks, decoded);
            double first = cost_of(p, p->rows[row], decoded);
            for (int i = 0; i < COUNT; i += 5)
                improvable[0] += can_be_improved(p, kinds[k], row, blocks, decoded, i, first);
            encode_with_sweeps(p, kinds[k], row, blocks, decoded);
            double second = cost_of(p, p->rows[row], decoded);
            for (int i = 0; i < COUNT; i += 5)
                improvable[1] += can_be_improved(p, kinds[k], row, blocks, decoded, i, second);
            assert_true(second <= first * (1 + 1e-4));
            without += first, with += second;
        }
        print_message("%s: %.3f of the cost; %d values could be better, %d before\n",
                      dtype_name(kinds[k]), with / without, improvable[1], improvable[0]);
        assert_true(with < (carried ? 0.995 : 0.9) * without);
        assert_true(improvable[1] <= improvable[0] / 4);
        assert_true(carried || improvable[0] >= 50);
    }
}

static void test_sweeps(void **state) {
    (void)state;
    check_sweeps(true);
    check_sweeps(false);
}

static void test_what_cannot_be_encoded(void **state) {
    (void)state;
    problem *p = make_problem();
    for (int k = 0; k < KINDS; k++) {
        uint8_t blocks[COUNT * 2];
        float work[4 * COUNT];
        assert_true(quantise_work_size(COUNT) <= sizeof work);
        p->rows[0][77] = NAN, p->rows[0][100] = INFINITY;
        assert_int_equal(
            quantise_row_carrying(kinds[k], p->rows[0], &p->columns, COUNT, work, blocks), 77);
        p->rows[0][77] = 1.01f * quantise_limit(kinds[k]);
        assert_int_equal(
            quantise_row_carrying(kinds[k], p->rows[0], &p->columns, COUNT, work, blocks), 77);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_written_plainly),     cmocka_unit_test(test_costs_less),
        cmocka_unit_test(test_near_the_best_scale),    cmocka_unit_test(test_sweeps),
        cmocka_unit_test(test_what_cannot_be_encoded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
