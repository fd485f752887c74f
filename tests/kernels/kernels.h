/* Calls of kernels under test: arrays made from a kernel's own list of parameters, drawn from a seed,
 * and gradients checked by finite differences.
 *
 * A case holds one contiguous array for every parameter of its kernel. The values drawn depend on
 * the seed and the parameter's name alone, so that cases of other kernels, devices and types see the
 * same numbers; they are rounded to f32. Whatever goes wrong in here fails the running test.
 */
#ifndef KERNELS_H
#define KERNELS_H

#include "xlstm_kernels.h"

#include <stddef.h>

enum { CASE_MOST_ARRAYS = 32 };

typedef struct kernel_case {
    const xlstm_kernel *kernel;
    xlstm_kernel_options options; /* but for the chunk size, which shapes follow, free to change */
    xlstm_array array[CASE_MOST_ARRAYS]; /* by parameter */
    bool given[CASE_MOST_ARRAYS];        /* what is handed over; at first everything */
} kernel_case;

/* `options` may be NULL. The sizes that the shapes of the kernel name are written "B=2 NH=3 S=17";
 * those that it does not name are ignored. Every input is drawn with mean 0 and spread 1 (indices:
 * in [0, V)), every output is full of NaN. */
void case_make(kernel_case *c, const xlstm_kernel *kernel, const xlstm_kernel_options *options,
               xlstm_dtype type, uint64_t seed, const char *sizes, ...)
    __attribute__((format(printf, 6, 7)));
void case_free(kernel_case *c);

bool case_has(const kernel_case *c, const char *name); /* as a parameter */
void case_drop(kernel_case *c, const char *name);      /* is not handed over any more */
xlstm_array *case_array(kernel_case *c, const char *name);
int64_t case_count(const kernel_case *c, const char *name); /* elements; 0: no such parameter */
double case_get(const kernel_case *c, const char *name, int64_t element);
void case_set(kernel_case *c, const char *name, int64_t element, double value);
/* Draws the parameter anew; does nothing if there is none of that name. */
void case_draw(kernel_case *c, const char *name, uint64_t seed, double mean, double spread);
/* The values of a .npy file with as many elements. */
void case_load(kernel_case *c, const char *name, const char *path);
/* The kernel "family--device", which must be there. */
const xlstm_kernel *kernel_of_device(const char *family, const char *device);

/* Whether this run tests the kernel, and in this type: one that works on the memory of a GPU needs the GPU, which is said
 * once if it is missing, and has no f64; XLSTM_TEST_DEVICES may name the devices to be tested. */
bool kernel_is_tested(const xlstm_kernel *kernel, xlstm_dtype type);
/* Kernels that this run tests in f64 or at least in f32; NULL past the end. */
const xlstm_kernel *kernel_to_test(int index);

/* Makes the inputs of `to` those of `from`, by name. */
void case_copy_inputs(kernel_case *to, const kernel_case *from);

/* Runs the kernel forward (without the arguments of a backward), or forward and backward. */
xlstm_status case_try(kernel_case *c, xlstm_backward backward);
void case_run(kernel_case *c, xlstm_backward backward); /* must succeed */

/* The sum of the squares of the array's elements. */
double case_squares(const kernel_case *c, const char *name);
/* ||a - b|| / ||b|| of two arrays with equally many elements; ||a - b|| where b is 0; infinite where
 * one is NaN and the other is not, or they are not the same infinity. */
double case_error(const kernel_case *a, const char *name, const kernel_case *b,
                  const char *other_name);
/* The same against the values of a .npy file. */
double case_error_file(const kernel_case *a, const char *name, const char *path);
/* Fails unless case_error of the array, which has the same name in both, is at most `tolerance`. */
void case_compare(const kernel_case *a, const kernel_case *b, const char *name, double tolerance);
/* The same, where the norm of b's counts as `usual` at least. */
void case_compare_usual(const kernel_case *a, const kernel_case *b, const char *name, double usual,
                        double tolerance);
/* The same where the elements of `name` are sums of those of `terms`, each of which is in one: rounding follows what sums of
 * terms of any sign usually are, which has the norm of `terms`, and not what is left of one that cancels. */
void case_compare_sums(const kernel_case *a, const kernel_case *b, const char *name,
                       const char *terms, double tolerance);

/* Runs the exact backward in f64 and compares every gradient that is handed over, dX for the input
 * X, with finite differences of
 *     loss = sum over outputs Y that have a dY of <Y, dY>
 * at a few elements and along a few random directions. Errors are relative to the largest element of
 * the gradient, or to its norm. Elements that are infinite are left out. */
void case_check_gradients(kernel_case *c, uint64_t seed, double tolerance);

/* A seed for this run of the program, printed when first asked for; XLSTM_TEST_SEED=N repeats a run.
 */
uint64_t case_seed(void);
/* A number in [low, high], a function of its arguments. */
int64_t case_choose(uint64_t seed, uint64_t counter, int64_t low, int64_t high);

#endif
