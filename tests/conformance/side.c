/* Sides: buffers with guards, drawn values, comparison. See side.h. */
#include "conformance/side.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/blocks.h"
#include "base/random.h"
#include "support/support.h"

enum { GUARD = 64 /* bytes in front of a tensor and behind it */ };

typedef struct side_block {
    ops_buffer *buffer; /* allocated by itself: tensors point to it */
    unsigned char *bytes;
} side_block;

void *must_allocate(size_t size) {
    void *memory = calloc(size ? size : 1, 1);
    if (!memory)
        fail_msg("out of memory: %zu bytes", size);
    return memory;
}

int64_t draw_integer(uint64_t seed, uint64_t counter, int64_t below) {
    return (int64_t)(random_bits(seed, 77, counter) % (uint64_t)below);
}

void draw_normal(uint64_t seed, uint64_t stream, int64_t first, int64_t count, double mean,
                 double spread, double *values) {
    enum { STORED = 65521 /* a prime: no row begins where another did */ };
    static double stored[STORED];
    if (stored[0] == 0)
        for (int i = 0; i < STORED; i++)
            stored[i] = test_normal(1, 1, (uint64_t)i);
    uint64_t start = random_bits(seed, stream, 0) % STORED;
    for (int64_t i = 0; i < count; i++)
        values[i] = mean + spread * stored[(start + (uint64_t)(first + i)) % STORED];
}

double distance(const double *a, const double *b, int64_t count, double smallest) {
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < count; i++) {
        if (a[i] == b[i] && isinf(a[i]))
            continue;
        if (!isfinite(a[i]) || !isfinite(b[i]))
            return INFINITY;
        difference += (a[i] - b[i]) * (a[i] - b[i]);
        norm += b[i] * b[i];
    }
    norm = fmax(sqrt(norm), smallest * sqrt((double)count));
    return difference == 0 ? 0 : sqrt(difference) / norm;
}

double round_to(dtype type, double value) {
    double room;
    dtype_store(type, &room, 0, value);
    return dtype_load(type, &room, 0);
}

void side_open(side *s, const setting *as, bool exact, bool ragged, uint64_t seed,
               const ops_limits *limits) {
    ops_stream_options options = {
        .threads = as->threads, .profile = as->profile, .limits = *limits};
    *s = (side){.as = *as, .exact = exact, .ragged = ragged, .only = -1, .seed = seed};
    if (exact)
        s->as.device = ops_device_find("reference");
    options.limits.activation = exact ? DTYPE_F64 : as->activation;
    assert_non_null(s->as.device);
    if (s->as.device->stream_create(s->as.device, &options, &s->stream) != XLSTM_OK)
        fail_msg("%s: %s", s->as.device->name, xlstm_last_error());
}

void side_close(side *s) {
    for (int i = 0; i < s->block_count; i++) {
        s->as.device->buffer_free(s->blocks[i].buffer);
        free(s->blocks[i].buffer);
        free(s->blocks[i].bytes);
    }
    for (int i = 0; i < s->output_count; i++)
        free(s->outputs[i].values);
    free(s->outputs);
    free(s->blocks);
    s->as.device->stream_free(s->stream);
}

/* A tensor as rows of contiguous elements: how long they are, how many, and where one begins
 * (bytes). */
static int64_t row_length(const ops_tensor *t) {
    return t->shape[t->rank - 1];
}

static int64_t row_count(const ops_tensor *t) {
    return ops_tensor_elements(t) / row_length(t);
}

static size_t row_place(const ops_tensor *t, int64_t row) {
    int64_t element = 0;
    for (int i = t->rank - 2; i >= 0; i--) {
        element += row % t->shape[i] * t->stride[i];
        row /= t->shape[i];
    }
    return t->offset + (size_t)dtype_bytes(t->dtype, element);
}

/* A tensor in a buffer of its own, whose bytes are to be filled in and uploaded. */
static ops_tensor make(side *s, dtype type, int rank, const int64_t *shape, side_block **block) {
    size_t size = dtype_size(type);
    ops_tensor t = ops_tensor_make(NULL, GUARD + (s->ragged ? 3 * size : 0), type, rank, shape);
    if (s->ragged && rank > 1)
        t.stride[0] += 5 * dtype_block(type);
    size_t total = t.offset + (size_t)dtype_bytes(type, t.stride[0] * shape[0]) + GUARD;

    side_block *blocks = realloc(s->blocks, (size_t)(s->block_count + 1) * sizeof *blocks);
    if (!blocks)
        fail_msg("out of memory");
    s->blocks = blocks;
    *block = &blocks[s->block_count];
    **block = (side_block){must_allocate(sizeof(ops_buffer)), must_allocate(total)};
    memset((*block)->bytes, 0xFF, total);
    if (s->as.device->buffer_create(s->as.device, total, (*block)->buffer) != XLSTM_OK)
        fail_msg("%s: %s", s->as.device->name, xlstm_last_error());
    s->block_count++;
    t.buffer = (*block)->buffer;
    return t;
}

