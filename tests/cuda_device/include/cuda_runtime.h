/* The runtime and the language of kernels, as nvcc includes them in front of each .cu file. See ../device.h. */
#ifndef CUDA_DEVICE_RUNTIME_H
#define CUDA_DEVICE_RUNTIME_H

#include "cuda_device/language.h"
#include "cuda_runtime_api.h"

#endif
