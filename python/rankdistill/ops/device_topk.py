"""How exact top-K runs on a CUDA device: which steps, with what workspace (DESIGN.md TK-5 to TK-10).

`inner_product_topk` and `masked_topk` have the signatures of their schemas. `prepare_items` makes what the filter needs
of a table of items, for callers that rank against the same table again and again.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rankdistill.ops import cuda
from rankdistill.ops.native import DTYPE_CODES, accumulator_dtype, address, contiguous

TILE = 128  # rows of a tile of an image
LARGEST_WIDTH = 65536  # of tables that the filter's error bound covers
LARGEST_COUNT = 2**32 - 1  # ids are 32 bits wide inside the kernels
WORKSPACE_BYTES = 1 << 29  # of what grows with rows; more rows come in turns
MOST_GROUPS = 24576  # of a row's sample: 96 KiB, which every device's shared memory has beside a kernel's own
DENSE_ITEMS = 8192  # catalogues up to here are scored whole
EXACT_ROWS, EXACT_SCORES = 64, 1 << 26  # rows, and rows times items, that are scored exactly at a time


def workspace(*size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(size, dtype=dtype, device=device)


class FilterPlan(NamedTuple):
    """What is sampled and kept; any plan gives the same result, a poor one more slowly.

    `stride`: the sample has one item of so many. `group`: how many of its scores are reduced to their largest (1, 16 or
    64). `rank`: which of the sample's largest is a row's threshold. `capacity`: of a row's buffer.
    """

    stride: int
    group: int
    rank: int
    capacity: int


def sampled_rank(expected: float) -> int:
    """A rank within a sample that few samples exceed where `expected` of their items are among the k best."""
    return math.ceil(expected + 4 * math.sqrt(expected) + 3)


def filter_plan(N: int, D: int, k: int) -> FilterPlan | None:
    """None where scoring everything costs no more."""
    if N <= DENSE_ITEMS or N >= LARGEST_COUNT or D > LARGEST_WIDTH:
        return None
    stride = sample_stride(N)
    count = N // stride
    rank = sampled_rank(k * count / N)
    capacity = 3 * rank * stride + 256
    # Excluded items take their groups with them: of the largest, some hundreds must be there.
    allowed = [g for g in (1, 16, 64) if up_to(count, TILE) // g <= MOST_GROUPS]
    fits = [g for g, least in ((64, 512), (16, 128), (1, 512)) if count // g >= max(8 * rank, least)]
    group = next((g for g in fits if g in allowed), allowed[0])
    pays = 4 * capacity <= N and 2 * rank <= count // group
    return FilterPlan(stride, group, rank, capacity) if pays else None


def sample_stride(N: int) -> int:
    return max(32, -(-N // (1 << 19)))


def image_bytes(rows: int, D: int) -> int:
    """Of `rows`, a multiple of TILE: chunks of 64 numbers, of 32 where that saves a tenth (image_shape)."""
    narrow, wide = up_to(D, 32), up_to(D, 64)
    return 2 * rows * (16 if D <= 16 else narrow if 10 * narrow <= 9 * wide else wide)


def up_to(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


class ItemImage(NamedTuple):
    """Items in bf16 as the filter reads them (kernels/cuda/table_image.cuh), and a sample of them: views of one buffer."""

    image: Tensor
    terms: Tensor
    sample_image: Tensor
    sample_terms: Tensor


def image_sizes(N: int, D: int, stride: int) -> list[int]:
    rows, sampled = up_to(N, TILE), up_to(N // stride, TILE)
    return [image_bytes(rows, D), 16 * rows, image_bytes(sampled, D), 16 * sampled]


def item_image(buffer: Tensor, N: int, D: int, stride: int) -> ItemImage:
    return ItemImage(*buffer.split(image_sizes(N, D, stride)))


def launch(step: str, device: torch.device, *args) -> None:
    cuda.run(step, device, *args)


def prepare_items(items: Tensor, item_bias: Tensor | None, stride: int | None = None) -> Tensor:
    """The buffer of an `item_image` of contiguous `items` [N, D], on their device: little over 2·N·D + 16·N bytes."""
    N, D = items.shape
    stride = sample_stride(N) if stride is None else stride
    buffer = workspace(sum(image_sizes(N, D, stride)), dtype=torch.uint8, device=items.device)
    parts = item_image(buffer, N, D, stride)
    for step, count, image, terms in ((0, N, *parts[:2]), (stride, N // stride, *parts[2:])):
        launch("prepare_items", items.device, DTYPE_CODES[items.dtype], address(items), address(item_bias), D, step, count,
               address(image), address(terms))  # fmt: skip
    return buffer


def prepared_buffer(items: Tensor, item_bias: Tensor | None) -> Tensor | None:
    """What `inner_product_topk` takes as `prepared`; None for tables that it does not filter."""
    if filter_plan(*items.shape, 1) is None:
        return None
    return prepare_items(*contiguous(items, item_bias))


def uses_hopper(device: torch.device) -> bool:
    return cuda._cuda.has_sm90a() and torch.cuda.get_device_capability(device) == (9, 0)


def prefers_hopper(N: int, D: int, plan: FilterPlan) -> bool:
    """Whether wgmma is the faster filter: its products are, from some D on, but what it keeps costs it more (TK-8)."""
    kept = plan.rank * plan.stride / N
    return kept <= (D - 48) / 20000


def inner_product_topk(
    users: Tensor, items: Tensor, k: int, indptr: Tensor | None, indices: Tensor | None, item_bias: Tensor | None,
    *, prepared: Tensor | None = None, plan: FilterPlan | None = None, hopper: bool | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """By the filter where it pays, with what it could not settle done exactly. Waits once for the device: for the number of
    rows left over, which is nearly always 0. `prepared` is prepare_items' buffer of the same table.

    A row whose exclusions are malformed gets indices -1, scores NaN and length 0.
    """
    users, items, indptr, indices, item_bias = contiguous(users, items, indptr, indices, item_bias)
    (B, D), N = users.shape, items.shape[0]
    top = empty_lists(B, k, accumulator_dtype(users.dtype), users.device)
    plan = filter_plan(N, D, k) if plan is None else plan
    if B * k == 0 or plan is None:
        score_exactly(users, items, k, indptr, indices, item_bias, None, top)
        return top
    if prepared is None or plan.stride != sample_stride(N):
        prepared = prepare_items(items, item_bias, plan.stride)
    image = item_image(prepared, N, D, plan.stride)
    if hopper is None:
        hopper = prefers_hopper(N, D, plan) and uses_hopper(users.device)
    rows = filter_rows(users, items, k, indptr, indices, item_bias, plan, image, hopper, top)
    if len(rows):
        rows = rows.sort().values
        parts = empty_lists(len(rows), k, top[0].dtype, users.device)
        score_exactly(users, items, k, indptr, indices, item_bias, rows, parts)
        for whole, part in zip(top, parts):
            whole.index_copy_(0, rows, part)
    return top


def empty_lists(rows: int, k: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    return (
        workspace(rows, k, dtype=dtype, device=device),
        workspace(rows, k, dtype=torch.int64, device=device),
        workspace(rows, dtype=torch.int64, device=device),
    )


def filter_rows(users, items, k, indptr, indices, item_bias, plan, image, hopper, top) -> Tensor:
    """Writes the rows that the filter settles; returns the others."""
    (B, D), N, device = users.shape, items.shape[0], users.device
    code, wide = DTYPE_CODES[users.dtype], users.dtype == torch.float64
    padded = up_to(B, 2 * TILE)
    user_image = workspace(image_bytes(padded, D), dtype=torch.uint8, device=device)
    norms = workspace(padded, dtype=torch.float32, device=device)
    states = workspace(padded, dtype=torch.uint8, device=device)
    rounding = torch.zeros(1, dtype=torch.float32, device=device)
    launch("prepare_users", device, code, address(users), B, padded, D, address(indptr), address(indices),
           0 if indices is None else len(indices), N, plan.capacity // 4, address(user_image), address(norms),
           address(rounding), address(states))  # fmt: skip
    count = N // plan.stride
    groups = up_to(count, TILE) // plan.group
    row_bytes = plan.capacity * (24 if wide else 8) + 4 * groups
    turn = min(padded, max(2 * TILE, WORKSPACE_BYTES // row_bytes // (2 * TILE) * 2 * TILE))
    survivors = workspace(turn, plan.capacity, 2, dtype=torch.int32, device=device)
    candidates = workspace(turn, plan.capacity, 2, dtype=torch.int64, device=device) if wide else survivors
    largest = workspace(turn, groups, dtype=torch.float32, device=device)
    thresholds = workspace(turn, dtype=torch.float32, device=device)
    redo_count = torch.zeros(1, dtype=torch.int64, device=device)
    redo_rows = workspace(B, dtype=torch.int64, device=device)
    for first in range(0, B, turn):
        rows = min(turn, B - first)
        counts = torch.zeros(rows, dtype=torch.int32, device=device)
        step = cuda._cuda.TopKFilter(
            B=rows, N=N, D=D, user_image=address(user_image) + image_bytes(first, D), item_image=address(image.image),
            terms=address(image.terms), norms=address(norms[first:]), rounding=address(rounding),
            states=address(states[first:]), thresholds=address(thresholds),
            indptr=0 if indptr is None else address(indptr[first:]), indices=address(indices),
            survivors=address(survivors), counts=address(counts), capacity=plan.capacity,
        )  # fmt: skip
        launch("sample_threshold", device, step, address(image.sample_image), address(image.sample_terms), count,
               plan.stride, plan.group, plan.rank, address(largest))  # fmt: skip
        launch("score_filter", device, step, hopper)
        scores, ids, lengths = (t[first:] for t in top)
        launch("topk_finish", device, code, address(users[first:]), address(items), address(item_bias), step,
               address(candidates), k, address(scores), address(ids), address(lengths), first, address(redo_count),
               address(redo_rows))  # fmt: skip
    return redo_rows[: int(redo_count)]


def score_exactly(users, items, k, indptr, indices, item_bias, rows, top) -> None:
    """Writes the lists of `rows` (None: all) from exact scores of all items, in pieces of bounded size."""
    (B, D), N, device = users.shape, items.shape[0], users.device
    code, count = DTYPE_CODES[users.dtype], B if rows is None else len(rows)
    if N == 0 or k == 0:
        fill_empty(top)
        return
    if rows is None and count > EXACT_ROWS:
        rows = torch.arange(B, device=device)
    height = count if rows is None else max(EXACT_ROWS, EXACT_SCORES // N // EXACT_ROWS * EXACT_ROWS)
    width = min(N, EXACT_SCORES // EXACT_ROWS)
    for first in range(0, count, max(height, 1)):
        listed = None if rows is None else rows[first : first + height]
        R = count if listed is None else len(listed)
        malformed = torch.zeros(R, dtype=torch.uint8, device=device)
        best = None
        for begin in range(0, N, width):
            end = min(begin + width, N)
            scores = workspace(R, end - begin, dtype=top[0].dtype, device=device)
            launch("exact_scores", device, code, address(users), address(items), address(item_bias), D, address(listed), R,
                   begin, end - begin, address(indptr), address(indices), 0 if indices is None else len(indices), N,
                   address(scores), address(malformed))  # fmt: skip
            part = masked_topk(scores, k, None, None, None)
            part[1].add_(begin * (part[1] >= 0))
            best = part if best is None else merged(best, part, k)
        bad = malformed.bool()
        best[0].masked_fill_(bad[:, None], torch.nan)
        best[1].masked_fill_(bad[:, None], -1)
        best[2].masked_fill_(bad, 0)
        for whole, part in zip(top, best):
            whole[first : first + R] = part


def merged(earlier, later, k):
    """The best k of two lists, of which the second has the higher ids."""
    scores, ids = torch.cat([earlier[0], later[0]], 1), torch.cat([earlier[1], later[1]], 1)
    best, positions, lengths = masked_topk(scores, k, None, None, None)
    return best, ids.gather(1, positions.clamp(min=0)).masked_fill_(positions < 0, -1), lengths


def fill_empty(top) -> None:
    top[0].fill_(-torch.inf)
    top[1].fill_(-1)
    top[2].zero_()


class StreamPlan(NamedTuple):
    """Of `windows` windows of `pieces` pieces of 32 bytes, one piece each is sampled; see FilterPlan for the rest."""

    windows: int
    pieces: int
    rank: int
    capacity: int


def stream_plan(N: int, k: int, element_bytes: int) -> StreamPlan | None:
    """None where whole rows are selected from at once."""
    piece = 32 // element_bytes
    if N <= DENSE_ITEMS:
        return None
    pieces = max(32, -(-N // (4096 * piece)))
    windows = N // (pieces * piece)
    rank = sampled_rank(k * windows * piece / N)
    # A sorted row keeps a whole window for each piece of the sample that reaches the threshold.
    capacity = rank * pieces * piece * 5 // 4 + 1024
    return StreamPlan(windows, pieces, rank, capacity) if 2 * rank <= windows and 2 * capacity <= N else None


def masked_topk(
    scores: Tensor, k: int, indptr: Tensor | None, indices: Tensor | None, mask: Tensor | None,
    *, plan: StreamPlan | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Scores come back in their own dtype. Never waits for the device; what a sampled threshold does not settle is
    selected from whole rows there. A row whose exclusions are malformed gets indices -1, scores NaN and length 0.
    """
    indptr, indices, mask = contiguous(indptr, indices, mask)
    if scores.stride(1) != 1:
        scores = scores.contiguous()
    (B, N), device = scores.shape, scores.device
    if N >= LARGEST_COUNT:
        raise ValueError(
            f"masked_topk: expected fewer than {LARGEST_COUNT} scores a row on a device; got {N}"
        )
    top = empty_lists(B, k, scores.dtype, device)
    if N == 0 or B * k == 0:
        fill_empty(top)
        return top
    plan = stream_plan(N, k, scores.element_size()) if plan is None else plan
    windows, pieces, rank, capacity = (0, 0, 0, 0) if plan is None else plan
    entry = torch.int64 if scores.dtype == torch.float64 else torch.int32  # two for a key and an id
    turn = B if plan is None else min(B, max(1, WORKSPACE_BYTES // (2 * entry.itemsize * capacity)))
    new = lambda *size, dtype: None if plan is None else workspace(*size, dtype=dtype, device=device)
    kept, thresholds = new(turn, capacity, 2, dtype=entry), new(turn, dtype=accumulator_dtype(scores.dtype))
    counts, malformed = new(turn, dtype=torch.int32), new(turn, dtype=torch.uint8)
    redo_count, redo_rows = new(1, dtype=torch.int64), new(turn, dtype=torch.int64)
    for first in range(0, B, turn):
        rows = min(turn, B - first)
        best, ids, lengths = (t[first:] for t in top)
        launch("masked_topk", device, DTYPE_CODES[scores.dtype], address(scores[first:]), rows, N, scores.stride(0), k,
               0 if indptr is None else address(indptr[first:]), address(indices), 0 if indices is None else len(indices),
               0 if mask is None else address(mask[first:]), windows, pieces, rank, capacity, address(kept),
               address(counts), address(thresholds), address(malformed), address(redo_count), address(redo_rows),
               address(best), address(ids), address(lengths))  # fmt: skip
    return top
