/* LEB128 numbers, strings, and the generated text. */
#include <stdlib.h>
#include <string.h>

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/file.h"
#include "fixture.h"

void fixture_open(fixture *f, const char *path) {
    *f = (fixture){0};
    assert_int_equal(file_read(path, 1 << 24, &f->data), XLSTM_OK);
}

void fixture_close(fixture *f) {
    assert_int_equal(f->at, f->data.size); /* everything was read */
    buffer_free(&f->data);
}

static uint8_t next_byte(fixture *f) {
    assert_true(f->at < f->data.size);
    return (uint8_t)f->data.data[f->at++];
}

uint64_t fixture_number(fixture *f) {
    uint64_t value = 0;
    for (int shift = 0; shift < 63; shift += 7) {
        uint8_t byte = next_byte(f);
        value |= (uint64_t)(byte & 127) << shift;
        if (byte < 128)
            break;
    }
    return value;
}

uint64_t fixture_checksum(fixture *f) {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 8)
        value |= (uint64_t)next_byte(f) << shift;
    return value;
}

fixture_string fixture_read_string(fixture *f) {
    size_t size = (size_t)fixture_number(f);
    assert_true(size <= f->data.size - f->at);
    fixture_string string = {.text = f->data.data + f->at, .size = size};
    f->at += size;
    return string;
}

fixture_strings fixture_read_strings(fixture *f) {
    fixture_strings strings = {.count = (size_t)fixture_number(f)};
    strings.items = calloc(strings.count, sizeof *strings.items);
    assert_non_null(strings.items);
    for (size_t i = 0; i < strings.count; i++)
        strings.items[i] = fixture_read_string(f);
    return strings;
}

static uint64_t draw(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 32;
}

void fixture_make_text(const fixture_strings *words, const fixture_strings *separators,
                       uint64_t count, buffer *text) {
    uint64_t state = 1;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t first = draw(&state), place = first * draw(&state) >> 32;
        const fixture_string *word = &words->items[place * words->count >> 32];
        buffer_append(text, word->text, word->size);
        const fixture_string *separator =
            &separators->items[draw(&state) * separators->count >> 32];
        buffer_append(text, separator->text, separator->size);
    }
    assert_false(text->failed);
}

void fixture_check_ids(fixture *f, const int32_t *ids, int64_t count) {
    assert_int_equal(count, fixture_number(f));
    for (int64_t i = 0; i < count;) {
        uint64_t checksum = 0;
        for (int64_t end = i + 256; i < end && i < count; i++)
            checksum = checksum * 0x100000001B3u + (uint64_t)ids[i] + 1;
        assert_int_equal(checksum, fixture_checksum(f));
    }
}
