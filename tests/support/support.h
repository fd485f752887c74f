/* What every test may need: a folder for files that goes away, the quick mode, a measure of error.
 */
#ifndef SUPPORT_H
#define SUPPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "xlstm.h"

struct CMUnitTest;

/* A new empty folder for this program's files, the same at every call; removed with its content at
 * exit. Fails the program if it cannot be made. */
const char *test_folder(void);
/* test_folder()/name, in one of sixteen buffers that are used in turn. */
const char *test_path(const char *name);
/* Writes a file, or fails the running test. */
void test_write_file(const char *path, const void *bytes, size_t count);
/* The number of entries of a folder, without "." and "..". */
int test_count_entries(const char *folder);

bool test_is_quick(void); /* XLSTM_TEST_QUICK=1: small shapes, for sanitizers */
bool test_is_brief(
    void); /* XLSTM_TEST_BRIEF=1: few of many alike, where every access is looked at */
bool test_is_large(void); /* XLSTM_TEST_LARGE=1: shapes and lengths that take minutes */
/* Whether the build has the device, and XLSTM_TEST_DEVICES names it or, if it is not set, this machine can use it. */
bool test_uses_device(const char *name);
/* Runs the tests that the first argument names (with * and ?), all if there is none, without those of devices that are not
 * used: test_metal..., test_cuda.... */
int test_run_group(struct CMUnitTest *tests, size_t count, int argc, char **argv);

/* Fail the running test unless the thread's error has `part`; and unless the status is this one. */
void test_expect_message(const char *part);
void test_expect_error(xlstm_status status, xlstm_status expected, const char *part);

/* Normally distributed numbers (mean 0, variance 1), each a function of its three arguments alone. */
double test_normal(uint64_t seed, uint64_t stream, uint64_t counter);

/* ||out - reference|| / ||reference|| in the 2-norm, summed in double; the plain norm of the
 * difference where the reference is 0. NaN or infinity anywhere in `out` gives infinity. */
double test_error_f32(const float *out, const float *reference, int64_t count);
double test_error_f64(const double *out, const double *reference, int64_t count);
double test_error_f32_f64(const float *out, const double *reference, int64_t count);

/* x with A x = b, by elimination, in b; A [n][n] is destroyed. */
void test_solve(double *a, double *b, int n);

#endif
