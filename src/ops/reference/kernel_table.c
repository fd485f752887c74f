/* The kernel library of the device "reference". */
#include "ops/reference/internal.h"

const kernel_table reference_kernel_table = {
    .mlstm.run = reference_kernel_mlstm,
    .slstm.run = reference_kernel_slstm,
    .conv1d.run = reference_kernel_conv1d,
    .headwise_linear.run = reference_kernel_headwise,
    .rms_norm.run = reference_kernel_rms_norm,
    .layer_norm.run = reference_kernel_layer_norm,
    .soft_cap.run = reference_kernel_soft_cap,
    .swiglu.run = reference_kernel_swiglu,
    .gelu_gate.run = reference_kernel_gelu_gate,
    .cross_entropy.run = reference_kernel_cross_entropy,
};
