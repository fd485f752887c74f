/* The layouts of a checkpoint folder: each made of small files, right, and wrong in every way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "format/safetensors.h"
#include "support/support.h"

static char folder[512]; /* that of the running test */

static int make_folder(void **state) {
    (void)state;
    static int number;
    char name[32];
    snprintf(name, sizeof name, "folder%d", number++);
    snprintf(folder, sizeof folder, "%s", test_path(name));
    return mkdir(folder, 0700);
}

static const char *in_folder(const char *name) {
    static char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void put_text(const char *name, const char *text) {
    test_write_file(in_folder(name), text, strlen(text));
}

/* A file with one-element U8 tensors named by the letters of `names`, each holding its letter. */
static void put_weights(const char *name, const char *names) {
    stored_entry entries[26];
    char texts[26][2];
    size_t count = strlen(names);
    for (size_t i = 0; i < count; i++) {
        memcpy(texts[i], (char[2]){names[i], '\0'}, 2);
        entries[i] = (stored_entry){texts[i], DTYPE_U8, 1, {1}};
    }
    safetensors_writer *writer;
    assert_int_equal(safetensors_writer_open(in_folder(name), entries, count, &writer), XLSTM_OK);
    safetensors_writer_write(writer, names, count);
    assert_int_equal(safetensors_writer_commit(writer), XLSTM_OK);
}

/* Opens the folder and compares the names of the tensors, which are sorted. */
static void assert_holds(const char *path, const char *names) {
    stored_tensors s;
    if (safetensors_open_folder(path, &s) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    assert_int_equal(s.count, strlen(names));
    for (size_t i = 0; i < s.count; i++) {
        assert_int_equal(s.tensors[i].name[0], names[i]);
        assert_int_equal(s.tensors[i].data[0], names[i]);
    }
    stored_close(&s);
}

/* `expected`: the whole error, in which every % stands for the folder. */
static void assert_refused(xlstm_status status, const char *expected) {
    char text[8192];
    size_t size = 0;
    for (; *expected != '\0'; expected++) {
        size += (size_t)snprintf(text + size, sizeof text - size, *expected == '%' ? "%s" : "%.1s",
                                 *expected == '%' ? folder : expected);
    }
    stored_tensors s;
    assert_int_equal(safetensors_open_folder(folder, &s), status);
    assert_string_equal(xlstm_last_error(), text);
    assert_null(s.tensors);
}

static void one_file(void **state) {
    (void)state;
    put_weights("model.safetensors", "abc");
    assert_holds(folder, "abc");
    assert_holds(in_folder("model.safetensors"), "abc");
    /* as transformers: it wins over everything else that lies there */
    put_text("model.safetensors.index.json", "{");
    put_weights("model_0.safetensors", "x");
    put_weights("model-00001-of-00002.safetensors", "y");
    assert_holds(folder, "abc");
    assert_holds(in_folder("model_0.safetensors"), "x");
}

static void nothing(void **state) {
    (void)state;
    put_text("config.json", "{}");
    put_text("model-1-of-2.safetensors", "");
    put_text("model-00003-of-00002.safetensors", "");
    put_text("model-00000-of-00002.safetensors", "");
    put_text("model-00001-of-00001.safetensors.tmp", "");
    put_text("model_00.safetensors", "");
    put_text("model_x.safetensors", "");
    put_text("model_999999999999.safetensors", "");
    assert_refused(XLSTM_IO_ERROR,
                   "%: no weights; looked for model.safetensors, model.safetensors.index.json, "
                   "model-00001-of-NNNNN.safetensors and model_0.safetensors");
    stored_tensors s;
    assert_int_equal(safetensors_open_folder(test_path("absent"), &s), XLSTM_IO_ERROR);
    assert_non_null(strstr(xlstm_last_error(), "absent: No such file"));
}

static void an_index(void **state) {
    (void)state;
    put_weights("one.safetensors", "ac");
    put_weights("two.safetensors", "b");
    put_text("model.safetensors.index.json",
             "{\"metadata\": {\"total_size\": 3}, \"weight_map\": {\"a\": \"one.safetensors\","
             " \"b\": \"two.safetensors\", \"c\": \"one.safetensors\"}}");
    assert_holds(folder, "abc");
}

static void an_index_that_disagrees(void **state) {
    (void)state;
    put_weights("one.safetensors", "acx");
    put_weights("two.safetensors", "b");
    put_text("broken.safetensors", "12345678");
    put_text("model.safetensors.index.json",
             "{\"weight_map\": {\"a\": \"two.safetensors\", \"b\": \"two.safetensors\","
             " \"c\": \"one.safetensors\", \"d\": \"two.safetensors\", \"e\": \"none.safetensors\","
             " \"f\": \"none.safetensors\", \"g\": \"../one.safetensors\", \"h\": \"/etc/passwd\","
             " \"i\": \"..\", \"j\": \"\", \"k\": 7, \"l\": \"broken.safetensors\"}}");
    assert_refused(
        XLSTM_FORMAT_ERROR,
        "%/model.safetensors.index.json: the file none.safetensors is missing from the folder\n"
        "%/model.safetensors.index.json: tensor g: \"../one.safetensors\" is not the name of a "
        "file in the "
        "folder\n"
        "%/model.safetensors.index.json: tensor h: \"/etc/passwd\" is not the name of a file in "
        "the folder\n"
        "%/model.safetensors.index.json: tensor i: \"..\" is not the name of a file in the folder\n"
        "%/model.safetensors.index.json: tensor j: \"\" is not the name of a file in the folder\n"
        "%/model.safetensors.index.json: tensor k: its file is not the name of a file in the "
        "folder\n"
        "%/broken.safetensors: not a safetensors file: a header of 4050765991979987505 bytes, at "
        "most "
        "100000000 are allowed\n"
        "%/model.safetensors.index.json: tensor a: it is in one.safetensors, not in "
        "two.safetensors\n"
        "%/model.safetensors.index.json: tensor d: it is not in two.safetensors\n"
        "%/one.safetensors: tensor x: it is not listed in model.safetensors.index.json");
}

static void a_broken_index(void **state) {
    (void)state;
    put_weights("model-00001-of-00001.safetensors", "a");
    put_text("model.safetensors.index.json", "{\"weight_map\": []}");
    assert_refused(XLSTM_FORMAT_ERROR,
                   "%/model.safetensors.index.json: \"weight_map\" is missing or no object");
    put_text("model.safetensors.index.json", "[]");
    assert_refused(XLSTM_FORMAT_ERROR,
                   "%/model.safetensors.index.json: \"weight_map\" is missing or no object");
    put_text("model.safetensors.index.json", "{\"weight_map\": {\"a\": ");
    stored_tensors s;
    assert_int_equal(safetensors_open_folder(folder, &s), XLSTM_FORMAT_ERROR);
    assert_non_null(strstr(xlstm_last_error(), "index.json: not valid JSON: line 1"));
    put_text("model.safetensors.index.json", "{\"weight_map\": {\"a\": \"gone.safetensors\"}}");
    assert_refused(
        XLSTM_IO_ERROR,
        "%/model.safetensors.index.json: the file gone.safetensors is missing from the folder");
}

static void shards_without_an_index(void **state) {
    (void)state;
    put_weights("model-00001-of-00003.safetensors", "b");
    put_weights("model-00002-of-00003.safetensors", "ad");
    put_weights("model-00003-of-00003.safetensors", "c");
    assert_holds(folder, "abcd");
    assert_int_equal(unlink(in_folder("model-00001-of-00003.safetensors")), 0);
    assert_int_equal(unlink(in_folder("model-00003-of-00003.safetensors")), 0);
    assert_refused(XLSTM_IO_ERROR, "%: the file model-00001-of-00003.safetensors is missing\n"
                                   "%: the file model-00003-of-00003.safetensors is missing");
    put_weights("model-00001-of-00003.safetensors", "bd");
    assert_refused(XLSTM_FORMAT_ERROR, "%: the file model-00003-of-00003.safetensors is missing\n"
                                       "%/model-00002-of-00003.safetensors: tensor d: it is also "
                                       "in %/model-00001-of-00003.safetensors");
}

static void shards_of_two_checkpoints(void **state) {
    (void)state;
    put_weights("model-00001-of-00002.safetensors", "a");
    put_weights("model-00001-of-00003.safetensors", "a");
    stored_tensors s;
    assert_int_equal(safetensors_open_folder(folder, &s), XLSTM_FORMAT_ERROR);
    assert_non_null(strstr(xlstm_last_error(), ": shards of two checkpoints, one of "));
}

static void official_files(void **state) {
    (void)state;
    char name[40], names[13] = "";
    for (int i = 0; i < 12; i++) { /* also model_10, model_11 */
        snprintf(name, sizeof name, "model_%d.safetensors", i);
        names[i] = (char)('a' + i);
        put_weights(name, (char[2]){names[i], '\0'});
    }
    assert_holds(folder, names);
    assert_int_equal(unlink(in_folder("model_0.safetensors")), 0);
    assert_int_equal(unlink(in_folder("model_10.safetensors")), 0);
    assert_refused(XLSTM_IO_ERROR, "%: the file model_0.safetensors is missing\n"
                                   "%: the file model_10.safetensors is missing");
}

/* The model in the tree: every tensor of its index, each where its neighbours leave it. */
static void the_model_in_the_tree(void **state) {
    (void)state;
    stored_tensors s;
    assert_int_equal(safetensors_open_folder("models/reference-17m", &s), XLSTM_OK);
    assert_int_equal(s.count, 123); /* 15 of each of 8 blocks, and 3 */
    assert_int_equal(s.file_count, 4);
    size_t size = 0;
    for (size_t i = 0; i < s.count; i++) {
        assert_int_equal(s.tensors[i].dtype, DTYPE_BF16);
        size += s.tensors[i].size;
    }
    assert_int_equal(size, 34696128); /* total_size of the index */
    const stored_tensor *embedding = stored_find(&s, "backbone.embeddings.weight");
    assert_non_null(embedding);
    assert_int_equal(embedding->shape[0], 4096);
    assert_int_equal(embedding->shape[1], 384);
    stored_close(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(one_file, make_folder),
        cmocka_unit_test_setup(nothing, make_folder),
        cmocka_unit_test_setup(an_index, make_folder),
        cmocka_unit_test_setup(an_index_that_disagrees, make_folder),
        cmocka_unit_test_setup(a_broken_index, make_folder),
        cmocka_unit_test_setup(shards_without_an_index, make_folder),
        cmocka_unit_test_setup(shards_of_two_checkpoints, make_folder),
        cmocka_unit_test_setup(official_files, make_folder),
        cmocka_unit_test(the_model_in_the_tree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
