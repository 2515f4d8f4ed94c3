// The element types of tables and how they widen to their accumulator: fp32 for fp16, bf16 and fp32, fp64 for fp64.
#pragma once
#include <stdint.h>
#include <string.h>

namespace {

struct Half { uint16_t bits; };
struct BFloat16 { uint16_t bits; };

inline float from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

inline float widen(float x) { return x; }
inline double widen(double x) { return x; }
inline float widen(BFloat16 x) { return from_bits(static_cast<uint32_t>(x.bits) << 16); }
inline float widen(Half x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fffu) << 13;
  if (magnitude >= 0x0f800000u) return from_bits(sign | 0x7f800000u | (magnitude & 0x007fffffu));  // inf, NaN
  // Multiplying by 2^112 rebuilds the exponent, subnormals included, exactly.
  const float value = from_bits(magnitude) * from_bits(0x77800000u);
  return sign ? -value : value;
}

template <class Storage> struct Accumulator { typedef float type; };
template <> struct Accumulator<double> { typedef double type; };

}  // namespace
