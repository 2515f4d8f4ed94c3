#include "csrc/lazy_update.h"

#include "csrc/bind.h"
#include "csrc/dtypes.h"
#include "csrc/isa.h"
#include "csrc/pointers.h"

RANKDISTILL_DECLARE(LazyUpdateTable, lazy_update_table)

namespace py = pybind11;

void bind_lazy_update(py::module_& m) {
  typedef py::call_guard<py::gil_scoped_release> Unlocked;
  m.def("lazy_adam_step",
        [](int dtype, uintptr_t table, uintptr_t means, uintptr_t squares, uintptr_t ids, uintptr_t grads, int64_t M,
           int64_t D, double beta1, double beta2, double step_size, double eps) {
          lazy_update_table().adam[checked_float(dtype)](pointer<void>(table), pointer<void>(means),
                                                         pointer<void>(squares), pointer<const int64_t>(ids),
                                                         pointer<const void>(grads), M, D, beta1, beta2, step_size, eps);
        },
        Unlocked());
  m.def("lazy_sgd_step",
        [](int dtype, uintptr_t table, uintptr_t marks, uintptr_t ids, uintptr_t grads, int64_t M, int64_t D,
           double rate, double kept, double log_decay, double log_decay_after) {
          lazy_update_table().sgd[checked_float(dtype)](pointer<void>(table), pointer<double>(marks),
                                                        pointer<const int64_t>(ids), pointer<const void>(grads), M, D,
                                                        rate, kept, log_decay, log_decay_after);
        },
        Unlocked());
  m.def("decay_catch_up",
        [](int dtype, uintptr_t table, uintptr_t marks, uintptr_t ids, int64_t M, int64_t D, double log_decay) {
          lazy_update_table().catch_up[checked_float(dtype)](pointer<void>(table), pointer<double>(marks),
                                                             pointer<const int64_t>(ids), M, D, log_decay);
        },
        Unlocked());
}
