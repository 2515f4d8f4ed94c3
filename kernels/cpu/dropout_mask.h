// Which elements dropout keeps, 16 bits of a Philox word each.
#pragma once
#include "kernels/cpu/parallel.h"
#include "kernels/random.h"

namespace {

// kept [M, n, W]; least: of 2^16 equally likely draws the smallest that keeps an element. Blocks of eight elements are
// drawn 16 side by side, whichever rows they belong to.
inline void dropout_mask(const int64_t* ids, uint8_t* kept, int64_t n, int64_t M, int64_t W, uint32_t least,
                         uint64_t seed, uint32_t epoch, uint32_t last_word) {
  constexpr int kBlocks = 16;
  const int64_t blocks = (W + 7) >> 3;
  if (blocks == 0) return;
  parallel_chunks(M * n, 1 + 512 / blocks, [=](int64_t begin, int64_t end, int) {
    int64_t line = begin, row = begin % n, mask = begin / n, block = 0;
    while (line < end) {
      uint64_t c0[kBlocks], c1[kBlocks], c2[kBlocks], c3[kBlocks];
      uint8_t* to[kBlocks];
      int wanted[kBlocks];
      for (int i = 0; i < kBlocks; ++i) {
        const bool inside = line < end;
        c0[i] = inside ? static_cast<uint32_t>(ids[row]) : 0;
        c1[i] = dropout_position(mask, block, blocks);
        c2[i] = epoch;
        c3[i] = last_word;
        const int64_t left = W - 8 * block;
        wanted[i] = !inside ? 0 : left < 8 ? static_cast<int>(left) : 8;
        to[i] = kept + line * W + 8 * block;
        if (++block < blocks) continue;
        block = 0;
        ++line;
        if (++row < n) continue;
        row = 0;
        ++mask;
      }
      philox4x32_10_side_by_side<kBlocks>(c0, c1, c2, c3, seed);
      uint32_t halves[8][kBlocks];
      for (int i = 0; i < kBlocks; ++i) {
        halves[0][i] = c0[i] & 0xffff;
        halves[1][i] = static_cast<uint32_t>(c0[i]) >> 16;
        halves[2][i] = c1[i] & 0xffff;
        halves[3][i] = static_cast<uint32_t>(c1[i]) >> 16;
        halves[4][i] = c2[i] & 0xffff;
        halves[5][i] = static_cast<uint32_t>(c2[i]) >> 16;
        halves[6][i] = c3[i] & 0xffff;
        halves[7][i] = static_cast<uint32_t>(c3[i]) >> 16;
      }
      uint64_t bytes[kBlocks] = {};
      for (int half = 0; half < 8; ++half)
        for (int i = 0; i < kBlocks; ++i) bytes[i] |= static_cast<uint64_t>(halves[half][i] >= least) << (8 * half);
      for (int i = 0; i < kBlocks; ++i) memcpy(to[i], &bytes[i], wanted[i]);
    }
  });
}

}  // namespace
