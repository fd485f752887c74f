/* A model in one GGUF file is the model of the folder: the same weights, config, wiring, texts, end
 * of text and states; and what is said where a file lacks something. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/safetensors.h"
#include "model/describe.h"
#include "support/models.h"
#include "support/support.h"
#include "text/tokenizer.h"

static void check(xlstm_status status) {
    if (status != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
}

/* The layout of a model's tensors; released with free. */
static stored_entry *layout_of(const stored_tensors *files) {
    stored_entry *entries = calloc(files->count, sizeof *entries);
    assert_non_null(entries);
    for (size_t i = 0; i < files->count; i++) {
        const stored_tensor *t = &files->tensors[i];
        entries[i] = (stored_entry){.name = t->name, .dtype = t->dtype, .rank = t->rank};
        memcpy(entries[i].shape, t->shape, sizeof t->shape);
    }
    return entries;
}

/* Writes the metadata and the model's tensors as they are. */
static void write_gguf(const xlstm_model *model, const gguf_metadata *metadata, const char *path) {
    gguf_writer *writer;
    stored_entry *entries = layout_of(&model->files);
    check(gguf_writer_open(path, metadata, entries, model->files.count, &writer));
    for (size_t i = 0; i < model->files.count; i++)
        gguf_writer_write(writer, model->files.tensors[i].data, model->files.tensors[i].size);
    check(gguf_writer_commit(writer));
    free(entries);
}

/* The checkpoint as one file. */
static void convert(const char *from, const char *path) {
    xlstm_model *model;
    gguf_metadata metadata = {0};
    check(model_open(from, NULL, &model));
    check(describe_as_gguf(model, NULL, DTYPE_BF16, &metadata));
    write_gguf(model, &metadata, path);
    gguf_metadata_free(&metadata);
    xlstm_model_free(model);
}

static const char prompt[] = "The capital of France is";

/* Ids, logits of the last, fingerprint and end of text of a model, through a state file. */
typedef struct behaviour {
    int64_t count;
    int32_t ids[16];
    float logits[4096];
    uint64_t fingerprint;
    int32_t end;
} behaviour;

/* Evaluates all but the last id, or takes the state after them from `state`; then the last. */
static behaviour behaviour_of(const char *path, const char *state, bool restore) {
    behaviour b = {0};
    int32_t *ids;
    xlstm_model *model = test_model(path, &(xlstm_model_options){.profile = "exact", .threads = 2});
    xlstm_session *session = test_session(model);
    assert_int_equal(model->config.vocab_size, 4096);
    check(
        xlstm_encode_prompt(model, prompt, strlen(prompt), XLSTM_BOS_AUTO, false, &ids, &b.count));
    assert_true(b.count > 2 && b.count <= 16);
    memcpy(b.ids, ids, (size_t)b.count * sizeof *ids);
    if (restore) {
        check(xlstm_session_load(session, state));
    } else {
        check(xlstm_eval(session, ids, b.count - 1, NULL, NULL, NULL));
        check(xlstm_session_save(session, state));
    }
    check(xlstm_eval(session, ids + b.count - 1, 1, b.logits, NULL, NULL));
    b.fingerprint = model_fingerprint(model);
    b.end = model_end_of_text(model);
    assert_null(xlstm_model_warning(model));
    xlstm_free(ids);
    xlstm_session_free(session);
    xlstm_model_free(model);
    return b;
}

static void is_the_same_model(void **state) {
    (void)state;
    const char *folder = test_path("one"), *saved = test_path("saved.state");
    char path[4096];
    assert_int_equal(mkdir(folder, 0777), 0);
    snprintf(path, sizeof path, "%s/model.gguf", folder);
    convert(TEST_MODEL, path);
    behaviour expected = behaviour_of(TEST_MODEL, saved, false);
    behaviour got = behaviour_of(path, saved, true); /* the state of the other */
    assert_memory_equal(&expected, &got, sizeof got);
    got = behaviour_of(folder, saved, false);
    assert_memory_equal(&expected, &got, sizeof got);
    assert_int_equal(expected.end, 0);
}

/* A copy of bytes that both have. */
static void assert_same_file(const char *folder, const char *other, const char *name) {
    char path[4096];
    buffer a = {0}, b = {0};
    snprintf(path, sizeof path, "%s/%s", folder, name);
    check(file_read(path, 1 << 26, &a));
    snprintf(path, sizeof path, "%s/%s", other, name);
    check(file_read(path, 1 << 26, &b));
    assert_int_equal(a.size, b.size);
    assert_memory_equal(a.data, b.data, a.size);
    buffer_free(&a);
    buffer_free(&b);
}

