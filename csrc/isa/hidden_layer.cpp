#include "csrc/hidden_layer.h"

#include "csrc/isa.h"
#include "kernels/cpu/hidden_layer.h"

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

template <class T>
void keep(void* x, const uint8_t* kept, int64_t n) {
  keep_where(static_cast<T*>(x), kept, n);
}

template <class T>
void drop(void* layer, uint8_t* kept, int64_t n) {
  dropped_layer(static_cast<T*>(layer), kept, n);
}

}  // namespace

extern "C" const HiddenLayerTable RANKDISTILL_TABLE(hidden_layer_table) = {
    {forward<float>, forward<double>},
    {backward<float>, backward<double>},
    {keep<float>, keep<double>},
    {drop<float>, drop<double>},
};
