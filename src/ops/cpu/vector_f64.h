/* vector.h for f64. */
#ifndef OPS_CPU_VECTOR_F64_H
#define OPS_CPU_VECTOR_F64_H

/* a b + c, rounded once where the instruction set can. */
ALWAYS_INLINE vec fused(vec a, vec b, vec c) {
#if defined(__AVX512F__)
    return (vec)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__FMA__)
    return (vec)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__aarch64__)
    return (vec)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
    return a * b + c;
#endif
}

/* Lanes are added to those half the width away, then a quarter, and so on. */
ALWAYS_INLINE double fold(vec v) {
    double lanes[LANES];
    memcpy(lanes, &v, sizeof v);
    UNROLL
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            lanes[i] += lanes[i + half];
    return lanes[0];
}

ALWAYS_INLINE void store_folds(real *p, vec a, vec b, vec c, vec d) {
    p[0] = fold(a);
    p[1] = fold(b);
    p[2] = fold(c);
    p[3] = fold(d);
}

/* exp with a relative error of about a unit in the last place: x = n ln 2 + r, |r| <= ln(2) / 2,
 * the series of exp(r) to r^13 / 13!, and 2^n multiplied in two halves, so that subnormal results
 * are right too. -inf gives 0, NaN gives NaN. */
ALWAYS_INLINE vec exp_vec(vec x) {
    static const double reciprocal_factorials[] = {
        1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0,
        1.0 / 362880.0,     1.0 / 40320.0,     1.0 / 5040.0,     1.0 / 720.0,
        1.0 / 120.0,        1.0 / 24.0,        1.0 / 6.0,        1.0 / 2.0};
    enum { TERMS = sizeof reciprocal_factorials / sizeof *reciprocal_factorials };
    const vec high = splat(710), low = splat(-746), magic = splat(0x1.8p52);
    x = choose((vec_bits)(x > high), high, x);
    x = choose((vec_bits)(x < low), low, x);
    vec shifted = x * splat(0x1.71547652b82fep0) + magic, n = shifted - magic;
    vec r = fused(n, splat(-0x1.62e42feep-1), x); /* exact: 32 bits times an integer of 11 bits */
    r = fused(n, splat(-0x1.a39ef35793c76p-33), r);
    vec p = splat(reciprocal_factorials[0]);
    UNROLL
    for (int i = 1; i < TERMS; i++)
        p = fused(p, r, splat(reciprocal_factorials[i]));
    p = fused(p, r * r, r) + splat(1);
    /* The low bits of `shifted` are n. Halves of n + 2048 keep the arithmetic unsigned. */
    vec_bits biased = (vec_bits)shifted - (vec_bits)magic + 2048;
    vec_bits first = biased >> 1, second = biased - first;
    return p * (vec)((first - 1) << 52) * (vec)((second - 1) << 52);
}

ALWAYS_INLINE vec tanh_vec(vec x) {
    UNROLL
    for (int i = 0; i < LANES; i++)
        x[i] = tanh(x[i]);
    return x;
}

#endif
