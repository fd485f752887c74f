/* Two-float arithmetic: a number is the unevaluated sum of two floats, high + low, with high the
 * float nearest to the sum, which gives about 48 bits where there is no double. One header for C,
 * CUDA C++ and Metal C++; it includes nothing.
 *
 * The error-free transforms turn a rounded operation into an exact pair (result, error):
 *   two_sum       Knuth, The Art of Computer Programming, vol. 2 (1969), section 4.2.2, theorem B
 *   fast_two_sum  Dekker, Numerische Mathematik 18 (1971)
 *   two_product   the error of a product is one fused multiply-add (Ogita, Rump, Oishi: Accurate sum
 *                 and dot product, SIAM J. Sci. Comput. 26 (2005))
 * The operations on pairs and their bounds: Joldes, Muller, Popescu: Tight and rigorous error bounds
 * for basic building blocks of double-word arithmetic, ACM TOMS 44 (2017).
 *
 * u = 2^-24. Bounds hold without overflow, and for products where the error of the product is not
 * below the smallest float: |a b| >= 2^-102, or a b = 0. Below that a product is off by 2^-150 at
 * most. An infinity or a NaN in either part makes the result an infinity or a NaN, with a low part
 * that means nothing; who may meet them asks two_float_finite first.
 *
 * All of it depends on operations being rounded as written: no fast-math, no contraction of a * b + c
 * (-ffp-contract=off, nvcc -fmad=false, Metal -fno-fast-math). */
#ifndef OPS_TWO_FLOAT_H
#define OPS_TWO_FLOAT_H

#if defined(__FAST_MATH__) || defined(__USE_FAST_MATH__)
#error "two_float.h must be compiled without fast-math: its error terms would be optimised away"
#endif

/* What the languages call differently: the qualifier of a function, the fused multiply-add rounded
 * to nearest, and the float of given bits. */
#if defined(__METAL_VERSION__)
#define TWO_FLOAT_FUNCTION static inline
#define TWO_FLOAT_FMA(a, b, c) metal::fma(a, b, c)
#define TWO_FLOAT_OF_BITS(bits) as_type<float>(bits)
#elif defined(__CUDACC__)
#define TWO_FLOAT_FUNCTION static __host__ __device__ __forceinline__
#define TWO_FLOAT_FMA(a, b, c) fmaf(a, b, c)
#define TWO_FLOAT_OF_BITS(bits) two_float_of_bits(bits)
#else
#define TWO_FLOAT_FUNCTION static inline
#define TWO_FLOAT_FMA(a, b, c) __builtin_fmaf(a, b, c)
#define TWO_FLOAT_OF_BITS(bits) two_float_of_bits(bits)
#endif

#if !defined(__METAL_VERSION__)
TWO_FLOAT_FUNCTION float two_float_of_bits(unsigned bits) {
    union {
        unsigned bits;
        float value;
    } u;
    u.bits = bits;
    return u.value;
}
#endif

typedef struct two_float {
    float high, low;
} two_float;

TWO_FLOAT_FUNCTION two_float two_float_make(float high, float low) {
    two_float x;
    x.high = high;
    x.low = low;
    return x;
}

/* ---- Error-free transforms ---- */

/* high = a + b rounded; high + low = a + b exactly. */
TWO_FLOAT_FUNCTION two_float two_sum(float a, float b) {
    float sum = a + b;
    float b_seen = sum - a;
    float a_seen = sum - b_seen;
    return two_float_make(sum, (a - a_seen) + (b - b_seen));
}

/* The same where |a| >= |b| or a = 0. */
TWO_FLOAT_FUNCTION two_float fast_two_sum(float a, float b) {
    float sum = a + b;
    return two_float_make(sum, b - (sum - a));
}

/* high = a b rounded; high + low = a b exactly. */
TWO_FLOAT_FUNCTION two_float two_product(float a, float b) {
    float product = a * b;
    return two_float_make(product, TWO_FLOAT_FMA(a, b, -product));
}

