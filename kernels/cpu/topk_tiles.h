// Rows of a top-K search against panels of items: how both are packed for the filter, what a row asks of a panel, and
// which items reach it. DESIGN.md TK-1 (margins), TK-11 (filters).
#pragma once
#include "kernels/cpu/topk_rows.h"

namespace {

template <class T>
struct TopKTiles : TopKRows<T> {
  typedef TopKRows<T> Rows;
  static constexpr int R = kTileRows, S = kTileSlots<T>, W = kLanes<T>, P = kPanelItems<T>;
  static constexpr bool kQuantises = sizeof(T) == 4;
  using Rows::D;
  using Rows::infinity;
  using Rows::rows;

  const PreparedItems* prepared;
  int filter;
  T rounding;
  // By slot: a tile's kTileRows rows, then padding whose threshold nothing reaches.
  T *thresholds, *norms, *residuals, *inverse_scales;
  int32_t* byte_sums;
  T* packed_users;  // [tiles][steps][kTileRows] words
  T *panel_data, *stage, *wide_rows, *tile_scores;
  T* panel_biases;  // what a panel's tiles add where it is `biased`
  bool biased;
  T* user_rows;  // widened, where they are not stored as T

  // A tile's view of a panel.
  struct Bounds {
    T bounds[S], margins[S], units[S];  // margins: but for those of biases, which the tiles add
    T refined[S];        // margins of the accumulator's precision
    T negated[S];        // int8: minus the bound, in units
    int32_t steps[S];    // int8: the bound, in units
    int32_t starts[S];
  };

  void lay_out_tiles(Arena& arena, int64_t tiles) {
    this->lay_out_rows(arena, tiles * S);
    arena.take(thresholds, tiles * S);
    arena.take(norms, tiles * S);
    arena.take(residuals, tiles * S);
    arena.take(inverse_scales, tiles * S);
    arena.take(byte_sums, tiles * S);
    arena.take(packed_users, tiles * R * D);
    arena.take(panel_data, P * (D + 4));
    arena.take(stage, P * (D + 32) + D);
    arena.take(wide_rows, P * D);
    arena.take(panel_biases, P);
    arena.take(tile_scores, R * P);
    arena.take(user_rows, this->users.in_place() ? 0 : tiles * S * D);
  }

  // Where the i-th row of a group stands.
  static int64_t slot_of(int64_t i) { return i / R * S + i % R; }

  // The user in a slot, as T.
  const T* user_row(int64_t slot) const {
    const T* const table = this->users.in_place();
    return table ? table + rows[slot].user * D : user_rows + slot * D;
  }

  void pack_users(int64_t count, int64_t tiles) {
    const int64_t words = filter_steps(filter, D);
    for (int64_t t = 0; t < tiles; ++t) {
      T* const packed = packed_users + t * words * R;
      for (int64_t r = 0; r < R; ++r) {
        const int64_t i = t * R + r, slot = t * S + r;
        if (i >= count) {
          for (int64_t w = 0; w < words; ++w) packed[w * R + r] = 0;
          continue;
        }
        this->users.copy(rows[slot].user * D, D, wide_rows);
        if (!this->users.in_place()) memcpy(user_rows + slot * D, wide_rows, sizeof(T) * static_cast<size_t>(D));
        norms[slot] = norm_above(square_of(wide_rows, D), D);
        thresholds[slot] = -infinity();
        residuals[slot] = inverse_scales[slot] = 0;
        const bool known = norms[slot] < infinity();
        if (!known)
          for (int64_t d = 0; d < D; ++d) wide_rows[d] = 0;
        const T* form = wide_rows;
#if defined(RANKDISTILL_FILTERS)
        if constexpr (kQuantises) {
          T lost = 0;
          if (filter == kInt8) {
            const float scale = int8_scale(largest_magnitude(wide_rows, D));
            inverse_scales[slot] = 1 / scale;
            int8_t* const bytes = reinterpret_cast<int8_t*>(stage);
            lost = _mm512_reduce_add_ps(quantise_int8(wide_rows, D, scale, 0, reinterpret_cast<uint8_t*>(bytes)));
            byte_sums[slot] = 0;
            for (int64_t d = 0; d < D; ++d) byte_sums[slot] += 128 * bytes[d];
          } else if (filter == kBf16) {
            lost = _mm512_reduce_add_ps(quantise_bf16(wide_rows, D, reinterpret_cast<uint16_t*>(stage)));
          }
          if (filter != kWide) {
            form = stage;
            residuals[slot] = residual_above(lost, norms[slot]) * static_cast<T>(1 + 0x1p-6);
          }
        }
#endif
        for (int64_t w = 0; w < words; ++w) packed[w * R + r] = form[w];
      }
      for (int64_t slot = t * S + min64(R, count - t * R); slot < (t + 1) * S; ++slot) {
        norms[slot] = static_cast<T>(Precision<T>::least_norm);
        residuals[slot] = inverse_scales[slot] = 0;
        byte_sums[slot] = 0;
        thresholds[slot] = infinity();
      }
    }
  }

