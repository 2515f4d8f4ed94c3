#include "csrc/embedding_plackett_luce.h"

#include <memory>

#include "csrc/bind.h"
#include "csrc/dtypes.h"
#include "csrc/isa.h"
#include "csrc/pointers.h"
#include "kernels/cpu/parallel.h"

RANKDISTILL_DECLARE(EmbeddingPlackettLuceTable, embedding_plackett_luce_table)

namespace py = pybind11;

void bind_embedding_plackett_luce(py::module_& m) {
  m.def("embedding_plackett_luce_forward",
        [](int dtype, uintptr_t users, uintptr_t user_ids, uintptr_t items, uintptr_t item_ids,
           uintptr_t item_bias, uintptr_t lengths, uintptr_t losses, uintptr_t slopes, uintptr_t user_slopes, int64_t B,
           int64_t K, int64_t L, int64_t D) {
          const EmbeddingPlackettLuceTable& table = embedding_plackett_luce_table();
          const int code = checked_dtype(dtype);
          const int64_t doubles = B ? max_threads() * (table.scratch_bytes[code](K, L) / 8) : 0;
          std::unique_ptr<double[]> scratch(new double[doubles]);
          table.forward[code](pointer<const void>(users), pointer<const int64_t>(user_ids), pointer<const void>(items),
                              pointer<const int64_t>(item_ids), pointer<const void>(item_bias),
                              pointer<const int64_t>(lengths), pointer<void>(losses), pointer<void>(slopes),
                              pointer<void>(user_slopes),
                              reinterpret_cast<char*>(scratch.get()), B, K, L, D);
        },
        py::call_guard<py::gil_scoped_release>());
}
