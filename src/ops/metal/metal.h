/* The device "metal": Apple's GPUs. */
#ifndef OPS_METAL_METAL_H
#define OPS_METAL_METAL_H

#include "ops/ops.h"

/* Always there in a build that has it; without a GPU, whatever needs one fails with the reason. */
ops_device *metal_device(void);

#endif