/* ---- Pairs ---- */

/* Neither infinite nor NaN. */
TWO_FLOAT_FUNCTION int two_float_finite(float x) {
    return x - x == 0;
}

/* x < y; false where either is NaN. An infinity has low 0. */
TWO_FLOAT_FUNCTION int two_float_less(two_float x, two_float y) {
    return x.high < y.high || (x.high == y.high && x.low < y.low);
}

/* x + b, relative error at most 2 u^2. */
TWO_FLOAT_FUNCTION two_float two_float_add_float(two_float x, float b) {
    two_float s = two_sum(x.high, b);
    return fast_two_sum(s.high, s.low + x.low);
}

/* x + y, relative error at most 3 u^2 / (1 - 4 u), also where they nearly cancel. */
TWO_FLOAT_FUNCTION two_float two_float_add(two_float x, two_float y) {
    two_float s = two_sum(x.high, y.high), t = two_sum(x.low, y.low);
    two_float v = fast_two_sum(s.high, s.low + t.high);
    return fast_two_sum(v.high, t.low + v.low);
}

TWO_FLOAT_FUNCTION two_float two_float_subtract(two_float x, two_float y) {
    return two_float_add(x, two_float_make(-y.high, -y.low));
}

/* x b, relative error at most 2 u^2. */
TWO_FLOAT_FUNCTION two_float two_float_multiply_float(two_float x, float b) {
    two_float p = two_product(x.high, b);
    return fast_two_sum(p.high, TWO_FLOAT_FMA(x.low, b, p.low));
}

/* x y, relative error at most 6 u^2. */
TWO_FLOAT_FUNCTION two_float two_float_multiply(two_float x, two_float y) {
    two_float p = two_product(x.high, y.high);
    float cross = TWO_FLOAT_FMA(x.low, y.high, x.high * y.low);
    return fast_two_sum(p.high, p.low + cross);
}

/* x + y, absolute error at most 4 u^2 (|x| + |y|): the two low parts and the rest of the sum of the
 * high ones are added in float. n of these lose n times as much at most, so that a sum of n products
 * is within u |sum| + 4 n u^2 (sum of |a b|) after it is rounded to a float. */
TWO_FLOAT_FUNCTION two_float two_float_accumulate(two_float x, two_float y) {
    two_float s = two_sum(x.high, y.high);
    return two_sum(s.high, s.low + (x.low + y.low));
}

/* x + a b, in the same way. */
TWO_FLOAT_FUNCTION two_float two_float_add_product(two_float x, float a, float b) {
    return two_float_accumulate(x, two_product(a, b));
}

/* x / y, relative error at most 16 u^2; x / inf is 0. */
TWO_FLOAT_FUNCTION two_float two_float_divide(two_float x, two_float y) {
    float quotient = x.high / y.high;
    if (!two_float_finite(quotient) || !two_float_finite(y.high))
        return two_float_make(quotient, 0);
    two_float product = two_float_multiply_float(y, quotient);
    float rest = (x.high - product.high) + (x.low - product.low);
    return fast_two_sum(quotient, rest / y.high);
}

/* x / y as a float, relative error at most u + 8 u^2 unless it is below 2^-102. */
TWO_FLOAT_FUNCTION float two_float_quotient(two_float x, two_float y) {
    float quotient = x.high / y.high;
    if (!two_float_finite(quotient) || !two_float_finite(y.high))
        return quotient;
    float rest = TWO_FLOAT_FMA(-quotient, y.high, x.high);
    return quotient + (rest + TWO_FLOAT_FMA(-quotient, y.low, x.low)) / y.high;
}

/* ---- Functions for gates ---- */

/* 2^n, n in [-126, 127]. */
TWO_FLOAT_FUNCTION float two_float_power(int n) {
    return TWO_FLOAT_OF_BITS((unsigned)(n + 127) << 23);
}

