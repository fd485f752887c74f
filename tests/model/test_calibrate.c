/* What calibration finds of a model's inputs. Those of the first block are known without running
 * it: the normed rows of the embedding. H is summed here from them, and what follows from it is
 * found by solving linear systems. */
#include "model/calibrate.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/random.h"
#include "model/calibrate_columns.h"
#include "model/init.h"
#include "support/models.h"
#include "support/support.h"

enum { WIDTH = 96, TOKENS = 75, VOCAB = 64 };

static const char *make_model(void) {
    static const char text[] =
        "{\"model_type\": \"xlstm\", \"embedding_dim\": 96, \"num_heads\": 3, \"num_blocks\": 2, "
        "\"vocab_size\": 64, \"ffn_round_up_to_multiple_of\": 40}"; /* 280: no whole blocks */
    json_t *value;
    model_config config;
    const char *folder = test_path("calibrated");
    assert_int_equal(json_parse(text, sizeof text - 1, "small", &value), XLSTM_OK);
    assert_int_equal(config_from_json(value, "small", false, &config), XLSTM_OK);
    if (init_checkpoint(&config, folder, &(init_options){.dtype = DTYPE_F32, .seed = 3}) !=
        XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    config_free(&config);
    json_decref(value);
    return folder;
}

static const stored_tensor *find(const xlstm_model *model, const char *name) {
    for (size_t i = 0; i < model->files.count; i++)
        if (strcmp(model->files.tensors[i].name, name) == 0)
            return &model->files.tensors[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

static float element(const stored_tensor *t, int64_t index) {
    float value;
    memcpy(&value, t->data + (size_t)index * sizeof value, sizeof value);
    return value;
}

/* The inputs of the first projections: x / rms(x) * weight. */
static void add_input(const xlstm_model *model, int32_t id, double *h) {
    const stored_tensor *embedding = find(model, "backbone.embeddings.weight");
    const stored_tensor *norm = find(model, "backbone.blocks.0.norm_mlstm.weight");
    double x[WIDTH], squares = 0;
    for (int i = 0; i < WIDTH; i++) {
        x[i] = (double)element(embedding, id * WIDTH + i);
        squares += x[i] * x[i];
    }
    for (int i = 0; i < WIDTH; i++)
        x[i] *= (double)element(norm, i) / sqrt(squares / WIDTH + 1e-6);
    for (int i = 0; i < WIDTH; i++)
        for (int j = 0; j < WIDTH; j++)
            h[i * WIDTH + j] += x[i] * x[j] / TOKENS;
}

/* Column j of `order` within a window of n: what the later ones make good, and what is left. H is
 * that of the window, damped. */
static void check_column(const double *h, const int32_t *order, int n, int j, const float *carry,
                         const float *stored, float importance) {
    static double a[WIDTH * WIDTH], b[WIDTH];
    int rest = n - j - 1;
    double extra = 0, left;
    for (int i = 0; i < n; i++)
        extra += h[order[i] * WIDTH + order[i]] / n / 100;
    for (int i = 0; i < rest; i++) {
        b[i] = h[order[j] * WIDTH + order[j + 1 + i]];
        for (int k = 0; k < rest; k++)
            a[i * rest + k] = h[order[j + 1 + i] * WIDTH + order[j + 1 + k]] + (i == k ? extra : 0);
    }
    test_solve(a, b, rest);
    left = h[order[j] * WIDTH + order[j]] + extra;
    for (int i = 0; i < rest; i++)
        left -= b[i] * h[order[j] * WIDTH + order[j + 1 + i]];
    for (int i = 0; i < n; i++) {
        double own = h[order[j] * WIDTH + order[i]] + (i == j ? extra : 0);
        if (i > j)
            assert_true(fabs((double)carry[i] + b[i - j - 1]) <= 1e-3);
        else
            assert_true(fabs((double)stored[i] - own) <= 1e-4);
    }
    assert_true(fabs((double)importance / left - 1) <= 1e-3);
}

/* Blocks in the order of their squares, the largest first, each within its window. */
static void check_order(const double *h, const int32_t *order, int n) {
    double last = INFINITY;
    for (int b = 0; b < n; b += 32) {
        double sum = 0;
        for (int j = b; j < b + 32; j++) {
            assert_int_equal(order[j], order[b] + j - b);
            sum += h[order[j] * WIDTH + order[j]];
        }
        assert_int_equal(order[b] % 32, 0);
        assert_true(sum <= last * (1 + 1e-5));
        last = sum;
    }
}

static void check_columns(const double *h, const quantise_columns *c, int64_t window) {
    assert_int_equal(c->window, window);
    for (int first = 0; first < WIDTH; first += (int)window) {
        int n = WIDTH - first < window ? WIDTH - first : (int)window;
        check_order(h, c->order + first, n);
        for (int j = 0; j < n; j++)
            check_column(h, c->order + first, n, j, c->carry + (first + j) * window,
                         c->h + (first + j) * window, c->importance[first + j]);
    }
}

/* Batches of 32 tokens: the text comes in ragged pieces, and the products of 96 columns in strips. */
static void test_known_inputs(void **state) {
    (void)state;
    static const char *const shared[] = {"q", "k", "v", "ogate_preact"};
    int32_t ids[TOKENS];
    static double h[WIDTH * WIDTH];
    xlstm_model *model =
        test_model(make_model(),
                   &(xlstm_model_options){
                       .device = "cpu", .profile = "exact", .threads = 2, .max_batch_tokens = 32});
    for (int t = 0; t < TOKENS; t++) {
        ids[t] = (int32_t)(random_bits(5, 1, (uint64_t)t) % VOCAB);
        add_input(model, ids[t], h);
    }
    /* Three inputs of whole blocks a block, and the head's: 2 * 2 + 1 widths of 96. */
    static const struct { int64_t memory, window; } limits[] = {{CALIBRATION_MEMORY, 96}, {0, 32}};
    for (int l = 0; l < 2; l++) {
        calibration *c;
        assert_int_equal(calibration_run(model, ids, TOKENS, limits[l].memory, NULL, NULL, &c),
                         XLSTM_OK);
        const quantise_columns *first = NULL;
        for (int i = 0; i < 4; i++) {
            char name[80];
            snprintf(name, sizeof name, "backbone.blocks.0.mlstm_layer.%s.weight", shared[i]);
            const quantise_columns *columns = calibration_find(c, find(model, name));
            assert_non_null(columns);
            assert_true(!first || columns == first);
            first = columns;
        }
        check_columns(h, first, limits[l].window);
        static const char *const others[] = {
            "backbone.blocks.0.mlstm_layer.out_proj.weight", "backbone.blocks.0.ffn.proj_up.weight",
            "backbone.blocks.1.mlstm_layer.q.weight", "lm_head.weight"};
        for (int i = 0; i < 4; i++) {
            const quantise_columns *columns = calibration_find(c, find(model, others[i]));
            assert_non_null(columns);
            assert_ptr_not_equal(columns, first);
        }
        assert_null(calibration_find(c, find(model, "backbone.blocks.0.ffn.proj_down.weight")));
        assert_null(calibration_find(c, find(model, "backbone.embeddings.weight")));
        calibration_free(c);
    }
    xlstm_model_free(model);
}

/* Every piece of the text begins with a fresh state: the same piece twice says what it says once,
 * also of what is behind the first recurrence. */
static void test_pieces_begin_afresh(void **state) {
    (void)state;
    static int32_t ids[2 * CALIBRATION_PIECE];
    calibration *found[2];
    const quantise_columns *columns[2];
    xlstm_model *model =
        test_model(test_path("calibrated"),
                   &(xlstm_model_options){
                       .device = "cpu", .profile = "exact", .threads = 2, .max_batch_tokens = 96});
    for (int t = 0; t < 2 * CALIBRATION_PIECE; t++)
        ids[t] = (int32_t)(random_bits(5, 2, (uint64_t)t % CALIBRATION_PIECE) % VOCAB);
    for (int twice = 0; twice < 2; twice++) {
        assert_int_equal(calibration_run(model, ids, CALIBRATION_PIECE * (twice + 1),
                                         CALIBRATION_MEMORY, NULL, NULL, &found[twice]),
                         XLSTM_OK);
        columns[twice] = calibration_find(
            found[twice], find(model, "backbone.blocks.1.mlstm_layer.out_proj.weight"));
        assert_non_null(columns[twice]);
    }
    for (int j = 0; j < WIDTH; j++) {
        double ratio = (double)columns[1]->importance[j] / (double)columns[0]->importance[j];
        assert_int_equal(columns[1]->order[j], columns[0]->order[j]);
        assert_true(fabs(ratio - 1) <= 1e-5);
    }
    calibration_free(found[0]);
    calibration_free(found[1]);
    xlstm_model_free(model);
}

/* Zeros do no harm, what is not finite is found. */
static void test_not_finite(void **state) {
    (void)state;
    float sums[32 * 32] = {0}, importance[32];
    int32_t order[32];
    double work[32 * 32 + 32];
    calibrate_window w = {.columns = 32,
                          .stride = 32,
                          .sums = sums,
                          .rows = 1,
                          .order = order,
                          .importance = importance};
    assert_true(calibrate_work_size(32) <= sizeof work);
    assert_true(calibrate_columns(&w, work)); /* zeros alone do no harm */
    assert_true(importance[0] == 1);
    memset(sums, 0, sizeof sums);
    sums[33] = NAN;
    assert_false(calibrate_columns(&w, work));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_inputs),
        cmocka_unit_test(test_pieces_begin_afresh),
        cmocka_unit_test(test_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
