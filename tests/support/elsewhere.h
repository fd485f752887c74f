/* Tests of sessions that run on the CPU and, with the small model, on another device as well. */
#ifndef SUPPORT_ELSEWHERE_H
#define SUPPORT_ELSEWHERE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* NULL: the default, the CPU. */
const char *test_device(void);
/* Elsewhere, and where tests are quick: the small one instead of that of the tree. */
bool test_model_is_small(void);
const char *test_model_path(void);
int test_vocabulary(void);
/* Bytes of the logits of a token. */
size_t test_logits_bytes(void);

/* Ids for these tests: written now, and anew where the vocabulary becomes another one. */
void test_write_ids(int32_t *ids, int count, uint64_t seed);

/* Setup and teardown of a test on the device cuda. */
int test_on_cuda(void **state);
int test_off_cuda(void **state);
/* test_NAME there, for test_run_group. */
#define TEST_ON_CUDA(name)                                                                         \
    { "test_cuda_" #name, test_##name, test_on_cuda, test_off_cuda, NULL }

#endif
