// Standard Gumbel variates of ids, as many for each.
#pragma once
#include "kernels/cpu/parallel.h"
#include "kernels/random.h"

namespace {

// The blocks of all rows in one line, so that they fill vectors also where a row needs few.
inline void gumbel_noise(const int64_t* ids, const int64_t* parts, double* noise, int64_t B, int64_t count,
                         uint64_t seed, uint32_t epoch, uint32_t last_word) {
  constexpr int kBlocks = 16;
  const int64_t blocks = (count + 3) >> 2;
  parallel_chunks(B * blocks, 256, [=](int64_t begin, int64_t end, int) {
    int64_t row = begin / blocks, block = begin % blocks;
    for (int64_t at = begin; at < end; at += kBlocks) {
      uint64_t c0[kBlocks], c1[kBlocks], c2[kBlocks], c3[kBlocks];
      double* to[kBlocks];
      int wanted[kBlocks];
      for (int i = 0; i < kBlocks; ++i) {
        const bool inside = at + i < end;
        c0[i] = inside ? static_cast<uint32_t>(ids[row]) : 0;
        c1[i] = gumbel_position(block, inside && parts != nullptr ? parts[row] : 0);
        c2[i] = epoch;
        c3[i] = last_word;
        const int64_t left = count - 4 * block;
        wanted[i] = !inside ? 0 : left < 4 ? static_cast<int>(left) : 4;
        to[i] = noise + row * count + 4 * block;
        if (++block < blocks) continue;
        block = 0;
        ++row;
      }
      philox4x32_10_side_by_side<kBlocks>(c0, c1, c2, c3, seed);
      double drawn[4][kBlocks];
      for (int i = 0; i < kBlocks; ++i) {
        drawn[0][i] = gumbel(static_cast<uint32_t>(c0[i]));
        drawn[1][i] = gumbel(static_cast<uint32_t>(c1[i]));
        drawn[2][i] = gumbel(static_cast<uint32_t>(c2[i]));
        drawn[3][i] = gumbel(static_cast<uint32_t>(c3[i]));
      }
      for (int i = 0; i < kBlocks; ++i)
        for (int w = 0; w < wanted[i]; ++w) to[i][w] = drawn[w][i];
    }
  });
}

}  // namespace
