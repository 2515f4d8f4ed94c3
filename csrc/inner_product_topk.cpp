#include "csrc/inner_product_topk.h"

#include <new>

#include "csrc/bind.h"
#include "csrc/dtypes.h"
#include "csrc/isa.h"
#include "csrc/pointers.h"

RANKDISTILL_DECLARE(InnerProductTopKTable, inner_product_topk_table)

extern "C" int rankdistill_filters;

namespace py = pybind11;

void bind_inner_product_topk(py::module_& m) {
  typedef py::call_guard<py::gil_scoped_release> Unlocked;
  m.def("inner_product_topk",
        [](int dtype, uintptr_t users, uintptr_t items, uintptr_t biases, uintptr_t indptr, uintptr_t indices,
           uintptr_t scores, uintptr_t ids, uintptr_t lengths, int64_t B, int64_t N, int64_t K, int64_t D,
           uintptr_t prepared, int64_t prepared_bytes, int filter) {
          const InnerProductTopKTable& table = inner_product_topk_table();
          const int code = checked_dtype(dtype);
          if (filter < 0 || filter > 3 || (filter > 1 && !(rankdistill_filters & (filter == 3 ? 1 : 2))))
            throw std::invalid_argument("filter: expected one that this processor has; got " + std::to_string(filter));
          if (prepared) {
            const char* const reason = table.unusable[code](pointer<const void>(prepared), prepared_bytes, N, D, biases != 0, code);
            if (reason) throw std::invalid_argument(std::string("inner_product_topk: expected items as prepared here for this table; got ") + reason);
          }
          const InnerProductTopKCall call = {
              pointer<const void>(users), pointer<const void>(items), pointer<const void>(biases),
              pointer<const int64_t>(indptr), pointer<const int64_t>(indices), pointer<void>(scores),
              pointer<int64_t>(ids), pointer<int64_t>(lengths), B, N, K, D, pointer<const void>(prepared), filter};
          if (table.forward[code](call)) throw std::bad_alloc();
        },
        "filter: 0 the best, 1 the accumulator's precision, 2 bf16, 3 int8.", Unlocked());
  m.def("prepared_items_bytes",
        [](int dtype, int64_t N, int64_t D, bool has_bias) {
          const int code = checked_dtype(dtype);
          return inner_product_topk_table().prepared_bytes[code](N, D, has_bias, code);
        });
  m.def("prepare_items",
        [](int dtype, uintptr_t items, uintptr_t biases, uintptr_t order, int64_t N, int64_t D, uintptr_t out) {
          const int code = checked_dtype(dtype);
          if (inner_product_topk_table().prepare[code](pointer<const void>(items), pointer<const void>(biases),
                                                       pointer<const int64_t>(order), N, D, code, pointer<void>(out)))
            throw std::bad_alloc();
        },
        Unlocked());
  m.def("first_not_ascending",
        [](uintptr_t indptr, uintptr_t indices, int64_t rows) -> int64_t {
          const int64_t* starts = pointer<const int64_t>(indptr);
          const int64_t* ids = pointer<const int64_t>(indices);
          for (int64_t b = 0; b < rows; ++b)
            for (int64_t i = starts[b] + 1; i < starts[b + 1]; ++i)
              if (ids[i] < ids[i - 1]) return i;
          return -1;
        },
        "Position of the first id of a CSR table that is less than the one before it in its row, or -1.", Unlocked());
}