static void upload(side *s, const side_block *block) {
    s->as.device->write(s->stream, block->buffer, 0, block->bytes, block->buffer->size);
}

ops_tensor side_place(side *s, dtype type, int rank, const int64_t *shape, const double *values) {
    side_block *block;
    dtype stored = s->exact ? DTYPE_F64 : type;
    ops_tensor t = make(s, stored, rank, shape, &block);
    int64_t length = row_length(&t);
    double *rounded = must_allocate((size_t)length * sizeof *rounded);
    for (int64_t r = 0; values && r < row_count(&t); r++) {
        unsigned char *row = block->bytes + row_place(&t, r);
        dtype_convert(DTYPE_F64, values + r * length, type, rounded, length);
        if (s->exact)
            dtype_convert(type, rounded, DTYPE_F64, row, length);
        else
            memcpy(row, rounded, (size_t)length * dtype_size(type));
    }
    free(rounded);
    upload(s, block);
    return t;
}

/* The root mean square of the integers of a type when all are equally likely. */
static double integer_spread(dtype type) {
    return type == DTYPE_Q8_0 || type == DTYPE_IQ4_NL ? 72
           : type == DTYPE_Q5_0 || type == DTYPE_Q5_1 ? 9
                                                      : 5;
}

/* Blocks of any bits, with scales and offsets that make values of about this spread. */
static void draw_blocks(side *s, uint64_t stream, dtype type, int64_t count, double spread,
                        unsigned char *bytes) {
    int size = (int)dtype_size(type);
    double step = spread / integer_spread(type);
    bool offset = type == DTYPE_Q5_1 || type == DTYPE_Q4_1;
    for (int64_t b = 0; b < count / BLOCK_ELEMENTS; b++, bytes += size) {
        uint64_t counter = (stream << 32) + (uint64_t)b * 8;
        for (int i = 0; i < size; i++)
            bytes[i] =
                (unsigned char)(random_bits(s->seed, 78, counter + (uint64_t)i / 8) >> i % 8 * 8);
        uint16_t d = float_to_f16((float)(step * (bytes[0] % 2 ? -1.25 : 0.75)));
        uint16_t m = float_to_f16((float)(step * (bytes[2] % 16 - 7.5)));
        memcpy(bytes, &d, sizeof d);
        if (offset)
            memcpy(bytes + 2, &m, sizeof m);
    }
}

/* A matrix in blocks; on the exact side, the values that base/blocks.c finds in them. */
static ops_tensor place_blocks(side *s, uint64_t stream, const int64_t *shape, double spread) {
    side_block *block;
    dtype type = s->as.weight;
    int64_t row_bytes = dtype_bytes(type, shape[1]);
    unsigned char *drawn = must_allocate((size_t)(shape[0] * row_bytes));
    draw_blocks(s, stream, type, shape[0] * shape[1], spread, drawn);
    ops_tensor t = make(s, s->exact ? DTYPE_F64 : type, 2, shape, &block);
    for (int64_t r = 0; r < shape[0]; r++) {
        unsigned char *row = block->bytes + row_place(&t, r);
        if (s->exact)
            dtype_convert(type, drawn + r * row_bytes, DTYPE_F64, row, shape[1]);
        else
            memcpy(row, drawn + r * row_bytes, (size_t)row_bytes);
    }
    free(drawn);
    upload(s, block);
    return t;
}

static ops_tensor place_integers(side *s, dtype type, int64_t count, const void *values) {
    side_block *block;
    bool ragged = s->ragged;
    s->ragged = false; /* kept aligned */
    ops_tensor t = make(s, type, 1, &count, &block);
    s->ragged = ragged;
    if (values)
        memcpy(block->bytes + t.offset, values, (size_t)count * dtype_size(type));
    upload(s, block);
    return t;
}

ops_tensor side_i32(side *s, int64_t count, const int32_t *values) {
    return place_integers(s, DTYPE_I32, count, values);
}

ops_tensor side_i64(side *s, int64_t count, const int64_t *values) {
    return place_integers(s, DTYPE_I64, count, values);
}

ops_tensor side_draw(side *s, enum side_kind kind, int rank, const int64_t *shape, double mean,
                     double spread) {
    int64_t count = 1, inner = 1;
    for (int i = 0; i < rank; i++) {
        count *= shape[i];
        inner *= i ? shape[i] : 1;
    }
    double *values = must_allocate((size_t)count * sizeof *values);
    bool by_row = kind == SIDE_ROWS || kind == SIDE_BETWEEN;
    int64_t skipped = by_row ? side_first_row(s) * inner : 0;
    uint64_t stream = (uint64_t)s->drawn++;
    bool in_blocks = kind == SIDE_WEIGHT && dtype_block(s->as.weight) > 1;
    if (in_blocks && rank == 2) {
        free(values);
        return place_blocks(s, stream, shape, spread);
    }
    draw_normal(s->seed, stream, skipped, count, mean, spread, values);
    dtype type = kind == SIDE_BETWEEN  ? side_between(s)
                 : kind != SIDE_WEIGHT ? s->as.activation
                 : in_blocks           ? DTYPE_F32
                                       : s->as.weight;
    ops_tensor t = side_place(s, type, rank, shape, values);
    free(values);
    return t;
}

