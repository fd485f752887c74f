/* Helpers that are linked into every test program. */
#include "support/support.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/random.h"
#include "ops/ops.h"

static char folder[512];
static pid_t owner; /* a forked child must not remove the folder of its parent */

static void remove_tree(const char *path) {
    DIR *listing = opendir(path);
    if (listing) {
        struct dirent *entry;
        while ((entry = readdir(listing))) {
            if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
                continue;
            char inner[4096];
            snprintf(inner, sizeof inner, "%s/%s", path, entry->d_name);
            struct stat status;
            if (lstat(inner, &status) == 0 && S_ISDIR(status.st_mode))
                remove_tree(inner);
            else
                unlink(inner);
        }
        closedir(listing);
    }
    rmdir(path);
}

static void remove_folder(void) {
    if (getpid() == owner)
        remove_tree(folder);
}

const char *test_folder(void) {
    if (folder[0])
        return folder;
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/xlstm-test-XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(folder)) {
        perror(folder);
        exit(1);
    }
    owner = getpid();
    atexit(remove_folder);
    return folder;
}

const char *test_path(const char *name) {
    static char paths[16][1024];
    static int turn;
    char *path = paths[turn++ % 16];
    snprintf(path, sizeof paths[0], "%s/%s", test_folder(), name);
    return path;
}

void test_write_file(const char *path, const void *bytes, size_t count) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
}

int test_count_entries(const char *path) {
    DIR *listing = opendir(path);
    assert_non_null(listing);
    int count = 0;
    struct dirent *entry;
    while ((entry = readdir(listing)))
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(listing);
    return count;
}

static bool is_set(const char *variable) {
    const char *value = getenv(variable);
    return value && *value && strcmp(value, "0") != 0;
}

void test_expect_message(const char *part) {
    if (!strstr(xlstm_last_error(), part))
        fail_msg("\"%s\" is not in the error: %s", part, xlstm_last_error());
}

void test_expect_error(xlstm_status status, xlstm_status expected, const char *part) {
    assert_int_equal(status, expected);
    test_expect_message(part);
}

bool test_is_quick(void) {
    return is_set("XLSTM_TEST_QUICK");
}

bool test_is_brief(void) {
    return is_set("XLSTM_TEST_BRIEF");
}

bool test_is_large(void) {
    return is_set("XLSTM_TEST_LARGE");
}

/* A build has devices that this machine may lack: then, unless the environment asks for them, tests go without. */
static bool is_usable(ops_device *device) {
    ops_buffer buffer;
    if (device->buffer_create(device, 16, &buffer) != XLSTM_OK) {
        static const void *told; /* the last device of which this was said */
        if (told != device)
            fprintf(stderr, "# device %s is not tested: %s\n", device->name, xlstm_last_error());
        told = device;
        return false;
    }
    device->buffer_free(&buffer);
    return true;
}

bool test_uses_device(const char *name) {
    const char *only = getenv("XLSTM_TEST_DEVICES");
    for (int i = 0; ops_device_at(i); i++)
        if (strcmp(ops_device_at(i)->name, name) == 0)
            return only ? strstr(only, name) != NULL : is_usable(ops_device_at(i));
    return false;
}

int test_run_group(struct CMUnitTest *tests, size_t count, int argc, char **argv) {
    static const char *const devices[] = {"metal", "cuda"};
    for (size_t d = 0; d < sizeof devices / sizeof *devices; d++) {
        char name[32];
        size_t length = (size_t)snprintf(name, sizeof name, "test_%s", devices[d]), kept = 0;
        bool used = test_uses_device(devices[d]);
        for (size_t i = 0; i < count; i++)
            if (used || strncmp(tests[i].name, name, length) != 0)
                tests[kept++] = tests[i];
        count = kept;
    }
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return _cmocka_run_group_tests("tests", tests, count, NULL, NULL);
}

static double ratio(double difference, double norm) {
    if (!isfinite(difference))
        return (double)INFINITY;
    return sqrt(norm > 0 ? difference / norm : difference);
}

/* Box-Muller: the radius of a two-dimensional normal from one number, its angle from another. */
double test_normal(uint64_t seed, uint64_t stream, uint64_t counter) {
    static const double two_pi = 6.283185307179586476925286766559;
    double radius = sqrt(-2 * log(1 - random_uniform(seed, stream, 2 * counter)));
    return radius * cos(two_pi * random_uniform(seed, stream, 2 * counter + 1));
}

double test_error_f32(const float *out, const float *reference, int64_t count) {
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < count; i++) {
        double d = (double)out[i] - (double)reference[i];
        difference += d * d;
        norm += (double)reference[i] * (double)reference[i];
    }
    return ratio(difference, norm);
}

double test_error_f64(const double *out, const double *reference, int64_t count) {
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < count; i++) {
        double d = out[i] - reference[i];
        difference += d * d;
        norm += reference[i] * reference[i];
    }
    return ratio(difference, norm);
}

double test_error_f32_f64(const float *out, const double *reference, int64_t count) {
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < count; i++) {
        double d = (double)out[i] - reference[i];
        difference += d * d;
        norm += reference[i] * reference[i];
    }
    return ratio(difference, norm);
}

void test_solve(double *a, double *b, int n) {
    for (int k = 0; k < n; k++)
        for (int i = k + 1; i < n; i++) {
            double part = a[i * n + k] / a[k * n + k];
            for (int j = k; j < n; j++)
                a[i * n + j] -= part * a[k * n + j];
            b[i] -= part * b[k];
        }
    for (int i = n - 1; i >= 0; i--) {
        for (int j = i + 1; j < n; j++)
            b[i] -= a[i * n + j] * b[j];
        b[i] /= a[i * n + i];
    }
}
