/* What must hold for the memory and the streams of every device, for rows that are not there, and for
 * sampling from broken logits; and soft caps more closely than products of rounded factors show them. */
#include "conformance/checks.h"
#include "conformance/side.h"
#include "ops/gather.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static const ops_limits limits = {.tokens = 8,
                                  .sequences = 8,
                                  .width = 16,
                                  .heads = 1,
                                  .head_dim_qk = 1,
                                  .head_dim_v = 1,
                                  .vocab = 16,
                                  .activation = DTYPE_F32};

static ops_stream *open_stream(ops_device *device) {
    ops_stream_options options = {.threads = 2, .profile = OPS_EXACT, .limits = limits};
    ops_stream *stream;
    if (device->stream_create(device, &options, &stream) != XLSTM_OK)
        fail_msg("%s: %s", device->name, xlstm_last_error());
    assert_ptr_equal(stream->device, device);
    assert_in_range(device->stream_threads(stream), 1, 2);
    return stream;
}

/* Host memory is seen as it is, or copied piece by piece to where they shall be: short ones, and one that is longer
 * than what a device takes at once. */
static void check_host_memory(ops_device *device, ops_stream *stream) {
    enum { LONG = (33 << 20) + 5, AT = 512, SIZE = AT + LONG };
    unsigned char *host = must_allocate(SIZE), *bytes = must_allocate(SIZE);
    const ops_piece pieces[] = {{host, 3, 0}, {host + 3, 256, 256}, {host + AT, LONG, AT}};
    ops_buffer buffer;
    for (int i = 0; i < SIZE; i++)
        host[i] = (unsigned char)((unsigned)i * 2654435761u >> 24);
    xlstm_status status = device->buffer_gather
                              ? device->buffer_gather(device, SIZE, pieces, 3, &buffer)
                              : device->buffer_wrap(device, host, SIZE, &buffer);
    if (status != XLSTM_OK)
        fail_msg("%s: %s", device->name, xlstm_last_error());
    assert_true(!device->buffer_gather || !device->buffer_wrap);
    for (int i = 0; i < 3; i++) {
        const ops_piece *p = &pieces[i];
        size_t from = device->buffer_gather ? p->offset : (size_t)((char *)p->host - (char *)host);
        assert_int_equal(device->read(stream, &buffer, from, bytes, p->size), XLSTM_OK);
        assert_memory_equal(bytes, p->host, p->size);
    }
    device->buffer_free(&buffer);
    free(host);
    free(bytes);
}

/* New buffers are zero; bytes are written, copied (also within a buffer), zeroed and read in order. */
void check_memory(ops_device *device) {
    enum { SIZE = 10000 };
    ops_stream *stream = open_stream(device);
    ops_buffer a, b;
    unsigned char *bytes = must_allocate(SIZE), *expected = must_allocate(SIZE);
    assert_int_equal(device->buffer_create(device, SIZE, &a), XLSTM_OK);
    assert_int_equal(device->buffer_create(device, SIZE, &b), XLSTM_OK);
    assert_int_equal(device->read(stream, &a, 0, bytes, SIZE), XLSTM_OK);
    assert_memory_equal(bytes, expected, SIZE);

    for (int i = 0; i < SIZE; i++)
        expected[i] = (unsigned char)draw_integer(3, (uint64_t)i, 256);
    device->write(stream, &a, 0, expected, SIZE);
    device->copy(stream, &b, 1, &a, 3, SIZE - 3);
    device->zero(stream, &b, 500, 77);
    memmove(expected + 1, expected + 3, SIZE - 3);
    memset(expected + 500, 0, 77);
    expected[0] = expected[SIZE - 1] = expected[SIZE - 2] = 0;
    assert_int_equal(device->read(stream, &b, 0, bytes, SIZE), XLSTM_OK);
    assert_memory_equal(bytes, expected, SIZE);

    /* more spans than a device gathers, at any alignment, and what is written behind them */
    for (int i = 0; i < 300; i++) {
        const int at = 33 * i + i % 7, size = 1 + i % 31;
        device->zero(stream, &b, (size_t)at, (size_t)size);
        memset(expected + at, 0, (size_t)size);
    }
    expected[33] = 7;
    device->write(stream, &b, 33, expected + 33, 1);
    device->zero(stream, &b, 70, 5000);
    memset(expected + 70, 0, 5000);
    assert_int_equal(device->read(stream, &b, 0, bytes, SIZE), XLSTM_OK);
    assert_memory_equal(bytes, expected, SIZE);

    check_host_memory(device, stream);
    assert_int_equal(device->wait(stream), XLSTM_OK);
    device->buffer_free(&a);
    device->buffer_free(&b);
    device->stream_free(stream);
    free(expected);
    free(bytes);

    char text[300] = "";
    device->describe(device, text, sizeof text);
    assert_true(text[0] != '\0');
    assert_true(device->chunk_size == 1 ||
                (device->chunk_size % 16 == 0 && device->chunk_size <= 128));
}

