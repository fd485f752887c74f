/* The config of the NeurIPS architecture: defaults, what follows from the values, which block is
 * what, the files of experiments, and a table of wrong ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "format/config.h"
#include "format/read_config.h"

static void has_the_defaults_of_the_package(void **state) {
    (void)state;
    model_config c = config_must_read("vocab_size: 9\nmlstm_block: {}\nslstm_block: {}\n", true);
    const neurips_config *n = &c.neurips;
    assert_int_equal(c.family, FAMILY_NEURIPS);
    assert_true(c.complete);
    assert_string_equal(c.spelling, "official");
    assert_int_equal(c.vocab_size, 9);
    assert_int_equal(c.embedding_dim, 128);
    assert_int_equal(c.num_blocks, 1);
    assert_true(c.add_out_norm);
    assert_false(c.tie_word_embeddings);
    assert_false(c.force_bos_token_insert);
    assert_int_equal(c.bos_token_id, -1);
    assert_int_equal(c.eos_token_id, -1);
    assert_false(n->bias);
    assert_false(config_is_slstm(&c, 0));
    assert_false(config_has_ffn(&c, 0));
    assert_true(n->mlstm.present && n->slstm.present && n->ffn.present);
    assert_int_equal(n->mlstm.num_heads, 4);
    assert_int_equal(n->mlstm.conv1d_kernel_size, 4);
    assert_int_equal(n->mlstm.inner.width, 256);
    assert_int_equal(n->mlstm.qkv_heads, 64);
    assert_int_equal(n->slstm.num_heads, 4);
    assert_int_equal(n->slstm.conv1d_kernel_size, 4);
    assert_false(n->slstm.lstm);
    assert_true(n->slstm.group_norm_weight);
    assert_true(n->slstm.forward_clipval == 0);
    assert_int_equal(n->slstm.bias_init, SLSTM_BIAS_POWERLAW);
    assert_false(n->slstm.standard_recurrent_init);
    assert_false(n->slstm.vanilla);
    assert_int_equal(n->ffn.activation, FFN_GELU);
    assert_false(n->ffn.bias);
    assert_int_equal(n->ffn.hidden.width, 192); /* 1.3 x 128 = 166.4 */
    config_free(&c);
}

static void reads_every_field(void **state) {
    (void)state;
    model_config c = config_must_read(
        "vocab_size: 50\nembedding_dim: 40\nnum_blocks: 3\ncontext_length: 32\n"
        "add_post_blocks_norm: no\ntie_weights: yes\nbias: true\ndropout: 0.1\n"
        "weight_decay_on_embedding: true\nadd_embedding_dropout: true\nunknown: [1]\n"
        "bos_token_id: 1\neos_token_id: 2\nforce_bos_token_insert: true\n"
        "slstm_at: [0, -1]\n"
        "mlstm_block:\n  mlstm:\n    num_heads: 2\n    conv1d_kernel_size: 3\n"
        "    qkv_proj_blocksize: 8\n    proj_factor: 1.7\n    round_proj_up_dim_up: false\n"
        "    round_proj_up_to_multiple_of: 16\n    dropout: 0.5\n"
        "slstm_block:\n  slstm:\n    num_heads: 5\n    conv1d_kernel_size: 0\n    function: lstm\n"
        "    group_norm_weight: false\n    forward_clipval: 2.5\n    bias_init: small_init\n"
        "    recurrent_weight_init: standard\n    backend: vanilla\n    num_gates: 4\n"
        "    dtype: float16\n    batch_size: 16\n    gradient_recurrent_cut: true\n"
        "  feedforward:\n    proj_factor: 2\n    act_fn: relu^2\n    bias: true\n"
        "    ff_type: ffn_gated\n    round_proj_up_to_multiple_of: 50\n",
        true);
    const neurips_config *n = &c.neurips;
    assert_int_equal(c.embedding_dim, 40);
    assert_int_equal(c.num_blocks, 3);
    assert_false(c.add_out_norm);
    assert_true(c.tie_word_embeddings && n->bias && c.force_bos_token_insert);
    assert_int_equal(c.bos_token_id, 1);
    assert_int_equal(c.eos_token_id, 2);
    assert_true(config_is_slstm(&c, 0) && !config_is_slstm(&c, 1) && config_is_slstm(&c, 2));
    assert_true(config_has_ffn(&c, 0) && !config_has_ffn(&c, 1));
    assert_int_equal(n->mlstm.num_heads, 2);
    assert_int_equal(n->mlstm.conv1d_kernel_size, 3);
    assert_int_equal(n->mlstm.inner.width, 64); /* 68 rounded down */
    assert_int_equal(n->mlstm.qkv_heads, 8);
    assert_int_equal(n->slstm.num_heads, 5);
    assert_int_equal(n->slstm.conv1d_kernel_size, 0);
    assert_true(n->slstm.lstm && !n->slstm.group_norm_weight && n->slstm.vanilla);
    assert_true(n->slstm.forward_clipval == 2.5);
    assert_int_equal(n->slstm.bias_init, SLSTM_BIAS_SMALL);
    assert_true(n->slstm.standard_recurrent_init);
    assert_int_equal(n->ffn.activation, FFN_RELU_SQUARED);
    assert_true(n->ffn.bias);
    assert_int_equal(n->ffn.hidden.width, 100); /* 80 rounded up */
    config_free(&c);
}

