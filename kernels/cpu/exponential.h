// e^x for x <= 0, without a call: Cody-Waite reduction x = n ln2 + f, a polynomial in f, a product with 2^n.
// Below the cutoff, -inf included, exactly 0; NaN stays NaN (hence the product, not an integer addition, for 2^n).
#pragma once
#include "kernels/cpu/simd.h"

namespace {

// Relative error below 1e-7 (one rounding and a half); the cutoff keeps 2^n normal.
template <int Lanes>
inline Vector<float, Lanes> exp_nonpositive(Vector<float, Lanes> x) {
  typedef Vector<float, Lanes> V;
  typedef Vector<uint32_t, Lanes> Bits;
  const V cutoff = splat<V>(-87.0f);
  const V kept = x < cutoff ? cutoff : x;
  const V shifted = kept * 1.44269504f + 12582912.0f;  // adding 1.5 * 2^23 leaves round(x / ln2) in the low bits
  const V n = shifted - 12582912.0f;
  const V f = (kept - n * 0.693359375f) - n * -2.12194440e-4f;
  // e^f = 1 + f + f^2 q(f), q of degree 4 with the least largest relative error (4.4e-9) on |f| <= ln2 / 2.
  V q = f * 0.0013814467238f + 0.0083687808365f;
  q = q * f + 0.0416683927178f;
  q = q * f + 0.1666651964188f;
  q = q * f + 0.4999999403954f;
  const V mantissa = (q * (f * f) + f) + 1.0f;
  Bits bits;
  memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits + 127u) << 23;
  V power;
  memcpy(&power, &bits, sizeof(power));
  return x < cutoff ? V{} : mantissa * power;
}

constexpr double kInverseFactorial[] = {1.0,           1.0,           1.0 / 2,        1.0 / 6,       1.0 / 24,
                                        1.0 / 120,     1.0 / 720,     1.0 / 5040,     1.0 / 40320,   1.0 / 362880,
                                        1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600};

// Taylor's polynomial: relative error 2e-10 at Degree 8, 3e-16 at Degree 12.
template <int Degree, int Lanes>
inline Vector<double, Lanes> exp_nonpositive_f64(Vector<double, Lanes> x) {
  typedef Vector<double, Lanes> V;
  typedef Vector<uint64_t, Lanes> Bits;
  const V cutoff = splat<V>(-700.0);
  const V kept = x < cutoff ? cutoff : x;
  const V shifted = kept * 1.4426950408889634 + 6755399441055744.0;  // 1.5 * 2^52, as above
  const V n = shifted - 6755399441055744.0;
  const V f = (kept - n * 0x1.62e42feep-1) - n * 0x1.a39ef35793c76p-33;  // ln2 = 32 bits + the rest
  V p = splat<V>(kInverseFactorial[Degree]);
  for (int i = Degree - 1; i > 1; --i) p = p * f + kInverseFactorial[i];
  p = (p * (f * f) + f) + 1.0;
  Bits bits;
  memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits + 1023u) << 52;
  V power;
  memcpy(&power, &bits, sizeof(power));
  return x < cutoff ? V{} : p * power;
}

inline double exp_nonpositive(double x) { return exp_nonpositive_f64<12, 2>(Vector<double, 2>{x, x})[0]; }

}  // namespace
