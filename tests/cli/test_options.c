/* The option parser against a table of command lines, and what is made from the option table. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "cli/options.h"

enum { MOST_ARGUMENTS = 16 };

/* Parses `words`, a command and its options; a NULL ends them. */
static xlstm_status parse(const char *const *words, options *o) {
    char *arguments[MOST_ARGUMENTS];
    int count = 0;
    for (int i = 1; words[i]; i++)
        arguments[count++] = (char *)(uintptr_t)words[i];
    const command_spec *command = command_find(words[0]);
    assert_non_null(command);
    return options_parse(command, count, arguments, o);
}

#define PARSE(o, ...) parse((const char *const[]){__VA_ARGS__, NULL}, o)

static void test_spellings(void **state) {
    (void)state;
    static const char *const lines[][6] = {
        {"generate", "-m", "M", "-n", "48", NULL},
        {"generate", "-mM", "-n48", NULL},
        {"generate", "--model", "M", "--max-tokens", "48", NULL},
        {"generate", "--model=M", "--max-tokens=48", NULL},
        {"generate", "-m=M", "-n=48", NULL},
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        options o;
        assert_int_equal(parse(lines[i], &o), XLSTM_OK);
        assert_string_equal(option_text(&o, OPTION_MODEL, ""), "M");
        assert_int_equal(option_integer(&o, OPTION_MAX_TOKENS, 0), 48);
        assert_false(option_given(&o, OPTION_PROMPT));
        assert_string_equal(option_text(&o, OPTION_PROMPT, "none"), "none");
        options_free(&o);
    }
}

static void test_values(void **state) {
    (void)state;
    options o;
    assert_int_equal(PARSE(&o, "generate", "-m", "M", "-p", "", "-n", "-1", "--temperature", "8e-1",
                           "--top-p=.5", "--seed", "18446744073709551615", "--ignore-eos"),
                     XLSTM_OK);
    assert_true(option_given(&o, OPTION_PROMPT));
    assert_string_equal(option_text(&o, OPTION_PROMPT, "x"), "");
    assert_int_equal(option_integer(&o, OPTION_MAX_TOKENS, 0), -1);
    assert_true(option_number(&o, OPTION_TEMPERATURE, 0) == 0.8);
    assert_true(option_number(&o, OPTION_TOP_P, 0) == 0.5);
    assert_true(option_number(&o, OPTION_MIN_P, 0.25) == 0.25);
    assert_true(o.values[OPTION_SEED].unsigned_integer == UINT64_MAX);
    assert_true(option_given(&o, OPTION_IGNORE_EOS));
    options_free(&o);
}

/* "-" is a value, and so is what begins with - and is no option. */
static void test_values_that_look_like_options(void **state) {
    (void)state;
    options o;
    assert_int_equal(PARSE(&o, "generate", "-m", "M", "-p", "-"), XLSTM_OK);
    assert_string_equal(option_text(&o, OPTION_PROMPT, ""), "-");
    options_free(&o);
    assert_int_equal(PARSE(&o, "generate", "-m", "M", "-p", "- a list"), XLSTM_OK);
    assert_string_equal(option_text(&o, OPTION_PROMPT, ""), "- a list");
    options_free(&o);
    assert_int_equal(PARSE(&o, "generate", "-m", "M", "--prompt=-n"), XLSTM_OK);
    assert_string_equal(option_text(&o, OPTION_PROMPT, ""), "-n");
    options_free(&o);
}

