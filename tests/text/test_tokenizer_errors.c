/* Wrong tokenizers: each gives one error that names the field, and what is merely another way of
 * writing the same is accepted. Every case changes one thing in a small tokenizer that loads. */
#include <stdlib.h>
#include <string.h>

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/file.h"
#include "support/support.h"
#include "text/tokenizer.h"

#define ADDED(id, content, single_word, lstrip, normalized)                                        \
    "{\"id\":" id ",\"content\":\"" content "\",\"single_word\":" single_word                      \
    ",\"lstrip\":" lstrip ",\"rstrip\":false,\"normalized\":" normalized ",\"special\":true}"

static const char valid[] =
    "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,"
    "\"added_tokens\":[" ADDED(
        "0", "<s>", "false", "false",
        "false") "],"
                 "\"normalizer\":{\"type\":\"NFC\"},"
                 "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_"
                 "regex\":true},"
                 "\"post_processor\":null,"
                 "\"decoder\":{\"type\":\"ByteLevel\"},"
                 "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,\"byte_"
                 "fallback\":false,"
                 "\"fuse_unk\":false,\"ignore_merges\":false,"
                 "\"vocab\":{\"<s>\":0,\"a\":1,\"b\":2,\"ab\":3,\"\xC4\xA0\":4},"
                 "\"merges\":[\"a b\"]}}";

/* The valid text with the first occurrence of `from` replaced. */
static void replace(const char *from, const char *to, buffer *out) {
    const char *at = strstr(valid, from);
    if (!at)
        fail_msg("\"%s\" is not in the valid tokenizer", from);
    buffer_append(out, valid, (size_t)(at - valid));
    buffer_append(out, to, strlen(to));
    buffer_append(out, at + strlen(from), strlen(at + strlen(from)));
}

typedef struct bad_case {
    const char *from, *to;
    xlstm_status status;
    const char *message;
} bad_case;