/* What stands behind an op in the stream comes after it, though the host is there long before: what it reads is
 * overwritten, what it writes is too. And what stands before it comes before. */
void check_order(ops_device *device) {
    enum { ROWS = 8, WIDTH = 16, COUNT = ROWS * WIDTH };
    ops_stream *stream = open_stream(device);
    float values[COUNT], late[COUNT], out[COUNT], zeros[COUNT] = {0};
    for (int i = 0; i < COUNT; i++) {
        values[i] = (float)(i + 1);
        late[i] = -1;
    }
    for (int way = 0; way < 5; way++) {
        ops_buffer buffer, other;
        assert_int_equal(device->buffer_create(device, 2 * sizeof values, &buffer), XLSTM_OK);
        assert_int_equal(device->buffer_create(device, sizeof late, &other), XLSTM_OK);
        device->write(stream, &buffer, 0, values, sizeof values);
        device->write(stream, &other, 0, late, sizeof late);
        ops_tensor x = ops_tensor_make(&buffer, 0, DTYPE_F32, 2, (int64_t[]){ROWS, WIDTH});
        ops_tensor y =
            ops_tensor_make(&buffer, sizeof values, DTYPE_F32, 2, (int64_t[]){ROWS, WIDTH});
        if (way == 4)
            device->zero(stream, &buffer, 0, sizeof values);
        device->ops.sum(stream, &(struct ops_sum){.count = 1, .input = {x}, .sign = {1}, .out = y});
        if (way == 0 || way == 4)
            device->write(stream, &buffer, 0, late, sizeof late);
        else if (way == 1)
            device->zero(stream, &buffer, 0, sizeof late);
        else if (way == 2)
            device->copy(stream, &buffer, 0, &other, 0, sizeof late);
        else
            device->write(stream, &buffer, sizeof values, late, sizeof late);
        assert_int_equal(device->wait(stream), XLSTM_OK);
        assert_int_equal(device->read(stream, &buffer, sizeof values, out, sizeof out), XLSTM_OK);
        assert_memory_equal(out, way == 4 ? zeros : way == 3 ? late : values, sizeof out);
        device->buffer_free(&other);
        device->buffer_free(&buffer);
    }
    device->stream_free(stream);
}

/* Takes rows 1, `id` and 2 of a table of three, by embed or take_rows. */
static xlstm_status take_three(ops_device *device, ops_stream *stream, bool embed, int32_t id,
                               float *out) {
    static const float table[3][2] = {{0, 1}, {2, 3}, {4, 5}};
    const int32_t ids[3] = {1, id, 2};
    ops_buffer buffer;
    assert_int_equal(device->buffer_create(device, 80, &buffer), XLSTM_OK);
    device->write(stream, &buffer, 0, table, sizeof table);
    device->write(stream, &buffer, 32, ids, sizeof ids);
    ops_tensor rows = ops_tensor_make(&buffer, 0, DTYPE_F32, 2, (int64_t[]){3, 2});
    ops_tensor which = ops_tensor_make(&buffer, 32, DTYPE_I32, 1, (int64_t[]){3});
    ops_tensor to = ops_tensor_make(&buffer, 48, DTYPE_F32, 2, (int64_t[]){3, 2});
    if (embed)
        device->ops.embed(stream, &(struct ops_embed){rows, which, to});
    else
        device->ops.take_rows(stream, &(struct ops_take_rows){rows, which, to});
    xlstm_status status = device->wait(stream);
    assert_int_equal(device->read(stream, &buffer, 48, out, 6 * sizeof *out), XLSTM_OK);
    device->buffer_free(&buffer);
    return status;
}

