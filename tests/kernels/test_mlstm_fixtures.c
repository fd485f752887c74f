/* Every mLSTM kernel against what the official package mlstm_kernels computes in float64
 * (scripts/make_kernel_fixtures.py): outputs, states at all chunk borders, gradients by autograd and by
 * the package's own backward; in f64, and in f32 from the same numbers. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "format/npy.h"
#include "kernels/kernels.h"
#include "kernels/mlstm.h"

#define FOLDER "tests/kernels/data/mlstm"
enum { FIXTURE_CHUNK = 11 };

/* Which errors are allowed in which type. In f64: eps is an f32 number in the package's backward. In
 * f32: the plain parallel form subtracts prefix sums. */
static double allowed(const xlstm_kernel *kernel, xlstm_dtype type, xlstm_backward backward,
                      int64_t tokens) {
    if (type == XLSTM_F64)
        return backward == XLSTM_FORWARD ? 1e-12 : backward == XLSTM_BACKWARD_EXACT ? 1e-10 : 1e-9;
    if (backward != XLSTM_FORWARD)
        return 2e-5;
    return mlstm_is_plain_parallel(kernel) ? fmax(2e-6, 2e-8 * (double)tokens) : 2e-6;
}

static const char *path_of(const char *folder, const char *form, const char *sub,
                           const char *name) {
    static char path[200];
    snprintf(path, sizeof path, FOLDER "/%s/%s%s%s.npy", folder, form, sub, name);
    return path;
}

static bool exists(const char *path) {
    return access(path, R_OK) == 0;
}

static void size_of(const char *folder, const char *name, int64_t *shape) {
    npy_array file;
    if (npy_open(path_of(folder, "", "", name), &file) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    assert_int_equal(file.rank, 4);
    memcpy(shape, file.shape, 4 * sizeof *shape);
    npy_close(&file);
}

/* The inputs are the folder's files; those that it has not are not handed over. */
static void load(kernel_case *c, const xlstm_kernel *kernel, xlstm_dtype type, const char *folder) {
    int64_t q[4], v[4];
    size_of(folder, "q", q);
    size_of(folder, "v", v);
    xlstm_kernel_options options = xlstm_kernel_defaults();
    options.chunk_size = FIXTURE_CHUNK;
    options.normalize = strcmp(folder, "sigmoid_plain") != 0;
    case_make(c, kernel, &options, type, 0, "B=%d NH=%d S=%d DHQK=%d DHHV=%d", (int)q[0], (int)q[1],
              (int)q[2], (int)q[3], (int)v[3]);
    for (int p = 0; p < kernel->parameter_count; p++) {
        const xlstm_parameter *parameter = &kernel->parameters[p];
        if (parameter->role == XLSTM_OUTPUT || parameter->role == XLSTM_BACKWARD_OUTPUT)
            continue;
        const char *path = path_of(folder, "", "", parameter->name);
        if (exists(path))
            case_load(c, parameter->name, path);
        else
            case_drop(c, parameter->name);
    }
}

/* Compares everything of this role that the folder has; returns how much that is. */
static int compare(const kernel_case *c, xlstm_role role, const char *folder, const char *form,
                   const char *sub, double tolerance) {
    int compared = 0;
    for (int p = 0; p < c->kernel->parameter_count; p++) {
        const char *name = c->kernel->parameters[p].name;
        const char *path = path_of(folder, form, sub, name);
        if (c->kernel->parameters[p].role != role || !exists(path))
            continue;
        double error = case_error_file(c, name, path);
        if (!(error <= tolerance))
            fail_msg("%s: %s is off by %.3g, allowed %.3g", c->kernel->name, path, error,
                     tolerance);
        compared++;
    }
    return compared;
}

/* The folder of its results. The sigmoid input gate has no m, so its forms are all equal. */
static const char *form_of(const xlstm_kernel *kernel) {
    if (mlstm_is_plain_parallel(kernel) && !mlstm_is_sigmoid(kernel))
        return "parallel/";
    return mlstm_is_parallel(kernel) || mlstm_is_sigmoid(kernel) ? "parallel_stable/"
                                                                 : "recurrent/";
}

static void check(const xlstm_kernel *kernel, xlstm_dtype type, const char *folder) {
    bool sigmoid = mlstm_is_sigmoid(kernel);
    const char *form = form_of(kernel);
    kernel_case c;
    load(&c, kernel, type, folder);
    int64_t tokens = case_array(&c, "q")->shape[2];
    bool applies = sigmoid == (strncmp(folder, "sigmoid", 7) == 0) &&
                   (tokens == 1 || !mlstm_is_step(kernel)) &&
                   exists(path_of(folder, form, "", "h"));
    if (applies) {
        case_run(&c, XLSTM_FORWARD);
        double tolerance = allowed(kernel, type, XLSTM_FORWARD, tokens);
        assert_true(compare(&c, XLSTM_OUTPUT, folder, form, "", tolerance) > 0);
        compare(&c, XLSTM_OUTPUT, folder, form, "all/", tolerance);
    }
    static const char *const subs[] = {"", "exact/", "upstream/"};
    for (int b = XLSTM_BACKWARD_EXACT; applies && b <= XLSTM_BACKWARD_UPSTREAM; b++) {
        if (!exists(path_of(folder, form, subs[b], "dq")))
            continue;
        case_run(&c, (xlstm_backward)b);
        double tolerance = allowed(kernel, type, (xlstm_backward)b, tokens);
        assert_true(compare(&c, XLSTM_BACKWARD_OUTPUT, folder, form, subs[b], tolerance) >= 5);
    }
    case_free(&c);
}

static void test_fixtures(void **state) {
    (void)state;
    static const char *const folders[] = {"plain",   "large_gates",   "states", "step",
                                          "sigmoid", "sigmoid_plain", "long"};
    const xlstm_kernel *kernel;
    for (int k = 0; (kernel = kernel_to_test(k)); k++)
        for (size_t i = 0; mlstm_is(kernel) && i < sizeof folders / sizeof *folders; i++) {
            if (kernel_is_tested(kernel, XLSTM_F64))
                check(kernel, XLSTM_F64, folders[i]);
            check(kernel, XLSTM_F32, folders[i]);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fixtures)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
