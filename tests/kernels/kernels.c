/* Cases of kernels: see kernels.h. */
#include "kernels/kernels.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/dtype.h"
#include "base/random.h"
#include "format/npy.h"
#include "ops/kernel_shape.h"
#include "ops/kernels.h"
#include "support/support.h"

/* ---- Elements ---- */

static dtype inner_type(xlstm_dtype type) {
    static const dtype inner[] = {
        [XLSTM_F64] = DTYPE_F64, [XLSTM_F32] = DTYPE_F32, [XLSTM_BF16] = DTYPE_BF16,
        [XLSTM_F16] = DTYPE_F16, [XLSTM_I64] = DTYPE_I64, [XLSTM_I32] = DTYPE_I32};
    return inner[type];
}

static int64_t elements_of(const xlstm_array *a) {
    int64_t elements = 1;
    for (int d = 0; d < a->rank; d++)
        elements *= a->shape[d];
    return elements;
}

static double element(const xlstm_array *a, int64_t i) {
    if (a->dtype == XLSTM_I64)
        return (double)((const int64_t *)a->data)[i];
    return dtype_load(inner_type(a->dtype), a->data, i);
}

static void set_element(xlstm_array *a, int64_t i, double value) {
    if (a->dtype == XLSTM_I64)
        ((int64_t *)a->data)[i] = (int64_t)value;
    else
        dtype_store(inner_type(a->dtype), a->data, i, value);
}

static int find(const kernel_case *c, const char *name) {
    for (int p = 0; p < c->kernel->parameter_count; p++)
        if (strcmp(c->kernel->parameters[p].name, name) == 0)
            return p;
    return -1;
}

static int must_find(const kernel_case *c, const char *name) {
    int p = find(c, name);
    if (p < 0)
        fail_msg("%s has no %s", c->kernel->name, name);
    return p;
}

static bool is_input(const kernel_case *c, int parameter) {
    xlstm_role role = c->kernel->parameters[parameter].role;
    return role != XLSTM_OUTPUT && role != XLSTM_BACKWARD_OUTPUT;
}

/* ---- Making ---- */

static uint64_t name_hash(const char *name) {
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * 1099511628211u;
    return hash;
}

static kernel_sizes read_sizes(const char *text, int64_t chunk_size) {
    kernel_sizes sizes = {.chunk_size = chunk_size};
    char name[8];
    long long value;
    for (int used; sscanf(text, " %7[A-Z]=%lld%n", name, &value, &used) == 2; text += used) {
        memcpy(sizes.name[sizes.count], name, sizeof name);
        sizes.value[sizes.count++] = value;
    }
    return sizes;
}

static void draw(xlstm_array *a, const char *name, uint64_t seed, double mean, double spread) {
    int64_t elements = elements_of(a);
    for (int64_t i = 0; i < elements; i++)
        set_element(
            a, i, (double)(float)(mean + spread * test_normal(seed, name_hash(name), (uint64_t)i)));
}

void case_make(kernel_case *c, const xlstm_kernel *kernel, const xlstm_kernel_options *options,
               xlstm_dtype type, uint64_t seed, const char *format, ...) {
    char text[200];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    *c = (kernel_case){.kernel = kernel, .options = options ? *options : xlstm_kernel_defaults()};
    assert_true(kernel->parameter_count <= CASE_MOST_ARRAYS);
    kernel_sizes sizes = read_sizes(text, c->options.chunk_size);
    for (int p = 0; p < kernel->parameter_count; p++) {
        const xlstm_parameter *parameter = &kernel->parameters[p];
        int64_t shape[XLSTM_MAX_RANK];
        if (!kernel_shape_evaluate(&sizes, parameter->shape, shape))
            fail_msg("%s: the sizes \"%s\" do not say what %s [%s] is", kernel->name, text,
                     parameter->name, parameter->shape);
        bool index = strcmp(parameter->name, "target") == 0;
        xlstm_array *a = &c->array[p];
        *a = xlstm_array_make(NULL, index ? XLSTM_I64 : type, kernel_shape_rank(parameter->shape),
                              shape);
        int64_t elements = elements_of(a);
        a->data = calloc((size_t)elements + 1, sizeof(double));
        assert_non_null(a->data);
        c->given[p] = true;
        if (!is_input(c, p))
            for (int64_t i = 0; i < elements; i++)
                set_element(a, i, (double)NAN);
        else if (!index)
            draw(a, parameter->name, seed, 0, 1);
        else
            for (int64_t i = 0; i < elements; i++)
                set_element(
                    a, i, (double)case_choose(seed, (uint64_t)i, 0, kernel_size(&sizes, "V") - 1));
    }
}

