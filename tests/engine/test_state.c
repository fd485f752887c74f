/* State files: going on from one is going on, bit for bit; and a file that is damaged, cut, foreign
 * or unwritable is refused without touching the session. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/random.h"
#include "support/elsewhere.h"
#include "support/models.h"
#include "support/support.h"

enum { VOCAB = 4096, LENGTH = 200, CUT = 77 };

static int32_t text[LENGTH];

static void save(xlstm_session *session, const char *path) {
    if (xlstm_session_save(session, path) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
}

/* A session of another process's model goes on exactly where the saved one was. */
static void test_going_on(void **state) {
    (void)state;
    static float expected[VOCAB], logits[VOCAB];
    xlstm_model_options options = {.device = test_device(), .profile = "exact", .threads = 2};
    const char *path = test_path("going-on.state"), *folder = test_model_path();
    xlstm_model *model = test_model(folder, &options);
    xlstm_session *session = test_session(model);
    test_feed(session, text, CUT, NULL);
    save(session, path);
    for (int i = CUT; i < LENGTH; i++)
        test_feed(session, text + i, 1, expected);
    xlstm_session_free(session);
    xlstm_model_free(model);

    model = test_model(folder, &options);
    session = test_session(model);
    test_feed(session, text + 50, 20, NULL); /* is replaced */
    assert_int_equal(xlstm_session_load(session, path), XLSTM_OK);
    assert_int_equal(xlstm_session_position(session), CUT);
    for (int i = CUT; i < LENGTH; i++)
        test_feed(session, text + i, 1, logits);
    assert_memory_equal(expected, logits, test_logits_bytes());
    xlstm_session_free(session);
    xlstm_model_free(model);
}

/* Saved by one device, restored by another: the same state to the rounding of fp32. */
static void test_other_device(void **state) {
    (void)state;
    static float expected[VOCAB], logits[VOCAB];
    const char *path = test_path("other-device.state"), *folder = test_model_path();
    const char *device = test_device();
    xlstm_model *cpu = test_model(folder, &(xlstm_model_options){.profile = "exact"});
    xlstm_model *other =
        test_model(folder, &(xlstm_model_options){.device = device ? device : "reference:f64",
                                                  .profile = device ? "exact" : NULL});
    xlstm_session *from = test_session(cpu), *to = test_session(other);
    test_feed(from, text, 40, NULL);
    save(from, path);
    test_feed(from, text + 40, 3, expected);
    assert_int_equal(xlstm_session_load(to, path), XLSTM_OK);
    test_feed(to, text + 40, 3, logits);
    assert_true(test_error_f32(logits, expected, test_vocabulary()) < 2e-6);
    save(to, path); /* of the reference: in f64 */
    assert_int_equal(xlstm_session_load(from, path), XLSTM_OK);
    assert_int_equal(xlstm_session_position(from), 43);
    xlstm_session_free(from);
    xlstm_session_free(to);
    xlstm_model_free(cpu);
    xlstm_model_free(other);
}

/* ---- Files that are wrong ---- */

/* Loading must fail with a message that contains `part`, and leave the session as it was. */
static void expect_refused(xlstm_session *session, const char *path, const char *part) {
    static float before[VOCAB], after[VOCAB];
    xlstm_session *copy;
    int64_t position = xlstm_session_position(session);
    assert_int_equal(xlstm_session_clone(session, &copy), XLSTM_OK);
    test_feed(copy, text, 1, before);
    xlstm_session_free(copy);
    assert_int_not_equal(xlstm_session_load(session, path), XLSTM_OK);
    if (!strstr(xlstm_last_error(), part) || !strstr(xlstm_last_error(), path))
        fail_msg("expected \"%s\" and the path in: %s", part, xlstm_last_error());
    assert_int_equal(xlstm_session_position(session), position);
    assert_int_equal(xlstm_session_clone(session, &copy), XLSTM_OK);
    test_feed(copy, text, 1, after);
    xlstm_session_free(copy);
    assert_memory_equal(before, after, sizeof before);
}

static buffer read_whole(const char *path) {
    buffer whole = {0};
    assert_int_equal(file_read(path, 1 << 28, &whole), XLSTM_OK);
    return whole;
}

/* Puts the right checksum into a changed file, so that only the change is wrong. */
static void seal(buffer *file) {
    char *digits = strstr(file->data + 8, "\"checksum\":\"") + strlen("\"checksum\":\"");
    char text_digits[17];
    memcpy(digits, "0000000000000000", 16);
    snprintf(text_digits, sizeof text_digits, "%016llx",
             (unsigned long long)hash64_of(file->data, file->size, 0));
    memcpy(digits, text_digits, 16);
}

/* The saved file with `old` in its header replaced by `new` of the same length. */
static void expect_edit_refused(xlstm_session *session, const buffer *good, const char *old,
                                const char *new, const char *part) {
    const char *path = test_path("edited.state");
    buffer file = {0};
    buffer_append(&file, good->data, good->size);
    char *at = strstr(file.data + 8, old);
    assert_non_null(at);
    assert_int_equal(strlen(old), strlen(new));
    memcpy(at, new, strlen(new));
    test_write_file(path, file.data, file.size);
    expect_refused(session, path, path); /* by its checksum, or sooner */
    seal(&file);
    test_write_file(path, file.data, file.size);
    expect_refused(session, path, part);
    buffer_free(&file);
}

