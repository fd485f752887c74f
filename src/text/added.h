/* Finding added tokens in text: the leftmost match and, of those that begin there, the longest. */
#ifndef TEXT_ADDED_H
#define TEXT_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A match can take this much looking ahead at every byte of a text, so it is bounded. */
enum { ADDED_LENGTH_MAX = 1024 };

typedef struct added_node {
    int32_t child, sibling; /* -1: none */
    int32_t id;             /* the token that ends here, or -1 */
    uint8_t byte;
} added_node;

/* A trie of tokens, immutable once built. */
typedef struct added_trie {
    int32_t roots[256]; /* node of each first byte, or -1 */
    added_node *nodes;
    size_t count, capacity;
} added_trie;

void added_trie_init(added_trie *trie);
void added_trie_free(added_trie *trie);

/* Adds a token of 1 to ADDED_LENGTH_MAX bytes. `*existing` is the id that these bytes had before,
 * or -1. False: out of memory. */
bool added_trie_add(added_trie *trie, const uint8_t *bytes, size_t size, int32_t id,
                    int32_t *existing);

typedef struct added_match {
    int32_t id; /* -1: no match up to the end */
    size_t start, end;
} added_match;

/* The first match at or after `from`; without one, start and end are `size`. */
added_match added_trie_find(const added_trie *trie, const uint8_t *text, size_t size, size_t from);

#endif