/* From a GGUF file back to a folder: the same files, and the same again. */
static void becomes_a_folder_again(void **state) {
    (void)state;
    const char *path = test_path("back.gguf"), *folder = test_path("back");
    char file[4096];
    assert_int_equal(mkdir(folder, 0777), 0);
    convert(TEST_MODEL, path);
    xlstm_model *model;
    check(model_open(path, NULL, &model));
    check(describe_as_files(model, folder));
    stored_entry *entries = layout_of(&model->files);
    safetensors_writer *writer;
    snprintf(file, sizeof file, "%s/model.safetensors", folder);
    check(safetensors_writer_open(file, entries, model->files.count, &writer));
    for (size_t i = 0; i < model->files.count; i++)
        safetensors_writer_write(writer, model->files.tensors[i].data,
                                 model->files.tensors[i].size);
    check(safetensors_writer_commit(writer));
    free(entries);
    uint64_t fingerprint = model_fingerprint(model);
    xlstm_model_free(model);
    assert_same_file(TEST_MODEL, folder, "config.json");
    assert_same_file(TEST_MODEL, folder, "tokenizer.json");
    check(model_open(folder, NULL, &model));
    assert_true(model_fingerprint(model) == fingerprint);
    assert_int_equal(model_end_of_text(model), 0);
    assert_null(xlstm_model_warning(model));
    xlstm_model_free(model);
}

/* The other family, from YAML, without a tokenizer. */
static void holds_xlstm_neurips(void **state) {
    (void)state;
    const char *folder = "tests/golden/neurips-mixed", *path = test_path("neurips.gguf");
    xlstm_model *one, *other;
    convert(folder, path);
    check(model_open(folder, NULL, &one));
    check(model_open(path, NULL, &other));
    assert_true(model_fingerprint(one) == model_fingerprint(other));
    assert_int_equal(other->config.family, FAMILY_NEURIPS);
    assert_false(model_has_tokenizer(other));
    assert_null(xlstm_model_tokenizer(other));
    test_expect_message("neurips.gguf: no tokenizer: value tokenizer.huggingface.json is missing");
    xlstm_model_free(one);
    xlstm_model_free(other);
    const char *back = test_path("neurips");
    assert_int_equal(mkdir(back, 0777), 0);
    check(model_open(path, NULL, &one));
    check(describe_as_files(one, back));
    xlstm_model_free(one);
    assert_same_file(folder, back, "config.yaml");
    assert_int_equal(test_count_entries(back), 1);
}

/* A wiring of its own survives, which other tools would not look for. */
static void keeps_the_wiring(void **state) {
    (void)state;
    const char *path = test_path("wired.gguf");
    xlstm_model *model;
    buffer text = {0};
    check(model_open(TEST_MODEL, NULL, &model));
    wiring_print(&model->graph, WIRING_JSON, &text);
    uint64_t sequential = model_fingerprint(model);
    xlstm_model_free(model);
    json_t *graph = json_loadb(text.data, text.size, 0, NULL);
    json_t *sum = json_array_get(json_object_get(graph, "nodes"), 2);
    assert_string_equal(json_string_value(json_object_get(sum, "kind")), "sum");
    json_object_set_new(json_array_get(json_object_get(sum, "inputs"), 1), "polarity",
                        json_integer(-1));
    json_t *changes = json_pack("{s:o}", "wiring", graph);
    char *changed = json_dumps(changes, 0);
    const char *folder = test_variant("wired", changed);
    convert(folder, path);
    check(model_open(folder, NULL, &model));
    uint64_t wired = model_fingerprint(model);
    xlstm_model_free(model);
    check(model_open(path, NULL, &model));
    assert_true(wired != sequential && model_fingerprint(model) == wired);
    xlstm_model_free(model);
    free(changed);
    json_decref(changes);
    buffer_free(&text);
}

/* ---- What other tools see ---- */

static void check_number(const gguf_file *f, const char *key, int64_t expected) {
    int64_t got = -1;
    if (!gguf_get_integer(gguf_find(f, key), &got) || got != expected)
        fail_msg("%s is %lld instead of %lld", key, (long long)got, (long long)expected);
}

