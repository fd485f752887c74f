/* Reading the files of scripts/make_tokenizer_fixtures.py. Every function fails the running test
 * when the file ends too early. */
#ifndef TEXT_FIXTURE_H
#define TEXT_FIXTURE_H

#include "base/buffer.h"

#include <stdint.h>

typedef struct fixture {
    buffer data;
    size_t at;
} fixture;

typedef struct fixture_string {
    const char *text; /* within the fixture; not NUL-terminated */
    size_t size;
} fixture_string;

typedef struct fixture_strings {
    fixture_string *items;
    size_t count;
} fixture_strings;

void fixture_open(fixture *f, const char *path);
void fixture_close(fixture *f);

uint64_t fixture_number(fixture *f);
uint64_t fixture_checksum(fixture *f); /* 8 bytes, little-endian */
fixture_string fixture_read_string(fixture *f);
fixture_strings fixture_read_strings(fixture *f); /* `items` is released with free */

/* The long text of the script's make_text: `count` words, each followed by a separator. */
void fixture_make_text(const fixture_strings *words, const fixture_strings *separators,
                       uint64_t count, buffer *text);

/* Reads the number of ids and the checksum of every 256, and compares. */
void fixture_check_ids(fixture *f, const int32_t *ids, int64_t count);

#endif
