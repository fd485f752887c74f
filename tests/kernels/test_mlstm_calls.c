/* Calls of the mLSTM kernels: arrays of every type and layout, states written where they were read,
 * and what is wrong with a wrong call. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/kernels.h"
#include "kernels/mlstm.h"

static const xlstm_kernel_options options_of_9 = {
    .chunk_size = 9, .eps = 1e-6, .normalize = true, .groups = 1, .soft_cap = 15};

static void make(kernel_case *c, const xlstm_kernel *kernel, xlstm_dtype type) {
    case_make(c, kernel, &options_of_9, type, 11, "B=2 NH=3 S=%d DHQK=5 DHHV=7",
              mlstm_is_step(kernel) ? 1 : 20);
    case_draw(c, "f", 11, 3, 1);
}

static bool is_output(const kernel_case *c, int parameter) {
    xlstm_role role = c->kernel->parameters[parameter].role;
    return role == XLSTM_OUTPUT || role == XLSTM_BACKWARD_OUTPUT;
}

typedef void test_of_kernel(const xlstm_kernel *kernel);

static void each_kernel(test_of_kernel *test) {
    const xlstm_kernel *kernel;
    int tested = 0;
    for (int k = 0; (kernel = xlstm_kernel_at(k)); k++)
        if (mlstm_is(kernel) && kernel_is_tested(kernel, XLSTM_F64)) {
            test(kernel);
            tested++;
        }
    assert_true(tested >= 10);
}

/* ---- Types ---- */

/* Outputs are as good as their type, and no worse for being computed from and in f32. */
static void check_type(const xlstm_kernel *kernel, xlstm_dtype type, double tolerance) {
    kernel_case c, exact;
    make(&c, kernel, type);
    make(&exact, kernel, XLSTM_F64);
    case_copy_inputs(&exact, &c);
    case_run(&c, XLSTM_BACKWARD_EXACT);
    case_run(&exact, XLSTM_BACKWARD_EXACT);
    for (int p = 0; p < kernel->parameter_count; p++)
        if (is_output(&c, p))
            case_compare(&c, &exact, kernel->parameters[p].name, tolerance);
    case_free(&c);
    case_free(&exact);
}

static void check_types(const xlstm_kernel *kernel) {
    check_type(kernel, XLSTM_F32, 1e-5);
    check_type(kernel, XLSTM_BF16, 4e-3);
    check_type(kernel, XLSTM_F16, 5e-4);
}

static void test_types(void **state) {
    (void)state;
    each_kernel(check_types);
}

/* Where m is large its rounding to f32 is not one of C and n, which stand for exp(m) times as much. */
static void check_large_m(const xlstm_kernel *kernel) {
    if (strcmp(kernel->device, "reference") != 0 || mlstm_is_parallel(kernel) ||
        mlstm_is_sigmoid(kernel))
        return;
    kernel_case c, exact;
    make(&c, kernel, XLSTM_F32);
    make(&exact, kernel, XLSTM_F64);
    case_draw(&c, "i", 11, 1000, 3);
    case_copy_inputs(&exact, &c);
    case_run(&c, XLSTM_FORWARD);
    case_run(&exact, XLSTM_FORWARD);
    static const char *const names[] = {"c", "n"};
    int64_t heads = case_count(&c, "m");
    for (int s = 0; s < 2; s++) {
        int64_t width = case_count(&c, names[s]) / heads;
        for (int64_t i = 0; i < heads * width; i++) {
            double shift = case_get(&c, "m", i / width) - case_get(&exact, "m", i / width);
            double expected = case_get(&exact, names[s], i) * exp(-shift);
            assert_true(fabs(case_get(&c, names[s], i) - expected) <= 1e-7 * fabs(expected));
        }
    }
    case_free(&c);
    case_free(&exact);
}

static void test_large_m(void **state) {
    (void)state;
    each_kernel(check_large_m);
}

/* q, k, v, h in bf16, the rest in f32: the states are then those of f32. */
static void check_mixture(const xlstm_kernel *kernel) {
    static const char *const narrow[] = {"q", "k", "v", "h"};
    kernel_case c, exact, mixed, donor;
    make(&donor, kernel, XLSTM_BF16);
    make(&mixed, kernel, XLSTM_F32);
    make(&exact, kernel, XLSTM_F64);
    c = mixed;
    for (int p = 0; p < kernel->parameter_count; p++)
        for (int i = 0; i < 4; i++)
            if (strcmp(kernel->parameters[p].name, narrow[i]) == 0)
                c.array[p] = donor.array[p];
    case_copy_inputs(&exact, &c);
    case_run(&c, XLSTM_FORWARD);
    case_run(&exact, XLSTM_FORWARD);
    case_compare(&c, &exact, "h", 4e-3);
    if (!mlstm_is_parallel(kernel)) {
        case_compare(&c, &exact, "c", 2e-6);
        case_compare(&c, &exact, "n", 2e-6);
    }
    case_free(&donor);
    case_free(&mixed);
    case_free(&exact);
}

