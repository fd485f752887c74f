/* Text from a file inside an error message: a line break would break the rule of one fault a line,
 * and a name of a megabyte would push the reason out of the message. */
#ifndef FORMAT_PRINTABLE_H
#define FORMAT_PRINTABLE_H

#include <stdbool.h>
#include <string.h>

enum { PRINTABLE_MAX = 160 };

typedef struct printable {
    char text[PRINTABLE_MAX + 4];
} printable;

/* At most PRINTABLE_MAX bytes of `text`, control bytes as '?', "..." where it was cut. */
static inline printable printable_of(const char *text) {
    printable out;
    size_t size = strnlen(text, PRINTABLE_MAX);
    for (size_t i = 0; i < size; i++) {
        unsigned char byte = (unsigned char)text[i];
        out.text[i] = (byte < 32 || byte == 127) ? '?' : text[i];
    }
    bool cut = text[size] != '\0';
    while (cut && size > 0 && ((unsigned char)text[size] & 0xC0) == 0x80)
        size--; /* not within a UTF-8 sequence */
    memcpy(out.text + size, cut ? "..." : "", cut ? 4 : 1);
    return out;
}

#endif
