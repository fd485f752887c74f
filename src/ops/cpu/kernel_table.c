/* The kernel library of the device "cpu". */
#include "ops/cpu/internal.h"

const kernel_table cpu_kernel_table = {
    .mlstm.run = cpu_kernel_mlstm,
    .mlstm_compensated = true,
    .slstm.run = cpu_kernel_slstm,
    .conv1d.run = cpu_kernel_conv1d,
    .headwise_linear.run = cpu_kernel_headwise,
    .rms_norm.run = cpu_kernel_rms_norm,
    .layer_norm.run = cpu_kernel_layer_norm,
    .soft_cap.run = cpu_kernel_soft_cap,
    .swiglu.run = cpu_kernel_swiglu,
    .gelu_gate.run = cpu_kernel_gelu_gate,
    .cross_entropy.run = cpu_kernel_cross_entropy,
};