void check_row_ids(ops_device *device) {
    static const int32_t wrong[] = {-1, 3, INT32_MAX, INT32_MIN};
    ops_stream *stream = open_stream(device);
    float out[6];
    for (int i = 0; i < 8; i++) {
        if (take_three(device, stream, i < 4, wrong[i % 4], out) != XLSTM_INVALID_ARGUMENT)
            fail_msg("%s: %s took row %d of 3", device->name, i < 4 ? "embed" : "take_rows",
                     (int)wrong[i % 4]);
        assert_int_equal(take_three(device, stream, i < 4, 0, out), XLSTM_OK);
        assert_memory_equal(out, ((float[]){2, 3, 0, 1, 4, 5}), sizeof out);
    }
    device->stream_free(stream);
}

/* Samples greedily from three rows, the second of which is given. */
static xlstm_status sample_rows(ops_device *device, ops_stream *stream, const float *row,
                                int32_t *ids) {
    float logits[9] = {1, 2, 3, row[0], row[1], row[2], 3, 2, 1};
    struct ops_sample_row rules[3] = {{.limit = 3}, {.limit = 3}, {.limit = 3}};
    ops_buffer buffer;
    assert_int_equal(device->buffer_create(device, 64, &buffer), XLSTM_OK);
    device->write(stream, &buffer, 0, logits, sizeof logits);
    struct ops_sample op = {.logits = ops_tensor_make(&buffer, 0, DTYPE_F32, 2, (int64_t[]){3, 3}),
                            .rows = rules,
                            .out = ops_tensor_make(&buffer, 48, DTYPE_I32, 1, (int64_t[]){3})};
    device->ops.sample(stream, &op);
    xlstm_status status = device->wait(stream);
    assert_int_equal(device->read(stream, &buffer, 48, ids, 3 * sizeof *ids), XLSTM_OK);
    device->buffer_free(&buffer);
    return status;
}

void check_sample_errors(ops_device *device) {
    static const float broken[][3] = {
        {1, NAN, 2}, {NAN, NAN, NAN}, {0, 0, INFINITY}, {-INFINITY, -INFINITY, -INFINITY}};
    ops_stream *stream = open_stream(device);
    int32_t ids[3];
    for (int i = 0; i < 4; i++) {
        assert_int_equal(sample_rows(device, stream, broken[i], ids), XLSTM_DEVICE_ERROR);
        if (!strstr(xlstm_last_error(), "row 1"))
            fail_msg("%s: the error \"%s\" does not name row 1", device->name, xlstm_last_error());
    }
    const float sound[] = {-INFINITY, 5, 5};
    assert_int_equal(sample_rows(device, stream, sound, ids), XLSTM_OK);
    assert_int_equal(ids[0], 2);
    assert_int_equal(ids[1], 1);
    assert_int_equal(ids[2], 0);
    device->stream_free(stream);
}

/* Ids are read as soon as they are chosen: some and then all of them, written over, more than can be told at once, and with
 * something wrong in front or in a row. */
