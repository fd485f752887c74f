/* Byte-pair merging: a hash table from pairs of ids to merges, and two ways to apply them that give
 * the same result. Words are short, and for them the fastest way is to look for the lowest rank in
 * an array and close the gap. That is quadratic, so long pieces (a megabyte of one letter is one
 * piece) go through a heap of pairs over a linked list: O(n log n). */
#include "text/bpe.h"

#include <stdlib.h>
#include <string.h>

#define BPE_NO_PAIR UINT64_MAX

enum { SHORT_PIECE = 48 };

static const uint32_t no_rank = UINT32_MAX;
static const uint32_t nowhere = UINT32_MAX;

static uint64_t make_pair(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static uint64_t hash_pair(uint64_t pair) {
    uint64_t h = pair * 0x9E3779B97F4A7C15u;
    return h ^ h >> 29;
}

bool bpe_merges_create(bpe_merges *merges, size_t count) {
    size_t places = 16;
    while (places / 2 < count)
        places *= 2;
    merges->places = malloc(places * sizeof *merges->places);
    if (!merges->places)
        return false;
    for (size_t i = 0; i < places; i++)
        merges->places[i] = (bpe_merge){.pair = BPE_NO_PAIR, .rank = no_rank, .id = -1};
    merges->mask = places - 1;
    return true;
}

void bpe_merges_free(bpe_merges *merges) {
    free(merges->places);
    *merges = (bpe_merges){0};
}

/* The place of the pair, or the empty place where it would be. */
static bpe_merge *find(const bpe_merges *merges, uint64_t pair) {
    uint64_t at = hash_pair(pair) & merges->mask;
    while (merges->places[at].pair != pair && merges->places[at].pair != BPE_NO_PAIR)
        at = (at + 1) & merges->mask;
    return &merges->places[at];
}

void bpe_merges_add(bpe_merges *merges, int32_t left, int32_t right, uint32_t rank, int32_t id) {
    uint64_t pair = make_pair(left, right);
    *find(merges, pair) = (bpe_merge){.pair = pair, .rank = rank, .id = id};
}

static uint32_t rank_of(const bpe_merges *merges, int32_t left, int32_t right) {
    return find(merges, make_pair(left, right))->rank;
}

void bpe_scratch_free(bpe_scratch *scratch) {
    free(scratch->previous);
    free(scratch->next);
    free(scratch->ranks);
    free(scratch->heap);
    *scratch = (bpe_scratch){0};
}

static bool scratch_reserve(bpe_scratch *scratch, size_t count) {
    if (count <= scratch->capacity)
        return true;
    bpe_scratch_free(scratch);
    if (count > SIZE_MAX / (2 * sizeof(uint64_t)))
        return false;
    scratch->previous = malloc(count * sizeof *scratch->previous);
    scratch->next = malloc(count * sizeof *scratch->next);
    scratch->ranks = malloc(count * sizeof *scratch->ranks);
    scratch->heap = malloc(2 * count * sizeof *scratch->heap);
    if (!scratch->previous || !scratch->next || !scratch->ranks || !scratch->heap) {
        bpe_scratch_free(scratch);
        return false;
    }
    scratch->capacity = count;
    return true;
}

static size_t merge_short(const bpe_merges *merges, int32_t *ids, size_t count) {
    const bpe_merge *found[SHORT_PIECE]; /* the merge of ids[i] and ids[i + 1] */
    for (size_t i = 0; i + 1 < count; i++)
        found[i] = find(merges, make_pair(ids[i], ids[i + 1]));
    while (count > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < count; i++) {
            if (found[i]->rank < found[best]->rank)
                best = i;
        }
        if (found[best]->rank == no_rank)
            break;
        ids[best] = found[best]->id;
        memmove(ids + best + 1, ids + best + 2, (count - best - 2) * sizeof *ids);
        if (count - best > 3)
            memmove(found + best + 1, found + best + 2, (count - best - 3) * sizeof(*found));
        count--;
        if (best > 0)
            found[best - 1] = find(merges, make_pair(ids[best - 1], ids[best]));
        if (best + 1 < count)
            found[best] = find(merges, make_pair(ids[best], ids[best + 1]));
    }
    return count;
}

static void heap_push(uint64_t *heap, size_t *count, uint64_t value) {
    size_t at = (*count)++;
    for (; at > 0 && heap[(at - 1) / 2] > value; at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = value;
}

static uint64_t heap_pop(uint64_t *heap, size_t *count) {
    uint64_t least = heap[0], last = heap[--*count];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < *count; at = child) {
        if (child + 1 < *count && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= last)
            break;
        heap[at] = heap[child];
    }
    heap[at] = last;
    return least;
}

/* Looks up the pair that begins at `at` and puts it on the heap, ordered by rank and then position.
 */
static void enter(const bpe_merges *merges, bpe_scratch *scratch, const int32_t *ids, uint32_t at,
                  size_t *heap_count) {
    uint32_t right = scratch->next[at];
    uint32_t rank = right == nowhere ? no_rank : rank_of(merges, ids[at], ids[right]);
    scratch->ranks[at] = rank;
    if (rank != no_rank)
        heap_push(scratch->heap, heap_count, (uint64_t)rank << 32 | at);
}

/* A pair on the heap is current if ranks[] of its position still has its rank: a rank belongs to
 * one pair, and the texts at a position only grow, so it cannot come back. Every merge takes one
 * entry and adds at most two, so 2 * count entries are enough. */
static size_t merge_long(const bpe_merges *merges, bpe_scratch *scratch, int32_t *ids,
                         size_t count) {
    if (!scratch_reserve(scratch, count))
        return SIZE_MAX;
    uint32_t *previous = scratch->previous, *next = scratch->next, *ranks = scratch->ranks;
    size_t heap_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        previous[i] = i > 0 ? i - 1 : nowhere;
        next[i] = i + 1 < count ? i + 1 : nowhere;
    }
    for (uint32_t i = 0; i < count; i++)
        enter(merges, scratch, ids, i, &heap_count);
    while (heap_count > 0) {
        uint64_t top = heap_pop(scratch->heap, &heap_count);
        uint32_t at = (uint32_t)top, right = next[at];
        if (ranks[at] != (uint32_t)(top >> 32))
            continue;
        ids[at] = find(merges, make_pair(ids[at], ids[right]))->id;
        ranks[right] = no_rank;
        next[at] = next[right];
        if (next[at] != nowhere)
            previous[next[at]] = at;
        if (previous[at] != nowhere)
            enter(merges, scratch, ids, previous[at], &heap_count);
        enter(merges, scratch, ids, at, &heap_count);
    }
    size_t kept = 0;
    for (uint32_t at = 0; at != nowhere; at = next[at])
        ids[kept++] = ids[at];
    return kept;
}

size_t bpe_merge_all(const bpe_merges *merges, bpe_scratch *scratch, int32_t *ids, size_t count) {
    if (count < 2)
        return count;
    if (count <= SHORT_PIECE)
        return merge_short(merges, ids, count);
    return merge_long(merges, scratch, ids, count);
}
