/* The device "reference": every op in plain, slow, exact C, on one thread. It is the specification
 * that the other devices are compared with, and shares no code with them. */
#ifndef OPS_REFERENCE_REFERENCE_H
#define OPS_REFERENCE_REFERENCE_H

#include "ops/ops.h"

ops_device *reference_device(void);

#endif
