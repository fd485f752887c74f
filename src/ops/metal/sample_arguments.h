/* Arguments of the kernel that samples. Numbers of 64 bits come as two words. */
#ifndef OPS_METAL_SAMPLE_ARGUMENTS_H
#define OPS_METAL_SAMPLE_ARGUMENTS_H

#if !defined(__METAL_VERSION__)
#include <stdint.h>
typedef uint32_t uint;
#endif

enum { SAMPLE_ROWS = 60 /* of a dispatch */ };

/* struct ops_sample_row, as integers: the kernel has no floating point. */
typedef struct sample_rule {
    int limit;
    int top_k; /* 0: off */
    uint greedy;
    uint penalty;         /* 24 bits, the highest set; 0: off */
    int penalty_exponent; /* the penalty is `penalty` times this power of 2 */
    int penalised_first, penalised_count;
    int scale_exponent;
    uint scale_high, scale_low; /* log2(e) / temperature: highest bit set, times that power of 2 */
    uint uniform_high, uniform_low; /* times 2^-64 */
    uint top_p_high, top_p_low;     /* times 2^-64; 0: off */
    uint least_high, least_low;     /* min_p, times 2^-62, rounded up */
} sample_rule;

typedef struct sample_arguments {
    uint logits_first, penalised_first, out_first, listed_first, faults_first; /* in elements */
    uint logits_stride;
    uint first_row; /* of the dispatch, for faults */
    uint words;     /* a row of `listed` */
    sample_rule rule[SAMPLE_ROWS];
} sample_arguments;

#endif
