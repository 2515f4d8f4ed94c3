"""What the ranking kernels share on a device: the contract's order as integer keys, exclusions, sets of bits.

A key holds an fp32 score and an item below 2^31, and orders as the contract does: best first when descending. Its
lowest bit says that the score was -0.0, which ranks as +0.0. EMPTY is below every key.
"""

from __future__ import annotations

import triton
import triton.language as tl

ITEMS_IN_A_KEY = 2**31
EMPTY = tl.constexpr(-(2**63))
LAST_ITEM = tl.constexpr(ITEMS_IN_A_KEY - 1)


@triton.jit
def order_key(scores):
    """int32 that orders as the fp32 scores do, NaN aside."""
    bits = tl.where(scores == 0, 0.0, scores).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def packed_key(scores, items):
    negative_zero = scores.to(tl.int32, bitcast=True) == -2147483648
    below = ((-items.to(tl.int64) + LAST_ITEM) << 1) | negative_zero.to(tl.int64)
    return (order_key(scores).to(tl.int64) << 32) | below


@triton.jit
def score_of_key(keys):
    high = (keys >> 32).to(tl.int32)
    scores = tl.where(high < 0, high ^ 0x7FFFFFFF, high).to(tl.float32, bitcast=True)
    return tl.where((keys & 1) == 1, -0.0, scores)


@triton.jit
def item_of_key(keys):
    return -((keys >> 1) & LAST_ITEM) + LAST_ITEM


@triton.jit
def excluded_range(indptr_ptr, row, nnz):
    """Where a row's exclusions begin and end: nowhere outside the indices, whatever the caller wrote."""
    begin = tl.load(indptr_ptr + row)
    end = tl.load(indptr_ptr + row + 1)
    sound = (begin >= 0) & (begin <= end) & (end <= nnz)
    return tl.where(sound, begin, 0), tl.where(sound, end, 0), sound


@triton.jit
def first_not_below(indices_ptr, begin, end, items, most):
    """For each item the first position of the ascending indices[begin:end] that is not below it.

    Begin, end and items are numbers or of one shape; `most` is the largest end - begin."""
    low = begin + items.to(tl.int64) * 0
    high = end + items.to(tl.int64) * 0
    size = most
    while size > 0:
        middle = (low + high) // 2
        open = low < high
        below = open & (tl.load(indices_ptr + middle, mask=open, other=0) < items)
        low = tl.where(below, middle + 1, low)
        high = tl.where(open & (below == 0), middle, high)
        size = size // 2
    return low


@triton.jit
def is_excluded(indices_ptr, begin, end, items):
    position = first_not_below(indices_ptr, begin, end, items, end - begin)
    inside = position < end
    return inside & (tl.load(indices_ptr + position, mask=inside, other=-1) == items)


@triton.jit
def count_bits(words):
    pairs = words - ((words >> 1) & 0x55555555)
    fours = (pairs & 0x33333333) + ((pairs >> 2) & 0x33333333)
    return ((((fours + (fours >> 4)) & 0x0F0F0F0F) * 0x01010101) >> 24).to(tl.int32)
