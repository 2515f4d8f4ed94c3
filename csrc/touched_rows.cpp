#include "csrc/touched_rows.h"

#include <memory>
#include <stdexcept>

#include "csrc/bind.h"
#include "csrc/dtypes.h"
#include "csrc/isa.h"
#include "csrc/pointers.h"

RANKDISTILL_DECLARE(TouchedRowsTable, touched_rows_table)

namespace py = pybind11;

void bind_touched_rows(py::module_& m) {
  typedef py::call_guard<py::gil_scoped_release> Unlocked;
  m.def("touched_rows",
        [](uintptr_t ids, int64_t count, int64_t N, uintptr_t order, uintptr_t touched, uintptr_t starts) {
          const TouchedRowsTable& table = touched_rows_table();
          if (!table.fit(count, N))
            throw std::invalid_argument("touched_rows: expected ids x rows below 2^64; got " + std::to_string(count) +
                                        " x " + std::to_string(N));
          std::unique_ptr<uint64_t[]> keys(new uint64_t[2 * count]);
          return table.touched(pointer<const int64_t>(ids), count, N, keys.get(), pointer<int64_t>(order),
                               pointer<int64_t>(touched), pointer<int64_t>(starts));
        },
        "How many distinct ids there are.", Unlocked());
  m.def("sum_touched_rows",
        [](int dtype, uintptr_t rows, uintptr_t order, uintptr_t starts, uintptr_t sums, int64_t M, int64_t D) {
          touched_rows_table().sums[checked_dtype(dtype)](pointer<const void>(rows), pointer<const int64_t>(order),
                                                          pointer<const int64_t>(starts), pointer<void>(sums), M, D);
        },
        Unlocked());
}
