/* The config: both spellings, both kinds of file, what follows from the values, and a table of
 * wrong ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>

#include "format/config.h"
#include "format/yaml.h"
#include "format/read_config.h"
#include "support/support.h"

static void has_the_defaults_of_hugging_face(void **state) {
    (void)state;
    model_config c = config_must_read("{\"model_type\": \"xlstm\"}", false);
    assert_int_equal(c.embedding_dim, 4096);
    assert_int_equal(c.num_blocks, 32);
    assert_int_equal(c.large.num_heads, 8);
    assert_int_equal(c.vocab_size, 50304);
    assert_int_equal(c.large.qk_dim, 2048);
    assert_int_equal(c.large.v_dim, 4096);
    assert_int_equal(c.large.ffn_dim, 10944); /* not 10924.03 rounded to 10924, nor 11008 */
    assert_false(c.large.use_bias);
    assert_true(c.add_out_norm);
    assert_false(c.tie_word_embeddings);
    assert_false(c.large.fused);
    assert_true(c.large.norm_eps == 1e-6 && c.large.eps == 1e-6);
    assert_true(c.large.gate_soft_cap == 15 && c.large.output_logit_soft_cap == 30);
    assert_true(c.large.qk_dim_factor == 0.5 && c.large.v_dim_factor == 1 &&
                c.large.ffn_proj_factor == 2.667);
    assert_int_equal(c.large.chunk_size, 64);
    assert_int_equal(c.large.max_inference_chunksize, 16384);
    assert_int_equal(c.bos_token_id, 0);
    assert_int_equal(c.eos_token_id, 2);
    assert_int_equal(c.pad_token_id, 1);
    assert_false(c.force_bos_token_insert);
    assert_null(c.wiring);
    assert_string_equal(c.spelling, "huggingface");
    config_free(&c);
    assert_null(c.source);
}

static void has_the_defaults_of_the_official_code(void **state) {
    (void)state;
    model_config c =
        config_must_read("embedding_dim: 4096\nnum_heads: 8\nnum_blocks: 32\nvocab_size: 50304\n"
                         "qk_dim_factor: 0.5\nnorm_eps: 1e-06\n",
                         true);
    assert_true(c.large.ffn_proj_factor == 2.6667);
    assert_int_equal(c.large.ffn_dim, 10944);
    assert_true(c.large.norm_eps == 1e-6);
    assert_int_equal(c.bos_token_id, 0); /* what the official generate begins with */
    assert_int_equal(c.eos_token_id, -1);
    assert_int_equal(c.pad_token_id, -1);
    assert_string_equal(c.spelling, "official");
    config_free(&c);
}

static void takes_both_spellings(void **state) {
    (void)state;
    static const char *const cases[] = {
        "{\"model_type\": \"xlstm\", \"hidden_size\": 384, \"num_hidden_layers\": 3, "
        "\"num_heads\": 6}",
        "{\"model_type\": \"xlstm\", \"embedding_dim\": 384, \"num_blocks\": 3, \"num_heads\": 6}",
        "{\"model_type\": \"xlstm\", \"hidden_size\": null, \"embedding_dim\": 384, "
        "\"num_blocks\": 3,"
        " \"num_hidden_layers\": null, \"num_heads\": 6}",
        "{\"model_type\": \"xlstm\", \"hidden_size\": 384, \"embedding_dim\": 384, \"num_blocks\": "
        "null,"
        " \"num_hidden_layers\": 3, \"num_heads\": 6}",
        "{\"architectures\": [], \"model_type\": null, \"hidden_size\": 384, \"num_blocks\": 3, "
        "\"num_heads\": 6}",
        "{\"hidden_size\": 384, \"num_blocks\": 3, \"num_heads\": 6}",
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        model_config c = config_must_read(cases[i], false);
        assert_int_equal(c.embedding_dim, 384);
        assert_int_equal(c.num_blocks, 3);
        assert_int_equal(c.large.qk_dim, 192);
        config_free(&c);
    }
}

