/* XXH64 (the published algorithm; `xxhsum -H1` computes the same): checksums of files,
 * fingerprints. */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

typedef struct hash64 {
    uint64_t lanes[4], total, seed;
    uint8_t tail[32];
    size_t tail_size;
} hash64;

void hash64_init(hash64 *h, uint64_t seed);
void hash64_update(hash64 *h, const void *bytes, size_t count);
uint64_t hash64_digest(const hash64 *h);
uint64_t hash64_of(const void *bytes, size_t count, uint64_t seed);

#endif