ops_tensor side_poison(side *s, int rank, const int64_t *shape) {
    return side_place(s, s->as.activation, rank, shape, NULL);
}

dtype side_between(const side *s) {
    return s->narrow ? DTYPE_BF16 : s->as.activation;
}

ops_tensor side_poison_between(side *s, int rank, const int64_t *shape) {
    return side_place(s, side_between(s), rank, shape, NULL);
}

ops_tensor side_columns(const ops_tensor *t, int64_t first, int64_t count) {
    ops_tensor columns = *t;
    columns.offset += (size_t)first * dtype_size(t->dtype);
    columns.shape[1] = count;
    return columns;
}

int64_t side_rows(const side *s, int64_t tokens) {
    return s->only < 0 ? tokens : 1;
}

int64_t side_first_row(const side *s) {
    return s->only < 0 ? 0 : s->only;
}

void side_output(side *s, const char *name, const ops_tensor *t) {
    struct side_output *outputs =
        realloc(s->outputs, (size_t)(s->output_count + 1) * sizeof *outputs);
    if (!outputs)
        fail_msg("out of memory");
    s->outputs = outputs;
    s->outputs[s->output_count++] = (struct side_output){.name = name, .tensor = *t};
}

void side_output_exponent(side *s, const char *name, const ops_tensor *t) {
    side_output(s, name, t);
    s->outputs[s->output_count - 1].smallest = 1;
}

void side_output_sum(side *s, const char *name, const ops_tensor *t) {
    side_output(s, name, t);
    s->outputs[s->output_count - 1].smallest = 1.5;
}

void side_scratch(side *s, const ops_tensor *t) {
    side_output(s, NULL, t);
}

static unsigned char *download(side *s, const ops_buffer *buffer, const char *what) {
    unsigned char *bytes = must_allocate(buffer->size);
    if (s->as.device->read(s->stream, buffer, 0, bytes, buffer->size) != XLSTM_OK)
        fail_msg("%s on %s: %s", what, s->as.device->name, xlstm_last_error());
    return bytes;
}

double *side_read(side *s, const ops_tensor *t) {
    unsigned char *bytes = download(s, t->buffer, "reading");
    int64_t count = ops_tensor_elements(t);
    double *values = must_allocate((size_t)count * sizeof *values);
    int64_t length = row_length(t);
    for (int64_t r = 0; r < row_count(t); r++) {
        const void *row = bytes + row_place(t, r);
        if (t->dtype == DTYPE_I32)
            for (int64_t i = 0; i < length; i++)
                values[r * length + i] = (double)((const int32_t *)row)[i];
        else
            dtype_convert(t->dtype, row, DTYPE_F64, values + r * length, length);
    }
    free(bytes);
    return values;
}

void side_finish(side *s, const char *what) {
    for (int b = 0; b < s->block_count; b++) {
        side_block *block = &s->blocks[b];
        unsigned char *now = download(s, block->buffer, what);
        for (int o = 0; o < s->output_count; o++) {
            const ops_tensor *t = &s->outputs[o].tensor;
            for (int64_t r = 0; t->buffer == block->buffer && r < row_count(t); r++)
                memcpy(block->bytes + row_place(t, r), now + row_place(t, r),
                       (size_t)row_length(t) * dtype_size(t->dtype));
        }
        if (memcmp(now, block->bytes, block->buffer->size) != 0)
            fail_msg("%s on %s: bytes of buffer %d that no output owns were changed", what,
                     s->as.device->name, b);
        free(now);
    }
    for (int o = 0; o < s->output_count; o++)
        s->outputs[o].values = side_read(s, &s->outputs[o].tensor);
    if (s->as.device->wait(s->stream) != XLSTM_OK)
        fail_msg("%s on %s: %s", what, s->as.device->name, xlstm_last_error());
}

double side_row_error(const side *s, const side *exact, int64_t row) {
    double worst = 0;
    for (int o = 0; o < s->output_count; o++) {
        if (!s->outputs[o].name)
            continue;
        int64_t count = ops_tensor_elements(&s->outputs[o].tensor);
        double error = distance(s->outputs[o].values, exact->outputs[o].values + row * count, count,
                                s->outputs[o].smallest);
        worst = error > worst ? error : worst;
    }
    return worst;
}

double side_error(const side *s, const side *exact) {
    return side_row_error(s, exact, 0);
}

bool side_equal(const side *s, const side *other, int64_t row) {
    for (int o = 0; o < other->output_count; o++) {
        if (!other->outputs[o].name)
            continue;
        const ops_tensor *t = &other->outputs[o].tensor;
        size_t count = (size_t)ops_tensor_elements(t);
        size_t skipped = row < 0 ? 0 : (size_t)row * count; /* other has one row */
        if (memcmp(s->outputs[o].values + skipped, other->outputs[o].values,
                   count * sizeof(double)) != 0)
            return false;
    }
    return true;
}
