/* XXH64, written from its specification (xxHash fast digest algorithm, version 0.1.1).
 * Bytes are read as little-endian whatever the machine, so that checksums travel. */
#include "base/hash.h"

#include <string.h>

static const uint64_t prime1 = 0x9E3779B185EBCA87u, prime2 = 0xC2B2AE3D27D4EB4Fu,
                      prime3 = 0x165667B19E3779F9u, prime4 = 0x85EBCA77C2B2AE63u,
                      prime5 = 0x27D4EB2F165667C5u;

static uint64_t rotate(uint64_t value, int by) {
    return value << by | value >> (64 - by);
}

static uint64_t read64(const uint8_t *p) {
    uint64_t value;
    memcpy(&value, p, sizeof value);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    value = __builtin_bswap64(value);
#endif
    return value;
}

static uint32_t read32(const uint8_t *p) {
    uint32_t value;
    memcpy(&value, p, sizeof value);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    value = __builtin_bswap32(value);
#endif
    return value;
}

static uint64_t mix(uint64_t lane, uint64_t input) {
    return rotate(lane + input * prime2, 31) * prime1;
}

void hash64_init(hash64 *h, uint64_t seed) {
    *h = (hash64){.lanes = {seed + prime1 + prime2, seed + prime2, seed, seed - prime1},
                  .seed = seed};
}

static const uint8_t *take_stripes(hash64 *h, const uint8_t *p, size_t stripes) {
    uint64_t a = h->lanes[0], b = h->lanes[1], c = h->lanes[2], d = h->lanes[3];
    for (; stripes > 0; stripes--, p += 32) {
        a = mix(a, read64(p));
        b = mix(b, read64(p + 8));
        c = mix(c, read64(p + 16));
        d = mix(d, read64(p + 24));
    }
    h->lanes[0] = a, h->lanes[1] = b, h->lanes[2] = c, h->lanes[3] = d;
    return p;
}

void hash64_update(hash64 *h, const void *bytes, size_t count) {
    const uint8_t *p = bytes;
    if (count == 0)
        return;
    h->total += count;
    if (h->tail_size) {
        size_t taken = sizeof h->tail - h->tail_size;
        if (taken > count)
            taken = count;
        memcpy(h->tail + h->tail_size, p, taken);
        h->tail_size += taken;
        p += taken;
        count -= taken;
        if (h->tail_size < sizeof h->tail)
            return;
        take_stripes(h, h->tail, 1);
    }
    p = take_stripes(h, p, count / 32);
    h->tail_size = count % 32;
    if (h->tail_size)
        memcpy(h->tail, p, h->tail_size);
}

static uint64_t merge_lanes(const hash64 *h) {
    uint64_t value = rotate(h->lanes[0], 1) + rotate(h->lanes[1], 7) + rotate(h->lanes[2], 12) +
                     rotate(h->lanes[3], 18);
    for (int i = 0; i < 4; i++)
        value = (value ^ mix(0, h->lanes[i])) * prime1 + prime4;
    return value;
}

uint64_t hash64_digest(const hash64 *h) {
    uint64_t value = h->total >= 32 ? merge_lanes(h) : h->seed + prime5;
    value += h->total;
    const uint8_t *p = h->tail;
    size_t left = h->tail_size;
    for (; left >= 8; left -= 8, p += 8)
        value = rotate(value ^ mix(0, read64(p)), 27) * prime1 + prime4;
    if (left >= 4) {
        value = rotate(value ^ read32(p) * prime1, 23) * prime2 + prime3;
        left -= 4;
        p += 4;
    }
    for (; left > 0; left--, p++)
        value = rotate(value ^ *p * prime5, 11) * prime1;
    value = (value ^ value >> 33) * prime2;
    value = (value ^ value >> 29) * prime3;
    return value ^ value >> 32;
}

uint64_t hash64_of(const void *bytes, size_t count, uint64_t seed) {
    hash64 h;
    hash64_init(&h, seed);
    hash64_update(&h, bytes, count);
    return hash64_digest(&h);
}
