/* Reading, mapping and writing files; above all that a failed write leaves nothing behind. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/error.h"
#include "base/file.h"
#include "support/support.h"

static void assert_content(const char *path, const char *expected) {
    buffer text = {0};
    assert_int_equal(file_read(path, 1 << 20, &text), XLSTM_OK);
    assert_string_equal(text.data, expected);
    buffer_free(&text);
}

static void test_read(void **state) {
    (void)state;
    enum { SIZE = 50000 };
    char *bytes = malloc(SIZE);
    assert_non_null(bytes);
    for (int i = 0; i < SIZE; i++)
        bytes[i] = (char)(i * 31);
    const char *path = test_path("read");
    test_write_file(path, bytes, SIZE);
    buffer text = {0};
    assert_int_equal(file_read(path, SIZE, &text), XLSTM_OK);
    assert_int_equal(text.size, SIZE);
    assert_memory_equal(text.data, bytes, SIZE);
    assert_int_equal(file_read(path, SIZE - 1, &text), XLSTM_FORMAT_ERROR);
    assert_non_null(strstr(xlstm_last_error(), path));
    free(bytes);

    test_write_file(test_path("empty"), "", 0);
    assert_content(test_path("empty"), "");
    assert_int_equal(file_read(test_path("absent"), 100, &text), XLSTM_IO_ERROR);
    assert_non_null(strstr(xlstm_last_error(), "absent: No such file"));
    assert_int_equal(file_read(test_folder(), 100, &text), XLSTM_IO_ERROR);
    buffer_free(&text);
}

static void test_read_a_pipe(void **state) {
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], "from a pipe", 11), 11);
    close(ends[1]);
    char path[64];
    snprintf(path, sizeof path, "/dev/fd/%d", ends[0]);
    assert_content(path, "from a pipe");
    close(ends[0]);
}

static void test_map(void **state) {
    (void)state;
    const char *path = test_path("mapped");
    test_write_file(path, "0123456789", 10);
    file_map map;
    assert_int_equal(file_map_open(path, &map), XLSTM_OK);
    assert_int_equal(map.size, 10);
    assert_memory_equal(map.data, "0123456789", 10);
    file_map_close(&map);
    assert_null(map.data);

    test_write_file(path, "", 0);
    assert_int_equal(file_map_open(path, &map), XLSTM_OK);
    assert_null(map.data);
    assert_int_equal(map.size, 0);
    file_map_close(&map);

    assert_int_equal(file_map_open(test_path("absent"), &map), XLSTM_IO_ERROR);
    assert_int_equal(file_map_open(test_folder(), &map), XLSTM_IO_ERROR);
    assert_non_null(strstr(xlstm_last_error(), "folder"));
    assert_int_equal(mkfifo(test_path("fifo"), 0600), 0);
    assert_int_equal(file_map_open(test_path("fifo"), &map), XLSTM_IO_ERROR); /* must not hang */
    assert_int_equal(file_map_open("/dev/null", &map), XLSTM_IO_ERROR);
}

static void check_folder(const char *path, const char *expected) {
    char *folder = path_folder(path);
    assert_string_equal(folder, expected);
    free(folder);
}

static void test_paths(void **state) {
    (void)state;
    char *path = path_join("a", "b");
    assert_string_equal(path, "a/b");
    free(path);
    path = path_join("a/", "b");
    assert_string_equal(path, "a/b");
    free(path);
    path = path_join("", "b");
    assert_string_equal(path, "b");
    free(path);
    check_folder("a/b/c", "a/b");
    check_folder("c", ".");
    check_folder("/c", "/");
    check_folder("a/", "a");
    assert_true(file_exists(test_folder()) && file_is_folder(test_folder()));
    test_write_file(test_path("plain"), "x", 1);
    assert_true(file_exists(test_path("plain")));
    assert_false(file_is_folder(test_path("plain")));
    assert_false(file_exists(test_path("absent")));
}

static void make_folder(const char *name) {
    assert_int_equal(mkdir(test_path(name), 0777), 0);
}

static void test_write(void **state) {
    (void)state;
    make_folder("w");
    const char *path = test_path("w/out");
    file_writer writer;
    mode_t mask = umask(027);
    assert_int_equal(file_writer_open(path, &writer), XLSTM_OK);
    umask(mask);
    file_writer_write(&writer, "....", 4);
    file_writer_write(&writer, "content", 7);
    file_writer_write_at(&writer, 0, "HEAD", 4);
    file_writer_write(&writer, " end", 4);
    assert_false(file_exists(path)); /* not before it is complete */
    assert_int_equal(file_writer_commit(&writer), XLSTM_OK);
    assert_content(path, "HEADcontent end");
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0640);
    assert_int_equal(test_count_entries(test_path("w")), 1);

    /* Replacing: the old content stays until commit, and its permissions go over. */
    assert_int_equal(chmod(path, 0604), 0);
    assert_int_equal(symlink("out", test_path("w/link")), 0);
    assert_int_equal(file_writer_open(test_path("w/link"), &writer), XLSTM_OK);
    file_writer_write(&writer, "new", 3);
    assert_content(path, "HEADcontent end");
    assert_int_equal(file_writer_commit(&writer), XLSTM_OK);
    assert_content(path, "new");
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0604);
    assert_int_equal(lstat(test_path("w/link"), &status), 0);
    assert_true(S_ISLNK(status.st_mode));

    assert_int_equal(file_writer_open(path, &writer), XLSTM_OK);
    file_writer_write(&writer, "cancelled", 9);
    file_writer_cancel(&writer);
    assert_content(path, "new");
    assert_int_equal(test_count_entries(test_path("w")), 2);
}

