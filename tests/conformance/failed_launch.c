/* A launch that fails must fail the stream, and what follows the next wait be right: whether the kernel ran is not known, so
 * nothing may be built on what it has counted. Only the CUDA test device fails launches (tests/cuda_device/device.h). */
#include "conformance/checks.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { WIDTH = 64, ROWS = 96 };

/* Two products of one token, the second of what the first makes: x [1][WIDTH] to out [1][WIDTH]. */
typedef struct pair {
    ops_device *device;
    ops_stream *stream;
    ops_buffer x, first, between, second, out;
    struct ops_norm_project project;
    struct ops_project_add add;
} pair;

static ops_tensor place(pair *p, ops_buffer *buffer, int64_t rows, int64_t width) {
    assert_int_equal(p->device->buffer_create(p->device, (size_t)(rows * width) * 4, buffer),
                     XLSTM_OK);
    return ops_tensor_make(buffer, 0, DTYPE_F32, 2, (int64_t[]){rows, width});
}

static void draw(pair *p, ops_buffer *buffer, int count, int seed) {
    float values[ROWS * WIDTH];
    for (int i = 0; i < count; i++)
        values[i] = (float)((i * 7 + seed * (i % 13 + 3)) % 23 - 11) / 16;
    p->device->write(p->stream, buffer, 0, values, (size_t)count * 4);
}

static void open_pair(pair *p, ops_device *device) {
    const ops_stream_options options = {.threads = 1,
                                        .profile = OPS_EXACT,
                                        .limits = {.tokens = 1,
                                                   .sequences = 1,
                                                   .width = ROWS,
                                                   .heads = 1,
                                                   .head_dim_qk = 1,
                                                   .head_dim_v = 1,
                                                   .vocab = 1,
                                                   .activation = DTYPE_F32}};
    *p = (pair){.device = device};
    if (device->stream_create(device, &options, &p->stream) != XLSTM_OK)
        fail_msg("%s: %s", device->name, xlstm_last_error());
    ops_tensor x = place(p, &p->x, 1, WIDTH), between = place(p, &p->between, 1, ROWS);
    p->project = (struct ops_norm_project){
        .x = x,
        .norm = {.kind = OPS_NORM_NONE, .groups = 1},
        .count = 1,
        .projection[0] = {.weight = place(p, &p->first, ROWS, WIDTH), .out = between}};
    p->add = (struct ops_project_add){.x = between,
                                      .weight = place(p, &p->second, WIDTH, ROWS),
                                      .sign = 1,
                                      .out = place(p, &p->out, 1, WIDTH)};
    draw(p, &p->first, ROWS * WIDTH, 1);
    draw(p, &p->second, ROWS * WIDTH, 2);
}

static void close_pair(pair *p) {
    ops_buffer *const buffers[] = {&p->x, &p->first, &p->between, &p->second, &p->out};
    p->device->stream_free(p->stream);
    for (int i = 0; i < 5; i++)
        p->device->buffer_free(buffers[i]);
}

static xlstm_status run(pair *p, int seed, float *out) {
    draw(p, &p->x, WIDTH, seed);
    p->device->ops.norm_project(p->stream, &p->project);
    p->device->ops.project_add(p->stream, &p->add);
    xlstm_status status = p->device->wait(p->stream);
    if (status == XLSTM_OK)
        status = p->device->read(p->stream, &p->out, 0, out, WIDTH * 4);
    return status;
}

bool check_failed_launch(ops_device *device) {
    float expected[WIDTH], out[WIDTH];
    char what[512];
    pair p;
    device->describe(device, what, sizeof what);
    if (!strstr(what, "CUDA test device"))
        return false;
    open_pair(&p, device);
    assert_int_equal(run(&p, 4, expected), XLSTM_OK);
    close_pair(&p);
    open_pair(&p, device);
    setenv("XLSTM_CUDA_TEST_FAIL", "chain", 1);
    assert_int_equal(run(&p, 3, out), XLSTM_DEVICE_ERROR);
    unsetenv("XLSTM_CUDA_TEST_FAIL");
    if (!strstr(xlstm_last_error(), "chain"))
        fail_msg("\"%s\" does not say which launch failed", xlstm_last_error());
    for (int again = 0; again < 2; again++) {
        assert_int_equal(run(&p, 4, out), XLSTM_OK);
        assert_memory_equal(out, expected, sizeof out);
    }
    close_pair(&p);
    return true;
}