void check_sample_reads(ops_device *device) {
    enum { MOST = 300, VOCAB = 4, LOGITS = MOST * VOCAB, IDS = LOGITS * 4, ROW = IDS + MOST * 4 };
    ops_stream_options options = {.threads = 2, .profile = OPS_EXACT, .limits = limits};
    options.limits.sequences = MOST;
    options.limits.tokens = MOST;
    ops_stream *stream;
    ops_buffer buffer;
    static float logits[LOGITS];
    static struct ops_sample_row rules[MOST];
    int32_t ids[MOST];
    for (int i = 0; i < MOST; i++)
        rules[i].limit = VOCAB;
    assert_int_equal(device->stream_create(device, &options, &stream), XLSTM_OK);
    assert_int_equal(device->buffer_create(device, ROW + 64, &buffer), XLSTM_OK);
    static const int counts[] = {1, 3, MOST, 5, 2, 7, 4, MOST, 6, 5, 4, 3, 2};
    for (int i = 0; i < 13; i++) {
        const bool written = i == 4, row_wrong = i == 5, id_wrong = i == 6;
        const size_t last = (size_t)counts[i] - 1, at = IDS + 4 * last;
        const int32_t other[] = {7, 8}, row = id_wrong ? MOST : 1;
        for (int j = 0; j < LOGITS; j++)
            logits[j] = (j / VOCAB + i) % VOCAB == j % VOCAB;
        device->write(stream, &buffer, 0, logits, sizeof logits);
        if (row_wrong)
            device->write(stream, &buffer, 4 * VOCAB * last, &(float){NAN}, 4);
        device->write(stream, &buffer, ROW, &row, sizeof row);
        device->ops.take_rows(
            stream, &(struct ops_take_rows){
                        ops_tensor_make(&buffer, 0, DTYPE_F32, 2, (int64_t[]){MOST, VOCAB}),
                        ops_tensor_make(&buffer, ROW, DTYPE_I32, 1, (int64_t[]){1}),
                        ops_tensor_make(&buffer, ROW + 16, DTYPE_F32, 2, (int64_t[]){1, VOCAB})});
        device->ops.sample(
            stream,
            &(struct ops_sample){
                .logits = ops_tensor_make(&buffer, 0, DTYPE_F32, 2, (int64_t[]){counts[i], VOCAB}),
                .rows = rules,
                .out = ops_tensor_make(&buffer, IDS, DTYPE_I32, 1, (int64_t[]){counts[i]})});
        if (written)
            device->write(stream, &buffer, IDS, other, sizeof other);
        const xlstm_status expected = row_wrong  ? XLSTM_DEVICE_ERROR
                                      : id_wrong ? XLSTM_INVALID_ARGUMENT
                                                 : XLSTM_OK;
        assert_int_equal(device->read(stream, &buffer, at, &ids[last], 4), expected);
        if (expected == XLSTM_OK)
            assert_int_equal(ids[last], written ? other[last] : ((int)last + i) % VOCAB);
        assert_int_equal(device->wait(stream), XLSTM_OK);
        assert_int_equal(device->read(stream, &buffer, IDS, ids, 4 * (last + 1)), XLSTM_OK);
        for (int j = 0; j < counts[i] && expected == XLSTM_OK; j++)
            assert_int_equal(ids[j], written ? other[j] : (j + i) % VOCAB);
    }
    device->buffer_free(&buffer);
    device->stream_free(stream);
}