static const bad_case bad_cases[] = {
    {"\"1.0\"", "\"2.0\"", XLSTM_UNSUPPORTED,
     "version \"2.0\" is not supported; it must be \"1.0\""},
    {"\"1.0\"", "1", XLSTM_UNSUPPORTED, "version an integer is not supported; it must be \"1.0\""},
    {"\"truncation\":null", "\"truncation\":{\"max_length\":5}", XLSTM_UNSUPPORTED,
     "truncation is not supported; it must be null"},
    {"\"padding\":null", "\"padding\":{}", XLSTM_UNSUPPORTED,
     "padding is not supported; it must be null"},
    {"\"NFC\"", "\"NFKC\"", XLSTM_UNSUPPORTED,
     "normalizer \"NFKC\" is not supported; it must be \"NFC\" or null"},
    {"{\"type\":\"NFC\"}", "\"NFC\"", XLSTM_FORMAT_ERROR,
     "normalizer must be an object, but is a string"},
    {"{\"type\":\"NFC\"}",
     "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Lowercase\"}]}",
     XLSTM_UNSUPPORTED,
     "normalizer is a Sequence; it is supported only with exactly one entry in \"normalizers\""},
    {"{\"type\":\"ByteLevel\",\"add", "{\"type\":\"Whitespace\",\"add", XLSTM_UNSUPPORTED,
     "pre_tokenizer \"Whitespace\" is not supported; it must be \"ByteLevel\""},
    {"\"pre_tokenizer\"", "\"x\"", XLSTM_FORMAT_ERROR,
     "pre_tokenizer must be an object, but is missing"},
    {"\"add_prefix_space\":false,", "", XLSTM_FORMAT_ERROR,
     "pre_tokenizer.add_prefix_space must be true or false, but is missing"},
    {"\"use_regex\":true", "\"use_regex\":1", XLSTM_FORMAT_ERROR,
     "pre_tokenizer.use_regex must be true or false, but is an integer"},
    {"\"post_processor\":null", "\"post_processor\":{\"type\":\"Other\"}", XLSTM_UNSUPPORTED,
     "post_processor \"Other\" is not supported; it must be \"ByteLevel\", \"TemplateProcessing\" "
     "or "
     "null"},
    {"{\"type\":\"ByteLevel\"}", "null", XLSTM_FORMAT_ERROR,
     "decoder must be an object, but is missing"},
    {"{\"type\":\"ByteLevel\"}", "{\"type\":\"Metaspace\"}", XLSTM_UNSUPPORTED,
     "decoder \"Metaspace\" is not supported; it must be \"ByteLevel\""},
    {"\"model\":{", "\"model\":[],\"x\":{", XLSTM_FORMAT_ERROR,
     "model must be an object, but is an array"},
    {"\"BPE\"", "\"WordPiece\"", XLSTM_UNSUPPORTED,
     "model.type \"WordPiece\" is not supported; it must be \"BPE\""},
    {"\"BPE\"", "\"Unigram\"", XLSTM_UNSUPPORTED,
     "model.type \"Unigram\" is not supported; it must be \"BPE\""},
    {"\"dropout\":null", "\"dropout\":0.1", XLSTM_UNSUPPORTED,
     "model.dropout is not supported; it must be null"},
    {"\"dropout\":null", "\"end_of_word_suffix\":\"</w>\"", XLSTM_UNSUPPORTED,
     "model.end_of_word_suffix is not supported; it must be null"},
    {"\"dropout\":null", "\"continuing_subword_prefix\":\"##\"", XLSTM_UNSUPPORTED,
     "model.continuing_subword_prefix is not supported; it must be null"},
    {"\"byte_fallback\":false", "\"byte_fallback\":true", XLSTM_UNSUPPORTED,
     "model.byte_fallback true is not supported; it must be false"},
    {"\"ignore_merges\":false", "\"ignore_merges\":\"no\"", XLSTM_FORMAT_ERROR,
     "model.ignore_merges must be true or false, but is a string"},
    {"\"unk_token\":null", "\"unk_token\":\"<unk>\"", XLSTM_FORMAT_ERROR,
     "model.unk_token \"<unk>\" is not in model.vocab"},
    {"\"unk_token\":null", "\"unk_token\":7", XLSTM_FORMAT_ERROR,
     "model.unk_token must be a string or null, but is an integer"},
    {"\"vocab\":", "\"vocabulary\":", XLSTM_FORMAT_ERROR,
     "model.vocab must be an object, but is missing"},
    {"\"a\":1", "\"a\":-1", XLSTM_FORMAT_ERROR,
     "model.vocab: the id of \"a\" is -1; ids must be from 0 to 4194303"},
    {"\"a\":1", "\"a\":4194304", XLSTM_FORMAT_ERROR,
     "model.vocab: the id of \"a\" is 4194304; ids must be from 0 to 4194303"},
    {"\"a\":1", "\"a\":9223372036854775807", XLSTM_FORMAT_ERROR, "ids must be from 0 to 4194303"},
    {"\"a\":1", "\"a\":1.0", XLSTM_FORMAT_ERROR,
     "model.vocab: the id of \"a\" must be an integer, but is a fraction"},
    {"\"a\":1", "\"a\":2", XLSTM_FORMAT_ERROR,
     "model.vocab: \"b\" has id 2, which another token has too"},
    {"\"a\":1", "\"a\":1,\"a\":5", XLSTM_FORMAT_ERROR, "duplicate object key"},
    {"\"a\":1", "\"a\\u0000\":1", XLSTM_FORMAT_ERROR, "NUL byte in object key not supported"},
    {"\"merges\":[\"a b\"]", "\"merges\":{}", XLSTM_FORMAT_ERROR,
     "model.merges must be an array, but is an object"},
    {"\"a b\"", "\"a b\",\"ab c\"", XLSTM_FORMAT_ERROR,
     "model.merges[1]: \"c\" is not in model.vocab"},
    {"\"a b\"", "\"b a\"", XLSTM_FORMAT_ERROR, "model.merges[0]: \"ba\" is not in model.vocab"},
    {"\"a b\"", "\"a b a\"", XLSTM_FORMAT_ERROR,
     "model.merges[0] must be two tokens, as \"a b\" or [\"a\", \"b\"]"},
    {"\"a b\"", "\"ab\"", XLSTM_FORMAT_ERROR, "model.merges[0] must be two tokens"},
    {"\"a b\"", "[\"a\",\"b\",\"a\"]", XLSTM_FORMAT_ERROR, "model.merges[0] must be two tokens"},
    {"\"a b\"", "[\"a\",1]", XLSTM_FORMAT_ERROR, "model.merges[0] must be two tokens"},
    {"\"a b\"", "7", XLSTM_FORMAT_ERROR, "model.merges[0] must be two tokens"},
    {"\"a b\"", "[\"a\\u0000\",\"b\"]", XLSTM_FORMAT_ERROR, "is not in model.vocab"},
    {"\"a b\"", "\"a b\",[\"a\",\"b\"]", XLSTM_FORMAT_ERROR,
     "model.merges[1] is an array, but the first merge is a string"},
    {"[{\"id\":0", "{\"id\":0", XLSTM_FORMAT_ERROR, ": line 1, column "},
    {"{\"id\":0", "5,{\"id\":0", XLSTM_FORMAT_ERROR,
     "added_tokens[0] must be an object, but is an integer"},
    {"\"id\":0,", "", XLSTM_FORMAT_ERROR,
     "added_tokens[0].id must be an integer from 0 to 4194303"},
    {"\"id\":0,", "\"id\":3,", XLSTM_FORMAT_ERROR,
     "added_tokens[0].id of \"<s>\" is 3, but must be 0: model.vocab says so"},
    {"\"content\":\"<s>\"", "\"content\":\"<t>\"", XLSTM_FORMAT_ERROR,
     "added_tokens[0].id of \"<t>\" is 0, but must be 5: new tokens are numbered after "
     "model.vocab, "
     "in order"},
    {"\"content\":\"<s>\"", "\"content\":\"\"", XLSTM_UNSUPPORTED,
     "added_tokens[0].content has 0 bytes; 1 to 1024 are possible"},
    {"\"content\":\"<s>\"", "\"content\":null", XLSTM_FORMAT_ERROR,
     "added_tokens[0].content must be a string, but is null"},
    {"\"single_word\":false", "\"single_word\":true", XLSTM_UNSUPPORTED,
     "added_tokens[0].single_word true (\"<s>\") is not supported; it must be false"},
    {"\"lstrip\":false", "\"lstrip\":true", XLSTM_UNSUPPORTED,
     "added_tokens[0].lstrip true (\"<s>\") is not supported; it must be false"},
    {"\"rstrip\":false", "\"rstrip\":true", XLSTM_UNSUPPORTED,
     "added_tokens[0].rstrip true (\"<s>\") is not supported; it must be false"},
    {"\"normalized\":false,", "", XLSTM_FORMAT_ERROR,
     "added_tokens[0].normalized must be true or false, but is missing"},
    {"\"special\":true", "\"special\":0", XLSTM_FORMAT_ERROR,
     "added_tokens[0].special must be true or false, but is an integer"},
    {"\"special\":true}", "\"special\":true}," ADDED("0", "<s>", "false", "false", "true"),
     XLSTM_FORMAT_ERROR, "added_tokens[1]: \"<s>\" is also added_tokens[0]"},
    {"\"special\":true}",
     "\"special\":true}," ADDED("5", "\xC3\xA9", "false", "false",
                                "true") "," ADDED("6", "e\xCC\x81", "false", "false", "true"),
     XLSTM_FORMAT_ERROR, "is matched by the same text as the token with id 5"},
    {"\"added_tokens\":[", "\"added_tokens\":{},\"x\":[", XLSTM_FORMAT_ERROR,
     "added_tokens must be an array, but is an object"},
    {"<s>", "\xFF", XLSTM_FORMAT_ERROR, "unable to decode byte 0xff"},
    {"<s>", "\\ud800", XLSTM_FORMAT_ERROR, "invalid Unicode '\\uD800'"},
};