static void test_damage(void **state) {
    (void)state;
    const char *good_path = test_path("good.state"), *path = test_path("bad.state");
    xlstm_model *model = test_model(TEST_MODEL, NULL);
    xlstm_session *session = test_session(model);
    test_feed(session, text, 33, NULL);
    save(session, good_path);
    buffer good = read_whole(good_path);

    expect_refused(session, test_path("absent.state"), "absent.state");
    expect_refused(session, test_folder(), test_folder());
    test_write_file(path, "", 0);
    expect_refused(session, path, path);
    static const size_t cuts[] = {1, 7, 8, 100, 3000};
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        test_write_file(path, good.data, cuts[i]);
        expect_refused(session, path, path);
    }
    test_write_file(path, good.data, good.size - 1);
    expect_refused(session, path, path);
    test_write_file(path, good.data, good.size / 2);
    expect_refused(session, path, path);

    int flips = test_is_quick() ? 8 : 64; /* single bits, everywhere in the file */
    for (int i = 0; i < flips; i++) {
        size_t at = (size_t)(random_bits(3, 0, (uint64_t)i) % good.size);
        good.data[at] = (char)(good.data[at] ^ (1 << (i % 8)));
        test_write_file(path, good.data, good.size);
        good.data[at] = (char)(good.data[at] ^ (1 << (i % 8)));
        expect_refused(session, path, path);
    }

    expect_edit_refused(session, &good, "\"position\":\"33\"", "\"position\":\"-3\"",
                        "not a number");
    expect_edit_refused(session, &good, "\"F32\",\"shape\":[6,32,64]",
                        "\"F32\",\"shape\":[6,64,32]",
                        "tensor blocks.0.mlstm.c is missing or has another shape");
    expect_edit_refused(session, &good, "blocks.7.mlstm.m", "blocks.9.mlstm.m",
                        "tensor blocks.7.mlstm.m is missing");
    buffer_free(&good);
    xlstm_session_free(session);
    xlstm_model_free(model);
}

static void expect_version_refused(xlstm_session *session, const char *good_path, const char *old,
                                   const char *new, const char *part) {
    buffer file = read_whole(good_path);
    char *at = strstr(file.data + 8, old);
    assert_non_null(at);
    memcpy(at, new, strlen(new));
    test_write_file(good_path, file.data, file.size);
    expect_refused(session, good_path, part);
    buffer_free(&file);
}

static void test_foreign(void **state) {
    (void)state;
    const char *path = test_path("foreign.state");
    xlstm_model *model = test_model(TEST_MODEL, NULL);
    /* The same shapes, but another function: its states mean something else. */
    xlstm_model *other = test_model(test_variant("other", "{\"gate_soft_cap\": 10.0}"), NULL);
    xlstm_session *session = test_session(model), *foreign = test_session(other);
    test_feed(foreign, text, 10, NULL);
    save(foreign, path);
    expect_refused(session, path, "belongs to another model");
    expect_refused(session, TEST_MODEL "/model-00004-of-00004.safetensors", "is not a state file");
    expect_refused(session, TEST_MODEL "/config.json", "config.json");
    save(session, path);
    expect_version_refused(session, path, "\"version\":\"1\"", "\"version\":\"2\"",
                           "version \"2\"");
    xlstm_session_free(session);
    xlstm_session_free(foreign);
    xlstm_model_free(model);
    xlstm_model_free(other);
}

/* Nothing is left behind by a save that fails, and what stood there before stays. */
static void test_unwritable(void **state) {
    (void)state;
    const char *folder = test_path("full"), *path = test_path("full/kept.state");
    xlstm_model *model = test_model(TEST_MODEL, NULL);
    xlstm_session *session = test_session(model);
    assert_int_equal(mkdir(folder, 0777), 0);
    test_feed(session, text, 5, NULL);
    assert_int_equal(xlstm_session_save(session, test_path("no-such-folder/x.state")),
                     XLSTM_IO_ERROR);
    assert_non_null(strstr(xlstm_last_error(), "no-such-folder"));
    assert_int_equal(xlstm_session_save(session, folder), XLSTM_IO_ERROR);
    assert_int_equal(xlstm_session_save(session, ""), XLSTM_INVALID_ARGUMENT);
    save(session, path);
    assert_int_equal(test_count_entries(folder), 1);
    test_feed(session, text, 5, NULL);
    if (access("/dev/full", W_OK) == 0) {
        assert_int_equal(xlstm_session_save(session, "/dev/full"), XLSTM_IO_ERROR);
        assert_non_null(strstr(xlstm_last_error(), "/dev/full"));
    }
    assert_int_equal(xlstm_session_load(session, path), XLSTM_OK);
    assert_int_equal(xlstm_session_position(session), 5);
    assert_int_equal(test_count_entries(folder), 1);
    xlstm_session_free(session);
    xlstm_model_free(model);
}

int main(int argc, char **argv) {
    test_write_ids(text, LENGTH, 11);
    struct CMUnitTest tests[] = {
        cmocka_unit_test(test_going_on),   cmocka_unit_test(test_other_device),
        cmocka_unit_test(test_damage),     cmocka_unit_test(test_foreign),
        cmocka_unit_test(test_unwritable), TEST_ON_CUDA(going_on),
        TEST_ON_CUDA(other_device),
    };
    return test_run_group(tests, sizeof tests / sizeof *tests, argc, argv);
}
