/* The GPT-2 pattern as a scanner.
 *
 * The alternatives of the pattern are told apart by their first character or two: an apostrophe
 * with one of seven endings, a run of one class with or without one space before it, or white
 * space. White space before something else leaves its last character to what follows (that is what
 * \s+(?!\S) does by backing off by one), unless it is a single character. */
#include "text/pretokenize.h"

#include "text/unicode.h"

/* One of 's 't 're 've 'm 'll 'd: its length, or 0. */
static size_t contraction(const uint8_t *text, size_t size) {
    if (size < 2 || text[0] != '\'')
        return 0;
    switch (text[1]) {
    case 's':
    case 't':
    case 'm':
    case 'd':
        return 2;
    case 'r':
    case 'v':
        return size > 2 && text[2] == 'e' ? 3 : 0;
    case 'l':
        return size > 2 && text[2] == 'l' ? 3 : 0;
    default:
        return 0;
    }
}

static unicode_class next_class(const uint8_t *text, size_t size, size_t *length) {
    if (text[0] < 0x80) {
        *length = 1;
        return (
            unicode_class)(unicode_properties_blocks[128u * unicode_properties_index[0] + text[0]] &
                           3);
    }
    uint32_t c;
    *length = utf8_decode(text, size, &c);
    if (*length == 0) {
        *length = 1;
        return UNICODE_OTHER;
    }
    return unicode_class_of(c);
}

/* White space from the start of the text, `first` bytes of it known. */
static size_t scan_space(const uint8_t *text, size_t size, size_t first) {
    size_t at = first, last = 0; /* where the last space begins */
    while (at < size) {
        size_t length;
        if (next_class(text + at, size - at, &length) != UNICODE_SPACE)
            return last > 0 ? last : at;
        last = at;
        at += length;
    }
    return size;
}

size_t pretokenize_next(const uint8_t *text, size_t size) {
    size_t length = contraction(text, size);
    if (length > 0)
        return length;
    unicode_class kind = next_class(text, size, &length);
    size_t at = length;
    if (text[0] == ' ' && size > 1) {
        kind = next_class(text + 1, size - 1, &length);
        if (kind != UNICODE_SPACE)
            at += length;
    }
    if (kind == UNICODE_SPACE)
        return scan_space(text, size, at);
    while (at < size && next_class(text + at, size - at, &length) == kind)
        at += length;
    return at;
}
