// Element types as rankdistill.ops names them (ops/native.py: DTYPE_CODES).
#pragma once
#include <stdexcept>
#include <string>

enum class DType : int { f32 = 0, f64 = 1, f16 = 2, bf16 = 3 };
constexpr int kDTypes = 4;

inline int checked_dtype(int code) {
  if (code < 0 || code >= kDTypes) throw std::invalid_argument("dtype code: expected 0..3; got " + std::to_string(code));
  return code;
}

// The code of fp32 or fp64.
inline int checked_float(int code) {
  if (code != static_cast<int>(DType::f32) && code != static_cast<int>(DType::f64))
    throw std::invalid_argument("dtype code: expected 0 or 1; got " + std::to_string(code));
  return code;
}
