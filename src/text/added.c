/* A trie with children as linked lists: added tokens are few, and most bytes of a text begin none.
 */
#include "text/added.h"

#include <stdlib.h>

void added_trie_init(added_trie *trie) {
    *trie = (added_trie){0};
    for (int i = 0; i < 256; i++)
        trie->roots[i] = -1;
}

void added_trie_free(added_trie *trie) {
    free(trie->nodes);
    added_trie_init(trie);
}

static int32_t find_byte(const added_trie *trie, int32_t node, uint8_t byte) {
    while (node >= 0 && trie->nodes[node].byte != byte)
        node = trie->nodes[node].sibling;
    return node;
}

static bool reserve(added_trie *trie, size_t more) {
    if (trie->capacity - trie->count >= more)
        return true;
    size_t capacity = 2 * trie->capacity + more;
    if (capacity > INT32_MAX)
        return false;
    added_node *nodes = realloc(trie->nodes, capacity * sizeof *nodes);
    if (!nodes)
        return false;
    trie->nodes = nodes;
    trie->capacity = capacity;
    return true;
}

bool added_trie_add(added_trie *trie, const uint8_t *bytes, size_t size, int32_t id,
                    int32_t *existing) {
    if (!reserve(trie, size))
        return false;
    int32_t *list = &trie->roots[bytes[0]], node = -1;
    for (size_t i = 0; i < size; i++) {
        node = find_byte(trie, *list, bytes[i]);
        if (node < 0) {
            node = (int32_t)trie->count++;
            trie->nodes[node] =
                (added_node){.child = -1, .sibling = *list, .id = -1, .byte = bytes[i]};
            *list = node;
        }
        list = &trie->nodes[node].child;
    }
    *existing = trie->nodes[node].id;
    trie->nodes[node].id = id;
    return true;
}

/* The longest token at the start of the text: its node, or -1. */
static int32_t longest(const added_trie *trie, const uint8_t *text, size_t size, size_t *length) {
    int32_t best = -1, node = trie->roots[text[0]];
    for (size_t at = 1; node >= 0; at++) {
        if (trie->nodes[node].id >= 0) {
            best = node;
            *length = at;
        }
        if (at >= size)
            break;
        node = find_byte(trie, trie->nodes[node].child, text[at]);
    }
    return best;
}

added_match added_trie_find(const added_trie *trie, const uint8_t *text, size_t size, size_t from) {
    if (trie->count > 0) {
        for (size_t at = from; at < size; at++) {
            size_t length;
            int32_t node =
                trie->roots[text[at]] < 0 ? -1 : longest(trie, text + at, size - at, &length);
            if (node >= 0)
                return (added_match){.id = trie->nodes[node].id, .start = at, .end = at + length};
        }
    }
    return (added_match){.id = -1, .start = size, .end = size};
}