static void test_mixtures(void **state) {
    (void)state;
    each_kernel(check_mixture);
}

/* ---- Layouts ---- */

static size_t size_of(xlstm_dtype type) {
    return type == XLSTM_F64 ? 8 : type == XLSTM_F32 ? 4 : 2;
}

/* Copies all elements between two layouts of one shape. */
static void copy_elements(const xlstm_array *from, const xlstm_array *to) {
    int64_t index[XLSTM_MAX_RANK] = {0}, elements = 1;
    for (int d = 0; d < from->rank; d++)
        elements *= from->shape[d];
    for (int64_t i = 0; i < elements; i++) {
        int64_t source = 0, target = 0;
        for (int d = 0; d < from->rank; d++) {
            source += index[d] * from->stride[d];
            target += index[d] * to->stride[d];
        }
        size_t size = size_of(from->dtype);
        memcpy((char *)to->data + (size_t)target * size, (char *)from->data + (size_t)source * size,
               size);
        for (int d = from->rank - 1; d >= 0 && ++index[d] == from->shape[d]; d--)
            index[d] = 0;
    }
}

/* Dimensions in the order of `order`, outermost first; every stride is `spread` times what it need be. */
static xlstm_array lay_out(const xlstm_array *a, const int *order, int64_t spread, size_t *bytes) {
    xlstm_array b = *a;
    int64_t stride = spread;
    for (int d = a->rank - 1; d >= 0; d--) {
        b.stride[order[d]] = stride;
        stride *= a->shape[order[d]];
    }
    *bytes = (size_t)stride * size_of(a->dtype);
    b.data = malloc(*bytes);
    assert_non_null(b.data);
    memset(b.data, 0xA5, *bytes);
    return b;
}

/* All bytes that are no element are as they were. */
static void check_gaps(const xlstm_array *a, size_t bytes) {
    unsigned char *seen = calloc(bytes, 1);
    assert_non_null(seen);
    xlstm_array mark = *a, ones = *a;
    mark.data = seen;
    unsigned char one[8];
    memset(one, 1, sizeof one);
    ones.data = one;
    memset(ones.stride, 0, sizeof ones.stride);
    copy_elements(&ones, &mark);
    for (size_t i = 0; i < bytes; i++)
        if (!seen[i])
            assert_int_equal(((unsigned char *)a->data)[i], 0xA5);
    free(seen);
}

static void check_layout(const xlstm_kernel *kernel, xlstm_dtype type, const int orders[5][4],
                         int64_t spread) {
    kernel_case plain, c;
    size_t bytes[CASE_MOST_ARRAYS];
    make(&plain, kernel, type);
    make(&c, kernel, type);
    for (int p = 0; p < kernel->parameter_count; p++) {
        xlstm_array laid = lay_out(&c.array[p], orders[c.array[p].rank], spread, &bytes[p]);
        copy_elements(&c.array[p], &laid);
        free(c.array[p].data);
        c.array[p] = laid;
    }
    case_run(&plain, XLSTM_BACKWARD_EXACT);
    case_run(&c, XLSTM_BACKWARD_EXACT);
    for (int p = 0; p < kernel->parameter_count; p++) {
        check_gaps(&c.array[p], bytes[p]);
        xlstm_array contiguous = plain.array[p];
        int64_t elements = case_count(&plain, kernel->parameters[p].name);
        contiguous.data = malloc((size_t)elements * size_of(type));
        assert_non_null(contiguous.data);
        copy_elements(&c.array[p], &contiguous);
        if (memcmp(contiguous.data, plain.array[p].data, (size_t)elements * size_of(type)) != 0)
            fail_msg("%s: %s depends on its layout", kernel->name, kernel->parameters[p].name);
        free(contiguous.data);
    }
    case_free(&plain);
    case_free(&c);
}

static void check_layouts(const xlstm_kernel *kernel) {
    /* [B, S, NH, D] in memory, as projections write it; all dimensions turned round */
    static const int transposed[5][4] = {{0}, {0}, {0, 1}, {0, 2, 1}, {0, 2, 1, 3}};
    static const int reversed[5][4] = {{0}, {0}, {1, 0}, {2, 1, 0}, {3, 2, 1, 0}};
    check_layout(kernel, XLSTM_F32, transposed, 1);
    check_layout(kernel, XLSTM_F64, reversed, 1);
    check_layout(kernel, XLSTM_BF16, reversed, 3);
    check_layout(kernel, XLSTM_F32, transposed, 2);
}