static void test_lists(void **state) {
    (void)state;
    options o;
    assert_int_equal(PARSE(&o, "generate", "-m", "M", "--ids", "0, 12 5\n7,", "--stop-id", "1",
                           "--stop-id=2,3", "--stop", "a", "--stop", "b c"),
                     XLSTM_OK);
    const option_value *ids = &o.values[OPTION_IDS];
    const int32_t expected[] = {0, 12, 5, 7};
    assert_int_equal(ids->id_count, 4);
    assert_memory_equal(ids->ids, expected, sizeof expected);
    const int32_t stops[] = {1, 2, 3};
    assert_int_equal(o.values[OPTION_STOP_ID].id_count, 3);
    assert_memory_equal(o.values[OPTION_STOP_ID].ids, stops, sizeof stops);
    assert_int_equal(o.values[OPTION_STOP].count, 2);
    assert_string_equal(o.values[OPTION_STOP].texts[0], "a");
    assert_string_equal(o.values[OPTION_STOP].texts[1], "b c");
    options_free(&o);
    /* Of what is not repeatable the last one counts. */
    assert_int_equal(PARSE(&o, "generate", "-m", "M", "--ids", "1,2,3", "--ids", "9", "-n1", "-n2"),
                     XLSTM_OK);
    assert_int_equal(o.values[OPTION_IDS].id_count, 1);
    assert_int_equal(o.values[OPTION_IDS].ids[0], 9);
    assert_int_equal(option_integer(&o, OPTION_MAX_TOKENS, 0), 2);
    options_free(&o);
    assert_int_equal(PARSE(&o, "tokenize", "-m", "M", "--decode", ""), XLSTM_OK);
    assert_int_equal(o.values[OPTION_DECODE].id_count, 0);
    options_free(&o);
    static const char *const holes[] = {"0,,1", ",1", " ,1", "1, ,2", "1,,", ","};
    for (size_t i = 0; i < sizeof holes / sizeof *holes; i++)
        assert_int_equal(PARSE(&o, "generate", "-m", "M", "--ids", holes[i]),
                         XLSTM_INVALID_ARGUMENT);
}

static void test_bytes(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int64_t bytes;
    } sizes[] = {{"1000000", 1000000}, {"500MB", 500000000}, {"1.5 GB", 1500000000},
                 {"2KiB", 2048},       {"64B", 64},          {"1GiB", 1073741824}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        options o;
        assert_int_equal(
            PARSE(&o, "init", "--config", "c", "-o", "d", "--shard-size", sizes[i].text), XLSTM_OK);
        assert_int_equal(option_integer(&o, OPTION_SHARD_SIZE, 0), sizes[i].bytes);
        options_free(&o);
    }
}

