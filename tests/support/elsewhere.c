#include "support/elsewhere.h"

#include "base/random.h"
#include "support/models.h"
#include "support/support.h"

enum { VOCABULARY = 4096, SMALL_VOCABULARY = 320 }; /* of TEST_MODEL, test_small_model() */

static const char *device;
static struct {
    int32_t *ids;
    int count;
    uint64_t seed;
} text;

const char *test_device(void) {
    return device;
}

bool test_model_is_small(void) {
    return device || test_is_quick();
}

const char *test_model_path(void) {
    return test_model_is_small() ? test_small_model() : TEST_MODEL;
}

int test_vocabulary(void) {
    return test_model_is_small() ? SMALL_VOCABULARY : VOCABULARY;
}

size_t test_logits_bytes(void) {
    return sizeof(float) * (size_t)test_vocabulary();
}

static void write_ids(void) {
    for (int i = 0; i < text.count; i++)
        text.ids[i] =
            (int32_t)(random_bits(text.seed, 0, (uint64_t)i) % (uint64_t)test_vocabulary());
}

void test_write_ids(int32_t *ids, int count, uint64_t seed) {
    text.ids = ids;
    text.count = count;
    text.seed = seed;
    write_ids();
}

int test_on_cuda(void **state) {
    (void)state;
    device = "cuda";
    write_ids();
    return 0;
}

int test_off_cuda(void **state) {
    (void)state;
    device = NULL;
    write_ids();
    return 0;
}
