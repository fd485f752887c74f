/* Normalization form C on bytes that may not be well-formed UTF-8. */
#ifndef TEXT_NORMALIZE_H
#define TEXT_NORMALIZE_H

#include "base/buffer.h"
#include "text/unicode.h"

/* The first byte of what must be rewritten for NFC, or `size` if nothing need be looked at. */
size_t normalize_first_needed(const uint8_t *text, size_t size);

/* Appends the NFC of the text to `out`; bytes that are not UTF-8 pass unchanged and separate what
 * stands on either side. False: out of memory (the error is not set). */
bool normalize_nfc(const uint8_t *text, size_t size, buffer *out);

#endif
