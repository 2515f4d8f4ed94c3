// e^x for x <= 0, without a call: x = n ln2 + rest, a polynomial in the rest, a product with 2^n. Below the cutoff,
// -inf included, exactly 0; NaN stays NaN (hence a product, and not an addition to the exponent's bits, for 2^n).
#pragma once
#include "kernels/cpu/simd.h"

namespace {

// 1.5 * 2^23 + 127: added to x / ln2, it leaves the biased exponent of 2^n in the low bits, n the nearest integer.
constexpr float kRounding = 12583039.0f;
constexpr double kRounding64 = 0x1.8p52 + 1023;

// Relative error 1e-7 + 6e-8 |x|. The cutoff keeps 2^n normal.
template <int Lanes>
inline Vector<float, Lanes> exp_nonpositive(Vector<float, Lanes> x) {
  typedef Vector<float, Lanes> V;
  typedef Vector<uint32_t, Lanes> Bits;
  const V shifted = x * 1.44269504f + kRounding;
  const V f = x * 1.44269504f - (shifted - kRounding);
  // 2^f = 1 + f q(f), q of degree 5 with the least largest relative error (1.6e-8 as rounded) on |f| <= 1/2.
  V p = f * 0.0001535325864f + 0.001339900307f;
  p = p * f + 0.00961843878f;
  p = p * f + 0.05550331995f;
  p = p * f + 0.2402264774f;
  p = p * f + 0.6931471825f;
  p = p * f + 1.0f;
  Bits bits;
  memcpy(&bits, &shifted, sizeof(bits));
  bits <<= 23;
  V power;
  memcpy(&power, &bits, sizeof(power));
  return x < -87.0f ? V{} : p * power;
}

constexpr double kInverseFactorial[] = {1.0,           1.0,            1.0 / 2,        1.0 / 6,      1.0 / 24,
                                        1.0 / 120,     1.0 / 720,      1.0 / 5040,     1.0 / 40320,  1.0 / 362880,
                                        1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600};

// Taylor's polynomial: relative error 6e-9 at Degree 7, 3e-16 at Degree 12.
template <int Degree, int Lanes>
inline Vector<double, Lanes> exp_nonpositive_f64(Vector<double, Lanes> x) {
  typedef Vector<double, Lanes> V;
  typedef Vector<uint64_t, Lanes> Bits;
  const V shifted = x * 1.4426950408889634 + kRounding64;
  const V n = shifted - kRounding64;
  V f;
  if (Degree < 10)
    f = x - n * 0x1.62e42fefa39efp-1;
  else
    f = (x - n * 0x1.62e42feep-1) - n * 0x1.a39ef35793c76p-33;  // ln2 = 32 bits, whose products are exact, + the rest
  V p = splat<V>(kInverseFactorial[Degree]);
  for (int i = Degree - 1; i >= 0; --i) p = p * f + kInverseFactorial[i];
  Bits bits;
  memcpy(&bits, &shifted, sizeof(bits));
  bits <<= 52;
  V power;
  memcpy(&power, &bits, sizeof(power));
  return x < -700.0 ? V{} : p * power;
}

inline double exp_nonpositive(double x) { return exp_nonpositive_f64<12, 2>(Vector<double, 2>{x, x})[0]; }

}  // namespace
