// From a dtype code (csrc/dtypes.h) to the element type of a kernel.
#pragma once
#include "csrc/dtypes.h"
#include "kernels/cuda/order.cuh"

namespace {

// Calls f with a value of the type.
template <class F>
int with_storage(int dtype, const F& f) {
  switch (static_cast<DType>(dtype)) {
    case DType::f32: return f(float());
    case DType::f64: return f(double());
    case DType::f16: return f(Half());
    case DType::bf16: return f(BFloat16());
  }
  return static_cast<int>(cudaErrorInvalidValue);
}

}  // namespace
