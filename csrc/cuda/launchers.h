// What csrc/cuda/<op>.cu offers to csrc/cuda/module.cpp. A launcher returns a CUDA error code, 0 for success;
// the caller has set the device.
#pragma once
#include <stdint.h>

int launch_position_sample(const int64_t* users, const int64_t* lengths, double* keys, int64_t* samples, int64_t R,
                           int64_t K, int64_t longest, double temperature, uint64_t seed, uint32_t epoch,
                           uint32_t stream, void* cuda_stream);

// parts may be null; last_word: the stream in the top 8 bits, the step in the low 24.
int launch_gumbel_noise(const int64_t* ids, const int64_t* parts, double* noise, int64_t B, int64_t count,
                        uint64_t seed, uint32_t epoch, uint32_t last_word, void* stream);

// kept [M, n, W]; least: the smallest of 2^16 draws that keeps an element.
int launch_dropout_mask(const int64_t* ids, uint8_t* kept, int64_t n, int64_t M, int64_t W, uint32_t least,
                        uint64_t seed, uint32_t epoch, uint32_t last_word, void* stream);

int launch_complement_sample(const int64_t* users, const int64_t* positions, const int64_t* indptr,
                             const int64_t* indices, int64_t nonzeros, const int32_t* listed, int64_t listed_count,
                             int64_t n_users, int64_t n_items, int64_t* samples, int64_t R, int64_t L, uint64_t seed,
                             uint32_t epoch, uint32_t stream, void* cuda_stream);

int launch_pair_sample(const int64_t* users, const int64_t* positions, const int64_t* lengths, int64_t* pairs,
                       int64_t R, int64_t K, double temperature, bool distinct, uint64_t seed, uint32_t epoch,
                       uint32_t stream, void* cuda_stream);

// dtype of the weights: float or double.
int launch_weighted_sample(int dtype, const int64_t* users, const void* weights, double* keys, int64_t* samples,
                           int64_t R, int64_t K, int64_t M, uint64_t seed, uint32_t epoch, uint32_t stream,
                           void* cuda_stream);

// inner_product_topk in steps (kernels/cuda/inner_product_topk.cuh); rankdistill.ops.device_topk calls them in turn.
struct TopKTables {
  const void* users;
  const void* items;
  const void* bias;
  int64_t D;
};

// Rows of one launch, B of them, with what the steps before have left: images, norms, states and thresholds.
struct TopKFilter {
  int64_t B, N, D;
  const void* user_image;
  const void* item_image;
  const void* terms;
  const float* norms;
  const float* rounding;
  uint8_t* states;
  float* thresholds;
  const int64_t* indptr;
  const int64_t* indices;
  void* survivors;
  uint32_t* counts;
  int64_t capacity;
};

int launch_prepare_items(int dtype, const void* items, const void* bias, int64_t D, int64_t stride, int64_t count,
                         void* image, void* terms, void* stream);
int launch_prepare_users(int dtype, const void* users, int64_t B, int64_t padded, int64_t D, const int64_t* indptr,
                         const int64_t* indices, int64_t nonzeros, int64_t N, int64_t many_excluded, void* image,
                         float* norms, float* rounding, uint8_t* states, void* stream);
int launch_sample_threshold(const TopKFilter& filter, const void* sample_image, const void* sample_terms, int64_t count,
                            int64_t stride, int group_size, int64_t rank, float* largest, void* stream);
int launch_score_filter(const TopKFilter& filter, bool hopper, void* stream);
int launch_topk_finish(int dtype, const TopKTables& tables, const TopKFilter& filter, void* candidates, int64_t k,
                       void* scores, int64_t* indices, int64_t* lengths, int64_t first_row, uint64_t* redo_count,
                       int64_t* redo_rows, void* stream);
int launch_exact_scores(int dtype, const TopKTables& tables, const int64_t* listed, int64_t R, int64_t first, int64_t count,
                        const int64_t* indptr, const int64_t* indices, int64_t nonzeros, int64_t N, void* scores,
                        uint8_t* malformed, void* stream);

// Where inner_product_topk_sm90a.cu is built (RANKDISTILL_SM90A).
int launch_hopper_filter(const TopKFilter& filter, void* stream);

// masked_topk; addresses of workspace may be null where `windows` is 0: every row is then selected from whole.
struct MaskedTopK {
  const void* scores;
  int64_t B, N, stride, k;
  const int64_t* indptr;
  const int64_t* indices;
  int64_t nonzeros;
  const uint8_t* mask;
  int64_t windows, window_pieces, rank, capacity;
  void* kept;
  uint32_t* counts;
  void* thresholds;
  uint8_t* malformed;
  uint64_t* redo_count;
  int64_t* redo_rows;
  void* best;
  int64_t* best_indices;
  int64_t* lengths;
};

int launch_masked_topk(int dtype, const MaskedTopK& arguments, void* stream);
