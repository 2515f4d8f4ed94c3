// A table as the matrix units read it: bf16, in tiles of 128 rows that already lie as shared memory will hold them
// (swizzled, wgmma.cuh), with what bounds the error of each row's products (DESIGN.md TK-5).
#pragma once
#include "kernels/cuda/order.cuh"

namespace {

constexpr int kTileRows = 128;

// A row of the table is `chunks` rows of 16, 32 or 64 bf16 numbers; `steps` of 16 of them hold values.
struct ImageShape {
  int row_bytes;
  int chunks;
  int steps;

  __host__ __device__ int chunk_bytes() const { return kTileRows * row_bytes; }
  __host__ __device__ int64_t tile_bytes() const { return static_cast<int64_t>(chunks) * chunk_bytes(); }
  __host__ __device__ int steps_of_chunk(int chunk) const {
    const int left = steps - chunk * (row_bytes / 32);
    return left < row_bytes / 32 ? left : row_bytes / 32;
  }
};

__host__ __device__ __forceinline__ int64_t tiles_of(int64_t rows, int64_t height = kTileRows) {
  return (rows + height - 1) / height;
}

__host__ __device__ __forceinline__ uint32_t swizzled(uint32_t offset, int row_bytes) {
  return offset ^ (((offset >> 7) & static_cast<uint32_t>(row_bytes / 16 - 1)) << 4);
}

// Chunks of 64 numbers, of 32 where that saves a tenth of the row.
inline ImageShape image_shape(int64_t D) {
  const int64_t width = D <= 16 ? 16 : 10 * 32 * tiles_of(D, 32) <= 9 * 64 * tiles_of(D, 64) ? 32 : 64;
  const int64_t chunks = D <= width ? 1 : tiles_of(D, width), steps = D <= 16 ? 1 : tiles_of(D, 16);
  return {static_cast<int>(2 * width), static_cast<int>(chunks), static_cast<int>(steps)};
}

// Norms within which no product overflows and underflow is far below any margin.
constexpr float kLeastNorm = 0x1p-40f, kLargestNorm = 1e18f, kLargestBias = 1e36f;
constexpr float kRoundedUp = 1 + 0x1p-10f;  // covers sums of squares in fp32 up to D = 65536

// The error of sums on the matrix units, relative to the sum of magnitudes (DESIGN.md TK-6).
__host__ __device__ __forceinline__ float accumulation_error(const ImageShape& shape) {
  return (16 * shape.steps + 32) * 0x1p-22f;
}

// Of an item: with a user's norm a and relative rounding rho, the margin is a * (margin + rho * norm) + bias_margin;
// `bias` is the bias plus its margin. An item that bf16 cannot hold has an infinite margin and zeros for values; one that
// nobody can have (its bias -inf or NaN, or a NaN in its row) a bias of -inf and zeros.
struct ItemTerms {
  float margin, norm, bias, bias_margin;
};

__device__ __forceinline__ float load_wide(const float* from) { return *from; }
__device__ __forceinline__ double load_wide(const double* from) { return *from; }
__device__ __forceinline__ float load_wide(const Half* from) { return widen(*from); }
__device__ __forceinline__ float load_wide(const BFloat16* from) { return widen(*from); }

// Eight values from d on, zeros behind D. `aligned`: rows are multiples of 16 bytes.
template <class Storage, class Wide>
__device__ __forceinline__ void load_eight(const Storage* row, int64_t d, int64_t D, bool aligned, Wide (&values)[8]) {
  if (aligned && d + 8 <= D) {
    union {
      uint4 vectors[sizeof(Storage) / 2];
      Storage elements[8];
    } loaded;
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof(Storage) / 2); ++i)
      loaded.vectors[i] = reinterpret_cast<const uint4*>(row + d)[i];
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] = load_wide(&loaded.elements[i]);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] = d + i < D ? load_wide(row + d + i) : 0;
  }
}

// Sums of squares of a row's values and of what rounding to bf16 takes from them; writes the row's image. LANES
// neighbouring lanes share a row; `row` null gives zeros.
template <class Storage, int LANES>
__device__ __forceinline__ void write_image_row(const Storage* row, int64_t D, bool aligned, const ImageShape& shape,
                                                uint8_t* image, int64_t image_row, float& squares, float& errors) {
  const int units_of_chunk = shape.row_bytes / 16, lane = lane_index() % LANES;
  uint8_t* tile = image + image_row / kTileRows * shape.tile_bytes();
  const uint32_t row_offset = static_cast<uint32_t>(image_row % kTileRows) * shape.row_bytes;
  squares = errors = 0;
  for (int unit = lane; unit < shape.chunks * units_of_chunk; unit += LANES) {
    union {
      uint4 vector;
      uint16_t elements[8];
    } rounded = {};
    if (row != nullptr) {
      Score<Storage> values[8];
      load_eight(row, 8 * static_cast<int64_t>(unit), D, aligned, values);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float value = static_cast<float>(values[i]);
        rounded.elements[i] = bfloat16_bits(value);
        const float error = static_cast<float>(values[i] - widen(BFloat16{rounded.elements[i]}));
        squares += value * value;
        errors += error * error;
      }
    }
    const int chunk = unit / units_of_chunk;
    const uint32_t offset = row_offset + 16 * (unit % units_of_chunk);
    *reinterpret_cast<uint4*>(tile + chunk * static_cast<int64_t>(shape.chunk_bytes()) + swizzled(offset, shape.row_bytes)) =
        rounded.vector;
  }
  for (int step = LANES / 2; step > 0; step >>= 1) {
    squares += __shfl_xor_sync(kWholeWarp, squares, step);
    errors += __shfl_xor_sync(kWholeWarp, errors, step);
  }
}

