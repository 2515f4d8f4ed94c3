// The element types of tables and how they widen to their accumulator: fp32 for fp16, bf16 and fp32, fp64 for fp64.
#pragma once
#include <stdint.h>
#include <string.h>

namespace {

struct Half { uint16_t bits; };
struct BFloat16 { uint16_t bits; };

inline float from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

inline float widen(float x) { return x; }
inline double widen(double x) { return x; }
inline float widen(BFloat16 x) { return from_bits(static_cast<uint32_t>(x.bits) << 16); }
inline float widen(Half x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fffu) << 13;
  if (magnitude >= 0x0f800000u) return from_bits(sign | 0x7f800000u | (magnitude & 0x007fffffu));  // inf, NaN
  // Multiplying by 2^112 rebuilds the exponent, subnormals included, exactly.
  const float value = from_bits(magnitude) * from_bits(0x77800000u);
  return sign ? -value : value;
}

template <class Storage> struct Accumulator { typedef float type; };
template <> struct Accumulator<double> { typedef double type; };

template <class Storage, class T>
inline void widen_row(const Storage* from, T* to, int64_t D) {
  for (int64_t d = 0; d < D; ++d) to[d] = widen(from[d]);
}

// A table that is read as T, whatever it is stored as: a kernel that packs what it reads is compiled once for a T, not
// once for a storage.
template <class T>
struct WideTable {
  const char* data;  // null: there is none
  int64_t element_bytes;
  void (*widen_elements)(const char* from, T* to, int64_t count);  // null: stored as T

  explicit operator bool() const { return data != nullptr; }
  // The table itself where it is stored as T, else null.
  const T* in_place() const { return widen_elements ? nullptr : reinterpret_cast<const T*>(data); }
  const char* address(int64_t at) const { return data + at * element_bytes; }
  WideTable from(int64_t at) const { return {address(at), element_bytes, widen_elements}; }
  // `count` elements from `at` on: where they lie, or widened into `buffer`.
  const T* read(int64_t at, int64_t count, T* buffer) const {
    if (!widen_elements) return reinterpret_cast<const T*>(data) + at;
    widen_elements(address(at), buffer, count);
    return buffer;
  }
  void copy(int64_t at, int64_t count, T* to) const {
    const T* const begin = read(at, count, to);
    if (begin != to) memcpy(to, begin, static_cast<size_t>(count) * sizeof(T));
  }
  T operator[](int64_t at) const {
    T buffer;
    return *read(at, 1, &buffer);
  }
};

template <class Storage>
inline void widen_elements(const char* from, typename Accumulator<Storage>::type* to, int64_t count) {
  widen_row(reinterpret_cast<const Storage*>(from), to, count);
}

template <class Storage>
inline WideTable<typename Accumulator<Storage>::type> wide_table(const void* data) {
  typedef typename Accumulator<Storage>::type T;
  const bool as_it_is = __is_same(Storage, T);
  return {static_cast<const char*>(data), sizeof(Storage), as_it_is ? nullptr : &widen_elements<Storage>};
}

}  // namespace
