// A table of items prepared once: its items by falling norm, packed for the best filter of this processor.
#pragma once
#include "kernels/cpu/item_panel.h"
#include "kernels/cpu/parallel.h"

namespace {

template <class T>
PreparedItems prepared_layout(int64_t N, int64_t D, bool has_bias, int dtype) {
  const int64_t panels = (N + kPanelItems<T> - 1) / kPanelItems<T>;
  const auto aligned = [](int64_t bytes) { return (bytes + 63) / 64 * 64; };
  PreparedItems head = {};
  head.magic = PreparedItems::kMagic;
  head.N = N;
  head.D = D;
  head.dtype = dtype;
  head.has_bias = has_bias;
  head.filter = sizeof(T) == 4 && rankdistill_filters & kInt8Bit && D <= kLargestInt8Width ? kInt8 : kAnyFilter;
  head.panel_items = kPanelItems<T>;
  head.steps = head.filter == kInt8 ? filter_steps(kInt8, D) : 0;
  head.order_at = aligned(static_cast<int64_t>(sizeof(PreparedItems)));
  head.panels_at = head.order_at + aligned(N * 8);
  head.data_at = head.panels_at + aligned(panels * static_cast<int64_t>(sizeof(Panel<T>)));
  head.bytes = head.data_at + panels * head.steps * kPanelItems<T> * static_cast<int64_t>(sizeof(T));
  return head;
}

// Fills `out` of prepared_layout(…).bytes. `order` is a permutation of the items. False when memory ran out.
template <class T>
bool prepare_items(WideTable<T> items, WideTable<T> biases, const int64_t* order, int64_t N, int64_t D, int dtype,
                   char* out) {
  constexpr int P = kPanelItems<T>;
  const PreparedItems head = prepared_layout<T>(N, D, static_cast<bool>(biases), dtype);
  memcpy(out, &head, sizeof(head));
  memcpy(out + head.order_at, order, static_cast<size_t>(N) * 8);
  int failed = 0;
  parallel_chunks((N + P - 1) / P, 64, [&](int64_t first, int64_t last, int) {
    T* const memory = static_cast<T*>(malloc(sizeof(T) * static_cast<size_t>(P * (3 * D + 64) + D)));
    if (!memory) __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
    T *const wide = memory, *const scratch = memory + P * D, *const stage = scratch + P * (D + 4);
    for (int64_t p = first; memory && p < last; ++p) {
      const int64_t count = N - p * P < P ? N - p * P : P;
      const T* rows[P];
      T panel_biases[P] = {};
      for (int64_t i = 0; i < count; ++i) {
        const int64_t id = order[p * P + i];
        rows[i] = items.read(id * D, D, wide + i * D);
        if (biases) panel_biases[i] = biases[id];
      }
      T* const data = head.steps ? reinterpret_cast<T*>(out + head.data_at) + p * head.steps * P : scratch;
      const Panel<T> panel = pack_panel<T>(head.steps ? kInt8 : kWide, rows, count, D, biases ? panel_biases : nullptr, stage, data);
      memcpy(out + head.panels_at + p * static_cast<int64_t>(sizeof(panel)), &panel, sizeof(panel));
    }
    free(memory);
  });
  return !failed;
}

}  // namespace
