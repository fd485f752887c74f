/* Numbers of 64 bits for sampling: doubles as their bits, and fixed point.
 *
 * A GPU has no double, and what is left of a pair of floats depends on how the compiler treats
 * floating point. Sampling needs comparisons that are exact and sums that depend on no order: both come
 * for nothing with integers. So a logit is the bits of a double, as the rules in ops.h have it; its distance
 * from the highest one is in fixed point; and so is its weight. */
#ifndef OPS_METAL_WIDE_H
#define OPS_METAL_WIDE_H

#include "ops/metal/common.h"

static inline ulong wide(uint high, uint low) {
    return ulong(high) << 32 | ulong(low);
}

static inline uint leading_zeros(ulong x) {
    uint high = uint(x >> 32);
    return high != 0u ? clz(high) : 32u + clz(uint(x));
}

static inline ulong shift_right(ulong x, int by) {
    return by > 63 ? 0ul : x >> ulong(by);
}

/* The upper 64 bits of the product. */
static inline ulong multiply_high(ulong a, ulong b) {
    ulong a_high = a >> 32, a_low = a & 0xfffffffful, b_high = b >> 32, b_low = b & 0xfffffffful;
    ulong cross = a_high * b_low + (a_low * b_low >> 32);
    ulong other = a_low * b_high + (cross & 0xfffffffful);
    return a_high * b_high + (cross >> 32) + (other >> 32);
}

/* ---- Logits as doubles ---- */

constexpr constant ulong hidden_bit = 1ul << 52;

/* The bits of the double that equals a float, which is finite; +0 for -0. */
static inline ulong double_of(uint bits) {
    int exponent = int(bits >> 23 & 0xffu);
    uint mantissa = bits & 0x7fffffu;
    if (exponent == 0) {
        if (mantissa == 0u)
            return 0ul;
        int shift = int(clz(mantissa)) - 8;
        mantissa = mantissa << uint(shift) & 0x7fffffu;
        exponent = 1 - shift;
    }
    return ulong(bits >> 31) << 63 | ulong(exponent + 1023 - 127) << 52 | ulong(mantissa) << 29;
}

/* logit / penalty where it is positive, else logit * penalty, as a double: to the nearest, ties to even. The
 * logit has a float's 24 bits; penalty = p 2^power, p of 24 bits. */
static inline ulong penalise(ulong logit, uint p, int power) {
    if (logit == 0ul)
        return 0ul;
    ulong sign = logit & 1ul << 63;
    int exponent = int(logit >> 52 & 0x7fful);
    ulong m = ((logit & (hidden_bit - 1ul)) | hidden_bit) >> 29;
    if (sign != 0ul) {
        ulong product = m * ulong(p); /* exact: 47 or 48 bits */
        uint shift = leading_zeros(product) - 11u;
        exponent += power + 29 - int(shift);
        return sign | ((ulong(exponent) << 52) + ((product << ulong(shift)) - hidden_bit));
    }
    ulong quotient = (m << 39) / ulong(p), rest = (m << 39) % ulong(p) << 24;
    quotient = quotient << 24 | rest / ulong(p);
    rest %= ulong(p);
    exponent += -power - 23;
    if (quotient >> 63 == 0ul) {
        quotient <<= 1;
        exponent--;
    }
    ulong value = quotient >> 11, below = quotient << 53 | (rest != 0ul ? 1ul : 0ul);
    if (below > 1ul << 63 || (below == 1ul << 63 && (value & 1ul) != 0ul))
        value++;
    return (ulong(exponent) << 52) + (value - hidden_bit);
}

/* Integers that rise as logits fall; of no logit: the greatest. */
constexpr constant ulong no_rank = ~0ul;
static inline ulong rank_of_double(ulong bits) {
    return bits >> 63 != 0ul ? bits : ~(bits | 1ul << 63);
}
static inline ulong double_of_rank(ulong rank) {
    return rank >> 63 != 0ul ? rank : ~rank & ~(1ul << 63);
}

