#include "csrc/weighted_sample.h"

#include <stdexcept>

#include "csrc/bind.h"
#include "csrc/dtypes.h"
#include "csrc/isa.h"
#include "csrc/pointers.h"

RANKDISTILL_DECLARE(WeightedSampleTable, weighted_sample_table)

namespace py = pybind11;

void bind_weighted_sample(py::module_& m) {
  m.def("weighted_sample",
        [](int dtype, uintptr_t users, uintptr_t weights, uintptr_t samples, int64_t R, int64_t K, int64_t M,
           uint64_t seed, uint32_t epoch, uint32_t stream) {
          if (dtype != static_cast<int>(DType::f32) && dtype != static_cast<int>(DType::f64))
            throw std::invalid_argument("weighted_sample: expected dtype code 0 or 1; got " + std::to_string(dtype));
          return weighted_sample_table().sample[dtype](pointer<const int64_t>(users), pointer<const void>(weights),
                                                       pointer<int64_t>(samples), R, K, M, seed, epoch, stream);
        },
        "False where scratch memory could not be had.", py::call_guard<py::gil_scoped_release>());
}
