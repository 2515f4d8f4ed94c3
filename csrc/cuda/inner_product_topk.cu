#include "csrc/cuda/filter_arguments.h"
#include "csrc/cuda/storage.h"
#include "kernels/cuda/inner_product_topk.cuh"

namespace {

// Rows of the table are multiples of 16 bytes and start at one.
bool aligned_rows(const void* table, int64_t D, size_t size) {
  return reinterpret_cast<uintptr_t>(table) % 16 == 0 && D * size % 16 == 0;
}

template <class Storage>
Tables<Storage> tables_of(const TopKTables& t) {
  return {static_cast<const Storage*>(t.users), static_cast<const Storage*>(t.items), static_cast<const Storage*>(t.bias),
          t.D, aligned_rows(t.users, t.D, sizeof(Storage)) && aligned_rows(t.items, t.D, sizeof(Storage))};
}

template <bool SAMPLE>
int launch_mma(FilterWork work, const FilterRows& rows, const Survivors& survivors, const SampleGroups& sample, void* stream) {
  const MmaMemory memory = mma_memory(work.shape, !SAMPLE, device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
  const int64_t blocks = (SAMPLE ? 2 : 1) * static_cast<int64_t>(device_attribute(cudaDevAttrMultiProcessorCount));
  work.user_tiles = tiles_of(rows.count);
  work.tiles_per_unit = run_of_tiles(work.item_tiles, work.user_tiles, blocks);
  return launch(mma_filter_kernel<SAMPLE>, work.units() < blocks ? work.units() : blocks, kMmaThreads, memory.total,
                stream, work, rows, survivors, sample, memory);
}

}  // namespace

int launch_prepare_items(int dtype, const void* items, const void* bias, int64_t D, int64_t stride, int64_t count,
                         void* image, void* terms, void* stream) {
  return with_storage(dtype, [&](auto storage) {
    typedef decltype(storage) Storage;
    const int64_t padded = tiles_of(count) * kTileRows;
    return launch(prepare_items_kernel<Storage>, tiles_of(padded * 8, 256), 256, 0, stream,
                  static_cast<const Storage*>(items), static_cast<const Storage*>(bias), D, stride, count, padded,
                  aligned_rows(items, D, sizeof(Storage)), image_shape(D), static_cast<uint8_t*>(image),
                  static_cast<ItemTerms*>(terms));
  });
}

int launch_prepare_users(int dtype, const void* users, int64_t B, int64_t padded, int64_t D, const int64_t* indptr,
                         const int64_t* indices, int64_t nonzeros, int64_t N, int64_t many_excluded, void* image,
                         float* norms, float* rounding, uint8_t* states, void* stream) {
  return with_storage(dtype, [&](auto storage) {
    typedef decltype(storage) Storage;
    return launch(prepare_users_kernel<Storage>, tiles_of(padded * 32, 256), 256, 0, stream,
                  static_cast<const Storage*>(users), B, D, padded, aligned_rows(users, D, sizeof(Storage)), image_shape(D),
                  Exclusion{indptr, indices}, nonzeros, N, many_excluded, static_cast<uint8_t*>(image), norms,
                  reinterpret_cast<uint32_t*>(rounding), states);
  });
}

int launch_sample_threshold(const TopKFilter& f, const void* sample_image, const void* sample_terms, int64_t count,
                            int64_t stride, int group_size, int64_t rank, float* largest, void* stream) {
  const SampleGroups sample = {largest, tiles_of(count) * kTileRows / group_size, group_size};
  FilterRows rows = filter_rows(f);
  rows.thresholds = nullptr;
  FilterWork work = filter_work(f);
  work.items = static_cast<const uint8_t*>(sample_image);
  work.terms = static_cast<const ItemTerms*>(sample_terms);
  work.item_tiles = tiles_of(count);
  const int error = launch_mma<true>(work, rows, {}, sample, stream);
  if (error) return error;
  return launch(threshold_kernel, f.B, 128, sample.groups * sizeof(uint32_t), stream, sample, count, stride, rank,
                rows.exclude, f.states, f.thresholds);
}

int launch_score_filter(const TopKFilter& f, bool hopper, void* stream) {
#if defined(RANKDISTILL_SM90A)
  if (hopper) return launch_hopper_filter(f, stream);
#else
  if (hopper) return static_cast<int>(cudaErrorNoKernelImageForDevice);
#endif
  return launch_mma<false>(filter_work(f), filter_rows(f), survivors_of(f), {}, stream);
}

int launch_topk_finish(int dtype, const TopKTables& tables, const TopKFilter& f, void* candidates, int64_t k, void* scores,
                       int64_t* indices, int64_t* lengths, int64_t first_row, uint64_t* redo_count, int64_t* redo_rows,
                       void* stream) {
  return with_storage(dtype, [&](auto storage) {
    typedef decltype(storage) Storage;
    const int sorting = sorting_capacity<Key<Storage>>(k);
    return launch(finish_kernel<Storage>, f.B, 256, finish_shared<Key<Storage>>(sorting, f.capacity), stream,
                  tables_of<Storage>(tables), static_cast<const ItemTerms*>(f.terms), filter_rows(f), survivors_of(f),
                  static_cast<Ranked<Key<Storage>>*>(candidates),
                  TopK<Score<Storage>>{static_cast<Score<Storage>*>(scores), indices, lengths, k},
                  RedoList{reinterpret_cast<unsigned long long*>(redo_count), redo_rows, first_row}, sorting);
  });
}

int launch_exact_scores(int dtype, const TopKTables& tables, const int64_t* listed, int64_t R, int64_t first, int64_t count,
                        const int64_t* indptr, const int64_t* indices, int64_t nonzeros, int64_t N, void* scores,
                        uint8_t* malformed, void* stream) {
  return with_storage(dtype, [&](auto storage) {
    typedef decltype(storage) Storage;
    Score<Storage>* const out = static_cast<Score<Storage>*>(scores);
    const int64_t blocks = tiles_of(R, kExactUsers) * tiles_of(count, kExactItems);
    const int error = launch(exact_scores_kernel<Storage>, blocks, 256, 0, stream, tables_of<Storage>(tables), listed, R,
                             first, count, out);
    if (error || indptr == nullptr) return error;
    return launch(exclude_scores_kernel<Score<Storage>>, tiles_of(R * 32, 256), 256, 0, stream, Exclusion{indptr, indices},
                  nonzeros, N, listed, R, first, count, out, malformed);
  });
}