static void test_write_where_impossible(void **state) {
    (void)state;
    file_writer writer;
    assert_int_equal(file_writer_open(test_path("no/such/folder"), &writer), XLSTM_IO_ERROR);
    assert_non_null(strstr(xlstm_last_error(), "no/such/folder: No such file or directory"));
    assert_int_equal(file_writer_open(test_folder(), &writer), XLSTM_IO_ERROR);
    test_write_file(test_path("file"), "x", 1);
    assert_int_equal(file_writer_open(test_path("file/below"), &writer), XLSTM_IO_ERROR);
    assert_int_equal(file_writer_open("", &writer), XLSTM_INVALID_ARGUMENT);
    file_writer_cancel(&writer); /* after a failed open: nothing to do */
}

/* A child that may not write more than 20 kB: EFBIG, early or only at the last flush. */
static void test_write_beyond_a_limit(void **state) {
    (void)state;
    make_folder("limit");
    const size_t sizes[] = {100000, 20001};
    for (int i = 0; i < 2; i++) {
        const char *path = test_path("limit/out");
        test_write_file(path, "before", 6);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            signal(SIGXFSZ, SIG_IGN);
            struct rlimit limit = {.rlim_cur = 20000, .rlim_max = 20000};
            setrlimit(RLIMIT_FSIZE, &limit);
            file_writer writer;
            char byte = 'x';
            if (file_writer_open(path, &writer) != XLSTM_OK)
                _exit(2);
            for (size_t k = 0; k < sizes[i]; k++)
                file_writer_write(&writer, &byte, 1);
            int ok = file_writer_commit(&writer) == XLSTM_IO_ERROR &&
                     strstr(xlstm_last_error(), "File too large") != NULL;
            _exit(ok ? 0 : 1);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
        assert_int_equal(test_count_entries(test_path("limit")), 1);
        assert_content(path, "before");
    }
}

static void test_write_to_what_cannot_be_replaced(void **state) {
    (void)state;
    const char *path = test_path("fifo to write");
    assert_int_equal(mkfifo(path, 0600), 0);
    int reader = open(path, O_RDONLY | O_NONBLOCK);
    assert_true(reader >= 0);
    file_writer writer;
    assert_int_equal(file_writer_open(path, &writer), XLSTM_OK);
    file_writer_write(&writer, "x", 1);
    assert_int_equal(file_writer_commit(&writer), XLSTM_OK);
    char got = 0;
    assert_int_equal(read(reader, &got, 1), 1);
    assert_int_equal(got, 'x');
    close(reader);
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    assert_true(S_ISFIFO(status.st_mode)); /* or else the device below would be in danger */
    unlink(path);
    if (file_exists("/dev/full")) {
        assert_int_equal(file_writer_open("/dev/full", &writer), XLSTM_OK);
        assert_null(writer.temporary);
        file_writer_write(&writer, "x", 1);
        assert_int_equal(file_writer_commit(&writer), XLSTM_IO_ERROR);
        assert_non_null(strstr(xlstm_last_error(), "/dev/full: No space left on device"));
    }
}

static void test_write_to_a_pipe(void **state) {
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    char path[64], got[8] = {0};
    snprintf(path, sizeof path, "/dev/fd/%d", ends[1]);
    file_writer writer;
    assert_int_equal(file_writer_open(path, &writer), XLSTM_OK);
    file_writer_write(&writer, "piped", 5);
    assert_int_equal(file_writer_commit(&writer), XLSTM_OK);
    assert_int_equal(read(ends[0], got, 5), 5);
    assert_string_equal(got, "piped");
    close(ends[0]);
    close(ends[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_read),
                                       cmocka_unit_test(test_read_a_pipe),
                                       cmocka_unit_test(test_map),
                                       cmocka_unit_test(test_paths),
                                       cmocka_unit_test(test_write),
                                       cmocka_unit_test(test_write_where_impossible),
                                       cmocka_unit_test(test_write_beyond_a_limit),
                                       cmocka_unit_test(test_write_to_what_cannot_be_replaced),
                                       cmocka_unit_test(test_write_to_a_pipe)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
