/* Which type each tensor of a conversion gets: the whole list of a small model, tensor by tensor. */
#include "model/convert_plan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/file.h"
#include "model/convert.h"
#include "model/init.h"
#include "support/models.h"
#include "support/support.h"

/* Rows of proj_down have 280 elements: no whole blocks. */
static xlstm_model *open_model(const char *name, const char *more, dtype stored) {
    char text[512], folder[4096];
    json_t *value;
    model_config config;
    xlstm_model *model;
    snprintf(text, sizeof text,
             "{\"model_type\": \"xlstm\", \"embedding_dim\": 96, \"num_heads\": 3, "
             "\"num_blocks\": 1, \"vocab_size\": 64, \"ffn_round_up_to_multiple_of\": 40%s}",
             more);
    snprintf(folder, sizeof folder, "%s", test_path(name));
    assert_int_equal(json_parse(text, strlen(text), "small", &value), XLSTM_OK);
    assert_int_equal(config_from_json(value, "small", false, &config), XLSTM_OK);
    if (init_checkpoint(&config, folder, &(init_options){.dtype = stored, .seed = 3}) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    config_free(&config);
    json_decref(value);
    if (model_open(folder, NULL, &model) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    return model;
}

#define BLOCK "backbone.blocks.0."

/* What a tensor is to the plan. */
enum part { EMBEDDING, HEAD, MATRIX, NARROW, SMALL };
static const struct {
    const char *name;
    enum part part;
} parts[] = {{"backbone.embeddings.weight", EMBEDDING},
             {"lm_head.weight", HEAD},
             {BLOCK "mlstm_layer.q.weight", MATRIX},
             {BLOCK "mlstm_layer.k.weight", MATRIX},
             {BLOCK "mlstm_layer.v.weight", MATRIX},
             {BLOCK "mlstm_layer.ogate_preact.weight", MATRIX},
             {BLOCK "mlstm_layer.out_proj.weight", MATRIX},
             {BLOCK "ffn.proj_up.weight", MATRIX},
             {BLOCK "ffn.proj_up_gate.weight", MATRIX},
             {BLOCK "ffn.proj_down.weight", NARROW},
             {BLOCK "mlstm_layer.igate_preact.weight", SMALL},
             {BLOCK "mlstm_layer.fgate_preact.weight", SMALL},
             {BLOCK "mlstm_layer.igate_preact.bias", SMALL},
             {BLOCK "mlstm_layer.fgate_preact.bias", SMALL},
             {BLOCK "mlstm_layer.multihead_norm.weight", SMALL},
             {BLOCK "norm_mlstm.weight", SMALL},
             {BLOCK "norm_ffn.weight", SMALL},
             {"backbone.out_norm.weight", SMALL}};
enum { PARTS = sizeof parts / sizeof parts[0] };

static enum part part_of(const char *name) {
    for (int i = 0; i < PARTS; i++)
        if (strcmp(parts[i].name, name) == 0)
            return parts[i].part;
    fail_msg("a tensor that is not expected: %s", name);
    return SMALL;
}

/* `types`: of each part. */
static void check_plan(const xlstm_model *model, const convert_options *options, const dtype *types,
                       size_t count) {
    convert_plan plan;
    convert_result result;
    int64_t bytes = 0, elements = 0;
    int narrow = 0;
    assert_int_equal(convert_plan_make(model, options, &plan, &result), XLSTM_OK);
    assert_int_equal(plan.count, count);
    for (size_t i = 0; i < plan.count; i++) {
        const convert_tensor *t = &plan.tensors[i];
        enum part part = part_of(t->from->name);
        int64_t size = 1;
        for (int d = 0; d < t->from->rank; d++)
            size *= t->from->shape[d];
        if (t->to != types[part])
            fail_msg("%s: %s, not %s", t->from->name, dtype_name(t->to), dtype_name(types[part]));
        assert_string_equal(plan.entries[i].name, t->from->name);
        assert_int_equal(plan.entries[i].dtype, t->to);
        assert_null(t->columns);
        elements += size;
        bytes += size / dtype_block(t->to) * (int64_t)dtype_size(t->to);
        narrow += part == NARROW && types[MATRIX] != types[NARROW];
    }
    assert_int_equal(plan.bytes, bytes);
    assert_int_equal(result.bytes, bytes);
    assert_int_equal(result.weights, elements);
    assert_int_equal(result.narrow, narrow);
    convert_plan_free(&plan);
}

static void test_every_tensor(void **state) {
    (void)state;
    xlstm_model *model = open_model("plain", "", DTYPE_BF16);
    const dtype none = DTYPE_COUNT, f32 = DTYPE_F32, bf16 = DTYPE_BF16;
    static const dtype quantised[] = {DTYPE_Q8_0, DTYPE_Q5_1, DTYPE_Q5_0,
                                      DTYPE_Q4_1, DTYPE_Q4_0, DTYPE_IQ4_NL};
    for (size_t i = 0; i < sizeof quantised / sizeof quantised[0]; i++)
        check_plan(model, &(convert_options){.type = quantised[i], .embedding = none, .head = none},
                   (const dtype[]){DTYPE_Q8_0, DTYPE_Q8_0, quantised[i], bf16, f32}, PARTS);
    check_plan(model,
               &(convert_options){.type = DTYPE_Q4_0, .embedding = DTYPE_F16, .head = DTYPE_Q5_1},
               (const dtype[]){DTYPE_F16, DTYPE_Q5_1, DTYPE_Q4_0, bf16, f32}, PARTS);
    check_plan(model, &(convert_options){.type = f32, .embedding = none, .head = none},
               (const dtype[]){f32, f32, f32, f32, f32}, PARTS);
    check_plan(model, &(convert_options){.type = bf16, .embedding = none, .head = none},
               (const dtype[]){bf16, bf16, bf16, bf16, bf16}, PARTS);
    check_plan(model, &(convert_options){.same = true, .embedding = none, .head = none},
               (const dtype[]){bf16, bf16, bf16, bf16, bf16}, PARTS);
    xlstm_model_free(model);
}

/* A head that is the embedding again is left out, and is there again when the file is read. */
static void test_tied_head(void **state) {
    (void)state;
    xlstm_model *model = open_model("tied", ", \"tie_word_embeddings\": true", DTYPE_F32);
    size_t stored = model->files.count;
    assert_true(stored == PARTS || stored == PARTS - 1);
    check_plan(
        model,
        &(convert_options){.type = DTYPE_Q4_0, .embedding = DTYPE_COUNT, .head = DTYPE_COUNT},
        (const dtype[]){DTYPE_Q8_0, DTYPE_COUNT, DTYPE_Q4_0, DTYPE_F32, DTYPE_F32}, PARTS - 1);
    xlstm_model_free(model);
}

/* Changes the one place in a file that has these bytes. */
static void replace(const char *path, const void *bytes, const void *with, size_t size) {
    buffer file = {0};
    char *place = NULL;
    assert_int_equal(file_read(path, 1 << 24, &file), XLSTM_OK);
    for (size_t at = 0; at + size <= file.size; at++)
        if (memcmp(file.data + at, bytes, size) == 0) {
            assert_null(place);
            place = file.data + at;
        }
    assert_non_null(place);
    memcpy(place, with, size);
    test_write_file(path, file.data, file.size);
    buffer_free(&file);
}

static const stored_tensor *tensor_of(const xlstm_model *model, const char *name) {
    const stored_tensor *t = stored_find(&model->files, name);
    assert_non_null(t);
    return t;
}

static xlstm_model *open_again(const char *name) {
    xlstm_model *model;
    if (model_open(test_path(name), NULL, &model) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    return model;
}

/* A head that is stored although the config says that it is the embedding. */
static void test_stored_tied_head(void **state) {
    (void)state;
    xlstm_model *model = open_model("stored", "", DTYPE_F32);
    const stored_tensor *head = tensor_of(model, "lm_head.weight");
    replace(test_path("stored/model.safetensors"), head->data,
            tensor_of(model, "backbone.embeddings.weight")->data, head->size);
    static const char untied[] = "\"tie_word_embeddings\": false",
                      tied[] = "\"tie_word_embeddings\":  true";
    replace(test_path("stored/config.json"), untied, tied, sizeof tied - 1);
    xlstm_model_free(model);
    model = open_again("stored");
    assert_int_equal(model->files.count, PARTS);
    check_plan(
        model,
        &(convert_options){.type = DTYPE_Q4_0, .embedding = DTYPE_COUNT, .head = DTYPE_COUNT},
        (const dtype[]){DTYPE_Q8_0, DTYPE_COUNT, DTYPE_Q4_0, DTYPE_F32, DTYPE_F32}, PARTS - 1);
    xlstm_model_free(model);
}

/* Beside bf16, what is no matrix gets that type where it loses nothing, and else f32. */
static void test_nothing_small_is_rounded(void **state) {
    (void)state;
    xlstm_model *model = open_model("exact", "", DTYPE_F32);
    const float odd[] = {3.001f, 4.5f, 6};
    const stored_tensor *bias = tensor_of(model, BLOCK "mlstm_layer.fgate_preact.bias");
    assert_int_equal(bias->size, sizeof odd);
    replace(test_path("exact/model.safetensors"), bias->data, odd, sizeof odd);
    xlstm_model_free(model);
    model = open_again("exact");
    convert_plan plan;
    convert_result result;
    const convert_options options = {
        .type = DTYPE_BF16, .embedding = DTYPE_COUNT, .head = DTYPE_COUNT};
    int kept = 0, narrowed = 0;
    assert_int_equal(convert_plan_make(model, &options, &plan, &result), XLSTM_OK);
    for (size_t i = 0; i < plan.count; i++) {
        const stored_tensor *t = plan.tensors[i].from;
        if (part_of(t->name) != SMALL)
            continue;
        bool exact = true;
        for (size_t at = 0; at < t->size; at += sizeof(float)) {
            uint32_t bits;
            memcpy(&bits, t->data + at, sizeof bits);
            exact &= (bits & 0xFFFF) == 0;
        }
        if (plan.tensors[i].to != (exact ? DTYPE_BF16 : DTYPE_F32))
            fail_msg("%s becomes %s", t->name, dtype_name(plan.tensors[i].to));
        kept += !exact;
        narrowed += exact;
    }
    assert_true(kept > 0 && narrowed > 0);
    convert_plan_free(&plan);
    xlstm_model_free(model);
}

/* What was in blocks before counts as rounded twice only in blocks of another type. */
static void test_requantised(void **state) {
    (void)state;
    static const struct {
        dtype type;
        bool twice;
    } cases[] = {{DTYPE_F32, false}, {DTYPE_Q8_0, false}, {DTYPE_Q4_0, true}};
    xlstm_model *model;
    if (model_open("models/demo/xlstm-17m-q8_0.gguf", NULL, &model) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        convert_plan plan;
        convert_result result;
        const convert_options options = {
            .type = cases[i].type, .embedding = DTYPE_COUNT, .head = DTYPE_COUNT};
        assert_int_equal(convert_plan_make(model, &options, &plan, &result), XLSTM_OK);
        assert_int_equal(result.requantised > 0, cases[i].twice);
        convert_plan_free(&plan);
    }
    xlstm_model_free(model);
}

/* A value that the type cannot hold is named, and no file appears. */
static void test_what_a_type_cannot_hold(void **state) {
    (void)state;
    const char *const output = "huge.gguf";
    xlstm_model *model = open_model("huge", "", DTYPE_F32);
    const stored_tensor *q = tensor_of(model, BLOCK "mlstm_layer.q.weight");
    float *values = malloc(q->size);
    assert_non_null(values);
    memcpy(values, q->data, q->size);
    values[5 * 96 + 17] = -1e7f;
    replace(test_path("huge/model.safetensors"), q->data, values, q->size);
    free(values);
    xlstm_model_free(model);
    model = open_again("huge");
    int entries = test_count_entries(test_folder());
    static const dtype narrow[] = {DTYPE_F16, DTYPE_Q8_0, DTYPE_Q4_1};
    for (int i = 0; i < 3; i++) {
        convert_result result;
        char part[160];
        snprintf(part, sizeof part, "q.weight, row 5, column 17: %s cannot hold the value -1e+07",
                 dtype_name(narrow[i]));
        test_expect_error(convert_model(model, test_path(output),
                                        &(convert_options){.type = narrow[i],
                                                           .embedding = DTYPE_COUNT,
                                                           .head = DTYPE_COUNT},
                                        &result),
                          XLSTM_FORMAT_ERROR, part);
        assert_int_equal(test_count_entries(test_folder()), entries);
    }
    xlstm_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_tensor),     cmocka_unit_test(test_tied_head),
        cmocka_unit_test(test_stored_tied_head), cmocka_unit_test(test_nothing_small_is_rounded),
        cmocka_unit_test(test_requantised),      cmocka_unit_test(test_what_a_type_cannot_hold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