  // The item at a position of the search's order.
  int64_t item_at(int64_t position) const {
    if (prepared == nullptr) return position;
    const int64_t* const ids = reinterpret_cast<const int64_t*>(reinterpret_cast<const char*>(prepared) + prepared->order_at);
    const int64_t id = ids[position];
    return static_cast<uint64_t>(id) < static_cast<uint64_t>(this->N) ? id : 0;
  }

  // Packs the items at positions place(0), …, place(count - 1) for the filter; their biases as add_biases does.
  template <class Place>
  Panel<T> pack(const Place& place, int64_t count, bool raised, T* out) {
    const T* pointers[P];
    for (int64_t i = 0; i < count; ++i) {
      const int64_t id = place(i);
      pointers[i] = this->items.read(id * D, D, wide_rows + i * D);
      if (this->biases) panel_biases[i] = this->biases[id];
    }
    const Panel<T> panel = pack_panel(filter, pointers, count, D, this->biases ? panel_biases : nullptr, stage, out);
    add_biases(panel, place, count, raised);
    return panel;
  }

  // Has a panel's tiles add its biases, raised by their margins or not, and -inf to what cannot be ranked.
  template <class Place>
  void add_biases(const Panel<T>& panel, const Place& place, int64_t count, bool raised) {
    biased = this->biases || panel.unranked;
    for (int64_t i = 0; biased && i < P; ++i) {
      const T bias = this->biases && i < count ? this->biases[place(i)] : 0;
      panel_biases[i] = panel.unranked >> i & 1 ? -infinity() : raised ? bias + bias_margin(bias, rounding) : bias;
    }
  }

  // Runs the filter's tile into tile_scores; false if nothing in it reaches its row's bound.
  bool run_tile(int64_t t, const T* data, const Bounds& bounds, int64_t rows_here) {
    return rows_here <= kFewRows ? run_rows<kFewRows>(t, data, bounds) : run_rows<R>(t, data, bounds);
  }

  template <int Rows>
  bool run_rows(int64_t t, const T* data, const Bounds& bounds) {
    const T* const biases = biased ? panel_biases : nullptr;
    const int64_t steps = filter_steps(filter, D);
    const T* const packed = packed_users + t * steps * R;
#if defined(RANKDISTILL_FILTERS)
    if constexpr (kQuantises) {
      const uint32_t* const items = reinterpret_cast<const uint32_t*>(data);
      const uint32_t* const users = reinterpret_cast<const uint32_t*>(packed);
      if (filter == kBf16) return bf16_tile<Rows>(items, users, steps, bounds.bounds, biases, tile_scores);
      if (filter == kInt8) {
        int32_t* const out = reinterpret_cast<int32_t*>(tile_scores);
        if (biases == nullptr)
          return int8_tile<Rows, false>(items, users, steps, bounds.starts, nullptr, nullptr, nullptr, out);
        T scales[S];
        // A bound below all that units can hold asks for every item, whatever its bias.
        for (int s = 0; s < S; ++s) scales[s] = bounds.steps[s] > -(1 << 30) ? 1 / bounds.units[s] : 0;
        return int8_tile<Rows, true>(items, users, steps, bounds.starts, biases, scales, bounds.negated, out);
      }
    }
#endif
    return wide_tile<Rows>(data, packed, D, bounds.bounds, biases, tile_scores);
  }

