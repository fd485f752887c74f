/* Byte-pair merging on token ids. */
#ifndef TEXT_BPE_H
#define TEXT_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a pair of neighbouring ids becomes. Pairs of lower rank merge first. */
typedef struct bpe_merge {
    uint64_t pair; /* left << 32 | right; BPE_NO_PAIR: an empty place */
    uint32_t rank;
    int32_t id;
} bpe_merge;

/* An open-addressing hash table of the merges, immutable once built. */
typedef struct bpe_merges {
    bpe_merge *places; /* [mask + 1] */
    uint64_t mask;
} bpe_merges;

/* Room for `count` merges. False: out of memory. */
bool bpe_merges_create(bpe_merges *merges, size_t count);
void bpe_merges_free(bpe_merges *merges);
/* Adds a merge; one that exists already is replaced. */
void bpe_merges_add(bpe_merges *merges, int32_t left, int32_t right, uint32_t rank, int32_t id);

/* Memory for merging long pieces, kept from piece to piece; starts as {0}. */
typedef struct bpe_scratch {
    uint32_t *previous, *next, *ranks; /* [capacity] each */
    uint64_t *heap;                    /* [2 * capacity] */
    size_t capacity;
} bpe_scratch;

void bpe_scratch_free(bpe_scratch *scratch);

enum { BPE_MOST_SYMBOLS = 0x7FFFFFFF };

/* Merges `ids` in place until no pair is left that has a merge: always the pair of the lowest rank,
 * of equal ones the leftmost. `count` <= BPE_MOST_SYMBOLS. Returns the number of ids that remain,
 * or SIZE_MAX without memory. */
size_t bpe_merge_all(const bpe_merges *merges, bpe_scratch *scratch, int32_t *ids, size_t count);

#endif
