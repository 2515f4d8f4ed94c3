#include "csrc/hidden_layer.h"

#include "csrc/bind.h"
#include "csrc/dtypes.h"
#include "csrc/isa.h"
#include "csrc/pointers.h"

RANKDISTILL_DECLARE(HiddenLayerTable, hidden_layer_table)

namespace py = pybind11;

void bind_hidden_layer(py::module_& m) {
  typedef py::call_guard<py::gil_scoped_release> Unlocked;
  m.def("weighted_layer",
        [](int dtype, uintptr_t layer, uintptr_t bias, uintptr_t shares, uintptr_t weighted, int64_t rows, int64_t M,
           int64_t H) {
          hidden_layer_table().weighted_layer[checked_float(dtype)](pointer<void>(layer), pointer<const void>(bias),
                                                                      pointer<const void>(shares),
                                                                      pointer<void>(weighted), rows, M, H);
        },
        Unlocked());
  m.def("weighted_layer_backward",
        [](int dtype, uintptr_t slopes, uintptr_t layer, uintptr_t shares, uintptr_t weighted, uintptr_t grad_shares,
           uintptr_t grad_bias, int64_t rows, int64_t M, int64_t H) {
          hidden_layer_table().weighted_layer_backward[checked_float(dtype)](
              pointer<void>(slopes), pointer<const void>(layer), pointer<const void>(shares), pointer<void>(weighted),
              pointer<void>(grad_shares), pointer<void>(grad_bias), rows, M, H);
        },
        Unlocked());
  m.def("keep_where",
        [](int dtype, uintptr_t x, uintptr_t kept, int64_t n) {
          hidden_layer_table().keep_where[checked_float(dtype)](pointer<void>(x), pointer<const uint8_t>(kept), n);
        },
        Unlocked());
  m.def("dropped_layer",
        [](int dtype, uintptr_t layer, uintptr_t kept, int64_t n) {
          hidden_layer_table().dropped_layer[checked_float(dtype)](pointer<void>(layer), pointer<uint8_t>(kept), n);
        },
        Unlocked());
}