static void check_error(const char *json, size_t size, xlstm_status status, const char *message) {
    xlstm_tokenizer *tokenizer = (xlstm_tokenizer *)(uintptr_t)1;
    xlstm_status got = tokenizer_load_memory(json, size, "tiny.json", &tokenizer);
    assert_null(tokenizer);
    if (strncmp(xlstm_last_error(), "tiny.json: ", 11) != 0 || !strstr(xlstm_last_error(), message))
        fail_msg("expected \"%s\", got \"%s\"", message, xlstm_last_error());
    assert_int_equal(got, status);
    assert_null(strchr(xlstm_last_error(), '\n'));
}

static void test_each_fault_is_named(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof bad_cases / sizeof *bad_cases; i++) {
        buffer json = {0};
        replace(bad_cases[i].from, bad_cases[i].to, &json);
        check_error(json.data, json.size, bad_cases[i].status, bad_cases[i].message);
        buffer_free(&json);
    }
}

/* A vocabulary of four entries whose ids go up to 4: the new token is the fifth and would get id 4. */
static void test_id_in_use(void **state) {
    (void)state;
    buffer json = {0};
    replace("\"<s>\":0,", "", &json);
    char *id = strstr(json.data, "\"id\":0");
    assert_non_null(id);
    id[5] = '4';
    check_error(json.data, json.size, XLSTM_FORMAT_ERROR,
                "added_tokens[0].id of \"<s>\" is 4, which another token of model.vocab has too");
    buffer_free(&json);
}

