/* The kernels around the mLSTM against the official package: tests/kernels/data/layers, made by
 * scripts/make_layer_fixtures.py. Each folder there is a case: the arguments of a kernel as .npy
 * files, and `expected.txt` with its family and options. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/dtype.h"
#include "format/npy.h"
#include "ops/kernels.h"
#include "ops/ops.h"
#include "xlstm_kernels.h"

#define FOLDER "tests/kernels/data/layers"

static const char *const cases[] = {
    "slstm_fresh",     "slstm_carried", "slstm_one_head", "lstm_fresh",
    "lstm_carried",    "conv1d_fresh",  "conv1d_carried", "headwise_blocks",
    "headwise_expand", "layer_norm",    "head_norm",      "rms_norm",
    "soft_cap",        "swiglu",        "gelu_gate",      "cross_entropy"};
enum { CASES = sizeof cases / sizeof *cases, MOST_ARGUMENTS = 32 };

typedef struct fixture {
    const xlstm_kernel *kernel;
    xlstm_kernel_options options;
    int count;
    xlstm_argument argument[MOST_ARGUMENTS];
    double *expected[MOST_ARGUMENTS]; /* NULL: an input */
} fixture;

static void read_header(fixture *f, const char *name, const char *device) {
    char path[200], family[40], kernel[60], option[40];
    double value;
    snprintf(path, sizeof path, FOLDER "/%s/expected.txt", name);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%39s", family), 1);
    f->options = xlstm_kernel_defaults();
    while (fscanf(file, "%39s %lf", option, &value) == 2)
        if (strcmp(option, "eps") == 0)
            f->options.eps = value;
        else if (strcmp(option, "groups") == 0)
            f->options.groups = (int)value;
        else if (strcmp(option, "soft_cap") == 0)
            f->options.soft_cap = value;
        else if (strcmp(option, "ignore_index") == 0)
            f->options.ignore_index = (int64_t)value;
        else
            fail_msg("%s: no option %s", path, option);
    fclose(file);
    snprintf(kernel, sizeof kernel, "%s--%s", family, device);
    f->kernel = xlstm_kernel_find(kernel);
    assert_non_null(f->kernel);
}

static bool is_output(const xlstm_parameter *p) {
    return p->role == XLSTM_OUTPUT || p->role == XLSTM_BACKWARD_OUTPUT;
}

/* Adds the argument if its file exists: inputs in `type`, outputs full of NaN. */
static void read_argument(fixture *f, const char *name, const xlstm_parameter *p,
                          xlstm_dtype type) {
    char path[200];
    npy_array file;
    snprintf(path, sizeof path, FOLDER "/%s/%s.npy", name, p->name);
    FILE *there = fopen(path, "rb");
    if (!there)
        return;
    fclose(there);
    if (npy_open(path, &file) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    bool index = file.dtype == DTYPE_I64;
    int64_t shape[XLSTM_MAX_RANK] = {0};
    for (int d = 0; d < file.rank; d++)
        shape[d] = (int64_t)file.shape[d];
    size_t count = (size_t)file.count;
    void *data = malloc((count + 1) * sizeof(double));
    assert_non_null(data);
    dtype inner = type == XLSTM_F64 ? DTYPE_F64 : DTYPE_F32;
    if (index)
        memcpy(data, file.data, count * sizeof(int64_t));
    else
        dtype_convert(file.dtype, file.data, inner, data, file.count);
    if (is_output(p)) {
        f->expected[f->count] = malloc((count + 1) * sizeof(double));
        assert_non_null(f->expected[f->count]);
        dtype_convert(file.dtype, file.data, DTYPE_F64, f->expected[f->count], file.count);
        for (size_t i = 0; i < count; i++)
            dtype_store(inner, data, (int64_t)i, (double)NAN);
    }
    f->argument[f->count++] = (xlstm_argument){
        p->name, xlstm_array_make(data, index ? XLSTM_I64 : type, file.rank, shape)};
    npy_close(&file);
}

static double error_of(const xlstm_array *a, const double *expected) {
    double difference = 0, norm = 0;
    int64_t count = 1;
    for (int d = 0; d < a->rank; d++)
        count *= a->shape[d];
    for (int64_t i = 0; i < count; i++) {
        double value = dtype_load(a->dtype == XLSTM_F64 ? DTYPE_F64 : DTYPE_F32, a->data, i);
        difference += (value - expected[i]) * (value - expected[i]);
        norm += expected[i] * expected[i];
    }
    return sqrt(difference / norm);
}

static void check_case(const char *name, const char *device, xlstm_dtype type) {
    fixture f = {0};
    read_header(&f, name, device);
    for (int p = 0; p < f.kernel->parameter_count; p++)
        read_argument(&f, name, &f.kernel->parameters[p], type);
    f.options.backward = XLSTM_BACKWARD_EXACT;
    if (xlstm_kernel_run(f.kernel->name, &f.options, f.argument, f.count) != XLSTM_OK)
        fail_msg("%s: %s", name, xlstm_last_error());
    int outputs = 0;
    for (int i = 0; i < f.count; i++) {
        if (f.expected[i]) {
            bool gradient = f.argument[i].name[0] == 'd';
            double error = error_of(&f.argument[i].array, f.expected[i]);
            double tolerance =
                type == XLSTM_F32 ? (gradient ? 1e-5 : 2e-6) : (gradient ? 1e-9 : 1e-12);
            if (!(error <= tolerance))
                fail_msg("%s of %s, %s: relative error %.3g, allowed %.3g", f.argument[i].name,
                         f.kernel->name, name, error, tolerance);
            outputs++;
        }
        free(f.expected[i]);
        free(f.argument[i].array.data);
    }
    assert_true(outputs >= 2);
}

static bool is_on_host(const kernel_table *kernels) {
    return kernels && !kernels->memory;
}

static void test_official_package(void **state) {
    (void)state;
    for (int d = 0; ops_device_at(d); d++)
        for (int i = 0; i < CASES && is_on_host(ops_device_at(d)->kernels); i++) {
            check_case(cases[i], ops_device_at(d)->name, XLSTM_F64);
            check_case(cases[i], ops_device_at(d)->name, XLSTM_F32);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_official_package)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