// The norm of a row and of its image, and of their difference, from above.
__device__ __forceinline__ float error_above(float errors) { return sqrtf(errors) * kRoundedUp; }
__device__ __forceinline__ float norm_above(float squares, float errors) {
  const float norm = (sqrtf(squares) + sqrtf(errors)) * kRoundedUp;
  return norm < kLeastNorm ? kLeastNorm : norm;
}

// Of every window of `stride` items the sample has one, anywhere in it.
__device__ __forceinline__ int64_t sampled_item(int64_t window, int64_t stride) {
  uint32_t mixed = static_cast<uint32_t>(window) * 0x9E3779B9u;
  mixed = (mixed ^ (mixed >> 15)) * 0x85EBCA6Bu;
  return window * stride + static_cast<int64_t>((mixed >> 8) % static_cast<uint32_t>(stride));
}

// The image and terms of `count` items, or of a sample (stride > 0), up to a whole tile: the rest can never score.
template <class Storage>
__global__ void __launch_bounds__(256) prepare_items_kernel(const Storage* __restrict__ items,
                                                            const Storage* __restrict__ bias, int64_t D, int64_t stride,
                                                            int64_t count, int64_t padded, bool aligned,
                                                            ImageShape shape, uint8_t* __restrict__ image,
                                                            ItemTerms* __restrict__ terms) {
  const int64_t image_row = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 8;
  if (image_row >= padded) return;  // padded is a multiple of 128: whole warps
  const bool present = image_row < count;
  const int64_t item = stride > 0 ? sampled_item(image_row, stride) : image_row;
  float squares, errors;
  write_image_row<Storage, 8>(present ? items + item * D : nullptr, D, aligned, shape, image, image_row, squares, errors);
  ItemTerms own = {0, 0, -positive_infinity(0.0f), 0};
  const Score<Storage> given = present && bias != nullptr ? load_wide(bias + item) : 0;
  const bool unranked = !rankable(given) || squares != squares;
  if (present && !unranked) {
    const float gamma = accumulation_error(shape) * 1.0625f + 0x1p-22f;
    const float norm = norm_above(squares, errors);
    const float added = static_cast<float>(given);
    own.margin = (error_above(errors) + gamma * norm) * kRoundedUp;
    own.norm = norm;
    own.bias_margin = fabsf(added) * gamma;
    own.bias = added + own.bias_margin;
    // Far below zero it is bounded from above alone.
    if (added < -kLargestBias) {
      own.bias = kLargestBias * (gamma - 1);
      own.bias_margin = positive_infinity(0.0f);
    }
    if (!(norm <= kLargestNorm) || !(added <= kLargestBias)) own = {positive_infinity(0.0f), 1, 0, 0};
  }
  const bool exceptional = unranked || own.margin > kLargestNorm;
  if (__any_sync(kWholeWarp, exceptional)) {
    __syncwarp();
    float unused[2];
    // The warp's other rows are written again as they were.
    write_image_row<Storage, 8>(present && !exceptional ? items + item * D : nullptr, D, aligned, shape, image,
                                image_row, unused[0], unused[1]);
  }
  if (lane_index() % 8 == 0) terms[image_row] = own;
}

// What becomes of a user's row.
enum RowState : uint8_t { kFiltered = 0, kFilteredManyExcluded = 1, kExact = 2, kMalformed = 3 };

// By one warp per row: the image, norms from above, the largest relative rounding, and the row's state.
template <class Storage>
__global__ void __launch_bounds__(256) prepare_users_kernel(const Storage* __restrict__ users, int64_t B, int64_t D,
                                                            int64_t padded, bool aligned, ImageShape shape,
                                                            Exclusion exclude, int64_t nonzeros, int64_t N,
                                                            int64_t many_excluded, uint8_t* __restrict__ image,
                                                            float* __restrict__ norms, uint32_t* __restrict__ rounding,
                                                            uint8_t* __restrict__ states) {
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  if (row >= padded) return;
  float squares, errors;
  write_image_row<Storage, 32>(row < B ? users + row * D : nullptr, D, aligned, shape, image, row, squares, errors);
  float norm = norm_above(squares, errors);
  uint8_t state = kFiltered;
  if (row < B) {
    if (!valid_exclusions(exclude, nonzeros, row, N)) state = kMalformed;
    else if (exclude.indptr != nullptr && exclude.indptr[row + 1] - exclude.indptr[row] > many_excluded)
      state = kFilteredManyExcluded;
    if (!(norm <= kLargestNorm)) {
      if (state != kMalformed) state = kExact;
      norm = 1;
      __syncwarp();
      write_image_row<Storage, 32>(nullptr, D, aligned, shape, image, row, squares, errors);
      errors = 0;
    }
  }
  if (lane_index() == 0) {
    norms[row] = norm;
    states[row] = state;
    if (row < B) atomicMax(rounding, __float_as_uint(error_above(errors) / norm * kRoundedUp));
  }
}

}  // namespace