static void test_broken_json(void **state) {
    (void)state;
    check_error("", 0, XLSTM_FORMAT_ERROR, "not valid JSON: it is empty");
    check_error("[]", 2, XLSTM_FORMAT_ERROR, "the file must hold an object, but holds an array");
    check_error("{}", 2, XLSTM_FORMAT_ERROR, "pre_tokenizer must be an object, but is missing");
    for (size_t size = 1; size < sizeof valid - 1; size++)
        check_error(valid, size, XLSTM_FORMAT_ERROR, "line 1, column ");
}

static void test_deep_nesting(void **state) {
    (void)state;
    enum { DEPTH = 200000 };
    static const char *const openings[] = {"[", "{\"a\":", "{\"added_tokens\":[", "{\"model\":"};
    for (size_t i = 0; i < sizeof openings / sizeof *openings; i++) {
        buffer json = {0};
        for (int k = 0; k < DEPTH; k++)
            buffer_append(&json, openings[i], strlen(openings[i]));
        check_error(json.data, json.size, XLSTM_FORMAT_ERROR, "maximum parsing depth reached");
        buffer_free(&json);
    }
}

/* Loads the changed tokenizer and compares the ids of "ab<s>b". */
static void check_accepted(const char *from, const char *to) {
    buffer json = {0};
    replace(from, to, &json);
    xlstm_tokenizer *tokenizer;
    if (tokenizer_load_memory(json.data, json.size, "tiny.json", &tokenizer) != XLSTM_OK)
        fail_msg("%s: %s", to, xlstm_last_error());
    int32_t *ids;
    int64_t count;
    assert_int_equal(xlstm_encode(tokenizer, "ab<s>b", 6, 0, &ids, &count), XLSTM_OK);
    assert_int_equal(count, 3);
    assert_memory_equal(ids, ((int32_t[]){3, 0, 2}), 3 * sizeof *ids);
    xlstm_free(ids);
    xlstm_tokenizer_free(tokenizer);
    buffer_free(&json);
}