static void test_layouts(void **state) {
    (void)state;
    each_kernel(check_layouts);
}

/* Stride 0: one array for all heads. */
static void check_broadcast(const xlstm_kernel *kernel) {
    kernel_case c, plain;
    make(&c, kernel, XLSTM_F32);
    make(&plain, kernel, XLSTM_F32);
    xlstm_array *k = case_array(&c, "k");
    k->stride[0] = k->stride[1] = 0;
    int64_t one = k->shape[2] * k->shape[3];
    for (int64_t i = 0; i < case_count(&plain, "k"); i++)
        case_set(&plain, "k", i, case_get(&plain, "k", i % one));
    case_run(&c, XLSTM_BACKWARD_EXACT);
    case_run(&plain, XLSTM_BACKWARD_EXACT);
    assert_true(case_error(&c, "h", &plain, "h") == 0);
    assert_true(case_error(&c, "dk", &plain, "dk") == 0);
    case_free(&c);
    case_free(&plain);
}

static void test_broadcast(void **state) {
    (void)state;
    each_kernel(check_broadcast);
}

/* States written where they were read. */
static void check_in_place(const xlstm_kernel *kernel) {
    if (mlstm_is_parallel(kernel))
        return;
    static const char *const initial[] = {"c0", "n0", "m0"}, *const last[] = {"c", "n", "m"};
    static const xlstm_dtype types[] = {XLSTM_F64, XLSTM_F32, XLSTM_BF16};
    for (int t = 0; t < 3; t++) {
        kernel_case c, plain;
        make(&plain, kernel, types[t]);
        make(&c, kernel, types[t]);
        void *unused[3] = {NULL};
        for (int s = 0; s < 3; s++)
            if (case_has(&c, last[s])) {
                unused[s] = case_array(&c, last[s])->data;
                *case_array(&c, last[s]) = *case_array(&c, initial[s]);
            }
        case_run(&plain, XLSTM_BACKWARD_EXACT);
        case_run(&c, XLSTM_BACKWARD_EXACT);
        for (int p = 0; p < kernel->parameter_count; p++)
            if (is_output(&c, p))
                case_compare(&c, &plain, kernel->parameters[p].name, 0);
        for (int s = 0; s < 3; s++)
            if (unused[s])
                case_array(&c, last[s])->data = unused[s];
        case_free(&plain);
        case_free(&c);
    }
}

static void test_states_in_place(void **state) {
    (void)state;
    each_kernel(check_in_place);
}

/* Each output by itself is what it is together with the others. */
static void check_single_outputs(const xlstm_kernel *kernel) {
    kernel_case all;
    make(&all, kernel, XLSTM_F64);
    case_run(&all, XLSTM_BACKWARD_EXACT);
    for (int p = 0; p < kernel->parameter_count; p++) {
        if (!is_output(&all, p))
            continue;
        kernel_case c;
        make(&c, kernel, XLSTM_F64);
        for (int other = 0; other < kernel->parameter_count; other++)
            if (other != p && is_output(&c, other))
                c.given[other] = false;
        case_run(&c, XLSTM_BACKWARD_EXACT);
        case_compare(&c, &all, kernel->parameters[p].name, 0);
        case_free(&c);
    }
    case_free(&all);
}

static void test_single_outputs(void **state) {
    (void)state;
    each_kernel(check_single_outputs);
}

/* The same bits with any number of threads. */
static void check_threads(const xlstm_kernel *kernel) {
    static const xlstm_dtype types[] = {XLSTM_F64, XLSTM_F32};
    for (int t = 0; t < 2; t++)
        for (int b = XLSTM_BACKWARD_EXACT; b <= XLSTM_BACKWARD_UPSTREAM; b++) {
            kernel_case one, three;
            make(&one, kernel, types[t]);
            make(&three, kernel, types[t]);
            one.options.threads = 1;
            three.options.threads = 3;
            case_run(&one, (xlstm_backward)b);
            case_run(&three, (xlstm_backward)b);
            for (int p = 0; p < kernel->parameter_count; p++)
                if (is_output(&one, p))
                    case_compare(&three, &one, kernel->parameters[p].name, 0);
            case_free(&one);
            case_free(&three);
        }
}