static void takes_every_field(void **state) {
    (void)state;
    model_config c = config_must_read(
        "{\"model_type\": \"xlstm\", \"embedding_dim\": 96, \"num_heads\": 2, \"num_blocks\": 1,"
        " \"vocab_size\": 100, \"use_bias\": true, \"add_out_norm\": false, "
        "\"tie_word_embeddings\": true,"
        " \"norm_eps\": 1e-5, \"eps\": 0, \"gate_soft_cap\": null, \"output_logit_soft_cap\": null,"
        " \"qk_dim_factor\": 1, \"v_dim_factor\": 2.0, \"ffn_proj_factor\": 1.5,"
        " \"ffn_round_up_to_multiple_of\": 32, \"chunk_size\": 128, \"max_inference_chunksize\": "
        "4096,"
        " \"bos_token_id\": null, \"eos_token_id\": [7, 8], \"pad_token_id\": -1,"
        " \"force_bos_token_insert\": true, \"weight_mode\": \"fused\", \"wiring\": {\"nodes\": "
        "[]},"
        /* what the reference ignores */
        " \"add_qk_norm\": true, \"head_dim\": 512, \"mode\": \"train\", \"torch_dtype\": 7,"
        " \"chunkwise_kernel\": null, \"quantization_config\": null}",
        false);
    assert_true(c.large.use_bias && !c.add_out_norm && c.tie_word_embeddings && c.large.fused &&
                c.force_bos_token_insert);
    assert_true(c.large.norm_eps == 1e-5 && c.large.eps == 0 && c.large.gate_soft_cap == 0 &&
                c.large.output_logit_soft_cap == 0);
    assert_int_equal(c.large.qk_dim, 96);
    assert_int_equal(c.large.v_dim, 192);
    assert_int_equal(c.large.ffn_dim, 160); /* 144 is not a multiple of 32 */
    assert_int_equal(c.large.chunk_size, 128);
    assert_int_equal(c.large.max_inference_chunksize, 4096);
    assert_int_equal(c.bos_token_id, -1);
    assert_int_equal(c.eos_token_id, 7);
    assert_int_equal(c.pad_token_id, -1);
    assert_ptr_equal(c.wiring, json_object_get(c.source, "wiring"));
    assert_non_null(c.wiring);
    config_free(&c);
}

/* Expected values from Python: int(((x + m - 1) // m) * m) with x = D * factor, a float, and int(D
 * * factor). */
static void derives_dimensions_as_python_does(void **state) {
    (void)state;
    static const struct {
        int embedding_dim;
        const char *factor;
        int multiple, ffn_dim;
    } cases[] = {{4096, "2.667", 64, 10944},    {4096, "2.6667", 64, 10944},
                 {43, "1.5", 64, 64},           {129, "0.5", 64, 64},
                 {130, "0.5", 64, 128},         {96, "1.5", 32, 160},
                 {384, "2.667", 64, 1024},      {64, "1.0", 64, 64},
                 {65, "1.0", 64, 128},          {10, "3.3", 7, 35},
                 {1000, "2.7182818", 48, 2736}, {100, "0.0101", 1, 1},
                 {1048576, "15.9", 1, 16672358}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[300];
        snprintf(text, sizeof text,
                 "{\"model_type\": \"xlstm\", \"embedding_dim\": %d, \"num_heads\": 1,"
                 " \"ffn_proj_factor\": %s, \"ffn_round_up_to_multiple_of\": %d}",
                 cases[i].embedding_dim, cases[i].factor, cases[i].multiple);
        model_config c = config_must_read(text, false);
        assert_int_equal(c.large.ffn_dim, cases[i].ffn_dim);
        config_free(&c);
    }
    model_config c =
        config_must_read("{\"model_type\": \"xlstm\", \"embedding_dim\": 10, \"num_heads\": 1,"
                         " \"qk_dim_factor\": 0.37, \"v_dim_factor\": 0.29}",
                         false);
    assert_int_equal(c.large.qk_dim, 3);
    assert_int_equal(c.large.v_dim, 2);
    config_free(&c);
}

