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

/* ---- Inputs behind the mixer ---- */

/* Overwrites a tensor of the checkpoint with a multiple of the identity, or a vector's first element. */
static void overwrite(const char *folder, const char *name, float diagonal) {
    xlstm_model *model;
    assert_int_equal(model_open(folder, NULL, &model), XLSTM_OK);
    const stored_tensor *t = find(model, name);
    long offset = (long)(t->data - model->files.maps[0].data);
    float *values = calloc(t->size / sizeof *values, sizeof *values);
    assert_non_null(values);
    if (t->rank == 1)
        memcpy(values, t->data, t->size);
    for (int64_t i = 0; i < (t->rank == 1 ? 1 : t->shape[0]); i++)
        values[i * (t->rank == 1 ? 1 : t->shape[1] + 1)] = diagonal;
    FILE *file = fopen(model->files.files[0], "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, offset, SEEK_SET), 0);
    assert_int_equal(fwrite(values, 1, t->size, file), t->size);
    assert_int_equal(fclose(file), 0);
    free(values);
    xlstm_model_free(model);
}

/* One block whose output projection and head are the identity and whose feed-forward adds nothing:
 * logits are the normed sum of the embedding and of what the mixer's output projection is given. The
 * first channel of the latter is 0, which tells what the norm has divided by. */
static const char *make_transparent(void) {
    static const char text[] =
        "{\"model_type\": \"xlstm\", \"embedding_dim\": 96, \"num_heads\": 3, "
        "\"num_blocks\": 1, \"vocab_size\": 96, "
        "\"ffn_round_up_to_multiple_of\": 32}";
    json_t *value;
    model_config config;
    const char *folder = test_path("transparent");
    assert_int_equal(json_parse(text, sizeof text - 1, "small", &value), XLSTM_OK);
    assert_int_equal(config_from_json(value, "small", false, &config), XLSTM_OK);
    assert_int_equal(
        init_checkpoint(&config, folder, &(init_options){.dtype = DTYPE_F32, .seed = 4}), XLSTM_OK);
    config_free(&config);
    json_decref(value);
    overwrite(folder, "backbone.blocks.0.mlstm_layer.out_proj.weight", 1);
    overwrite(folder, "backbone.blocks.0.mlstm_layer.multihead_norm.weight", 0);
    overwrite(folder, "backbone.blocks.0.ffn.proj_down.weight", 0);
    overwrite(folder, "lm_head.weight", 1);
    return folder;
}

typedef struct behind {
    const xlstm_model *model;
    const int32_t *ids;
    double out[WIDTH * WIDTH], normed[WIDTH * WIDTH]; /* H */
} behind;

static bool add_behind(void *context, int64_t first, int64_t count, const float *logits) {
    behind *b = context;
    const stored_tensor *embedding = find(b->model, "backbone.embeddings.weight");
    for (int64_t t = 0; t < count; t++, logits += WIDTH) {
        int64_t row = b->ids[first + t] * (int64_t)WIDTH;
        double normed[WIDTH], x[WIDTH], sum[WIDTH], squares = 0;
        for (int i = 0; i < WIDTH; i++)
            normed[i] = 30 * atanh((double)logits[i] / 30);
        double rms = (double)element(embedding, row) / normed[0];
        for (int i = 0; i < WIDTH; i++) {
            sum[i] = normed[i] * rms;
            x[i] = sum[i] - (double)element(embedding, row + i);
            squares += sum[i] * sum[i];
        }
        assert_true(fabs(squares / WIDTH / (rms * rms) - 1) < 1e-3); /* as it should be */
        for (int i = 0; i < WIDTH; i++)
            for (int j = 0; j < WIDTH; j++) {
                b->out[i * WIDTH + j] += x[i] * x[j] / TOKENS;
                b->normed[i * WIDTH + j] += normed[i] * normed[j] / TOKENS; /* the same norm */
            }
    }
    return true;
}

/* What is kept of H itself, in the order of rounding. */
static void check_kept(const double *h, const quantise_columns *c) {
    double extra = 0, difference = 0, size = 0;
    assert_non_null(c);
    for (int i = 0; i < WIDTH; i++)
        extra += h[i * WIDTH + i] / WIDTH / 100;
    for (int j = 0; j < WIDTH; j++)
        for (int k = 0; k <= j; k++) {
            double own = h[c->order[j] * WIDTH + c->order[k]] + (j == k ? extra : 0);
            difference += pow((double)c->h[j * WIDTH + k] - own, 2);
            size += own * own;
        }
    assert_true(sqrt(difference / size) < 1e-3);
}

/* The gated output of the mixer, and the feed-forward's and the head's normed inputs. */
static void test_inputs_behind_the_mixer(void **state) {
    (void)state;
    static behind b;
    int32_t ids[TOKENS];
    calibration *c;
    xlstm_model *model =
        test_model(make_transparent(),
                   &(xlstm_model_options){
                       .device = "cpu", .profile = "exact", .threads = 2, .max_batch_tokens = 32});
    xlstm_session *session = test_session(model);
    for (int t = 0; t < TOKENS; t++)
        ids[t] = (int32_t)(random_bits(5, 3, (uint64_t)t) % VOCAB);
    b.model = model, b.ids = ids;
    assert_int_equal(xlstm_eval_all(session, ids, TOKENS, add_behind, &b), XLSTM_OK);
    xlstm_session_free(session);
    assert_int_equal(calibration_run(model, ids, TOKENS, CALIBRATION_MEMORY, NULL, NULL, &c),
                     XLSTM_OK);
    check_kept(b.out,
               calibration_find(c, find(model, "backbone.blocks.0.mlstm_layer.out_proj.weight")));
    static const char *const normed[] = {"backbone.blocks.0.ffn.proj_up.weight",
                                         "backbone.blocks.0.ffn.proj_up_gate.weight",
                                         "lm_head.weight"};
    for (int i = 0; i < 3; i++)
        check_kept(b.normed, calibration_find(c, find(model, normed[i])));
    calibration_free(c);
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
        cmocka_unit_test(test_inputs_behind_the_mixer),
        cmocka_unit_test(test_pieces_begin_afresh),
        cmocka_unit_test(test_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