static void test_threads(void **state) {
    (void)state;
    each_kernel(check_threads);
}

/* What is absent is 0; sums may then be taken in another order. */
static void check_absent(const xlstm_kernel *kernel) {
    static const char *const names[] = {"c0", "n0", "m0", "dh", "dc", "dn", "dm"};
    kernel_case zero, absent;
    make(&zero, kernel, XLSTM_F64);
    make(&absent, kernel, XLSTM_F64);
    for (size_t n = 0; n < sizeof names / sizeof *names; n++)
        if (case_has(&zero, names[n])) {
            for (int64_t i = 0; i < case_count(&zero, names[n]); i++)
                case_set(&zero, names[n], i, 0);
            case_drop(&absent, names[n]);
            case_run(&zero, XLSTM_BACKWARD_EXACT);
            case_run(&absent, XLSTM_BACKWARD_EXACT);
            for (int p = 0; p < kernel->parameter_count; p++)
                if (is_output(&zero, p))
                    case_compare(&absent, &zero, kernel->parameters[p].name, 1e-14);
        }
    case_free(&zero);
    case_free(&absent);
}

static void test_absent_is_zero(void **state) {
    (void)state;
    each_kernel(check_absent);
}

/* ---- Wrong calls ---- */

/* The call fails, with a message that has these words in it. */
static void refused(kernel_case *c, xlstm_backward backward, const char *words) {
    assert_int_equal(case_try(c, backward), XLSTM_INVALID_ARGUMENT);
    if (!strstr(xlstm_last_error(), words))
        fail_msg("%s: \"%s\" says nothing of \"%s\"", c->kernel->name, xlstm_last_error(), words);
}

typedef void spoil(kernel_case *c);
static void without_q(kernel_case *c) {
    case_drop(c, "q");
}
static void short_k(kernel_case *c) {
    case_array(c, "k")->shape[2]++;
}
static void rank_of_v(kernel_case *c) {
    case_array(c, "v")->rank = 3;
}
static void no_memory(kernel_case *c) {
    case_array(c, "i")->data = NULL;
}
static void two_types(kernel_case *c) {
    case_array(c, "f")->dtype = XLSTM_F64;
}
static void indices(kernel_case *c) {
    case_array(c, "f")->dtype = XLSTM_I32;
}
static void no_type(kernel_case *c) {
    case_array(c, "f")->dtype = (xlstm_dtype)77;
}
static void shared_output(kernel_case *c) {
    case_array(c, "h")->stride[1] = 0;
}
static void negative_stride(kernel_case *c) {
    case_array(c, "q")->stride[0] = -1;
}
static void negative_size(kernel_case *c) {
    case_array(c, "q")->shape[0] = -1;
}
static void no_batch(kernel_case *c) {
    for (int p = 0; p < c->kernel->parameter_count; p++)
        c->array[p].shape[0] = 0;
}
static void huge(kernel_case *c) {
    case_array(c, "q")->shape[0] = INT64_MAX / 2;
}
static void misaligned(kernel_case *c) {
    xlstm_array *q = case_array(c, "q");
    q->data = (char *)q->data + 1;
}
static void negative_eps(kernel_case *c) {
    c->options.eps = -1;
}
static void nan_eps(kernel_case *c) {
    c->options.eps = (double)NAN;
}
static void negative_chunk(kernel_case *c) {
    c->options.chunk_size = -1;
}
static void negative_threads(kernel_case *c) {
    c->options.threads = -2;
}
static void no_accumulation(kernel_case *c) {
    c->options.accumulate = (xlstm_accumulate)9;
}