static void a_default_token_beyond_the_vocabulary_is_none(void **state) {
    (void)state;
    model_config c = config_must_read("{\"model_type\": \"xlstm\", \"vocab_size\": 2}", false);
    assert_int_equal(c.bos_token_id, 0);
    assert_int_equal(c.eos_token_id, -1);
    assert_int_equal(c.pad_token_id, 1);
    config_free(&c);
}

#define X "{\"model_type\": \"xlstm\", "
#define DIMENSION_RULE "; it must be an integer from 1 to "

static void refuses_wrong_values(void **state) {
    (void)state;
    static const struct {
        const char *text, *error;
    } cases[] = {
        {X "\"hidden_size\": 512, \"embedding_dim\": 384}",
         "c: hidden_size is 512 and embedding_dim is 384; they mean the same and must be equal"},
        {X "\"num_hidden_layers\": 2, \"num_blocks\": 3}",
         "c: num_hidden_layers is 2 and num_blocks is 3; they mean the same and must be equal"},
        {X "\"embedding_dim\": -384}", "c: embedding_dim is -384" DIMENSION_RULE "1048576"},
        {X "\"hidden_size\": 0}", "c: hidden_size is 0" DIMENSION_RULE "1048576"},
        {X "\"hidden_size\": 1048577}", "c: hidden_size is 1048577" DIMENSION_RULE "1048576"},
        {X "\"hidden_size\": \"384\"}", "c: hidden_size is \"384\"" DIMENSION_RULE "1048576"},
        {X "\"hidden_size\": 384.0}", "c: hidden_size is 384.0" DIMENSION_RULE "1048576"},
        {X "\"hidden_size\": true}", "c: hidden_size is true" DIMENSION_RULE "1048576"},
        {X "\"hidden_size\": [384]}", "c: hidden_size is a list" DIMENSION_RULE "1048576"},
        {X "\"hidden_size\": {}}", "c: hidden_size is a mapping" DIMENSION_RULE "1048576"},
        {X "\"hidden_size\": 4611686018427387904}",
         "c: hidden_size is 4611686018427387904" DIMENSION_RULE "1048576"},
        {X "\"num_heads\": 0}", "c: num_heads is 0" DIMENSION_RULE "65536"},
        {X "\"num_heads\": null}", "c: num_heads is null" DIMENSION_RULE "65536"},
        {X "\"num_heads\": 6}", "c: embedding_dim 4096 x qk_dim_factor 0.5 = 2048 dimensions, "
                                "which num_heads 6 does not divide\n"
                                "c: embedding_dim 4096 x v_dim_factor 1 = 4096 dimensions, which "
                                "num_heads 6 does not divide"},
        {X "\"num_blocks\": 65537}", "c: num_blocks is 65537" DIMENSION_RULE "65536"},
        {X "\"vocab_size\": -1}", "c: vocab_size is -1" DIMENSION_RULE "16777216"},
        {X "\"use_bias\": 1}", "c: use_bias is 1; it must be true or false"},
        {X "\"add_out_norm\": null}", "c: add_out_norm is null; it must be true or false"},
        {X "\"tie_word_embeddings\": \"yes\"}",
         "c: tie_word_embeddings is \"yes\"; it must be true or false"},
        {X "\"norm_eps\": -0.5}", "c: norm_eps is -0.5; it must be a number that is not negative"},
        {X "\"eps\": \"1e-6\"}", "c: eps is \"1e-6\"; it must be a number that is not negative"},
        {X "\"eps\": null}", "c: eps is null; it must be a number that is not negative"},
        {X "\"gate_soft_cap\": 0}",
         "c: gate_soft_cap is 0; it must be a positive number, or null for none"},
        {X "\"output_logit_soft_cap\": -30}",
         "c: output_logit_soft_cap is -30; it must be a positive number, or null for none"},
        {X "\"qk_dim_factor\": 0}", "c: qk_dim_factor is 0; it must be a positive number"},
        {X "\"qk_dim_factor\": 0.3}", "c: embedding_dim 4096 x qk_dim_factor 0.3 = 1228 "
                                      "dimensions, which num_heads 8 does not divide"},
        {X "\"qk_dim_factor\": 1e-9}", "c: embedding_dim 4096 x qk_dim_factor 1e-09 = 0 "
                                       "dimensions, which num_heads 8 does not divide"},
        {X
         "\"v_dim_factor\": 1e300, \"embedding_dim\": 1, \"num_heads\": 1, \"qk_dim_factor\": 1e4}",
         NULL},
        {X "\"v_dim_factor\": 8192}", "c: v_dim_factor 8192 makes 4096 x 8192 = 33554432 "
                                      "dimensions; at most 16777216 are allowed"},
        {X "\"ffn_proj_factor\": false}",
         "c: ffn_proj_factor is false; it must be a positive number"},
        {X "\"ffn_proj_factor\": 1e9}", "c: ffn_proj_factor 1e+09 makes a feed-forward width of "
                                        "4096000000000; it must be from 1 to 16777216"},
        {X "\"ffn_proj_factor\": 1e-9}",
         "c: ffn_proj_factor 1e-09 makes a feed-forward width of 0; it must be from 1 to 16777216"},
        {X "\"ffn_round_up_to_multiple_of\": 0}",
         "c: ffn_round_up_to_multiple_of is 0" DIMENSION_RULE "1048576"},
        {X "\"chunk_size\": 0}", "c: chunk_size is 0" DIMENSION_RULE "2147483647"},
        {X "\"max_inference_chunksize\": 2147483648}",
         "c: max_inference_chunksize is 2147483648" DIMENSION_RULE "2147483647"},
        {X "\"force_bos_token_insert\": \"no\"}",
         "c: force_bos_token_insert is \"no\"; it must be true or false"},
        {X "\"bos_token_id\": 50304}",
         "c: bos_token_id is 50304; it must be an id from 0 to 50303, or null for none"},
        {X "\"eos_token_id\": -2}",
         "c: eos_token_id is -2; it must be an id from 0 to 50303, or null for none"},
        {X "\"eos_token_id\": []}",
         "c: eos_token_id is a list; it must be an id from 0 to 50303, or null for none"},
        {X "\"eos_token_id\": [0, \"2\"]}",
         "c: eos_token_id is a list; it must be an id from 0 to 50303, or null for none"},
        {X "\"pad_token_id\": 1.0}",
         "c: pad_token_id is 1.0; it must be an id from 0 to 50303, or null for none"},
        {X "\"weight_mode\": \"double\"}",
         "c: weight_mode is \"double\"; it must be \"single\" or \"fused\""},
        {X "\"weight_mode\": null}", "c: weight_mode is null; it must be \"single\" or \"fused\""},
        {X "\"wiring\": []}",
         "c: wiring is a list; it must be a mapping, as `xlstm info --wiring json` prints it"},
        {X "\"quantization_config\": {\"bits\": 4}}",
         "c: quantization_config is there; weights quantised by other programs are not supported"},
        {X "\"num_heads\": -1, \"use_bias\": 2, \"vocab_size\": 0, \"eps\": []}",
         "c: num_heads is -1" DIMENSION_RULE "65536\n"
         "c: vocab_size is 0" DIMENSION_RULE "16777216\n"
         "c: use_bias is 2; it must be true or false\n"
         "c: eps is a list; it must be a number that is not negative"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        model_config c;
        if (config_try_text(cases[i].text, false, &c) != XLSTM_FORMAT_ERROR)
            fail_msg("not refused: %s", cases[i].text);
        if (cases[i].error != NULL)
            assert_string_equal(xlstm_last_error(), cases[i].error);
        config_free(&c);
    }
}

static void refuses_other_models(void **state) {
    (void)state;
    static const struct {
        const char *text;
        bool yaml;
        xlstm_status status;
        const char *error;
    } cases[] = {
        {"{\"architectures\": [\"xLSTMForCausalLM\", \"Other\"], \"hidden_size\": 384, "
         "\"num_blocks\": 3, \"num_heads\": 6}",
         false, XLSTM_UNSUPPORTED,
         "c: architectures has \"Other\"; only \"xLSTMForCausalLM\" is supported"},
        {"[]", false, XLSTM_FORMAT_ERROR,
         "c: a config is a mapping of keys to values, this is a list"},
        {"", true, XLSTM_FORMAT_ERROR, "c: a config is a mapping of keys to values, this is null"},
        {"{}", false, XLSTM_FORMAT_ERROR,
         "c: nothing says what model this is; model_type must be \"xlstm\""},
        {"{\"hidden_size\": 8, \"num_hidden_layers\": 2, \"num_attention_heads\": 2}", false,
         XLSTM_FORMAT_ERROR, "c: nothing says what model this is; model_type must be \"xlstm\""},
        {"{\"model_type\": \"llama\", \"hidden_size\": 0}", false, XLSTM_UNSUPPORTED,
         "c: model_type is \"llama\"; only \"xlstm\" is supported"},
        {"{\"model_type\": 5}", false, XLSTM_UNSUPPORTED,
         "c: model_type is 5; only \"xlstm\" is supported"},
        {"{\"architectures\": [\"LlamaForCausalLM\"]}", false, XLSTM_UNSUPPORTED,
         "c: architectures has \"LlamaForCausalLM\"; only \"xLSTMForCausalLM\" is supported"},
        {"{\"model_type\": \"xlstm\", \"architectures\": [\"xLSTMModel\"]}", false,
         XLSTM_UNSUPPORTED,
         "c: architectures has \"xLSTMModel\"; only \"xLSTMForCausalLM\" is supported"},
        {"{\"architectures\": \"xLSTMForCausalLM\"}", false, XLSTM_UNSUPPORTED,
         "c: architectures has \"xLSTMForCausalLM\"; only \"xLSTMForCausalLM\" is supported"},
        {"embedding_dim: 64\nnum_blocks: 2\n", true, XLSTM_FORMAT_ERROR,
         "c: the family is unknown: there is neither ffn_proj_factor or qk_dim_factor "
         "(xlstm-large) nor "
         "mlstm_block, slstm_block or slstm_at (xlstm-neurips)"},
        {"slstm_at: []\nqk_dim_factor: 0.5\n", true, XLSTM_FORMAT_ERROR,
         "c: slstm_at belongs to the xlstm-neurips family and qk_dim_factor to xlstm-large; a "
         "config is of one of "
         "them"},
        {"qk_dim_factor: 0.5\nnum_heads: null\n", true, XLSTM_FORMAT_ERROR,
         "c: embedding_dim is missing\nc: num_blocks is missing\n"
         "c: num_heads is null; it must be an integer from 1 to 65536\nc: vocab_size is missing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        model_config c;
        assert_int_equal(config_try_text(cases[i].text, cases[i].yaml, &c), cases[i].status);
        assert_string_equal(xlstm_last_error(), cases[i].error);
        config_free(&c);
    }
}

static void refuses_yaml_numbers_that_are_none(void **state) {
    (void)state;
    static const char base[] =
        "embedding_dim: 64\nnum_heads: 2\nnum_blocks: 1\nvocab_size: 9\nqk_dim_factor: 0.5\n";
    static const struct {
        const char *line, *error;
    } cases[] = {
        {"norm_eps: .nan", "c: norm_eps is \".nan\"; it must be a number that is not negative"},
        {"norm_eps: nan", "c: norm_eps is \"nan\"; it must be a number that is not negative"},
        {"gate_soft_cap: .inf",
         "c: gate_soft_cap is \".inf\"; it must be a positive number, or null for none"},
        {"chunk_size: 1_000",
         "c: chunk_size is \"1_000\"; it must be an integer from 1 to 2147483647"},
        {"chunk_size: '64'", "c: chunk_size is \"64\"; it must be an integer from 1 to 2147483647"},
        {"eps: 1e999", "c: eps is \"1e999\"; it must be a number that is not negative"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[400];
        model_config c;
        snprintf(text, sizeof text, "%s%s\n", base, cases[i].line);
        assert_int_equal(config_try_text(text, true, &c), XLSTM_FORMAT_ERROR);
        assert_string_equal(xlstm_last_error(), cases[i].error);
        config_free(&c);
    }
}

static void opens_files_and_folders(void **state) {
    (void)state;
    static const char json[] = "{\"model_type\": \"xlstm\", \"num_blocks\": 5}";
    static const char yaml[] =
        "embedding_dim: 64\nnum_heads: 2\nnum_blocks: 7\nvocab_size: 9\nqk_dim_factor: 0.5\n";
    model_config c;
    assert_int_equal(config_open_folder("models/reference-17m", &c), XLSTM_OK);
    assert_int_equal(c.embedding_dim, 384);
    assert_int_equal(c.num_blocks, 8);
    assert_int_equal(c.large.ffn_dim, 1024);
    assert_true(c.force_bos_token_insert);
    config_free(&c);
    assert_int_equal(mkdir(test_path("model"), 0700), 0);
    assert_int_equal(config_open_folder(test_path("model"), &c), XLSTM_IO_ERROR);
    test_expect_message("model: no config; looked for config.json and config.yaml");
    test_write_file(test_path("model/config.yaml"), yaml, sizeof yaml - 1);
    assert_int_equal(config_open_folder(test_path("model"), &c), XLSTM_OK);
    assert_int_equal(c.num_blocks, 7);
    config_free(&c);
    test_write_file(test_path("model/config.json"), json, sizeof json - 1);
    assert_int_equal(config_open_folder(test_path("model"), &c), XLSTM_OK);
    assert_int_equal(c.num_blocks, 5);
    config_free(&c);
    test_write_file(test_path("other.yml"), yaml, sizeof yaml - 1);
    assert_int_equal(config_open(test_path("other.yml"), &c), XLSTM_OK);
    config_free(&c);
    assert_int_equal(config_open(test_path("other.txt"), &c), XLSTM_INVALID_ARGUMENT);
    test_expect_message("other.txt: the name of a config ends in .json or .yaml");
    assert_int_equal(config_open(test_path("absent.json"), &c), XLSTM_IO_ERROR);
    test_expect_message("absent.json: No such file");
    assert_int_equal(config_open_folder(test_path("absent"), &c), XLSTM_IO_ERROR);
    test_expect_message("absent: there is no such folder");
    test_write_file(test_path("model/config.json"), json, sizeof json - 2);
    assert_int_equal(config_open_folder(test_path("model"), &c), XLSTM_FORMAT_ERROR);
    test_expect_message("config.json: not valid JSON: line 1");
    config_free(&c); /* harmless after a failure */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(has_the_defaults_of_hugging_face),
        cmocka_unit_test(has_the_defaults_of_the_official_code),
        cmocka_unit_test(takes_both_spellings),
        cmocka_unit_test(takes_every_field),
        cmocka_unit_test(derives_dimensions_as_python_does),
        cmocka_unit_test(a_default_token_beyond_the_vocabulary_is_none),
        cmocka_unit_test(refuses_wrong_values),
        cmocka_unit_test(refuses_other_models),
        cmocka_unit_test(refuses_yaml_numbers_that_are_none),
        cmocka_unit_test(opens_files_and_folders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
