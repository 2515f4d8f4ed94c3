// The CUDA module: build facts and the launchers. It imports on a machine without a driver.
#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>

#include <string>

#include "csrc/cuda/launchers.h"
#include "csrc/pointers.h"

namespace py = pybind11;

namespace {

std::string error_text(int code) {
  return code == 0 ? std::string() : std::string(cudaGetErrorString(static_cast<cudaError_t>(code)));
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "CUDA kernels of rankdistill. Addresses, sizes and a stream only; each call returns an error text.";

  m.def("runtime_version", [] { return CUDART_VERSION; }, "The CUDA runtime this module was built with.");
  m.def("architectures", [] { return std::string(RANKDISTILL_CUDA_ARCHITECTURES); },
        "The code objects built in, as CMake names them, separated by spaces.");
  m.def("device_count", [] {
    int count = 0;  // stays as it was on an error
    cudaGetDeviceCount(&count);
    return count;
  }, "Devices that this module's runtime sees.");
  m.def("unusable", [] {
    int count = 0;
    return error_text(cudaGetDeviceCount(&count));
  }, "Why this module's runtime cannot be used here; empty where it can.");

  typedef py::call_guard<py::gil_scoped_release> Unlocked;
  m.def("position_sample",
        [](uintptr_t users, uintptr_t lengths, uintptr_t keys, uintptr_t samples, int64_t R, int64_t K,
           int64_t longest, double temperature, uint64_t seed, uint32_t epoch, uint32_t stream,
           uintptr_t cuda_stream) {
          return error_text(launch_position_sample(
              pointer<const int64_t>(users), pointer<const int64_t>(lengths), pointer<double>(keys),
              pointer<int64_t>(samples), R, K, longest, temperature, seed, epoch, stream, pointer<void>(cuda_stream)));
        },
        Unlocked());
  m.def("complement_sample",
        [](uintptr_t users, uintptr_t positions, uintptr_t indptr, uintptr_t indices, int64_t nonzeros,
           uintptr_t listed, int64_t listed_count, int64_t n_users, int64_t n_items, uintptr_t samples, int64_t R,
           int64_t L, uint64_t seed, uint32_t epoch, uint32_t stream, uintptr_t cuda_stream) {
          return error_text(launch_complement_sample(
              pointer<const int64_t>(users), pointer<const int64_t>(positions), pointer<const int64_t>(indptr),
              pointer<const int64_t>(indices), nonzeros, pointer<const int32_t>(listed), listed_count, n_users,
              n_items, pointer<int64_t>(samples), R, L, seed, epoch, stream, pointer<void>(cuda_stream)));
        },
        Unlocked());
}
