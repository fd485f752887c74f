/* Normalization form C.
 *
 * Most text is in NFC already, and a scan for characters marked "needs NFC" says so. Around marked
 * characters the text is cut into clusters: one unmarked character and the marked ones that follow
 * it. No cluster acts on another, so each is decomposed, put into canonical order and composed
 * alone (Unicode Standard Annex 15), and everything between clusters is copied. Bytes that are not
 * UTF-8 end a cluster.
 *
 * A hostile text can be one cluster of any length; every step is linear in it. */
#include "text/normalize.h"

#include <stdlib.h>
#include <string.h>

enum { SMALL_RUN = 24 }; /* runs of marks up to this are ordered by insertion */

typedef struct cluster {
    uint32_t *characters;
    uint8_t *classes;
    size_t count, capacity;
} cluster;

/* Whether the character at `text` is marked; `*length` is 1 for a byte that is not UTF-8. */
static bool marked(const uint8_t *text, size_t size, size_t *length, bool *valid) {
    uint32_t c;
    size_t decoded = utf8_decode(text, size, &c);
    *valid = decoded > 0;
    *length = decoded ? decoded : 1;
    return decoded && unicode_needs_nfc(c);
}

size_t normalize_first_needed(const uint8_t *text, size_t size) {
    size_t previous = 0; /* where the unmarked character before `at` begins */
    bool has_previous = false;
    for (size_t at = 0; at < size;) {
        if (text[at] < 0x80) { /* no ASCII character is marked */
            previous = at++;
            has_previous = true;
            continue;
        }
        size_t length;
        bool valid;
        if (marked(text + at, size - at, &length, &valid)) {
            return has_previous ? previous : at;
        }
        has_previous = valid;
        previous = at;
        at += length;
    }
    return size;
}

static bool cluster_reserve(cluster *cl, size_t more) {
    if (cl->capacity - cl->count >= more) {
        return true;
    }
    size_t capacity = cl->capacity ? cl->capacity * 2 : 64;
    uint32_t *characters = realloc(cl->characters, capacity * sizeof *characters);
    if (characters) {
        cl->characters = characters;
    }
    uint8_t *classes = realloc(cl->classes, capacity);
    if (classes) {
        cl->classes = classes;
    }
    if (!characters || !classes) {
        return false;
    }
    cl->capacity = capacity;
    return true;
}

static bool cluster_add(cluster *cl, uint32_t c) {
    uint32_t parts[UNICODE_DECOMPOSITION_MAX];
    if (!cluster_reserve(cl, UNICODE_DECOMPOSITION_MAX)) {
        return false;
    }
    size_t count = unicode_decompose(c, parts);
    for (size_t i = 0; i < count; i++) {
        cl->classes[cl->count] = (uint8_t)unicode_combining_class(parts[i]);
        cl->characters[cl->count++] = parts[i];
    }
    return true;
}

static void order_by_insertion(uint32_t *characters, uint8_t *classes, size_t count) {
    for (size_t i = 1; i < count; i++) {
        uint32_t c = characters[i];
        uint8_t combining_class = classes[i];
        size_t j = i;
        for (; j > 0 && classes[j - 1] > combining_class; j--) {
            characters[j] = characters[j - 1];
            classes[j] = classes[j - 1];
        }
        characters[j] = c;
        classes[j] = combining_class;
    }
}

/* A stable counting sort. */
static bool order_by_counting(uint32_t *characters, uint8_t *classes, size_t count) {
    size_t begin[257] = {0};
    uint32_t *sorted = malloc(count * sizeof *sorted);
    if (!sorted) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        begin[classes[i] + 1]++;
    }
    for (size_t i = 1; i < 257; i++) {
        begin[i] += begin[i - 1];
    }
    for (size_t i = 0; i < count; i++) {
        sorted[begin[classes[i]]++] = characters[i];
    }
    memcpy(characters, sorted, count * sizeof *sorted);
    for (size_t i = 0; i < count; i++) {
        classes[i] = (uint8_t)unicode_combining_class(characters[i]);
    }
    free(sorted);
    return true;
}

/* Canonical order: within a run of characters of non-zero class, by class, equal ones unmoved. */
static bool cluster_order(cluster *cl) {
    for (size_t i = 0; i < cl->count;) {
        if (cl->classes[i] == 0) {
            i++;
            continue;
        }
        size_t end = i + 1;
        while (end < cl->count && cl->classes[end] != 0) {
            end++;
        }
        if (end - i <= SMALL_RUN) {
            order_by_insertion(cl->characters + i, cl->classes + i, end - i);
        } else if (!order_by_counting(cl->characters + i, cl->classes + i, end - i)) {
            return false;
        }
        i = end;
    }
    return true;
}

/* Joins each character with the last starter before it, unless a character between them, kept, has
 * a class that is not lower. */
static void cluster_compose(cluster *cl) {
    size_t kept = 0, starter = SIZE_MAX;
    unsigned last_class = 0; /* of the last kept character after the starter; 0: none */
    for (size_t i = 0; i < cl->count; i++) {
        uint32_t c = cl->characters[i];
        unsigned combining_class = cl->classes[i];
        bool adjacent = starter != SIZE_MAX && kept == starter + 1;
        if (starter != SIZE_MAX && (adjacent || (last_class && last_class < combining_class))) {
            uint32_t composite = unicode_compose(cl->characters[starter], c);
            if (composite) {
                cl->characters[starter] = composite;
                continue;
            }
        }
        if (combining_class == 0) {
            starter = kept;
        }
        last_class = combining_class;
        cl->characters[kept++] = c;
    }
    cl->count = kept;
}

static bool cluster_write(cluster *cl, buffer *out) {
    if (!cluster_order(cl)) {
        return false;
    }
    cluster_compose(cl);
    for (size_t i = 0; i < cl->count; i++) {
        uint8_t bytes[4];
        buffer_append(out, bytes, utf8_encode(cl->characters[i], bytes));
    }
    cl->count = 0;
    return !out->failed;
}

/* Takes in the cluster that begins at `at`; returns where it ends, or SIZE_MAX without memory. */
static size_t cluster_read(cluster *cl, const uint8_t *text, size_t size, size_t at) {
    for (bool first = true; at < size; first = false) {
        uint32_t c;
        size_t length = utf8_decode(text + at, size - at, &c);
        if (length == 0 || (!first && !unicode_needs_nfc(c))) {
            break;
        }
        if (!cluster_add(cl, c)) {
            return SIZE_MAX;
        }
        at += length;
    }
    return at;
}

bool normalize_nfc(const uint8_t *text, size_t size, buffer *out) {
    cluster cl = {0};
    bool good = true;
    for (size_t at = 0; good && at < size;) {
        size_t needed = at + normalize_first_needed(text + at, size - at);
        buffer_append(out, text + at, needed - at);
        at = needed;
        if (at < size) {
            at = cluster_read(&cl, text, size, at);
            good = at != SIZE_MAX && cluster_write(&cl, out);
        }
    }
    free(cl.characters);
    free(cl.classes);
    return good && !out->failed;
}
