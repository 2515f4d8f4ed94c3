#include "csrc/bind.h"

void bind_ops(pybind11::module_& m) {
  bind_index_check(m);
  bind_gathered_inner_product(m);
  bind_inner_product_topk(m);
}
