// The CUDA module: build facts and the launchers. It imports on a machine without a driver.
#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>

#include <sstream>
#include <string>

#include "csrc/cuda/launchers.h"
#include "csrc/pointers.h"

namespace py = pybind11;

namespace {

std::string error_text(int code) {
  return code == 0 ? std::string() : std::string(cudaGetErrorString(static_cast<cudaError_t>(code)));
}

// Whether code as CMake names it (80, 90a-real, 90-virtual) runs on a device: machine code on its own major version from its
// minor one on, and, of a virtual architecture, compiled there, on any later device. 90a is for 9.0 alone and no whole module.
bool runs_on(const std::string& code, int capability) {
  int built = 0;
  size_t digits = 0;
  for (; digits < code.size() && code[digits] >= '0' && code[digits] <= '9'; ++digits) built = 10 * built + (code[digits] - '0');
  if (digits == 0) return true;  // not a number, such as "native" or "all": who chose it knows
  const std::string kind = code.substr(digits);
  if (kind == "-virtual" || kind.empty()) return built <= capability;
  return kind == "-real" && built / 10 == capability / 10 && built <= capability;
}

// Why no device that the runtime sees can run this module; empty where one can.
std::string without_code(int devices) {
  std::string seen;
  for (int device = 0; device < devices; ++device) {
    int major = 0, minor = 0;
    const cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (error != cudaSuccess) return error_text(error);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    std::istringstream built(RANKDISTILL_CUDA_ARCHITECTURES);
    for (std::string code; built >> code;)
      if (runs_on(code, 10 * major + minor)) return "";
    seen += (seen.empty() ? "" : ", ") + std::to_string(major) + "." + std::to_string(minor);
  }
  return "built for " RANKDISTILL_CUDA_ARCHITECTURES ", which compute capability " + seen + " does not run";
}

TopKTables topk_tables(uintptr_t users, uintptr_t items, uintptr_t bias, int64_t D) {
  return {pointer<const void>(users), pointer<const void>(items), pointer<const void>(bias), D};
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
  m.def("runs_on", runs_on, "Whether a code object, as CMake names it, runs on a compute capability, as 10·major + minor.");
  m.def("unusable", [] {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    return error == cudaSuccess ? without_code(count) : error_text(error);
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
  m.def("gumbel_noise",
        [](uintptr_t ids, uintptr_t parts, uintptr_t noise, int64_t B, int64_t count, uint64_t seed, uint32_t epoch,
           uint32_t last_word, uintptr_t stream) {
          return error_text(launch_gumbel_noise(pointer<const int64_t>(ids), pointer<const int64_t>(parts),
                                                pointer<double>(noise), B, count, seed, epoch, last_word,
                                                pointer<void>(stream)));
        },
        Unlocked());
  m.def("dropout_mask",
        [](uintptr_t ids, uintptr_t kept, int64_t M, int64_t n, int64_t W, uint32_t least, uint64_t seed,
           uint32_t epoch, uint32_t last_word, uintptr_t stream) {
          return error_text(launch_dropout_mask(pointer<const int64_t>(ids), pointer<uint8_t>(kept), n, M, W, least,
                                                seed, epoch, last_word, pointer<void>(stream)));
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

  m.def("pair_sample",
        [](uintptr_t users, uintptr_t positions, uintptr_t lengths, uintptr_t pairs, int64_t R, int64_t K,
           double temperature, bool distinct, uint64_t seed, uint32_t epoch, uint32_t stream, uintptr_t cuda_stream) {
          return error_text(launch_pair_sample(
              pointer<const int64_t>(users), pointer<const int64_t>(positions), pointer<const int64_t>(lengths),
              pointer<int64_t>(pairs), R, K, temperature, distinct, seed, epoch, stream, pointer<void>(cuda_stream)));
        },
        Unlocked());
  m.def("weighted_sample",
        [](int dtype, uintptr_t users, uintptr_t weights, uintptr_t keys, uintptr_t samples, int64_t R, int64_t K,
           int64_t M, uint64_t seed, uint32_t epoch, uint32_t stream, uintptr_t cuda_stream) {
          return error_text(launch_weighted_sample(
              dtype, pointer<const int64_t>(users), pointer<const void>(weights), pointer<double>(keys),
              pointer<int64_t>(samples), R, K, M, seed, epoch, stream, pointer<void>(cuda_stream)));
        },
        Unlocked());

  m.def("has_sm90a", [] {
#if defined(RANKDISTILL_SM90A)
    return true;
#else
    return false;
#endif
  }, "Whether the filter for Hopper's own matrix instructions was built.");
  py::class_<TopKFilter>(m, "TopKFilter", "What the steps of inner_product_topk share: sizes and addresses.")
      .def(py::init([](int64_t B, int64_t N, int64_t D, uintptr_t user_image, uintptr_t item_image, uintptr_t terms,
                       uintptr_t norms, uintptr_t rounding, uintptr_t states, uintptr_t thresholds, uintptr_t indptr,
                       uintptr_t indices, uintptr_t survivors, uintptr_t counts, int64_t capacity) {
             return TopKFilter{B, N, D, pointer<const void>(user_image), pointer<const void>(item_image),
                               pointer<const void>(terms), pointer<const float>(norms), pointer<const float>(rounding),
                               pointer<uint8_t>(states), pointer<float>(thresholds), pointer<const int64_t>(indptr),
                               pointer<const int64_t>(indices), pointer<void>(survivors), pointer<uint32_t>(counts), capacity};
           }),
           py::kw_only(), py::arg("B"), py::arg("N"), py::arg("D"), py::arg("user_image"), py::arg("item_image"),
           py::arg("terms"), py::arg("norms"), py::arg("rounding"), py::arg("states"), py::arg("thresholds"),
           py::arg("indptr"), py::arg("indices"), py::arg("survivors"), py::arg("counts"), py::arg("capacity"));
  m.def("prepare_items",
        [](int dtype, uintptr_t items, uintptr_t bias, int64_t D, int64_t stride, int64_t count, uintptr_t image,
           uintptr_t terms, uintptr_t cuda_stream) {
          return error_text(launch_prepare_items(dtype, pointer<const void>(items), pointer<const void>(bias), D, stride,
                                                 count, pointer<void>(image), pointer<void>(terms), pointer<void>(cuda_stream)));
        },
        Unlocked());
  m.def("prepare_users",
        [](int dtype, uintptr_t users, int64_t B, int64_t padded, int64_t D, uintptr_t indptr, uintptr_t indices,
           int64_t nonzeros, int64_t N, int64_t many_excluded, uintptr_t image, uintptr_t norms, uintptr_t rounding,
           uintptr_t states, uintptr_t cuda_stream) {
          return error_text(launch_prepare_users(
              dtype, pointer<const void>(users), B, padded, D, pointer<const int64_t>(indptr), pointer<const int64_t>(indices),
              nonzeros, N, many_excluded, pointer<void>(image), pointer<float>(norms), pointer<float>(rounding),
              pointer<uint8_t>(states), pointer<void>(cuda_stream)));
        },
        Unlocked());
  m.def("sample_threshold",
        [](const TopKFilter& filter, uintptr_t image, uintptr_t terms, int64_t count, int64_t stride, int group_size,
           int64_t rank, uintptr_t largest, uintptr_t cuda_stream) {
          return error_text(launch_sample_threshold(filter, pointer<const void>(image), pointer<const void>(terms), count,
                                                    stride, group_size, rank, pointer<float>(largest), pointer<void>(cuda_stream)));
        },
        Unlocked());
  m.def("score_filter",
        [](const TopKFilter& filter, bool hopper, uintptr_t cuda_stream) {
          return error_text(launch_score_filter(filter, hopper, pointer<void>(cuda_stream)));
        },
        Unlocked());
  m.def("topk_finish",
        [](int dtype, uintptr_t users, uintptr_t items, uintptr_t bias, const TopKFilter& filter, uintptr_t candidates,
           int64_t k, uintptr_t scores, uintptr_t indices, uintptr_t lengths, int64_t first_row, uintptr_t redo_count,
           uintptr_t redo_rows, uintptr_t cuda_stream) {
          return error_text(launch_topk_finish(
              dtype, topk_tables(users, items, bias, filter.D), filter, pointer<void>(candidates), k, pointer<void>(scores),
              pointer<int64_t>(indices), pointer<int64_t>(lengths), first_row, pointer<uint64_t>(redo_count),
              pointer<int64_t>(redo_rows), pointer<void>(cuda_stream)));
        },
        Unlocked());
  m.def("exact_scores",
        [](int dtype, uintptr_t users, uintptr_t items, uintptr_t bias, int64_t D, uintptr_t listed, int64_t R, int64_t first,
           int64_t count, uintptr_t indptr, uintptr_t indices, int64_t nonzeros, int64_t N, uintptr_t scores,
           uintptr_t malformed, uintptr_t cuda_stream) {
          return error_text(launch_exact_scores(
              dtype, topk_tables(users, items, bias, D), pointer<const int64_t>(listed), R, first, count,
              pointer<const int64_t>(indptr), pointer<const int64_t>(indices), nonzeros, N, pointer<void>(scores),
              pointer<uint8_t>(malformed), pointer<void>(cuda_stream)));
        },
        Unlocked());
  m.def("masked_topk",
        [](int dtype, uintptr_t scores, int64_t B, int64_t N, int64_t stride, int64_t k, uintptr_t indptr, uintptr_t indices,
           int64_t nonzeros, uintptr_t mask, int64_t windows, int64_t window_pieces, int64_t rank, int64_t capacity,
           uintptr_t kept, uintptr_t counts, uintptr_t thresholds, uintptr_t malformed, uintptr_t redo_count,
           uintptr_t redo_rows, uintptr_t best, uintptr_t best_indices, uintptr_t lengths, uintptr_t cuda_stream) {
          const MaskedTopK arguments = {
              pointer<const void>(scores), B, N, stride, k, pointer<const int64_t>(indptr), pointer<const int64_t>(indices),
              nonzeros, pointer<const uint8_t>(mask), windows, window_pieces, rank, capacity, pointer<void>(kept),
              pointer<uint32_t>(counts), pointer<void>(thresholds), pointer<uint8_t>(malformed), pointer<uint64_t>(redo_count),
              pointer<int64_t>(redo_rows), pointer<void>(best), pointer<int64_t>(best_indices), pointer<int64_t>(lengths)};
          return error_text(launch_masked_topk(dtype, arguments, pointer<void>(cuda_stream)));
        },
        Unlocked());
}
