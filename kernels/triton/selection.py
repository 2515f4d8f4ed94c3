"""Sample, filter, select: what the ranking ops on a device share around their own filter (DESIGN.md TK-2, TT-2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from rankdistill.kernels.triton.order import (
    EMPTY,
    count_bits,
    excluded_range,
    first_not_below,
    is_excluded,
    item_of_key,
    order_key,
    score_of_key,
)
from torch import Tensor

NO_THRESHOLD = tl.constexpr(-torch.finfo(torch.float32).max)
LEAST_SAMPLE, MOST_SAMPLE = 1200, 16384
GROUP_BYTES = 256 << 20  # of the candidates and samples of the rows that are searched together
MOST_GROUP_ROWS = 32768  # the second axis of a grid takes 65535
BLOCK_ENTRIES = 2**22  # scores of the largest block that exists when rows are searched without a filter
BLOCK = 1024


class Plan(NamedTuple):
    """Sizes, from shapes alone: items sampled (0: no threshold), the rank in the sample, candidates per row."""

    sample: int
    rank: int
    capacity: int


def plan(N: int, k: int, inflation: float) -> Plan:
    """`inflation`: how many more survivors than the threshold asks for the filter's margin may let through."""
    sample = min(max(N // 32, LEAST_SAMPLE), MOST_SAMPLE)
    mean = k * sample / max(N, 1)
    rank = int(mean + 4 * math.sqrt(mean) + 3) + 1
    if sample > N // 4 or rank > sample // 6:
        return Plan(0, 0, N)
    expected = rank * N / sample
    return Plan(sample, rank, min(N, (int(max(3 * k, inflation * expected)) + 64 + 127) // 128 * 128))


def group_rows(row_bytes: int) -> int:
    return min(max(GROUP_BYTES // row_bytes, 16), MOST_GROUP_ROWS)


def sampled_items(N: int, sample: int, device: torch.device) -> Tensor:
    """[sample] ascending: one of each of `sample` even stretches of the items, at a scattered place in it."""
    number = torch.arange(sample + 1, device=device)
    stretch = number * N // max(sample, 1)
    return stretch[:-1] + ((number[:-1] + 1) * 0x9E3779B1 % 2**32) % stretch.diff()


@triton.jit
def drop_excluded_samples_kernel(
    sample_ptr, rows_ptr, sampled_ptr, indptr_ptr, indices_ptr, nnz, N, M, BLOCK: tl.constexpr
):
    """-inf for a row's excluded items in the sampled scores [R, M]."""
    group_row = tl.program_id(0).to(tl.int64)
    begin, end, _ = excluded_range(indptr_ptr, tl.load(rows_ptr + group_row), nnz)
    for first in range(begin, end, BLOCK):
        position = first + tl.arange(0, BLOCK)
        items = tl.load(indices_ptr + position, mask=position < end, other=-1)
        known = (items >= 0) & (items < N)
        # The last stretch that begins at or before the item.
        number = tl.where(known, ((items + 1) * M - 1) // N, 0)
        hit = known & (tl.load(sampled_ptr + number, mask=known, other=-1) == items)
        tl.store(sample_ptr + group_row * M + number, float("-inf"), mask=hit)


def drop_excluded_samples(
    sample: Tensor, rows: Tensor, sampled: Tensor, exclude: tuple[Tensor, Tensor], N: int
) -> None:
    indptr, indices = exclude
    drop_excluded_samples_kernel[(len(rows),)](
        sample, rows, sampled, indptr, indices, indices.numel(), N, sample.shape[1], BLOCK=128
    )


@triton.jit
def sampled_threshold_kernel(sample_ptr, thresholds_ptr, M, rank, BLOCK: tl.constexpr):
    """The rank-th largest of each row of the sampled scores [R, M]; none where it is not finite."""
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, BLOCK)
    scores = tl.load(sample_ptr + row * M + offsets, mask=offsets < M, other=float("-inf"))
    keys = order_key(tl.where(scores == scores, scores, float("-inf")))
    bound = tl.full((), -2147483648, tl.int64)
    step = tl.full((), 2147483648, tl.int64)
    for _ in range(32):
        tried = bound + step
        reached = tl.sum((keys >= tried.to(tl.int32)).to(tl.int32), 0)
        bound = tl.where(reached >= rank, tried, bound)
        step = step // 2
    high = bound.to(tl.int32)
    threshold = tl.where(high < 0, high ^ 0x7FFFFFFF, high).to(tl.float32, bitcast=True)
    finite = (threshold > NO_THRESHOLD) & (threshold < float("inf"))
    tl.store(thresholds_ptr + row, tl.where(finite, threshold, NO_THRESHOLD))


def thresholds_of(sample: Tensor, rank: int) -> Tensor:
    rows, M = sample.shape
    thresholds = torch.empty(rows, dtype=torch.float32, device=sample.device)
    block = triton.next_power_of_2(M)
    warps = min(max(block // 1024, 4), 16)
    sampled_threshold_kernel[(rows,)](sample, thresholds, M, rank, BLOCK=block, num_warps=warps)
    return thresholds


def rows_contiguous(matrix: Tensor) -> Tensor:
    """The matrix, copied only where a row is not contiguous: rows may lie any distance apart."""
    return matrix if matrix.shape[1] <= 1 or matrix.stride(1) == 1 else matrix.contiguous()


class Lists(NamedTuple):
    """The result, and of each row whether it is incomplete and a threshold that k of its items are proven to reach."""

    scores: Tensor  # [B, k]
    indices: Tensor  # [B, k]
    lengths: Tensor  # [B]
    incomplete: Tensor  # [B] bool
    thresholds: Tensor  # [B]


def new_lists(B: int, k: int, dtype: torch.dtype, device: torch.device) -> Lists:
    return Lists(
        torch.empty((B, k), dtype=dtype, device=device),
        torch.empty((B, k), dtype=torch.int64, device=device),
        torch.empty(B, dtype=torch.int64, device=device),
        torch.zeros(B, dtype=torch.bool, device=device),
        torch.empty(B, dtype=torch.float32, device=device),
    )


@triton.jit
def collect_kernel(
    words_ptr, counts_ptr, candidates_ptr, C, first, stride_words, capacity, BLOCK: tl.constexpr
):
    """Appends the items whose bits are set to their row's candidates; the count goes on past the capacity."""
    row = tl.program_id(0).to(tl.int64)
    number = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    words = tl.load(words_ptr + row * stride_words + number, mask=number * 32 < C, other=0)
    words = words.to(tl.uint32, bitcast=True)
    past = tl.minimum(tl.maximum((number + 1) * 32 - C, 0), 31).to(tl.uint32)
    words = (words << past) >> past
    bits = count_bits(words)
    total = tl.sum(bits, 0)
    if total > 0:
        slots = tl.atomic_add(counts_ptr + row, total, sem="relaxed") + tl.cumsum(bits, 0) - bits
        for _ in range(tl.max(bits, 0)):
            items = first + number * 32 + count_bits(words ^ (words - 1)) - 1
            tl.store(candidates_ptr + row * capacity + slots, items, mask=(words != 0) & (slots < capacity))
            words = words & (words - 1)
            slots += 1


class Candidates(NamedTuple):
    """Items that a filter let through: the first of `counts` [R] of each row, [R, capacity], in any order."""

    items: Tensor
    counts: Tensor

    def collect(self, words: Tensor, first: int, C: int) -> None:
        """Adds the items whose bits are set in words [R, ≥ C / 32], of the C from `first` on."""
        collect_kernel[(len(words), triton.cdiv(C, 32 * BLOCK))](
            words, self.counts, self.items, C, first, words.stride(0), self.items.shape[1], BLOCK=BLOCK
        )


def no_candidates(R: int, capacity: int, device: torch.device) -> Candidates:
    items = torch.empty((R, capacity), dtype=torch.int32, device=device)
    return Candidates(items, torch.zeros(R, dtype=torch.int32, device=device))


@triton.jit
def drop_excluded_keys_kernel(
    keys_ptr, rows_ptr, indptr_ptr, indices_ptr, nnz, capacity, BLOCK: tl.constexpr
):
    """EMPTY for a row's excluded items among its keys [R, capacity]."""
    group_row = tl.program_id(1).to(tl.int64)
    slots = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    keys = tl.load(keys_ptr + group_row * capacity + slots, mask=slots < capacity, other=EMPTY)
    begin, end, _ = excluded_range(indptr_ptr, tl.load(rows_ptr + group_row), nnz)
    excluded = (keys != EMPTY) & is_excluded(indices_ptr, begin, end, item_of_key(keys))
    empty = tl.full([BLOCK], EMPTY, tl.int64)
    tl.store(keys_ptr + group_row * capacity + slots, empty, mask=excluded)


@triton.jit
def finish_kernel(
    keys_ptr, counts_ptr, used_thresholds_ptr, rows_ptr, scores_ptr, indices_ptr, lengths_ptr, incomplete_ptr,
    thresholds_ptr, K, width, capacity, BLOCK: tl.constexpr,
):  # fmt: skip
    """Writes the sorted keys [R, width] of a group's rows as lists, and whether they are proven complete."""
    group_row = tl.program_id(0).to(tl.int64)
    row = tl.load(rows_ptr + group_row)
    length = tl.full((), 0, tl.int64)
    last_key = tl.full((), EMPTY, tl.int64)
    for first in range(0, K, BLOCK):
        slots = first + tl.arange(0, BLOCK)
        keys = tl.load(keys_ptr + group_row * width + slots, mask=slots < width, other=EMPTY)
        found = keys != EMPTY
        scores = tl.where(found, score_of_key(keys), float("-inf"))
        items = tl.where(found, item_of_key(keys), -1)
        tl.store(scores_ptr + row * K + slots, scores.to(scores_ptr.dtype.element_ty), mask=slots < K)
        tl.store(indices_ptr + row * K + slots, items, mask=slots < K)
        length += tl.sum(found.to(tl.int64), 0)
        last_key = tl.maximum(last_key, tl.max(tl.where(slots == K - 1, keys, EMPTY), 0))
    tl.store(lengths_ptr + row, length)
    threshold = tl.load(used_thresholds_ptr + group_row)
    last_score = tl.where(last_key == EMPTY, float("-inf"), score_of_key(last_key))
    # What was dropped lies below the threshold; k scores that reach it leave no room for any of it.
    proven = (threshold <= NO_THRESHOLD) | (last_score >= threshold)
    complete = proven & (tl.load(counts_ptr + group_row) <= capacity)
    tl.store(incomplete_ptr + row, complete == 0)
    tl.store(thresholds_ptr + row, tl.maximum(last_score, NO_THRESHOLD))


def finish(lists: Lists, rows: Tensor, keys: Tensor, counts: Tensor, thresholds: Tensor) -> None:
    """Selects from the candidates' keys [R, capacity], of which `counts` were found at or above `thresholds`."""
    K, capacity = lists.scores.shape[1], keys.shape[1]
    best = keys.topk(min(K, capacity), dim=1).values
    finish_kernel[(len(rows),)](
        best, counts, thresholds, rows, lists.scores, lists.indices, lists.lengths, lists.incomplete, lists.thresholds,
        K, best.shape[1], capacity, BLOCK=min(triton.next_power_of_2(K), BLOCK),
    )  # fmt: skip


def fill(
    lists: Lists,
    rows_together: int,
    sampled: Callable[[Tensor], Tensor],
    search: Callable[[Tensor, Tensor], None],
    exhaust: Callable[[Tensor], None],
) -> None:
    """Every row by a sampled threshold; an incomplete one by a proven threshold, if it has one; the rest by all scores."""
    for rows in torch.arange(len(lists.lengths), device=lists.lengths.device).split(rows_together):
        search(rows, sampled(rows))
    again = lists.incomplete.nonzero()[:, 0]  # the one place that waits for the device
    if again.numel():
        proven = again[lists.thresholds[again] > NO_THRESHOLD.value]
        for rows in proven.split(rows_together) if proven.numel() else ():
            search(rows, lists.thresholds[rows])
        exhaust(lists.incomplete.nonzero()[:, 0])


def order_keys(scores: Tensor) -> Tensor:
    """Integers that order as the scores do, NaN aside."""
    integer, flip = (torch.int64, 2**63 - 1) if scores.dtype == torch.float64 else (torch.int32, 2**31 - 1)
    bits = torch.where(scores == 0, 0.0, scores).view(integer)
    return torch.where(bits < 0, bits ^ flip, bits)


@triton.jit
def drop_excluded_kernel(block_ptr, rows_ptr, indptr_ptr, indices_ptr, nnz, first, C, BLOCK: tl.constexpr):
    """-inf for a row's excluded items in the scores [R, C] of the items from `first` on."""
    group_row = tl.program_id(0).to(tl.int64)
    begin, end, _ = excluded_range(indptr_ptr, tl.load(rows_ptr + group_row), nnz)
    first_item = tl.full((), 0, tl.int64) + first
    begin = first_not_below(indices_ptr, begin, end, first_item, end - begin)
    end = first_not_below(indices_ptr, begin, end, first_item + C, end - begin)
    for start in range(begin, end, BLOCK):
        position = start + tl.arange(0, BLOCK)
        columns = tl.load(indices_ptr + position, mask=position < end, other=-1) - first
        inside = (columns >= 0) & (columns < C)
        tl.store(block_ptr + group_row * C + columns, float("-inf"), mask=inside)


def exhaust(
    lists: Lists,
    rows: Tensor,
    N: int,
    exclude: tuple[Tensor, Tensor] | None,
    block_scores: Callable[[Tensor, int, int], Tensor],
) -> None:
    """The lists of `rows` from all their scores, `block_scores(rows, first, last)` at a time."""
    k = lists.scores.shape[1]
    for part in rows.split(256) if rows.numel() else ():
        wide = torch.float64 if lists.scores.dtype == torch.float64 else torch.float32
        best = torch.full((len(part), k), -torch.inf, dtype=wide, device=rows.device)
        best_items = torch.full((len(part), k), -1, device=rows.device)
        width = max(BLOCK_ENTRIES // len(part), 1024)
        for first in range(0, N, width):
            last = min(first + width, N)
            scores = block_scores(part, first, last)
            if exclude is not None:
                drop_excluded_kernel[(len(part),)](
                    scores, part, *exclude, exclude[1].numel(), first, last - first, BLOCK=128
                )
            rankable = scores > -torch.inf
            scores = torch.where(rankable, scores, -torch.inf)
            items = torch.where(rankable, torch.arange(first, last, device=rows.device), -1)
            merged = torch.cat([best, scores], dim=1)
            # Earlier items stand first and the sort is stable: ties go to the lower index.
            order = order_keys(merged).sort(dim=1, descending=True, stable=True).indices[:, :k]
            best = merged.gather(1, order)
            best_items = torch.cat([best_items, items], dim=1).gather(1, order)
        lists.scores[part] = best.to(lists.scores.dtype)
        lists.indices[part] = best_items
        lists.lengths[part] = (best_items >= 0).sum(dim=1)


@triton.jit
def faulty_exclusions_kernel(indptr_ptr, indices_ptr, faulty_ptr, nnz, N, BLOCK: tl.constexpr):
    """Rows whose exclusions lie outside the indices, do not ascend, or name items that do not exist."""
    row = tl.program_id(0).to(tl.int64)
    begin, end, sound = excluded_range(indptr_ptr, row, nnz)
    faults = tl.where(sound, 0, 1)
    for first in range(begin, end, BLOCK):
        position = first + tl.arange(0, BLOCK)
        inside = position < end
        items = tl.load(indices_ptr + position, mask=inside, other=0)
        before = tl.load(indices_ptr + position - 1, mask=inside & (position > begin), other=0)
        faults += tl.sum((inside & ((items < before) | (items < 0) | (items >= N))).to(tl.int32), 0)
    tl.store(faulty_ptr + row, faults > 0)


def faulty_rows(exclude: tuple[Tensor, Tensor], N: int) -> Tensor:
    indptr, indices = exclude
    faulty = torch.empty(len(indptr) - 1, dtype=torch.bool, device=indptr.device)
    faulty_exclusions_kernel[(len(faulty),)](indptr, indices, faulty, indices.numel(), N, BLOCK=128)
    return faulty


def spoil_faulty(lists: Lists, exclude: tuple[Tensor, Tensor], N: int) -> None:
    """A row whose exclusions are malformed lists nothing, with scores of NaN."""
    faulty = faulty_rows(exclude, N)
    lists.scores.masked_fill_(faulty[:, None], torch.nan)
    lists.indices.masked_fill_(faulty[:, None], -1)
    lists.lengths.masked_fill_(faulty, 0)