void case_free(kernel_case *c) {
    for (int p = 0; p < c->kernel->parameter_count; p++)
        free(c->array[p].data);
}

/* ---- By name ---- */

bool case_has(const kernel_case *c, const char *name) {
    return find(c, name) >= 0;
}

void case_drop(kernel_case *c, const char *name) {
    int p = find(c, name);
    if (p >= 0)
        c->given[p] = false;
}

xlstm_array *case_array(kernel_case *c, const char *name) {
    return &c->array[must_find(c, name)];
}

int64_t case_count(const kernel_case *c, const char *name) {
    int p = find(c, name);
    return p < 0 ? 0 : elements_of(&c->array[p]);
}

double case_get(const kernel_case *c, const char *name, int64_t i) {
    return element(&c->array[must_find(c, name)], i);
}

void case_set(kernel_case *c, const char *name, int64_t i, double value) {
    set_element(&c->array[must_find(c, name)], i, value);
}

void case_draw(kernel_case *c, const char *name, uint64_t seed, double mean, double spread) {
    int p = find(c, name);
    if (p >= 0)
        draw(&c->array[p], name, seed, mean, spread);
}

static npy_array open_values(const char *path, const xlstm_array *a) {
    npy_array file;
    if (npy_open(path, &file) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    assert_int_equal(elements_of(a), file.count);
    return file;
}

void case_load(kernel_case *c, const char *name, const char *path) {
    xlstm_array *a = case_array(c, name);
    npy_array file = open_values(path, a);
    for (int64_t i = 0; i < file.count; i++)
        set_element(a, i, dtype_load(file.dtype, file.data, i));
    npy_close(&file);
}

void case_copy_inputs(kernel_case *to, const kernel_case *from) {
    for (int p = 0; p < to->kernel->parameter_count; p++) {
        int source = is_input(to, p) ? find(from, to->kernel->parameters[p].name) : -1;
        if (source < 0)
            continue;
        int64_t elements = elements_of(&to->array[p]);
        assert_int_equal(elements, elements_of(&from->array[source]));
        for (int64_t i = 0; i < elements; i++)
            set_element(&to->array[p], i, element(&from->array[source], i));
    }
}

/* ---- Running and comparing ---- */

xlstm_status case_try(kernel_case *c, xlstm_backward backward) {
    xlstm_argument arguments[CASE_MOST_ARRAYS];
    int count = 0;
    for (int p = 0; p < c->kernel->parameter_count; p++) {
        const xlstm_parameter *parameter = &c->kernel->parameters[p];
        if (c->given[p] && (backward != XLSTM_FORWARD || parameter->role < XLSTM_BACKWARD_INPUT))
            arguments[count++] = (xlstm_argument){parameter->name, c->array[p]};
    }
    xlstm_kernel_options options = c->options;
    options.backward = backward;
    return kernel_run_copied(c->kernel, &options, arguments, count);
}

void case_run(kernel_case *c, xlstm_backward backward) {
    if (case_try(c, backward) != XLSTM_OK)
        fail_msg("%s: %s", c->kernel->name, xlstm_last_error());
}

/* Sums for the norms; false where one is not finite and the other is not the same. */
static bool add_error(double a, double b, double *difference, double *norm) {
    if ((isnan(a) && isnan(b)) || (isinf(a) && a == b))
        return true;
    *difference += (a - b) * (a - b);
    *norm += b * b;
    return isfinite(a) && isfinite(b);
}

static double error_of(double difference, double norm) {
    return sqrt(norm > 0 ? difference / norm : difference);
}

/* ||a - b|| / ||b||, which counts as `smallest` at least. */
static double compare_arrays(const kernel_case *a, const char *name, const kernel_case *b,
                             const char *other_name, double smallest) {
    const xlstm_array *x = &a->array[must_find(a, name)], *y = &b->array[must_find(b, other_name)];
    int64_t elements = elements_of(x);
    assert_int_equal(elements, elements_of(y));
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < elements; i++)
        if (!add_error(element(x, i), element(y, i), &difference, &norm))
            return (double)INFINITY;
    return error_of(difference, fmax(norm, smallest * smallest));
}

double case_error(const kernel_case *a, const char *name, const kernel_case *b,
                  const char *other_name) {
    return compare_arrays(a, name, b, other_name, 0);
}

