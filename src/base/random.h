/* Random numbers that are a pure function of (seed, stream, counter), so that they do not depend on
 * the order in which threads or devices ask for them. */
#ifndef BASE_RANDOM_H
#define BASE_RANDOM_H

#include <stdint.h>

uint64_t random_bits(uint64_t seed, uint64_t stream, uint64_t counter);
double random_uniform(uint64_t seed, uint64_t stream, uint64_t counter); /* [0, 1) with 53 bits */

#endif