/* exp(x); relative error at most u / 4 as a pair, near 0 even 2 u x^2 + 2 u^2, as long as the result
 * is at least 2^-102; below, 2^-148 is added to it. NaN gives NaN.
 *   x = n log 2 + r,  |r| <= log 2 / 2,  exp(x) = 2^n (1 + r + r^2 (1/2 + r/6 + ...))
 * 1 + r is kept exactly, so that only the small rest carries a rounding error. */
TWO_FLOAT_FUNCTION two_float two_float_exp(two_float x) {
    if (x.high != x.high)
        return x;
    if (x.high < -110.0f)
        return two_float_make(0, 0);
    if (x.high > 88.72283f) /* log of the largest float */
        return two_float_make(two_float_power(127) * 2, 0);
    /* log 2 in two parts, the first of 15 bits, so that n times it is exact */
    const float first = 0.693145751953125f, second = 1.42860682030941723e-6f;
    const float round = 12582912.0f; /* 1.5 * 2^23: a sum with it has no fraction */
    float n = TWO_FLOAT_FMA(x.high, 1.44269504f, round) - round;
    two_float r = two_sum(x.high, -n * first);
    r = fast_two_sum(r.high, r.low + TWO_FLOAT_FMA(-n, second, x.low));
    float a = r.high;
    float p = 1.0f / 40320;
    p = TWO_FLOAT_FMA(p, a, 1.0f / 5040);
    p = TWO_FLOAT_FMA(p, a, 1.0f / 720);
    p = TWO_FLOAT_FMA(p, a, 1.0f / 120);
    p = TWO_FLOAT_FMA(p, a, 1.0f / 24);
    p = TWO_FLOAT_FMA(p, a, 1.0f / 6);
    p = TWO_FLOAT_FMA(p, a, 0.5f);
    two_float one = fast_two_sum(1, a);
    float rest = TWO_FLOAT_FMA(a * a, p, TWO_FLOAT_FMA(r.low, a, r.low));
    two_float result = fast_two_sum(one.high, one.low + rest);
    int power = (int)n, half = power / 2;
    float scale = two_float_power(half), more = two_float_power(power - half);
    return two_float_make(result.high * scale * more, result.low * scale * more);
}

/* log(sigmoid(x)) = min(x, 0) - log(1 + y), y = exp(-|x|); relative error at most u / 2 as a pair.
 *   log(1 + y) = 2 atanh(z) = 2 z (1 + z^2 / 3 + z^4 / 5 + ...),  z = y / (2 + y) <= 1/3
 * +inf gives 0, -inf gives -inf, NaN gives NaN. */
TWO_FLOAT_FUNCTION two_float two_float_log_sigmoid(float x) {
    if (x != x || (x < 0 && !two_float_finite(x)))
        return two_float_make(x, 0);
    two_float y = two_float_exp(two_float_make(x < 0 ? x : -x, 0));
    two_float d = fast_two_sum(2, y.high);
    float below = d.low + y.low, z = y.high / d.high;
    float rest = TWO_FLOAT_FMA(-z, d.high, y.high) + TWO_FLOAT_FMA(-z, below, y.low);
    float z_low = rest / d.high, zz = z * z;
    float p = 1.0f / 17;
    p = TWO_FLOAT_FMA(p, zz, 1.0f / 15);
    p = TWO_FLOAT_FMA(p, zz, 1.0f / 13);
    p = TWO_FLOAT_FMA(p, zz, 1.0f / 11);
    p = TWO_FLOAT_FMA(p, zz, 1.0f / 9);
    p = TWO_FLOAT_FMA(p, zz, 1.0f / 7);
    p = TWO_FLOAT_FMA(p, zz, 1.0f / 5);
    p = TWO_FLOAT_FMA(p, zz, 1.0f / 3);
    two_float log1p = fast_two_sum(2 * z, 2 * TWO_FLOAT_FMA(z * zz, p, z_low));
    return two_float_add_float(two_float_make(-log1p.high, -log1p.low), x < 0 ? x : 0);
}

#endif