double case_error_file(const kernel_case *a, const char *name, const char *path) {
    const xlstm_array *x = &a->array[must_find(a, name)];
    npy_array file = open_values(path, x);
    double difference = 0, norm = 0;
    bool comparable = true;
    for (int64_t i = 0; i < file.count; i++)
        comparable =
            add_error(element(x, i), dtype_load(file.dtype, file.data, i), &difference, &norm) &&
            comparable;
    npy_close(&file);
    return comparable ? error_of(difference, norm) : (double)INFINITY;
}

static void require(const kernel_case *a, const kernel_case *b, const char *name, double error,
                    double tolerance) {
    if (!(error <= tolerance))
        fail_msg("%s of %s and %s: relative error %.3g, allowed %.3g", name, a->kernel->name,
                 b->kernel->name, error, tolerance);
}

void case_compare(const kernel_case *a, const kernel_case *b, const char *name, double tolerance) {
    require(a, b, name, case_error(a, name, b, name), tolerance);
}

double case_squares(const kernel_case *c, const char *name) {
    const xlstm_array *x = &c->array[must_find(c, name)];
    double sum = 0;
    for (int64_t i = 0; i < elements_of(x); i++)
        sum += element(x, i) * element(x, i);
    return sum;
}

void case_compare_usual(const kernel_case *a, const kernel_case *b, const char *name, double usual,
                        double tolerance) {
    require(a, b, name, compare_arrays(a, name, b, name, usual), tolerance);
}

void case_compare_sums(const kernel_case *a, const kernel_case *b, const char *name,
                       const char *terms, double tolerance) {
    case_compare_usual(a, b, name, sqrt(case_squares(b, terms)), tolerance);
}

/* ---- Finite differences ---- */

enum { PROBED_ELEMENTS = 4, PROBED_DIRECTIONS = 2 };

/* <Y, dY> over all outputs; `magnitude`: the same of absolute values, which rounding follows. */
static double loss_of(kernel_case *c, double *magnitude) {
    xlstm_kernel_options options = c->options;
    c->options.stored_states = false;
    case_run(c, XLSTM_FORWARD);
    c->options = options;
    long double loss = 0, size = 0;
    for (int p = 0; p < c->kernel->parameter_count; p++) {
        if (c->kernel->parameters[p].role != XLSTM_BACKWARD_INPUT || !c->given[p])
            continue;
        int output = must_find(c, c->kernel->parameters[p].name + 1);
        int64_t elements = elements_of(&c->array[p]);
        for (int64_t i = 0; i < elements; i++) {
            double term = element(&c->array[output], i) * element(&c->array[p], i);
            loss += (long double)term;
            size += (long double)fabs(term);
        }
    }
    *magnitude = (double)size;
    return (double)loss;
}

/* A line through one input, and the gradient along it. */
typedef struct probe {
    int input;
    const double *start, *direction;
    double slope; /* what the backward says */
    double scale; /* what its error is relative to */
} probe;

static double loss_at(kernel_case *c, const probe *line, double step, double *magnitude) {
    xlstm_array *x = &c->array[line->input];
    int64_t elements = elements_of(x);
    for (int64_t i = 0; i < elements; i++)
        if (line->direction[i] != 0)
            set_element(x, i, line->start[i] + step * line->direction[i]);
    double loss = loss_of(c, magnitude);
    for (int64_t i = 0; i < elements; i++)
        set_element(x, i, line->start[i]);
    return loss;
}

/* Central differences of fourth order. Where a maximum changes sides within a step the difference
 * means nothing, so a smaller step may agree too. What is allowed besides the tolerance covers the
 * rounding of the loss. */
static void check_probe(kernel_case *c, const probe *line, double tolerance, const char *what,
                        uint64_t seed) {
    double found = 0;
    for (int power = 9; power <= 27; power += 3) {
        double step = ldexp(1, -power), magnitude;
        double near = loss_at(c, line, step, &magnitude) - loss_at(c, line, -step, &magnitude);
        double far =
            loss_at(c, line, 2 * step, &magnitude) - loss_at(c, line, -2 * step, &magnitude);
        found = (8 * near - far) / (12 * step);
        if (fabs(found - line->slope) <= tolerance * line->scale + 1e-12 * magnitude)
            return;
    }
    fail_msg("%s: d%s %s is %.12g, finite differences say %.12g (scale %.3g, seed %llu)",
             c->kernel->name, c->kernel->parameters[line->input].name, what, line->slope, found,
             line->scale, (unsigned long long)seed);
}

