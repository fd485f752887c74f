/* The scalar functions of the gates, each in the form that neither overflows nor cancels. */
#include "ops/reference/internal.h"

#include <math.h>

/* 1 / (1 + exp(-x)) */
double reference_sigmoid(double x) {
    return x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x));
}

/* log(1 / (1 + exp(-x))) */
double reference_log_sigmoid(double x) {
    return x >= 0 ? -log1p(exp(-x)) : x - log1p(exp(x));
}

/* SELU (Klambauer et al. 2017): the constants keep mean 0 and variance 1. */
static double selu(double z) {
    const double alpha = 1.6732632423543772848, scale = 1.0507009873554804934;
    return scale * (z > 0 ? z : alpha * expm1(z));
}

/* SiLU (Elfwing et al. 2017): z sigmoid(z). GELU (Hendrycks and Gimpel 2016): z Phi(z). */
double reference_activate(enum ops_activation activation, double z) {
    switch (activation) {
    case OPS_SILU:
        return z * reference_sigmoid(z);
    case OPS_GELU:
        return 0.5 * z * erfc(-z / sqrt(2));
    case OPS_RELU:
        return z < 0 ? 0 : z;
    case OPS_RELU_SQUARED:
        return z < 0 ? 0 : z * z;
    case OPS_SIGMOID:
        return reference_sigmoid(z);
    case OPS_SELU:
        return selu(z);
    case OPS_IDENTITY:
        break;
    }
    return z;
}

bool reference_activation_fits(reference_stream *s, const char *op,
                               enum ops_activation activation) {
    return (activation >= OPS_SILU && activation <= OPS_IDENTITY) ||
           reference_fail(s, XLSTM_INVALID_ARGUMENT, "reference %s: no activation has number %d",
                          op, (int)activation);
}

double reference_larger(double a, double b) {
    if (isnan(a) || isnan(b))
        return (double)NAN;
    return a > b ? a : b;
}

double reference_storable_maximum(double m, dtype type) {
    if (type == DTYPE_F64)
        return m;
    float stored = (float)m;
    return (double)((double)stored < m ? nextafterf(stored, INFINITY) : stored);
}
