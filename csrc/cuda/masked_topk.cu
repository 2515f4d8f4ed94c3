#include "csrc/cuda/launchers.h"
#include "csrc/cuda/storage.h"
#include "kernels/cuda/masked_topk.cuh"

int launch_masked_topk(int dtype, const MaskedTopK& m, void* stream) {
  return with_storage(dtype, [&](auto storage) {
    typedef decltype(storage) Storage;
    const MaskedScores<Storage> table = {static_cast<const Storage*>(m.scores), m.stride, m.N, {m.indptr, m.indices},
                                         m.nonzeros, m.mask};
    const TopK<Storage> top = {static_cast<Storage*>(m.best), m.best_indices, m.lengths, m.k};
    const RedoList redo = {reinterpret_cast<unsigned long long*>(m.redo_count), m.redo_rows, 0};
    const int sorting = sorting_capacity<Key<Storage>>(m.k);
    const size_t sorted_bytes = sorting * sizeof(Ranked<Key<Storage>>);
    const bool sampled = m.windows > 0;
    if (sampled) {
      const Kept<Storage> kept = {static_cast<Ranked<Key<Storage>>*>(m.kept), m.counts, m.capacity};
      const int64_t blocks_of_row = stream_blocks<Storage>(m.N);
      Score<Storage>* const thresholds = static_cast<Score<Storage>*>(m.thresholds);
      int error = launch(masked_threshold_kernel<Storage>, m.B, 256, m.windows * sizeof(Key<Storage>), stream, table,
                         m.windows, m.window_pieces, m.rank, kept, thresholds, m.malformed, redo);
      if (error) return error;
      error = launch(masked_stream_kernel<Storage>, m.B * blocks_of_row, kStreamThreads, 0, stream, table, kept,
                     static_cast<uint32_t>(blocks_of_row), thresholds);
      if (error) return error;
      error = launch(masked_finish_kernel<Storage>, m.B, 256, sorted_bytes, stream, table, kept, m.malformed, top, redo, sorting);
      if (error) return error;
    }
    // What is left to do whole: mostly nothing, known on the device alone.
    const int64_t blocks = 4 * static_cast<int64_t>(device_attribute(cudaDevAttrMultiProcessorCount));
    return launch(masked_rows_kernel<Storage>, sampled && m.B > blocks ? blocks : m.B, 256, sorted_bytes, stream, table,
                  m.B, sampled, redo, top, sorting);
  });
}