static void check_elements(kernel_case *c, probe *line, const double *gradient, int64_t elements,
                           double *direction, uint64_t seed, double tolerance) {
    line->scale = 0;
    for (int64_t i = 0; i < elements; i++)
        line->scale = fmax(line->scale, fabs(gradient[i]));
    for (int trial = 0; trial < PROBED_ELEMENTS && trial < elements; trial++) {
        int64_t i = case_choose(seed, (uint64_t)trial, 0, elements - 1);
        if (!isfinite(line->start[i]))
            continue;
        memset(direction, 0, (size_t)elements * sizeof *direction);
        direction[i] = 1;
        line->slope = gradient[i];
        char what[40];
        snprintf(what, sizeof what, "[%lld]", (long long)i);
        check_probe(c, line, tolerance, what, seed);
    }
}

static void check_directions(kernel_case *c, probe *line, const double *gradient, int64_t elements,
                             double *direction, uint64_t seed, double tolerance) {
    for (uint64_t trial = 0; trial < PROBED_DIRECTIONS; trial++) {
        double slope = 0, squares = 0;
        for (int64_t i = 0; i < elements; i++) {
            direction[i] =
                isfinite(line->start[i]) ? test_normal(seed, 77 + trial, (uint64_t)i) : 0;
            slope += gradient[i] * direction[i];
            squares += gradient[i] * gradient[i];
        }
        line->slope = slope;
        line->scale = sqrt(squares);
        check_probe(c, line, tolerance, "along a direction", seed);
    }
}

static void check_gradient(kernel_case *c, int parameter, uint64_t seed, double tolerance) {
    const char *name = c->kernel->parameters[parameter].name;
    int input = must_find(c, name + 1);
    int64_t elements = elements_of(&c->array[parameter]);
    if (!c->given[input] || elements == 0)
        return;
    double *memory = malloc(3 * (size_t)elements * sizeof *memory);
    assert_non_null(memory);
    double *start = memory, *gradient = memory + elements, *direction = memory + 2 * elements;
    for (int64_t i = 0; i < elements; i++) {
        start[i] = element(&c->array[input], i);
        gradient[i] = element(&c->array[parameter], i);
        if (!isfinite(gradient[i]))
            fail_msg("%s: %s[%lld] is %g (seed %llu)", c->kernel->name, name, (long long)i,
                     gradient[i], (unsigned long long)seed);
    }
    probe line = {.input = input, .start = start, .direction = direction};
    seed += name_hash(name);
    check_elements(c, &line, gradient, elements, direction, seed, tolerance);
    check_directions(c, &line, gradient, elements, direction, seed, tolerance);
    free(memory);
}

void case_check_gradients(kernel_case *c, uint64_t seed, double tolerance) {
    double magnitude;
    loss_of(c, &magnitude); /* writes the states that options.stored_states asks for */
    case_run(c, XLSTM_BACKWARD_EXACT);
    for (int p = 0; p < c->kernel->parameter_count; p++)
        if (c->kernel->parameters[p].role == XLSTM_BACKWARD_OUTPUT && c->given[p])
            check_gradient(c, p, seed, tolerance);
}

/* ---- Seeds ---- */

uint64_t case_seed(void) {
    static bool known;
    static uint64_t seed;
    if (!known) {
        const char *given = getenv("XLSTM_TEST_SEED");
        seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL);
        known = true;
        printf("XLSTM_TEST_SEED=%llu\n", (unsigned long long)seed);
        fflush(stdout);
    }
    return seed;
}

int64_t case_choose(uint64_t seed, uint64_t counter, int64_t low, int64_t high) {
    return low + (int64_t)(random_uniform(seed, 4096, counter) * (double)(high - low + 1));
}

const xlstm_kernel *kernel_of_device(const char *family, const char *device) {
    char name[60];
    snprintf(name, sizeof name, "%s--%s", family, device);
    const xlstm_kernel *kernel = xlstm_kernel_find(name);
    assert_non_null(kernel);
    return kernel;
}

static bool device_is_tested(const char *name) {
    static char asked[8][16];
    static bool answers[8];
    int d = 0;
    for (; d < 8 && asked[d][0]; d++)
        if (strcmp(asked[d], name) == 0)
            return answers[d];
    assert_true(d < 8);
    snprintf(asked[d], sizeof asked[d], "%s", name);
    return answers[d] = test_uses_device(name);
}

bool kernel_is_tested(const xlstm_kernel *kernel, xlstm_dtype type) {
    return device_is_tested(kernel->device) && !(kernel->device_memory && type == XLSTM_F64);
}

const xlstm_kernel *kernel_to_test(int index) {
    const xlstm_kernel *kernel;
    for (int k = 0; (kernel = xlstm_kernel_at(k)); k++)
        if (device_is_tested(kernel->device) && index-- == 0)
            return kernel;
    return NULL;
}
