#include "format/expect_gguf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

void gguf_expect_integer(const gguf_file *f, const char *key, gguf_type type, int64_t expected) {
    int64_t got = 0;
    const gguf_value *value = gguf_find(f, key);
    assert_non_null(value);
    assert_int_equal(value->type, type);
    assert_true(gguf_get_integer(value, &got));
    assert_true(got == expected);
}

const stored_tensor *gguf_expect_tensor(const gguf_file *f, const char *name, dtype type,
                                        int rank) {
    const stored_tensor *t = stored_find(&f->tensors, name);
    if (!t)
        fail_msg("%s is missing", name);
    assert_int_equal(t->dtype, type);
    assert_int_equal(t->rank, rank);
    return t;
}
