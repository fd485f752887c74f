/* Philox4x32-10: a counter-based generator. Each output is ten rounds of a keyed bijection of the
 * counter, so that any number can be had without those before it.
 * Salmon, Moraes, Dror, Shaw: "Parallel Random Numbers: As Easy as 1, 2, 3", SC11, section 4.3. */
#include "base/random.h"

typedef struct philox {
    uint32_t word[4];
} philox;

static philox philox_block(uint64_t seed, uint64_t stream, uint64_t counter) {
    uint32_t x0 = (uint32_t)counter, x1 = (uint32_t)(counter >> 32);
    uint32_t x2 = (uint32_t)stream, x3 = (uint32_t)(stream >> 32);
    uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t product0 = (uint64_t)0xD2511F53u * x0, product1 = (uint64_t)0xCD9E8D57u * x2;
        x0 = (uint32_t)(product1 >> 32) ^ x1 ^ key0;
        x1 = (uint32_t)product1;
        x2 = (uint32_t)(product0 >> 32) ^ x3 ^ key1;
        x3 = (uint32_t)product0;
        key0 += 0x9E3779B9u; /* the Weyl sequence of the key: golden ratio, sqrt(3) - 1 */
        key1 += 0xBB67AE85u;
    }
    return (philox){{x0, x1, x2, x3}};
}

static uint64_t join(uint32_t low, uint32_t high) {
    return (uint64_t)high << 32 | low;
}

static double unit(uint64_t bits) {
    return (double)(bits >> 11) * 0x1p-53;
}

uint64_t random_bits(uint64_t seed, uint64_t stream, uint64_t counter) {
    philox block = philox_block(seed, stream, counter);
    return join(block.word[0], block.word[1]);
}

double random_uniform(uint64_t seed, uint64_t stream, uint64_t counter) {
    return unit(random_bits(seed, stream, counter));
}
