#include "csrc/inner_product_topk.h"

#include "csrc/isa.h"
#include "kernels/cpu/inner_product_topk.h"
#include "kernels/cpu/prepared_items.h"

namespace {

template <class Storage>
int forward(const InnerProductTopKCall& call) {
  typedef typename Accumulator<Storage>::type T;
  TopKTables<T> tables = {};
  tables.users = wide_table<Storage>(call.users);
  tables.items = wide_table<Storage>(call.items);
  tables.biases = wide_table<Storage>(call.biases);
  tables.indptr = call.indptr;
  tables.indices = call.indices;
  tables.scores = static_cast<T*>(call.scores);
  tables.ids = call.ids;
  tables.lengths = call.lengths;
  tables.B = call.B;
  tables.N = call.N;
  tables.K = call.K;
  tables.D = call.D;
  return inner_product_topk(tables, static_cast<const PreparedItems*>(call.prepared), call.filter);
}

template <class T>
int64_t prepared_bytes(int64_t N, int64_t D, bool has_bias, int dtype) {
  return prepared_layout<T>(N, D, has_bias, dtype).bytes;
}

template <class Storage>
int prepare(const void* items, const void* biases, const int64_t* order, int64_t N, int64_t D, int dtype, void* out) {
  return !prepare_items(wide_table<Storage>(items), wide_table<Storage>(biases), order, N, D, dtype, static_cast<char*>(out));
}

template <class T>
const char* unusable(const void* prepared, int64_t bytes, int64_t N, int64_t D, bool has_bias, int dtype) {
  const PreparedItems expected = prepared_layout<T>(N, D, has_bias, dtype);
  PreparedItems head;
  if (bytes < static_cast<int64_t>(sizeof(head))) return "a buffer that is too short";
  memcpy(&head, prepared, sizeof(head));
  if (head.magic != expected.magic) return "a buffer that was not prepared";
  if (head.N != N || head.D != D || head.dtype != dtype || head.has_bias != expected.has_bias)
    return "a buffer prepared for another table";
  if (head.filter != expected.filter || head.panel_items != expected.panel_items)
    return "a buffer prepared for another processor";
  if (memcmp(&head, &expected, sizeof(head)) != 0 || bytes != expected.bytes) return "a damaged buffer";
  return nullptr;
}

}  // namespace

extern "C" const InnerProductTopKTable RANKDISTILL_TABLE(inner_product_topk_table) = {
    {forward<float>, forward<double>, forward<Half>, forward<BFloat16>},
    {prepared_bytes<float>, prepared_bytes<double>, prepared_bytes<float>, prepared_bytes<float>},
    {prepare<float>, prepare<double>, prepare<Half>, prepare<BFloat16>},
    {unusable<float>, unusable<double>, unusable<float>, unusable<float>},
};
