/* Numbers that C and the kernels agree on: types of stored values, kinds of norms. The activations are
 * those of enum ops_activation, the norms those of enum ops_norm_kind. */
#ifndef OPS_METAL_TYPES_H
#define OPS_METAL_TYPES_H

enum metal_type {
    METAL_F32,
    METAL_F16,
    METAL_BF16,
    METAL_Q8_0,
    METAL_Q5_0,
    METAL_Q5_1,
    METAL_Q4_0,
    METAL_Q4_1,
    METAL_IQ4_NL,
    METAL_TYPES
};

enum metal_activation {
    METAL_SILU,
    METAL_GELU,
    METAL_RELU,
    METAL_RELU_SQUARED,
    METAL_SIGMOID,
    METAL_SELU,
    METAL_IDENTITY
};

enum metal_norm_kind { METAL_NORM_NONE, METAL_NORM_RMS, METAL_NORM_LAYER };

#endif
