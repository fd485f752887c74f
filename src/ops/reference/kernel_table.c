/* The kernel library of the device "reference". */
#include "ops/reference/internal.h"

const kernel_table reference_kernel_table = {
    .mlstm = reference_kernel_mlstm,
    .slstm = reference_kernel_slstm,
    .conv1d = reference_kernel_conv1d,
    .headwise_linear = reference_kernel_headwise,
    .rms_norm = reference_kernel_rms_norm,
    .layer_norm = reference_kernel_layer_norm,
    .soft_cap = reference_kernel_soft_cap,
    .swiglu = reference_kernel_swiglu,
    .gelu_gate = reference_kernel_gelu_gate,
    .cross_entropy = reference_kernel_cross_entropy,
};
