/* The kernel library of the device "cpu". */
#include "ops/cpu/internal.h"

const kernel_table cpu_kernel_table = {
    .mlstm = cpu_kernel_mlstm,
    .mlstm_compensated = true,
    .slstm = cpu_kernel_slstm,
    .conv1d = cpu_kernel_conv1d,
    .headwise_linear = cpu_kernel_headwise,
    .rms_norm = cpu_kernel_rms_norm,
    .layer_norm = cpu_kernel_layer_norm,
    .soft_cap = cpu_kernel_soft_cap,
    .swiglu = cpu_kernel_swiglu,
    .gelu_gate = cpu_kernel_gelu_gate,
    .cross_entropy = cpu_kernel_cross_entropy,
};