/* ---- Weights ---- */

/* (highest - logit) * scale in units of 2^-57, or the greatest number where that is too much; it does not
 * fall as logits fall. Both are doubles; scale is M 2^power, the highest bit of M set. */
static inline ulong distance_of(ulong highest, ulong logit, ulong scale, int power) {
    int high_exponent = int(highest >> 52 & 0x7fful), exponent = int(logit >> 52 & 0x7fful);
    int top = max(high_exponent, exponent);
    ulong a = highest & (hidden_bit - 1ul), b = logit & (hidden_bit - 1ul);
    a |= high_exponent != 0 ? hidden_bit : 0ul;
    b |= exponent != 0 ? hidden_bit : 0ul;
    a = shift_right(a << 9, top - high_exponent); /* units of 2^(top - 1084) */
    b = shift_right(b << 9, top - exponent);
    a = highest >> 63 != 0ul ? 0ul - a : a;
    b = logit >> 63 != 0ul ? 0ul - b : b;
    ulong difference = a - b;
    if (difference == 0ul)
        return 0ul;
    uint zeros = leading_zeros(difference);
    ulong product = multiply_high(difference << ulong(zeros), scale);
    int right = -(64 - int(zeros) + top - 1084 + power + 57);
    return right < 0 ? ~0ul : shift_right(product, right);
}

/* 2^63 2^(-j / 32) */
constant ulong roots[32] = {
    0x8000000000000000ul, 0x7d41d96db915019dul, 0x7a92be8a92436616ul, 0x77f25ccdee6d7ae6ul,
    0x75606373ee921c97ul, 0x72dc8373be41a454ul, 0x70666f76154a7089ul, 0x6dfddbcbed791babul,
    0x6ba27e656b4eb57aul, 0x69540ec8f895722dul, 0x6712460a8fc24072ul, 0x64dcdec3371793d1ul,
    0x62b39508aa836d6ful, 0x6096266533384a2bul, 0x5e8451cfac061b5ful, 0x5c7dd7a3b17dcf75ul,
    0x5a827999fcef3242ul, 0x5891fac0e95612c8ul, 0x56ac1f752150a563ul, 0x54d0ad5a753e077cul,
    0x52ff6b54d8a89c75ul, 0x513821818624b40cul, 0x4f7a993048d088d7ul, 0x4dc69cdceaa72a9cul,
    0x4c1bf828c6dc54b8ul, 0x4a7a77d47f7b84b1ul, 0x48e1e9b9d588e19bul, 0x47521cc5a2e6a9e0ul,
    0x45cae0f1f545eb73ul, 0x444c0740496d4294ul, 0x42d561b3e6243d8aul, 0x4166c34c5615d0ecul};

/* 2^63 / (7 - j)! */
constant ulong factorials[8] = {0x0006806806806807ul, 0x002d82d82d82d82eul, 0x0111111111111111ul,
                                0x0555555555555555ul, 0x1555555555555555ul, 0x4000000000000000ul,
                                0x8000000000000000ul, 0x8000000000000000ul};

/* 2^(62 - x), x in units of 2^-57; the relative error is 2^-57 where the result is large. The fraction is cut
 * into steps of 1/32, for which there is a table, and a rest w = log(2) / 32 at most, for which
 *   exp(-w) = 1 - w (1 - w (1/2 - w (1/6 - ..))) */
static inline ulong power_of_half(ulong x) {
    uint whole = uint(x >> 57);
    if (whole > 62u)
        return 0ul;
    ulong w = multiply_high((x & (hidden_bit - 1ul)) << 7, 0xb17217f7d1cf79acul);
    ulong sum = factorials[0];
    for (uint k = 1u; k < 8u; k++)
        sum = factorials[k] - multiply_high(w, sum);
    return multiply_high(roots[uint(x >> 52) & 31u], sum) >> ulong(whole);
}

#endif