static void describes_for_other_tools(void **state) {
    (void)state;
    const char *path = test_path("described.gguf");
    gguf_file f;
    gguf_text text;
    convert(TEST_MODEL, path);
    check(gguf_open(path, &f));
    assert_true(gguf_get_text(gguf_find(&f, "general.name"), &text));
    assert_int_equal(text.size, strlen("reference-17m"));
    assert_memory_equal(text.bytes, "reference-17m", text.size);
    static const struct {
        const char *key;
        int64_t value;
    } numbers[] = {
        {"general.file_type", 32},
        {"general.quantization_version", 2},
        {"general.alignment", 32},
        {"xlstm.block_count", 8},
        {"xlstm.embedding_length", 384},
        {"xlstm.vocab_size", 4096},
        {"xlstm.feed_forward_length", 1024},
        {"xlstm.attention.head_count", 6},
        {"xlstm.attention.key_length", 32},
        {"xlstm.attention.value_length", 64},
        {"tokenizer.ggml.bos_token_id", 0},
        {"tokenizer.ggml.eos_token_id", 0},
        {"tokenizer.ggml.padding_token_id", 1},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        check_number(&f, numbers[i].key, numbers[i].value);
    const gguf_value *tokens = gguf_find(&f, "tokenizer.ggml.tokens");
    assert_true(tokens && tokens->element == GGUF_TEXT && tokens->count == 4096);
    assert_memory_equal(tokens->data, "\x0d\0\0\0\0\0\0\0<|endoftext|>", 21);
    const gguf_value *types = gguf_find(&f, "tokenizer.ggml.token_type");
    assert_true(types && types->element == GGUF_I32 && types->count == 4096);
    assert_memory_equal(types->data, "\3\0\0\0\3\0\0\0\1\0\0\0", 12);
    const gguf_value *merges = gguf_find(&f, "tokenizer.ggml.merges");
    assert_true(merges && merges->element == GGUF_TEXT && merges->count == 3838);
    assert_memory_equal(merges->data, "\4\0\0\0\0\0\0\0\xc4\xa0 t", 12);
    gguf_close(&f);
    convert(path, test_path("renamed.gguf")); /* a file's name without its ending */
    check(gguf_open(test_path("renamed.gguf"), &f));
    assert_true(gguf_get_text(gguf_find(&f, "general.name"), &text));
    assert_int_equal(text.size, strlen("described"));
    assert_memory_equal(text.bytes, "described", text.size);
    gguf_close(&f);
}

/* ---- What is wrong ---- */

/* A file with the tensors of the small model and its config, or other text, under `key`. */
static const char *make(const char *architecture, const char *key, const char *config,
                        const char *second) {
    const char *path = test_path("made.gguf");
    xlstm_model *model;
    gguf_metadata m = {0};
    buffer text = {0};
    bool yaml;
    check(model_open(test_small_model(), NULL, &model));
    check(source_config_text(&model->source, &yaml, &text));
    if (architecture)
        gguf_put_text(&m, "general.architecture", architecture, strlen(architecture));
    if (key)
        gguf_put_text(&m, key, config ? config : text.data, config ? strlen(config) : text.size);
    if (second)
        gguf_put_text(&m, second, "{}", 2);
    write_gguf(model, &m, path);
    gguf_metadata_free(&m);
    buffer_free(&text);
    xlstm_model_free(model);
    return path;
}

static void says_what_is_missing(void **state) {
    (void)state;
    static const char json[] = "xlstm.config.json", yaml[] = "xlstm.config.yaml";
    static const struct {
        const char *architecture, *key, *config, *second, *error;
        xlstm_status status;
    } cases[] = {
        {"xlstm", json, NULL, NULL, NULL, XLSTM_OK},
        {"llama", json, NULL, NULL, "made.gguf: general.architecture is \"llama\"; only \"xlstm\"",
         XLSTM_UNSUPPORTED},
        {NULL, json, NULL, NULL, "made.gguf: value general.architecture is missing or no text",
         XLSTM_FORMAT_ERROR},
        {"xlstm", NULL, NULL, NULL,
         "made.gguf: no config: neither value xlstm.config.json nor xlstm.config.yaml is there",
         XLSTM_FORMAT_ERROR},
        {"xlstm", json, NULL, yaml,
         "values xlstm.config.json and xlstm.config.yaml are both there; one must go",
         XLSTM_FORMAT_ERROR},
        {"xlstm", json, "{", NULL, "made.gguf: xlstm.config.json: not valid JSON",
         XLSTM_FORMAT_ERROR},
        {"xlstm", yaml, "a: b", NULL, "made.gguf: xlstm.config.yaml: the family is unknown",
         XLSTM_FORMAT_ERROR},
        {"xlstm", json,
         "{\"model_type\": \"xlstm\", \"embedding_dim\": 64, \"num_heads\": 3, \"num_blocks\": 2, "
         "\"vocab_size\": 320}",
         NULL, "made.gguf: xlstm.config.json: ", XLSTM_FORMAT_ERROR},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        xlstm_model *model;
        const char *path =
            make(cases[i].architecture, cases[i].key, cases[i].config, cases[i].second);
        xlstm_status status = model_open(path, NULL, &model);
        if (status != cases[i].status)
            fail_msg("case %zu: status %d: %s", i, (int)status, xlstm_last_error());
        if (cases[i].error)
            test_expect_message(cases[i].error);
        xlstm_model_free(model);
    }
}

/* Only text needs the tokenizer. */
static void runs_without_a_tokenizer(void **state) {
    (void)state;
    float logits[320];
    int32_t ids[] = {1, 2}, *found;
    int64_t count;
    xlstm_model *model = test_model(make("xlstm", "xlstm.config.json", NULL, NULL), NULL);
    xlstm_session *session = test_session(model);
    check(xlstm_eval(session, ids, 2, logits, NULL, NULL));
    assert_int_equal(xlstm_encode_prompt(model, "a", 1, XLSTM_BOS_AUTO, false, &found, &count),
                     XLSTM_UNSUPPORTED);
    test_expect_message("no tokenizer");
    xlstm_session_free(session);
    xlstm_model_free(model);
    model =
        test_model(make("xlstm", "xlstm.config.json", NULL, "tokenizer.huggingface.json"), NULL);
    assert_null(xlstm_model_tokenizer(model));
    test_expect_message("made.gguf: tokenizer.huggingface.json: ");
    xlstm_model_free(model);
}

/* The id that ends a text is the file's, where it is one. */
static void takes_the_end_of_text(void **state) {
    (void)state;
    static const struct {
        uint32_t id;
        int32_t end;
        const char *warning;
    } cases[] = {{7, 7, "the config's eos_token_id is 0, but the tokenizer's end of text is 7"},
                 {4096, 0, "end.gguf: value tokenizer.ggml.eos_token_id is no id of the model"}};
    const char *path = test_path("end.gguf");
    for (size_t i = 0; i < 2; i++) {
        xlstm_model *model;
        gguf_metadata m = {0};
        buffer text = {0}, name = {0};
        bool yaml;
        check(model_open(TEST_MODEL, NULL, &model));
        gguf_put_text(&m, "general.architecture", "xlstm", 5);
        gguf_put_u32(&m, "tokenizer.ggml.eos_token_id", cases[i].id);
        check(source_config_text(&model->source, &yaml, &text));
        gguf_put_text(&m, "xlstm.config.json", text.data, text.size);
        check(source_tokenizer_text(&model->source, &text, &name));
        gguf_put_text(&m, "tokenizer.huggingface.json", text.data, text.size);
        write_gguf(model, &m, path);
        xlstm_model_free(model);
        check(model_open(path, NULL, &model));
        assert_int_equal(model_end_of_text(model), cases[i].end);
        assert_non_null(xlstm_model_warning(model));
        if (!strstr(xlstm_model_warning(model), cases[i].warning))
            fail_msg("%s", xlstm_model_warning(model));
        xlstm_model_free(model);
        gguf_metadata_free(&m);
        buffer_free(&text);
        buffer_free(&name);
    }
}

static void finds_the_file_of_a_folder(void **state) {
    (void)state;
    const char *folder = test_path("several");
    char first[4096], second[4096], nameless[4096];
    xlstm_model *model;
    xlstm_tokenizer *tokenizer;
    assert_int_equal(mkdir(folder, 0777), 0);
    snprintf(first, sizeof first, "%s/a.gguf", folder);
    snprintf(second, sizeof second, "%s/b.gguf", folder);
    snprintf(nameless, sizeof nameless, "%s/c", folder);
    convert(TEST_MODEL, first);
    check(xlstm_tokenizer_load(folder, &tokenizer));
    assert_int_equal(xlstm_tokenizer_size(tokenizer), 4096);
    xlstm_tokenizer_free(tokenizer);
    assert_int_equal(symlink(first, second), 0);
    assert_int_equal(model_open(folder, NULL, &model), XLSTM_INVALID_ARGUMENT);
    test_expect_message("several: the folder has 2 .gguf files; give the path of one of them");
    check(model_open(second, NULL, &model));
    xlstm_model_free(model);
    assert_int_equal(unlink(second), 0);
    assert_int_equal(rename(first, nameless), 0);
    check(model_open(nameless, NULL, &model)); /* it says itself what it is */
    xlstm_model_free(model);
    test_write_file(first, "GGUX", 4);
    assert_int_equal(model_open(folder, NULL, &model), XLSTM_FORMAT_ERROR);
    test_expect_message("a.gguf: not a GGUF file");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_the_same_model),          cmocka_unit_test(becomes_a_folder_again),
        cmocka_unit_test(holds_xlstm_neurips),        cmocka_unit_test(keeps_the_wiring),
        cmocka_unit_test(describes_for_other_tools),  cmocka_unit_test(says_what_is_missing),
        cmocka_unit_test(runs_without_a_tokenizer),   cmocka_unit_test(takes_the_end_of_text),
        cmocka_unit_test(finds_the_file_of_a_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
