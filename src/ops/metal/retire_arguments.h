/* Arguments of the kernel that takes ended sequences from their slots. */
#ifndef OPS_METAL_RETIRE_ARGUMENTS_H
#define OPS_METAL_RETIRE_ARGUMENTS_H

#if !defined(__METAL_VERSION__)
#include <stdint.h>
typedef uint32_t uint;
#endif

typedef struct retire_arguments {
    uint ids_first, ends_first, slot_first; /* in elements */
    uint sequences, ends;
    int spare;
    uint unused[2];
} retire_arguments;

#endif
