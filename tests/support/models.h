/* Models for tests: the real one in the tree, and variants of it made in the test's folder. */
#ifndef SUPPORT_MODELS_H
#define SUPPORT_MODELS_H

#include "engine/session.h"

#define TEST_MODEL "models/reference-17m"

/* A random model so small that sanitizers take no time over it: 2 blocks of width 48, 3 heads, vocabulary 320. Made in
 * test_folder() when first asked for. */
const char *test_small_model(void);

/* test_folder()/name with a random model of this config (JSON), weights in bf16; its path as test_path gives it. */
const char *test_random_model(const char *name, const char *config_text);

/* Loaded with these options (NULL: the defaults), or the running test fails with the library's
 * message. */
xlstm_model *test_model(const char *path, const xlstm_model_options *options);
xlstm_session *test_session(xlstm_model *model);
/* xlstm_eval, which must succeed. `logits`: of the last token, or NULL. */
void test_feed(xlstm_session *session, const int32_t *ids, int64_t count, float *logits);

/* A folder in test_folder() with the weights and tokenizer of TEST_MODEL (links) and its config
 * changed: each key of `changes`, a JSON object, replaces the config's. Returns
 * its path, valid until the sixteenth call. */
const char *test_variant(const char *name, const char *changes);

#endif