/* Each is refused with a message that has every one of these words. */
static void test_wrong_usage(void **state) {
    (void)state;
    static const struct {
        const char *words[10];
        const char *says[4];
    } cases[] = {
        {{"generate"}, {"--model", "missing"}},
        {{"generate", "-m"}, {"--model", "needs a value"}},
        {{"generate", "-m", ""}, {"--model", "\"\"", "empty"}},
        {{"generate", "-m", "-p", "x"}, {"--model", "needs a value", "-p is an option"}},
        {{"generate", "-m", "M", "-n", "12x"}, {"--max-tokens", "\"12x\"", "whole number"}},
        {{"generate", "-m", "M", "-n", "-2"}, {"--max-tokens", "\"-2\"", "from -1"}},
        {{"generate", "-m", "M", "-n", ""}, {"--max-tokens", "whole number"}},
        {{"generate", "-m", "M", "-n", "1.5"}, {"--max-tokens", "\"1.5\""}},
        {{"generate", "-m", "M", "-n", " 5"}, {"--max-tokens", "\" 5\""}},
        {{"generate", "-m", "M", "-n", "99999999999999999999"}, {"--max-tokens"}},
        {{"generate", "-m", "M", "--top-p", "7"}, {"--top-p", "\"7\"", "from 0 to 1"}},
        {{"generate", "-m", "M", "--top-p", "nan"}, {"--top-p", "\"nan\""}},
        {{"generate", "-m", "M", "--temperature", "inf"}, {"--temperature", "\"inf\""}},
        {{"generate", "-m", "M", "--temperature", "-1"}, {"--temperature", "\"-1\""}},
        {{"generate", "-m", "M", "--temperature", "0x1p3"}, {"--temperature"}},
        {{"generate", "-m", "M", "--temperature", "1e999"}, {"--temperature"}},
        {{"generate", "-m", "M", "--temperature", "1..2"}, {"--temperature"}},
        {{"generate", "-m", "M", "--top-k", "-1"}, {"--top-k", "from 0"}},
        {{"generate", "-m", "M", "--seed", "-1"}, {"--seed", "18446744073709551615"}},
        {{"generate", "-m", "M", "--seed", "18446744073709551616"}, {"--seed"}},
        {{"generate", "-m", "M", "--threads", "100000"}, {"--threads", "1 to 4096"}},
        {{"generate", "-m", "M", "-t", "0"}, {"--threads", "\"0\""}},
        {{"generate", "-m", "M", "--device", "gpu"}, {"--device", "\"gpu\"", "cpu, reference"}},
        {{"generate", "-m", "M", "--device", "cpu|cuda"}, {"--device"}},
        {{"generate", "-m", "M", "--profile", ""}, {"--profile", "exact"}},
        {{"generate", "-m", "M", "--ids", "1,x"}, {"--ids", "\"x\"", "whole number"}},
        {{"generate", "-m", "M", "--ids", "1,-2"}, {"--ids", "-2", "out of range"}},
        {{"generate", "-m", "M", "--ids", "4294967296"}, {"--ids", "out of range"}},
        {{"generate", "-m", "M", "--ids", " "}, {"--ids", "empty"}},
        {{"generate", "-m", "M", "--ids", ","}, {"--ids", "missing before a comma"}},
        {{"generate", "-m", "M", "-p", "x", "--ids", "1"}, {"--prompt", "--ids", "exclude"}},
        {{"generate", "-m", "M", "-p", "x", "-f", "y"}, {"--prompt", "--file", "exclude"}},
        {{"generate", "-m", "M", "--ids", "1", "--bos"}, {"--bos", "--ids", "exclude"}},
        {{"generate", "-m", "M", "-p", "", "--bos", "--no-bos"}, {"--bos", "--no-bos"}},
        {{"generate", "-m", "M", "--json", "--print-ids"}, {"--json", "--print-ids"}},
        {{"generate", "-m", "M", "--echo=yes"}, {"--echo", "takes no value"}},
        {{"generate", "-m", "M", "--stop", ""}, {"--stop", "empty"}},
        {{"generate", "-m", "M", "hello"}, {"\"hello\"", "-p"}},
        {{"generate", "-m", "M", "-"}, {"\"-\""}},
        {{"generate", "-m", "M", "--temprature", "1"}, {"--temprature", "--temperature?"}},
        {{"generate", "-m", "M", "--temp=1"}, {"--temp=1", "--temperature?"}},
        {{"generate", "-m", "M", "-temperature", "1"}, {"--temperature?"}},
        {{"generate", "-m", "M", "--prompt-file", "x"}, {"--prompt-file", "--prompt?"}},
        {{"generate", "-m", "M", "-x"}, {"unknown option -x"}},
        {{"generate", "-m", "M", "--zzzzzz"}, {"unknown option --zzzzzz"}},
        {{"generate", "-m", "M", "--"}, {"unknown option --"}},
        {{"generate", "-m", "M", "--window", "5"}, {"unknown option --window"}},
        {{"logits", "-m", "M", "-p", "x"}, {"--output", "missing"}},
        {{"logits", "-m", "M", "-p", "x", "-o", ""}, {"--output", "empty"}},
        {{"perplexity", "-m", "M", "-f", "x", "--window", "1"}, {"--window", "from 2"}},
        {{"perplexity", "-m", "M", "--ids-file", "x", "--window", "9"}, {"--window", "exclude"}},
        {{"init", "--config", "c", "-o", "d", "--dtype", "f64"}, {"--dtype", "f32, bf16, f16"}},
        {{"init", "--config", "c", "-o", "d", "--shard-size", "0"}, {"--shard-size", "bytes"}},
        {{"init", "--config", "c", "-o", "d", "--shard-size", "5XB"}, {"--shard-size"}},
        {{"bench", "-m", "M", "--batch", "0"}, {"--batch", "1 to 4096"}},
        {{"tokenize", "-m", "M", "-p", "x", "--decode", "1"}, {"--prompt", "--decode"}},
        {{"info", "-m", "M", "--wiring", "svg"}, {"--wiring", "unicode, ascii, dot, json"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        options o;
        if (parse(cases[i].words, &o) == XLSTM_OK)
            fail_msg("case %zu was accepted: %s %s", i, cases[i].words[0], cases[i].words[3]);
        for (int j = 0; j < 4 && cases[i].says[j]; j++) {
            if (!strstr(xlstm_last_error(), cases[i].says[j]))
                fail_msg("case %zu: \"%s\" lacks \"%s\"", i, xlstm_last_error(), cases[i].says[j]);
        }
    }
}

static void test_help_needs_nothing_else(void **state) {
    (void)state;
    options o;
    assert_int_equal(PARSE(&o, "generate", "--help"), XLSTM_OK);
    assert_true(option_given(&o, OPTION_HELP));
    options_free(&o);
    assert_int_equal(PARSE(&o, "logits", "-h"), XLSTM_OK);
    options_free(&o);
}

static void test_nearest(void **state) {
    (void)state;
    static const char *const names[] = {"generate", "chat", "info", "tokenize", "logits"};
    assert_string_equal(options_nearest("genrate", names, 5), "generate");
    assert_string_equal(options_nearest("gen", names, 5), "generate");
    assert_string_equal(options_nearest("tokenise", names, 5), "tokenize");
    assert_string_equal(options_nearest("caht", names, 5), "chat");
    assert_string_equal(options_nearest("logit", names, 5), "logits");
    assert_null(options_nearest("serve", names, 5));
    assert_null(options_nearest("x", names, 5));
    assert_null(options_nearest("a-word-much-longer-than-any-command-could-ever-be", names, 5));
}

/* Commands that are planned, but not built, are unknown. */
static void test_commands(void **state) {
    (void)state;
    static const char *const absent[] = {"train", "serve", "", "Generate"};
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++)
        assert_null(command_find(absent[i]));
    assert_int_equal(options_unknown_command("serve"), XLSTM_INVALID_ARGUMENT);
    assert_non_null(strstr(xlstm_last_error(), "perplexity"));
}

/* No two options of a command share a name or a letter, and lists hold only options that the
 * command has. */
static void test_table(void **state) {
    (void)state;
    for (int c = 0; c < command_count; c++) {
        const command_spec *command = &command_table[c];
        assert_non_null(command->examples[0]);
        assert_non_null(command->run);
        bool has[OPTION_COUNT] = {false};
        for (int i = 0; command->options[i]; i++) {
            const option_spec *a = &option_table[command->options[i]];
            has[command->options[i]] = true;
            assert_non_null(a->name);
            assert_non_null(a->help);
            assert_true((a->kind == OPTION_FLAG) == (a->value == NULL));
            for (int j = 0; j < i; j++) {
                const option_spec *b = &option_table[command->options[j]];
                assert_string_not_equal(a->name, b->name);
                assert_false(a->letter && a->letter == b->letter);
            }
        }
        assert_true(has[OPTION_HELP]);
        for (int i = 0; i < COMMAND_GROUP; i++) {
            assert_true(!command->required[i] || has[command->required[i]]);
            for (int j = 0; j < COMMAND_GROUP; j++)
                assert_true(!command->exclusive[i][j] || has[command->exclusive[i][j]]);
        }
    }
}

/* Every option of every command is in its help, in the man page and in both completions. */
static void test_manuals(void **state) {
    (void)state;
    buffer overview = {0}, roff = {0}, bash = {0}, zsh = {0};
    manual_overview(&overview);
    manual_roff(&roff);
    manual_bash(&bash);
    manual_zsh(&zsh);
    for (int c = 0; c < command_count; c++) {
        const command_spec *command = &command_table[c];
        buffer help = {0};
        manual_command(command, &help);
        assert_non_null(strstr(overview.data, command->name));
        assert_non_null(strstr(help.data, command->examples[0]));
        for (const enum option_id *id = command->options; *id; id++) {
            char name[64];
            snprintf(name, sizeof name, "--%s", option_table[*id].name);
            assert_non_null(strstr(help.data, name));
            assert_non_null(strstr(bash.data, name));
            assert_non_null(strstr(zsh.data, name));
        }
        for (const char *line = help.data; line;) {
            size_t length = strcspn(line, "\n");
            bool is_example =
                strncmp(line, "  xlstm", 7) == 0 || strstr(help.data, "Examples") < line;
            if (length > 100 && !is_example)
                fail_msg("a line of %s --help is too long: %.*s", command->name, (int)length, line);
            line = line[length] ? line + length + 1 : NULL;
        }
        buffer_free(&help);
    }
    assert_non_null(strstr(roff.data, "\\-\\-repetition\\-penalty"));
    buffer_free(&overview);
    buffer_free(&roff);
    buffer_free(&bash);
    buffer_free(&zsh);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spellings),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_values_that_look_like_options),
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_wrong_usage),
        cmocka_unit_test(test_help_needs_nothing_else),
        cmocka_unit_test(test_nearest),
        cmocka_unit_test(test_commands),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_manuals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