static void knows_which_block_is_what(void **state) {
    (void)state;
    static const struct {
        const char *text, *map; /* s: sLSTM with, S: without feed-forward, m: mLSTM */
    } cases[] = {
        {"mlstm_block: {}\n", "mmm"},
        {"mlstm_block: {}\nslstm_block: {}\nslstm_at: []\n", "mmm"},
        {"mlstm_block: {}\nslstm_block: {}\nslstm_at: [1]\n", "msm"},
        {"mlstm_block: {}\nslstm_block: {}\nslstm_at: all\n", "sss"},
        {"slstm_block: {}\n", "sss"},
        {"slstm_block: {}\nslstm_at: [1]\n", "sss"}, /* as the package has it */
        {"mlstm_block: null\nslstm_block:\n  feedforward: null\n", "SSS"},
        {"mlstm_block: {}\nslstm_block: {feedforward: null}\nslstm_at: [2, 2]\n", "mmS"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[200] = "vocab_size: 5\nnum_blocks: 3\n";
        strcat(text, cases[i].text);
        model_config c = config_must_read(text, true);
        for (int b = 0; b < 3; b++) {
            char kind = !config_is_slstm(&c, b) ? 'm' : config_has_ffn(&c, b) ? 's' : 'S';
            if (kind != cases[i].map[b])
                fail_msg("block %d of %s is %c", b, cases[i].text, kind);
        }
        config_free(&c);
    }
}

/* Blocks of q, k and v: as many as the width holds, and so perhaps larger than asked for. */
static void derives_the_blocks_of_q_k_and_v(void **state) {
    (void)state;
    model_config c = config_must_read("vocab_size: 5\nembedding_dim: 32\nmlstm_block: {mlstm: "
                                      "{qkv_proj_blocksize: 24}}\n",
                                      true);
    assert_int_equal(c.neurips.mlstm.inner.width, 64);
    assert_int_equal(c.neurips.mlstm.qkv_heads, 2);
    config_free(&c);
}

/* The same sizes are refused where a block has them. */
static void ignores_the_sizes_of_blocks_that_do_not_exist(void **state) {
    (void)state;
    static const char *const layers[] = {"proj_factor: 0.4, round_proj_up_dim_up: false",
                                         "num_heads: 3", "qkv_proj_blocksize: 3"};
    static const char *const maps[] = {"all", "[0, 1]", "[-1, 0]", "[1]"};
    for (int i = 0; i < 12; i++) {
        char text[300];
        snprintf(text, sizeof text,
                 "vocab_size: 5\nnum_blocks: 2\nslstm_block: {}\nmlstm_block: {mlstm: {%s}}\n"
                 "slstm_at: %s\n",
                 layers[i / 4], maps[i % 4]);
        model_config c;
        xlstm_status status = config_try_text(text, true, &c);
        if (status != (i % 4 == 3 ? XLSTM_FORMAT_ERROR : XLSTM_OK))
            fail_msg("%s: %d", text, status);
        assert_true(c.complete == (status == XLSTM_OK));
        assert_true(status != XLSTM_OK || !c.neurips.mlstm.present);
        config_free(&c);
    }
}

static const char experiment[] =
    "training:\n  lr: 0.001\n  steps: ${.num_steps}\n"
    "model:\n  num_blocks: 2\n  embedding_dim: 64\n  mlstm_block:\n    mlstm:\n"
    "      num_heads: 1\n  slstm_block:\n    slstm:\n      num_heads: 1\n  slstm_at: [1]\n"
    "  context_length: ${dataset.kwargs.context_length}\n"
    "  vocab_size: ${dataset.kwargs.vocab_size}\n"
    "dataset:\n  kwargs:\n    vocab_size: %s\n    context_length: 256\n";

static void reads_files_of_experiments(void **state) {
    (void)state;
    char text[800];
    snprintf(text, sizeof text, experiment, "3");
    model_config c = config_must_read(text, true);
    assert_int_equal(c.vocab_size, 3);
    assert_int_equal(c.embedding_dim, 64);
    assert_true(config_is_slstm(&c, 1));
    config_free(&c);
    snprintf(text, sizeof text, experiment, "-3");
    assert_int_equal(config_try_text(text, true, &c), XLSTM_FORMAT_ERROR);
    assert_string_equal(xlstm_last_error(),
                        "c: model.vocab_size is -3; it must be an integer from 1 to 16777216");
    config_free(&c);
    assert_int_equal(config_try_text("model:\n  slstm_block: {}\n  vocab_size: ${a.b}\n", true, &c),
                     XLSTM_FORMAT_ERROR);
    assert_string_equal(xlstm_last_error(), "c: model.vocab_size is \"${a.b}\"; it must be an "
                                            "integer from 1 to 16777216");
    config_free(&c);
}

static void reads_json_too(void **state) {
    (void)state;
    static const char *const texts[] = {
        "{\"slstm_block\": {}, \"vocab_size\": 7}",
        "{\"model_type\": \"xlstm\", \"slstm_block\": {}, \"vocab_size\": 7}",
        "{\"architectures\": [\"xLSTMLMModel\"], \"slstm_block\": {}, \"vocab_size\": 7}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        model_config c = config_must_read(texts[i], false);
        assert_int_equal(c.family, FAMILY_NEURIPS);
        assert_int_equal(c.vocab_size, 7);
        config_free(&c);
    }
}

#define RULE "; it must be an integer from 1 to "

static void refuses_wrong_values(void **state) {
    (void)state;
    static const struct {
        const char *text, *error;
    } cases[] = {
        {"mlstm_block: {}\n", "c: vocab_size is missing"},
        {"vocab_size: 5\nslstm_at: [0]\n", "c: slstm_block is missing: there are sLSTM blocks"},
        {"vocab_size: 5\nmlstm_block: {}\nslstm_at: [0]\n",
         "c: slstm_block is missing: there are sLSTM blocks"},
        {"vocab_size: 5\nnum_blocks: 2\nmlstm_block: {}\nslstm_block: {}\nslstm_at: [0, 2]\n",
         "c: slstm_at has 2; it must have numbers of blocks, from 0 to 1"},
        {"vocab_size: 5\nmlstm_block: {}\nslstm_block: {}\nslstm_at: [a]\n",
         "c: slstm_at has \"a\"; it must have numbers of blocks, from 0 to 0"},
        {"vocab_size: 5\nmlstm_block: {}\nslstm_block: {}\nslstm_at: none\n",
         "c: slstm_at is \"none\"; it must be a list of numbers of blocks, or \"all\""},
        {"vocab_size: 5\nmlstm_block: 3\n", "c: mlstm_block is 3; it must be a mapping"},
        {"vocab_size: 5\nmlstm_block: {mlstm: null}\n",
         "c: mlstm_block.mlstm is null; it must be a mapping"},
        {"vocab_size: 5\nslstm_block: {slstm: []}\n",
         "c: slstm_block.slstm is a list; it must be a mapping"},
        {"vocab_size: 5\nslstm_block: {feedforward: gelu}\n",
         "c: slstm_block.feedforward is \"gelu\"; it must be a mapping"},
        {"vocab_size: 5\nmlstm_block: {mlstm: {num_heads: 3}}\n",
         "c: mlstm_block.mlstm.num_heads 3 does not divide the inner width 256"},
        {"vocab_size: 5\nslstm_block: {slstm: {num_heads: 3}}\n",
         "c: slstm_block.slstm.num_heads 3 does not divide embedding_dim 128"},
        {"vocab_size: 5\nmlstm_block: {mlstm: {conv1d_kernel_size: 0}}\n",
         "c: mlstm_block.mlstm.conv1d_kernel_size is 0" RULE "64"},
        {"vocab_size: 5\nslstm_block: {slstm: {conv1d_kernel_size: 65}}\n",
         "c: slstm_block.slstm.conv1d_kernel_size is 65; it must be an integer from 0 to 64"},
        {"vocab_size: 5\nmlstm_block: {mlstm: {qkv_proj_blocksize: 3}}\n",
         "c: mlstm_block.mlstm.qkv_proj_blocksize 3 makes 85 blocks of the inner width 256, which "
         "must be equal and one at least"},
        {"vocab_size: 5\nmlstm_block: {mlstm: {qkv_proj_blocksize: 257}}\n",
         "c: mlstm_block.mlstm.qkv_proj_blocksize 257 makes 0 blocks of the inner width 256, which "
         "must be equal and one at least"},
        {"vocab_size: 5\nmlstm_block: {mlstm: {proj_factor: 1e9}}\n",
         "c: mlstm_block.mlstm.proj_factor 1e+09 makes a width of 128000000000; it must be from 1 "
         "to 16777216"},
        {"vocab_size: 5\nmlstm_block: {mlstm: {proj_factor: 0.4, round_proj_up_dim_up: false}}\n",
         "c: mlstm_block.mlstm.proj_factor 0.4 makes a width of 0; it must be from 1 to 16777216"},
        {"vocab_size: 5\nslstm_block: {slstm: {function: gru}}\n",
         "c: slstm_block.slstm.function is \"gru\"; it must be \"slstm\" or \"lstm\""},
        {"vocab_size: 5\nslstm_block: {slstm: {bias_init: ones}}\n",
         "c: slstm_block.slstm.bias_init is \"ones\"; it must be \"powerlaw_blockdependent\", "
         "\"small_init\", \"standard\" or \"zeros\""},
        {"vocab_size: 5\nslstm_block: {slstm: {num_gates: 3}}\n",
         "c: slstm_block.slstm.num_gates is 3; it must be 4"},
        {"vocab_size: 5\nslstm_block: {slstm: {forward_clipval: 0}}\n",
         "c: slstm_block.slstm.forward_clipval is 0; it must be a positive number, or null for "
         "none"},
        {"vocab_size: 5\nslstm_block: {feedforward: {act_fn: tanh, ff_type: mlp}}\n",
         "c: slstm_block.feedforward.act_fn is \"tanh\"; it must be \"gelu\", \"relu\", "
         "\"relu^2\", \"sigmoid\", \"swish\" or \"selu\"\n"
         "c: slstm_block.feedforward.ff_type is \"mlp\"; it must be \"ffn_gated\""},
        {"vocab_size: 0\nnum_blocks: 0\nembedding_dim: x\nmlstm_block: {mlstm: {num_heads: -1}}\n",
         "c: vocab_size is 0" RULE "16777216\nc: embedding_dim is \"x\"" RULE "1048576\n"
         "c: num_blocks is 0" RULE "65536\nc: mlstm_block.mlstm.num_heads is -1" RULE "65536"},
        {"slstm_at: []\nqk_dim_factor: 0.5\n",
         "c: slstm_at belongs to the xlstm-neurips family and qk_dim_factor to xlstm-large; a "
         "config is of one of them"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        model_config c;
        if (config_try_text(cases[i].text, true, &c) != XLSTM_FORMAT_ERROR)
            fail_msg("not refused: %s", cases[i].text);
        assert_string_equal(xlstm_last_error(), cases[i].error);
        assert_false(c.complete);
        config_free(&c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(has_the_defaults_of_the_package),
        cmocka_unit_test(reads_every_field),
        cmocka_unit_test(knows_which_block_is_what),
        cmocka_unit_test(derives_the_blocks_of_q_k_and_v),
        cmocka_unit_test(ignores_the_sizes_of_blocks_that_do_not_exist),
        cmocka_unit_test(reads_files_of_experiments),
        cmocka_unit_test(reads_json_too),
        cmocka_unit_test(refuses_wrong_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
