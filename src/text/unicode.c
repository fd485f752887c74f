/* Lookups in the Unicode tables. Hangul syllables decompose and compose by arithmetic (Unicode,
 * chapter 3.12); everything else by binary search, which only characters marked for normalization
 * reach. */
#include "text/unicode.h"

enum {
    HANGUL_SYLLABLES = 0xAC00,
    HANGUL_LEADS = 0x1100,
    HANGUL_VOWELS = 0x1161,
    HANGUL_TAILS = 0x11A7, /* one before the first: tail 0 is none */
    HANGUL_LEAD_COUNT = 19,
    HANGUL_VOWEL_COUNT = 21,
    HANGUL_TAIL_COUNT = 28,
    HANGUL_COUNT = HANGUL_LEAD_COUNT * HANGUL_VOWEL_COUNT * HANGUL_TAIL_COUNT
};

static const unicode_pair *find_decomposition(uint32_t c) {
    size_t low = 0, high = unicode_decomposition_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (unicode_decompositions[middle].composite < c) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    bool found = low < unicode_decomposition_count && unicode_decompositions[low].composite == c;
    return found ? &unicode_decompositions[low] : NULL;
}

static size_t decompose_hangul(uint32_t syllable, uint32_t out[3]) {
    uint32_t tail = syllable % HANGUL_TAIL_COUNT;
    out[0] = HANGUL_LEADS + syllable / (HANGUL_VOWEL_COUNT * HANGUL_TAIL_COUNT);
    out[1] = HANGUL_VOWELS + syllable / HANGUL_TAIL_COUNT % HANGUL_VOWEL_COUNT;
    out[2] = HANGUL_TAILS + tail;
    return tail ? 3 : 2;
}

size_t unicode_decompose(uint32_t c, uint32_t out[UNICODE_DECOMPOSITION_MAX]) {
    if (c - HANGUL_SYLLABLES < HANGUL_COUNT) {
        return decompose_hangul(c - HANGUL_SYLLABLES, out);
    }
    /* Only the first character of a pair may decompose further (the generator's data has no other
     * case), so the second ones come out in reverse order. */
    uint32_t seconds[UNICODE_DECOMPOSITION_MAX];
    size_t pending = 0, count = 0;
    for (const unicode_pair *pair; (pair = find_decomposition(c)) != NULL;) {
        if (pair->second && pending < UNICODE_DECOMPOSITION_MAX - 1) {
            seconds[pending++] = pair->second;
        }
        c = pair->first;
    }
    out[count++] = c;
    while (pending > 0) {
        out[count++] = seconds[--pending];
    }
    return count;
}

static uint32_t compose_hangul(uint32_t first, uint32_t second) {
    if (first - HANGUL_LEADS < HANGUL_LEAD_COUNT && second - HANGUL_VOWELS < HANGUL_VOWEL_COUNT) {
        uint32_t block = (first - HANGUL_LEADS) * HANGUL_VOWEL_COUNT + second - HANGUL_VOWELS;
        return HANGUL_SYLLABLES + block * HANGUL_TAIL_COUNT;
    }
    uint32_t syllable = first - HANGUL_SYLLABLES;
    if (syllable < HANGUL_COUNT && syllable % HANGUL_TAIL_COUNT == 0 && second > HANGUL_TAILS &&
        second < HANGUL_TAILS + HANGUL_TAIL_COUNT) {
        return first + second - HANGUL_TAILS;
    }
    return 0;
}

uint32_t unicode_compose(uint32_t first, uint32_t second) {
    uint32_t hangul = compose_hangul(first, second);
    if (hangul) {
        return hangul;
    }
    size_t low = 0, high = unicode_composition_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        const unicode_pair *pair = &unicode_compositions[middle];
        if (pair->first < first || (pair->first == first && pair->second < second)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low < unicode_composition_count && unicode_compositions[low].first == first &&
        unicode_compositions[low].second == second) {
        return unicode_compositions[low].composite;
    }
    return 0;
}

/* The length that a lead byte announces (0: not a lead byte) and the range of the second byte,
 * which rules out overlong forms, surrogates and values beyond U+10FFFF (Unicode, table 3-7). */
static size_t lead_length(uint8_t lead, uint8_t *low, uint8_t *high) {
    *low = 0x80;
    *high = 0xBF;
    if (lead < 0x80) {
        return 1;
    }
    if (lead < 0xC2 || lead > 0xF4) {
        return 0;
    }
    if (lead < 0xE0) {
        return 2;
    }
    if (lead < 0xF0) {
        *low = lead == 0xE0 ? 0xA0 : 0x80;
        *high = lead == 0xED ? 0x9F : 0xBF;
        return 3;
    }
    *low = lead == 0xF0 ? 0x90 : 0x80;
    *high = lead == 0xF4 ? 0x8F : 0xBF;
    return 4;
}

/* How many of the bytes are a character or the beginning of one; `*length` is its full length. */
static size_t well_formed(const uint8_t *text, size_t size, size_t *length) {
    uint8_t low, high;
    *length = lead_length(text[0], &low, &high);
    if (*length == 0) {
        return 0;
    }
    size_t count = 1;
    while (count < *length && count < size && text[count] >= low && text[count] <= high) {
        low = 0x80;
        high = 0xBF;
        count++;
    }
    return count;
}

size_t utf8_decode(const uint8_t *text, size_t size, uint32_t *c) {
    static const uint8_t lead_bits[5] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    size_t length, part = well_formed(text, size, &length);
    if (part == 0 || part < length) {
        return 0;
    }
    uint32_t value = text[0] & lead_bits[length];
    for (size_t i = 1; i < length; i++) {
        value = value << 6 | (text[i] & 0x3F);
    }
    *c = value;
    return length;
}

size_t utf8_encode(uint32_t c, uint8_t out[4]) {
    if (c < 0x80) {
        out[0] = (uint8_t)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (uint8_t)(0xC0 | c >> 6);
        out[1] = (uint8_t)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (uint8_t)(0xE0 | c >> 12);
        out[1] = (uint8_t)(0x80 | (c >> 6 & 0x3F));
        out[2] = (uint8_t)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (uint8_t)(0xF0 | c >> 18);
    out[1] = (uint8_t)(0x80 | (c >> 12 & 0x3F));
    out[2] = (uint8_t)(0x80 | (c >> 6 & 0x3F));
    out[3] = (uint8_t)(0x80 | (c & 0x3F));
    return 4;
}

size_t utf8_incomplete_tail(const uint8_t *text, size_t size) {
    for (size_t tail = 1; tail <= 3 && tail <= size; tail++) {
        size_t length;
        size_t good = well_formed(text + size - tail, tail, &length);
        if (length > 0) { /* the last lead byte */
            return good == tail && good < length ? tail : 0;
        }
    }
    return 0;
}

size_t utf8_valid_length(const uint8_t *text, size_t size) {
    for (size_t at = 0, length; at < size; at += length) {
        size_t part = well_formed(text + at, size - at, &length);
        if (part == 0 || part < length)
            return at;
    }
    return size;
}

void utf8_append_valid(const uint8_t *text, size_t size, buffer *out) {
    for (size_t at = 0; at < size;) {
        size_t good = utf8_valid_length(text + at, size - at), length;
        buffer_append(out, text + at, good);
        at += good;
        if (at == size)
            return;
        size_t part = well_formed(text + at, size - at, &length);
        buffer_append(out, "\xEF\xBF\xBD", 3);
        at += part ? part : 1;
    }
}