/* Ten ids among many that are never chosen: sums of their weights, to a few digits more than a float has. */
void check_sample_sums(ops_device *device) {
    enum { VOCAB = 4096, FINITE = 10, STEP = 37 };
    ops_stream_options options = {.threads = 2, .profile = OPS_EXACT, .limits = limits};
    options.limits.vocab = VOCAB;
    ops_stream *stream;
    ops_buffer buffer;
    float logits[VOCAB];
    for (int i = 0; i < VOCAB; i++)
        logits[i] = i % STEP || i / STEP >= FINITE ? -INFINITY : i ? -0.1f : 0;
    assert_int_equal(device->stream_create(device, &options, &stream), XLSTM_OK);
    assert_int_equal(device->buffer_create(device, sizeof logits + 16, &buffer), XLSTM_OK);
    device->write(stream, &buffer, 0, logits, sizeof logits);
    double p = exp((double)-0.1f);
    for (int i = 0; i < 2 * (FINITE - 2); i++) {
        int last = 1 + i / 2, expected = STEP * (i % 2 ? last + 1 : last);
        double sum = (1 + last * p) / (1 + (FINITE - 1) * p);
        struct ops_sample_row rule = {
            .limit = VOCAB, .temperature = 1, .uniform = sum + (i % 2 ? 1e-8 : -1e-8)};
        struct ops_sample op = {
            .logits = ops_tensor_make(&buffer, 0, DTYPE_F32, 2, (int64_t[]){1, VOCAB}),
            .rows = &rule,
            .out = ops_tensor_make(&buffer, sizeof logits, DTYPE_I32, 1, (int64_t[]){1})};
        int32_t id = -1;
        device->ops.sample(stream, &op);
        assert_int_equal(device->read(stream, &buffer, sizeof logits, &id, sizeof id), XLSTM_OK);
        if (id != expected)
            fail_msg("sample on %s: %.1e %s the sum of %d ids, the id is %d, not %d", device->name,
                     1e-8, i % 2 ? "above" : "below", last + 1, (int)id, expected);
    }
    device->buffer_free(&buffer);
    device->stream_free(stream);
}

/* Capped products of so many tokens in fast. The weights are an identity and x has few bits: what is capped has no error. */
static void cap_rows(ops_device *device, int tokens) {
    enum { WIDTH = 64, MOST = 150, VALUES = MOST * WIDTH };
    static const double cap = 1.5, allowed = 2e-6;
    ops_stream_options options = {.threads = 2, .profile = OPS_FAST, .limits = limits};
    options.limits.tokens = MOST;
    options.limits.width = options.limits.vocab = WIDTH;
    float *values = must_allocate(2 * VALUES * sizeof *values), *out = values + VALUES;
    uint16_t weight[WIDTH * WIDTH] = {0};
    for (int i = 0; i < VALUES; i++)
        values[i] = (float)draw_integer(7, (uint64_t)i, 129) / 16 - 4;
    for (int i = 0; i < WIDTH; i++)
        weight[i * WIDTH + i] = float_to_bf16(1);
    ops_stream *stream;
    ops_buffer buffer;
    const size_t size = VALUES * sizeof *values;
    assert_int_equal(device->stream_create(device, &options, &stream), XLSTM_OK);
    assert_int_equal(device->buffer_create(device, 2 * size + sizeof weight, &buffer), XLSTM_OK);
    device->write(stream, &buffer, 0, values, size);
    device->write(stream, &buffer, 2 * size, weight, sizeof weight);
    const int64_t shape[] = {tokens, WIDTH};
    struct ops_norm_project op = {.x = ops_tensor_make(&buffer, 0, DTYPE_F32, 2, shape),
                                  .count = 1};
    op.projection[0] = (ops_projection){
        .weight = ops_tensor_make(&buffer, 2 * size, DTYPE_BF16, 2, (int64_t[]){WIDTH, WIDTH}),
        .soft_cap = cap,
        .out = ops_tensor_make(&buffer, size, DTYPE_F32, 2, shape)};
    device->ops.norm_project(stream, &op);
    assert_int_equal(device->wait(stream), XLSTM_OK);
    assert_int_equal(
        device->read(stream, &buffer, size, out, (size_t)(tokens * WIDTH) * sizeof *out), XLSTM_OK);
    for (int i = 0; i < tokens * WIDTH; i++) {
        double exact = cap * tanh((double)values[i] / cap);
        if (!(fabs((double)out[i] - exact) <= allowed))
            fail_msg("%s: %d tokens, %g capped is %.9g, not %.9g", device->name, tokens,
                     (double)values[i], (double)out[i], exact);
    }
    device->buffer_free(&buffer);
    device->stream_free(stream);
    free(values);
}

void check_caps(ops_device *device) {
    static const int tokens[] = {1, 3, 40, 150}; /* each has kernels of its own on some device */
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++)
        cap_rows(device, tokens[i]);
}