static void check_wrong(const xlstm_kernel *kernel) {
    static const struct {
        spoil *spoil;
        const char *words;
    } wrong[] = {
        {without_q, "q [B,NH,S,DHQK] is missing"},
        {short_k, "k has shape"},
        {rank_of_v, "v has shape"},
        {no_memory, "i has data"},
        {two_types, "f64"},
        {indices, "f must be"},
        {no_type, "f has no dtype"},
        {shared_output, "h is an output and has stride 0"},
        {negative_stride, "q has a size or stride"},
        {negative_size, "q has a size or stride"},
        {no_batch, "B is 0"},
        {huge, "q has a size or stride"},
        {misaligned, "not aligned"},
        {negative_eps, "eps"},
        {nan_eps, "eps"},
        {negative_chunk, "chunk size"},
        {negative_threads, "threads"},
        {no_accumulation, "accumulation"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        kernel_case c, spoiled;
        make(&c, kernel, XLSTM_F32);
        spoiled = c;
        wrong[i].spoil(&spoiled);
        refused(&spoiled, XLSTM_FORWARD, wrong[i].words);
        for (int64_t e = 0; e < case_count(&c, "h"); e++)
            assert_true(isnan(case_get(&c, "h", e))); /* nothing was written */
        case_run(&c, XLSTM_FORWARD);
        case_free(&c);
    }
    kernel_case c;
    make(&c, kernel, XLSTM_F32);
    refused(&c, (xlstm_backward)5, "backward");
    case_free(&c);
}

static void test_wrong_calls(void **state) {
    (void)state;
    each_kernel(check_wrong);
}

static void check_step(const xlstm_kernel *kernel) {
    if (!mlstm_is_step(kernel))
        return;
    kernel_case c;
    case_make(&c, kernel, NULL, XLSTM_F32, 1, "B=1 NH=1 S=2 DHQK=3 DHHV=3");
    refused(&c, XLSTM_FORWARD, "S must be 1");
    case_free(&c);
}

/* Names of kernels and arguments, and arguments that do not go with each other. */
static void check_names(const xlstm_kernel *kernel) {
    kernel_case c;
    make(&c, kernel, XLSTM_F32);
    xlstm_argument arguments[7];
    static const char *const names[] = {"q", "k", "v", "i", "f", "h"};
    for (int i = 0; i < 6; i++)
        arguments[i] = (xlstm_argument){names[i], *case_array(&c, names[i])};
    assert_int_equal(xlstm_kernel_run(kernel->name, NULL, arguments, 6), XLSTM_OK);

    arguments[6] = (xlstm_argument){"x", *case_array(&c, "q")};
    assert_int_equal(xlstm_kernel_run(kernel->name, NULL, arguments, 7), XLSTM_INVALID_ARGUMENT);
    assert_non_null(strstr(xlstm_last_error(), "no argument \"x\""));
    arguments[6] = arguments[0];
    assert_int_equal(xlstm_kernel_run(kernel->name, NULL, arguments, 7), XLSTM_INVALID_ARGUMENT);
    assert_non_null(strstr(xlstm_last_error(), "q is given twice"));
    arguments[6] = (xlstm_argument){"dq", *case_array(&c, "dq")};
    assert_int_equal(xlstm_kernel_run(kernel->name, NULL, arguments, 7), XLSTM_INVALID_ARGUMENT);
    assert_non_null(strstr(xlstm_last_error(), "belongs to a backward"));
    assert_int_equal(xlstm_kernel_run(kernel->name, NULL, arguments, 0), XLSTM_INVALID_ARGUMENT);

    arguments[6].name = NULL;
    assert_int_equal(xlstm_kernel_run(kernel->name, NULL, arguments, 7), XLSTM_INVALID_ARGUMENT);
    assert_int_equal(xlstm_kernel_run(kernel->name, NULL, NULL, 1), XLSTM_INVALID_ARGUMENT);

    if (mlstm_is_chunkwise(kernel)) {
        c.options.stored_states = true;
        case_run(&c, XLSTM_FORWARD); /* which has nothing to do with it */
        assert_true(!isnan(case_get(&c, "all_n", 0)));
        case_drop(&c, "all_n");
        refused(&c, XLSTM_BACKWARD_EXACT, "all_n is missing");
    }
    case_free(&c);
}

static void test_names(void **state) {
    (void)state;
    each_kernel(check_names);
    each_kernel(check_step);
    assert_null(xlstm_kernel_find("chunkwise--refernce"));
    assert_non_null(strstr(xlstm_last_error(), "chunkwise--reference"));
    assert_null(xlstm_kernel_find("sequence"));
    assert_int_equal(xlstm_kernel_run("", NULL, NULL, 0), XLSTM_INVALID_ARGUMENT);
    assert_int_equal(xlstm_kernel_run(NULL, NULL, NULL, 0), XLSTM_INVALID_ARGUMENT);
    assert_null(xlstm_kernel_at(-1));
    assert_null(xlstm_kernel_at(10000));
    for (int k = 0; xlstm_kernel_at(k); k++)
        assert_ptr_equal(xlstm_kernel_find(xlstm_kernel_at(k)->name), xlstm_kernel_at(k));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_types),          cmocka_unit_test(test_large_m),
        cmocka_unit_test(test_mixtures),       cmocka_unit_test(test_layouts),
        cmocka_unit_test(test_broadcast),      cmocka_unit_test(test_states_in_place),
        cmocka_unit_test(test_single_outputs), cmocka_unit_test(test_threads),
        cmocka_unit_test(test_absent_is_zero), cmocka_unit_test(test_wrong_calls),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
