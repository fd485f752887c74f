/* A processor of three kernels in plain C, behind gpu.h: tests of the Objective-C device need neither compiled kernels
 * nor what they compute. It does see two things that the device must get right: bounds, and what is ordered by fences.
 *
 *   scale   buffer(0) {uint n; float factor}, buffer(1) const float x[n], buffer(2) float y[n]: y = factor x
 *   count   buffer(0) uint x[1]: x += number of threads
 *   shared  buffer(0) uint x[1]; 30,000 bytes of threadgroup memory, nothing is done
 */
#ifndef METAL_DEVICE_PLAIN_GPU_H
#define METAL_DEVICE_PLAIN_GPU_H

#include "gpu.h"

/* What newLibraryWithSource: must be given. */
extern const char plain_gpu_source[];
/* Fences since the program began. */
extern int plain_gpu_fences;

#endif
