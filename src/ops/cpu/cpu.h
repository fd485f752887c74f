/* The device "cpu": threads, and vectors of the widest kind that the processor has (XLSTM_CPU_ISA
 * names another: generic, avx2, avx2vnni, avx512, avx512vnni, amx; on arm64 neon, neon_dotprod,
 * neon_i8mm). Takes f32 activations and states, and weights of any type. */
#ifndef OPS_CPU_CPU_H
#define OPS_CPU_CPU_H

#include "ops/ops.h"

ops_device *cpu_device(void);

#endif
