#include "csrc/dropout_mask.h"

#include "csrc/bind.h"
#include "csrc/isa.h"
#include "csrc/pointers.h"

RANKDISTILL_DECLARE(DropoutMaskTable, dropout_mask_table)

namespace py = pybind11;

void bind_dropout_mask(py::module_& m) {
  m.def("dropout_mask",
        [](uintptr_t ids, uintptr_t kept, int64_t M, int64_t n, int64_t W, uint32_t least, uint64_t seed,
           uint32_t epoch, uint32_t last_word) {
          dropout_mask_table().draw(pointer<const int64_t>(ids), pointer<uint8_t>(kept), n, M, W, least, seed, epoch,
                                    last_word);
        },
        py::call_guard<py::gil_scoped_release>());
}