static void test_other_ways_to_write_it(void **state) {
    (void)state;
    check_accepted("\"a b\"", "[\"a\",\"b\"]");
    check_accepted("\"a b\"", "\"#version: 0.2\",\"a b\"");
    check_accepted("\"a b\"", "\"a b\",\"a b\"");
    check_accepted("\"version\":\"1.0\",", "");
    check_accepted("\"type\":\"BPE\",", "");
    check_accepted("\"dropout\":null", "\"dropout\":0.0");
    check_accepted("\"dropout\":null", "\"continuing_subword_prefix\":\"\"");
    check_accepted("\"byte_fallback\":false,\"fuse_unk\":false,\"ignore_merges\":false,", "");
    check_accepted("\"normalizer\":{\"type\":\"NFC\"}", "\"normalizer\":null");
    check_accepted("{\"type\":\"NFC\"}",
                   "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"}]}");
    check_accepted(",\"use_regex\":true", "");
    check_accepted("\"post_processor\":null", "\"post_processor\":{\"type\":\"ByteLevel\"}");
    check_accepted("\"post_processor\":null",
                   "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]}");
    check_accepted("\"\xC4\xA0\":4", "\"\xC4\xA0\":4000"); /* a gap */
    check_accepted("\"\xC4\xA0\":4", "\"\":4");
    check_accepted("\"\xC4\xA0\":4", "\"\xE6\x97\xA5\":4"); /* not written in bytes */
    check_accepted("\"truncation\":null", "\"unknown\":{\"field\":1}");
}

static void test_files(void **state) {
    (void)state;
    xlstm_tokenizer *tokenizer;
    assert_int_equal(xlstm_tokenizer_load("/nowhere/tokenizer.json", &tokenizer), XLSTM_IO_ERROR);
    assert_non_null(strstr(xlstm_last_error(), "/nowhere/tokenizer.json"));
    assert_null(tokenizer);
    assert_int_equal(xlstm_tokenizer_load(test_folder(), &tokenizer), XLSTM_IO_ERROR);
    assert_non_null(strstr(xlstm_last_error(), "tokenizer.json"));
    const char *path = test_path("tokenizer.json");
    test_write_file(path, valid, 100);
    assert_int_equal(xlstm_tokenizer_load(path, &tokenizer), XLSTM_FORMAT_ERROR);
    assert_memory_equal(xlstm_last_error(), path, strlen(path));
    test_write_file(path, "", 0);
    assert_int_equal(xlstm_tokenizer_load(path, &tokenizer), XLSTM_FORMAT_ERROR);
    test_write_file(path, valid, sizeof valid - 1);
    assert_int_equal(xlstm_tokenizer_load(test_folder(), &tokenizer), XLSTM_OK);
    assert_int_equal(xlstm_tokenizer_size(tokenizer), 5);
    xlstm_tokenizer_free(tokenizer);
    xlstm_tokenizer_free(NULL);
}

static void test_bytes_without_tokens(void **state) {
    (void)state;
    xlstm_tokenizer *tokenizer;
    assert_int_equal(tokenizer_load_memory(valid, sizeof valid - 1, "tiny.json", &tokenizer),
                     XLSTM_OK);
    int32_t *ids;
    int64_t count;
    assert_int_equal(xlstm_encode(tokenizer, "abc", 3, 0, &ids, &count), XLSTM_INVALID_ARGUMENT);
    assert_null(ids);
    assert_string_equal(xlstm_last_error(),
                        "the text has the byte 0x63, for which the tokenizer has "
                        "neither a token nor an unk_token");
    assert_int_equal(xlstm_encode(tokenizer, "ab", 2, 64, &ids, &count), XLSTM_INVALID_ARGUMENT);
    assert_string_equal(xlstm_last_error(), "unknown flags 0x40 for encoding");
    xlstm_tokenizer_free(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_fault_is_named),
        cmocka_unit_test(test_id_in_use),
        cmocka_unit_test(test_broken_json),
        cmocka_unit_test(test_deep_nesting),
        cmocka_unit_test(test_other_ways_to_write_it),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_bytes_without_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