  // What each row of a tile asks of a panel's items; false where no row can want any.
  bool bound_tile(int64_t t, const Panel<T>& panel, Bounds& out) {
    typedef Lanes<T> V;
    bool wanted = false;
    const T inverse = filter == kInt8 ? 1 / panel.scale : 0;
    for (int s = 0; s < S; s += W) {
      const V threshold = load<V>(thresholds + t * S + s), norm = load<V>(norms + t * S + s);
      const V reach = norm * splat<V>(panel.largest) + splat<V>(panel.bias_most);
      wanted |= any_lane(~(reach < threshold));
      const V margin = norm * splat<V>(panel.own) + load<V>(residuals + t * S + s) * splat<V>(panel.user);
      V bound = threshold - margin;
      bound -= (bound < 0 ? -bound : bound) * splat<V>(static_cast<T>(8 * Precision<T>::roundoff));
      store(out.bounds + s, bound);
      store(out.margins + s, margin);
      store(out.refined + s, norm * splat<V>(panel.largest * rounding));
      if constexpr (kQuantises) {
        if (filter != kInt8) continue;
        typedef Vector<int32_t, W> VI;
        const V inverses = load<V>(inverse_scales + t * S + s);
        V units = bound * (inverses * splat<V>(inverse));
        units -= (units < 0 ? -units : units) * splat<V>(0x1p-20f) + splat<V>(1.0f);
        units = units > splat<V>(-0x1p30f) ? units : splat<V>(-0x1p30f);  // NaN: keeps everything
        units = units < splat<V>(0x1p30f) ? units : splat<V>(0x1p30f);
        const VI steps = __builtin_convertvector(units, VI);
        store(out.steps + s, steps);
        store(out.negated + s, -__builtin_convertvector(steps, V));
        VI starts = -load<VI>(byte_sums + t * S + s);
        if (!biased) starts -= steps;
        store(out.starts + s, starts);
        store(out.units + s, splat<V>(panel.scale) / inverses);
      }
    }
    return wanted;
  }

  template <class V>
  static bool any_lane(V mask) {
    typedef Vector<int64_t, kVectorBytes / 8> V64;
    V64 bits;
    memcpy(&bits, &mask, sizeof(bits));
    int64_t any = 0;
    for (int lane = 0; lane < kVectorBytes / 8; ++lane) any |= bits[lane];
    return any != 0;
  }

  // Which of a tile row's items are not below its bound.
  uint64_t reaching(int64_t r, const Bounds& bounds) const {
    uint64_t lanes = 0;
#if defined(__AVX512F__)
    if constexpr (kQuantises) {
      for (int half = 0; half < 2; ++half) {
        const T* const from = tile_scores + r * P + half * W;
        const __mmask16 low = filter == kInt8
            ? _mm512_movepi32_mask(_mm512_loadu_si512(from))
            : _mm512_cmp_ps_mask(_mm512_loadu_ps(from), _mm512_set1_ps(bounds.bounds[r]), _CMP_LT_OQ);
        lanes |= static_cast<uint64_t>(static_cast<__mmask16>(~low)) << (half * W);
      }
      return lanes;
    }
#endif
    for (int lane = 0; lane < P; ++lane)
      lanes |= static_cast<uint64_t>(!(tile_scores[r * P + lane] < bounds.bounds[r])) << lane;
    return lanes;
  }
};

}  // namespace
