/* Shapes of a kernel's arguments, written as in xlstm_parameter ("B,NH,(NC+1)*DHQK,DHHV"), and the
 * sizes that stand behind their names. */
#ifndef OPS_KERNEL_SHAPE_H
#define OPS_KERNEL_SHAPE_H

#include "xlstm_kernels.h"

enum { KERNEL_MOST_SIZES = 16, KERNEL_DEFAULT_CHUNK = 64 };

/* Sizes by name. Start from zeros and chunk_size, which NC, the number of chunks, comes from. */
typedef struct kernel_sizes {
    int64_t chunk_size; /* 0: KERNEL_DEFAULT_CHUNK */
    int count;
    char name[KERNEL_MOST_SIZES][8];
    int64_t value[KERNEL_MOST_SIZES];
} kernel_sizes;

int kernel_shape_rank(const char *shape);
/* Takes sizes that are not known yet from an array's shape; false where it does not agree. The
 * expected shape comes out in any case: -1 is a size that is not known. */
bool kernel_shape_match(kernel_sizes *sizes, const char *shape, const int64_t *actual,
                        int64_t *expected);
/* The shape of an argument once the sizes are known; false if one is not, or is too large. */
bool kernel_shape_evaluate(kernel_sizes *sizes, const char *shape, int64_t *out);
/* -1: not known. */
int64_t kernel_size(const kernel_sizes *sizes, const char *name);

#endif
