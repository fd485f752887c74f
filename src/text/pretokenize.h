/* Cuts text into the pieces within which byte pairs are merged. */
#ifndef TEXT_PRETOKENIZE_H
#define TEXT_PRETOKENIZE_H

#include <stddef.h>
#include <stdint.h>

/* The length of the first match of the GPT-2 pattern
 *
 *     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *
 * in the text (`size` >= 1): at least 1, since the pattern matches everywhere. A byte that is not
 * UTF-8 counts as one character that is neither letter, number nor space. */
size_t pretokenize_next(const uint8_t *text, size_t size);

#endif
