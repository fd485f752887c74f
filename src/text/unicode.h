/* What the tokenizer must know about characters: letter, number or space, normalization form C, and
 * UTF-8. The data comes from one pinned version of Unicode (scripts/make_unicode_tables.py), so
 * that ids never depend on the libraries of the machine. */
#ifndef TEXT_UNICODE_H
#define TEXT_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"

enum { UNICODE_LAST = 0x10FFFF };

typedef enum unicode_class {
    UNICODE_OTHER,
    UNICODE_LETTER, /* general category L* */
    UNICODE_NUMBER, /* general category N* */
    UNICODE_SPACE   /* White_Space */
} unicode_class;

/* Tables in blocks of 128 code points: value = blocks[128 * index[c / 128] + c % 128]. A property
 * is the class (low two bits) and, as 4, whether the character may take part in normalization: it
 * has a combining class, changes in NFC, or may join the character before it. Text without such
 * characters is in NFC. */
extern const uint16_t unicode_properties_index[];
extern const uint8_t unicode_properties_blocks[];
extern const uint16_t unicode_combining_index[];
extern const uint8_t unicode_combining_blocks[];

typedef struct unicode_pair {
    uint32_t composite, first, second; /* second 0: a single character */
} unicode_pair;

extern const unicode_pair unicode_decompositions[]; /* one step, by composite, without Hangul */
extern const size_t unicode_decomposition_count;
extern const unicode_pair unicode_compositions[]; /* by (first, second), without Hangul */
extern const size_t unicode_composition_count;

static inline unsigned unicode_property(uint32_t c) {
    return unicode_properties_blocks[128u * unicode_properties_index[c >> 7] + (c & 127)];
}

static inline unicode_class unicode_class_of(uint32_t c) {
    return (unicode_class)(unicode_property(c) & 3);
}

static inline bool unicode_needs_nfc(uint32_t c) {
    return (unicode_property(c) & 4) != 0;
}

/* The canonical combining class: 0 for characters that stand for themselves. */
static inline unsigned unicode_combining_class(uint32_t c) {
    return unicode_combining_blocks[128u * unicode_combining_index[c >> 7] + (c & 127)];
}

enum { UNICODE_DECOMPOSITION_MAX = 4 }; /* the longest full canonical decomposition */

/* The full canonical decomposition of `c` into `out`; returns the number of characters (1: itself).
 */
size_t unicode_decompose(uint32_t c, uint32_t out[UNICODE_DECOMPOSITION_MAX]);
/* The character that the pair composes to, or 0. */
uint32_t unicode_compose(uint32_t first, uint32_t second);

/* Reads one character of well-formed UTF-8; returns its length, or 0 if the bytes are not
 * well-formed (overlong, surrogate, too large, cut off, stray). `size` >= 1. */
size_t utf8_decode(const uint8_t *text, size_t size, uint32_t *c);
/* Writes the UTF-8 form of `c` <= UNICODE_LAST; returns its length. */
size_t utf8_encode(uint32_t c, uint8_t out[4]);
/* How many bytes at the end of `text` (0 to 3) begin a character that more bytes could complete. */
size_t utf8_incomplete_tail(const uint8_t *text, size_t size);
/* How many bytes at the beginning of `text` are whole characters. */
size_t utf8_valid_length(const uint8_t *text, size_t size);
/* Appends the text as well-formed UTF-8: each maximal subpart that is no character (Unicode,
 * chapter 3.9: the beginning of one as far as it goes, else a single byte) becomes one U+FFFD. */
void utf8_append_valid(const uint8_t *text, size_t size, buffer *out);

#endif
