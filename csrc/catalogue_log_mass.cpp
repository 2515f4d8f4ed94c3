#include "csrc/catalogue_log_mass.h"

#include <new>

#include "csrc/bind.h"
#include "csrc/dtypes.h"
#include "csrc/isa.h"
#include "csrc/pointers.h"

RANKDISTILL_DECLARE(CatalogueLogMassTable, catalogue_log_mass_table)

namespace py = pybind11;

void bind_catalogue_log_mass(py::module_& m) {
  typedef py::call_guard<py::gil_scoped_release> Unlocked;
  m.def("catalogue_block_items", [] { return catalogue_log_mass_table().block_items; });
  m.def("catalogue_log_mass_forward",
        [](int dtype, uintptr_t users, uintptr_t items, uintptr_t bias, uintptr_t indptr, uintptr_t indices,
           uintptr_t log_masses, uintptr_t tops, uintptr_t sums, uintptr_t kept, uintptr_t kept_tops, int64_t B,
           int64_t N, int64_t D, double log_share) {
          const int failed = catalogue_log_mass_table().forward[checked_dtype(dtype)](
              pointer<const void>(users), pointer<const void>(items), pointer<const void>(bias),
              pointer<const int64_t>(indptr), pointer<const int64_t>(indices), pointer<void>(log_masses),
              pointer<void>(tops), pointer<void>(sums), pointer<void>(kept), pointer<void>(kept_tops), B, N, D,
              log_share);
          if (failed) throw std::bad_alloc();
        },
        Unlocked());
  m.def("catalogue_log_mass_backward",
        [](int dtype, uintptr_t grad, uintptr_t users, uintptr_t items, uintptr_t bias, uintptr_t indptr,
           uintptr_t indices, uintptr_t tops, uintptr_t sums, uintptr_t kept, uintptr_t kept_tops, uintptr_t grad_users,
           uintptr_t grad_items, uintptr_t grad_bias, int64_t B, int64_t N, int64_t D, double log_share, bool fresh) {
          const int failed = catalogue_log_mass_table().backward[checked_dtype(dtype)](
              pointer<const void>(grad), pointer<const void>(users), pointer<const void>(items),
              pointer<const void>(bias), pointer<const int64_t>(indptr), pointer<const int64_t>(indices),
              pointer<const void>(tops), pointer<const void>(sums), pointer<const void>(kept),
              pointer<const void>(kept_tops), pointer<void>(grad_users), pointer<void>(grad_items),
              pointer<void>(grad_bias), B, N, D, log_share, fresh);
          if (failed) throw std::bad_alloc();
        },
        Unlocked());
}
