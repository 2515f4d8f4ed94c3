#include "csrc/routed_experts.h"

#include "csrc/isa.h"
#include "kernels/cpu/routed_experts.h"

namespace {

template <class T>
void forward(void* layer, const void* bias, const void* shares, void* weighted, int64_t rows, int64_t M, int64_t H) {
  weighted_layer(static_cast<T*>(layer), static_cast<const T*>(bias), static_cast<const T*>(shares),
                 static_cast<T*>(weighted), rows, M, H);
}

template <class T>
void backward(void* slopes, const void* layer, const void* shares, void* weighted, void* grad_shares, void* grad_bias,
              int64_t rows, int64_t M, int64_t H) {
  weighted_layer_backward(static_cast<T*>(slopes), static_cast<const T*>(layer), static_cast<const T*>(shares),
                          static_cast<T*>(weighted), static_cast<T*>(grad_shares), static_cast<T*>(grad_bias), rows, M,
                          H);
}

}  // namespace

extern "C" const RoutedExpertsTable RANKDISTILL_TABLE(routed_experts_table) = {
    {forward<float>, forward<double>},
    {backward<float>, backward<double>},
};
