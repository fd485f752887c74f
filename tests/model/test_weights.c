/* The weights of a loaded model on every device: each tensor has the file's bytes there, whichever file it is of and
 * whether it is used where it lies or copied; copies begin where kernels read rows fastest. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "model/convert.h"
#include "support/models.h"
#include "support/support.h"

typedef struct walk {
    const xlstm_model *model;
    bool whole; /* tensors are whole ones of the file, of which none is a part of another */
    int count;
} walk;

/* The tensor on the device, against its bytes on the host. */
static void look(void *context, const char *name, const ops_tensor *tensor, const uint8_t *bytes) {
    walk *w = context;
    ops_device *device = w->model->device;
    size_t size = (size_t)dtype_bytes(tensor->dtype, ops_tensor_elements(tensor));
    uint8_t *there = malloc(size);
    assert_non_null(there);
    assert_true(ops_tensor_fits(tensor));
    if (device->read(w->model->stream, tensor->buffer, tensor->offset, there, size) != XLSTM_OK)
        fail_msg("%s: %s", name, xlstm_last_error());
    if (memcmp(there, bytes, size) != 0)
        fail_msg("%s: not the file's bytes on the device %s", name, device->name);
    if (device->buffer_gather && w->whole &&
        ((uintptr_t)tensor->buffer->handle + tensor->offset) % OPS_PIECE_ALIGNMENT != 0)
        fail_msg("%s: at byte %zu of its buffer, not at a multiple of %d", name, tensor->offset,
                 OPS_PIECE_ALIGNMENT);
    w->count++;
    free(there);
}

/* The same model on each device, told by tensors and by the fingerprint of their host bytes. */
static void check_model(const char *path, bool whole, int tensors) {
    uint64_t fingerprint = 0;
    for (int d = 0; ops_device_at(d); d++) {
        const char *name = ops_device_at(d)->name;
        if (!test_uses_device(name))
            continue;
        xlstm_model *model = test_model(path, &(xlstm_model_options){.device = name, .threads = 2});
        walk w = {model, whole, 0};
        weights_each(&model->weights, look, &w);
        assert_int_equal(w.count, tensors);
        if (fingerprint && model_fingerprint(model) != fingerprint)
            fail_msg("%s: another model on the device %s", path, name);
        fingerprint = model_fingerprint(model);
        xlstm_model_free(model);
    }
}

/* Four files; norms are copied as f32. */
static void test_files(void **state) {
    (void)state;
    check_model(TEST_MODEL, true, 123);
}

/* One file whose header moves what follows. */
static void test_blocks(void **state) {
    (void)state;
    const char *path = test_path("q4_0.gguf");
    const convert_options to = {.type = DTYPE_Q4_0, .embedding = DTYPE_COUNT, .head = DTYPE_COUNT};
    xlstm_model *model;
    convert_result result;
    assert_int_equal(model_open(TEST_MODEL, NULL, &model), XLSTM_OK);
    assert_int_equal(convert_model(model, path, &to, &result), XLSTM_OK);
    xlstm_model_free(model);
    check_model(path, true, 123);
}

/* Halves of tensors, and what is stored in another form than it is computed with. */
static void test_halves(void **state) {
    (void)state;
    check_model("tests/golden/neurips-mixed", false, 61);
}

int main(int argc, char **argv) {
    struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_halves),
    };
    return test_run_group(tests, sizeof tests / sizeof *tests, argc, argv);
}
