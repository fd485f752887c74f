/* Arguments of the kernels that fetch and add rows. */
#ifndef OPS_METAL_EMBED_ARGUMENTS_H
#define OPS_METAL_EMBED_ARGUMENTS_H

#if !defined(__METAL_VERSION__)
#include <stdint.h>
typedef uint32_t uint;
#endif

typedef struct embed_arguments {
    uint table_first, row_bytes;                         /* in bytes */
    uint rows, width;                                    /* of the table */
    uint ids_first, out_first, faults_first, out_stride; /* in elements */
    uint fault;   /* enum metal_fault, for ids that are no row */
    uint aligned; /* rows begin at multiples of 16 bytes */
    uint unused[2];
} embed_arguments;

enum { SUM_TERMS = 8 };

typedef struct sum_arguments {
    uint first[SUM_TERMS], stride[SUM_TERMS];
    int sign[SUM_TERMS];
    uint count, width, out_first, out_stride;
} sum_arguments;

#endif
