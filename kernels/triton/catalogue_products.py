"""The whole catalogue's log-masses and their gradients by torch's matrix products, with kernels between them.

A number is the exact sum of three bfloat16 numbers, its planes; the products of planes that matter to fp32 stand side by
side in one product of matrices, which runs at the matrix units' bfloat16 rate. Scores exist for a piece of the
catalogue at a time, in a workspace of fixed size. DESIGN.md CM-6.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from rankdistill.kernels.triton.order import excluded_range
from rankdistill.kernels.triton.selection import faulty_rows, rows_contiguous
from torch import Tensor

LOWEST = tl.constexpr(-float("inf"))
PLANES = {torch.float32: 3, torch.float16: 2, torch.bfloat16: 1}  # that hold a number of each dtype exactly
WEIGHT_PLANES = {torch.float32: 3, torch.float16: 2, torch.bfloat16: 2}
WORKSPACE_BYTES = 512 << 20  # of a piece's scores and weights
MOST_ROWS, MOST_COLUMNS = 4096, 1 << 16  # of a piece
GROUPS = 16  # parts of a piece's items whose gradients by users are summed side by side
ALIGNED = 8  # numbers in 16 bytes
BLOCK, TILE = 1024, 1024


@triton.jit
def truncated(x):
    """The bfloat16 number next to x towards 0, as fp32."""
    return (x.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)


@triton.jit
def plane_of(x, which: tl.constexpr):
    """The first three bfloat16 digits of an fp32 number."""
    for _ in tl.static_range(which):
        x -= truncated(x)
    return truncated(x)


@triton.jit
def scale_of(grads_ptr, sums_ptr, row, real):
    """What e^(score - top) of a row counts in gradients: nothing without a gradient or without mass."""
    grad = tl.load(grads_ptr + row, mask=real, other=0.0)
    total = tl.load(sums_ptr + row, mask=real, other=1.0)
    return tl.where(total == 0, 0.0, tl.where(grad == 0, 0.0, grad / tl.where(total == 0, 1.0, total)))


@triton.jit(do_not_specialize=["rows", "n"])
def catalogue_products_split_kernel(
    table_ptr, grads_ptr, sums_ptr, parts_ptr, stride_row, rows, n, D, WIDTH, PATTERN: tl.constexpr, PARTS: tl.constexpr,
    SCALED: tl.constexpr, ONES: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """[rows, PARTS, WIDTH] planes of a table's rows, the base-4 digits of PATTERN; 0 past its n rows and its width.

    SCALED: rows that weigh nothing are 0, whatever they hold. ONES: column D of the first plane is 1."""
    row = (tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R))[:, None]
    d = (tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D))[None, :]
    inside = (d < D) & (row < n)
    if SCALED:
        inside = inside & (scale_of(grads_ptr, sums_ptr, row, row < n) != 0)
    values = tl.load(table_ptr + row * stride_row + d, mask=inside, other=0.0).to(tl.float32)
    for part in tl.static_range(PARTS):
        plane = plane_of(values, (PATTERN >> (2 * part)) & 3)
        if ONES and (PATTERN >> (2 * part)) & 3 == 0:
            plane = tl.where(d == D, 1.0, plane)
        there = (row < rows) & (d < WIDTH)
        tl.store(parts_ptr + (row * PARTS + part) * WIDTH + d, plane.to(tl.bfloat16), mask=there)


@triton.jit
def drop_listed(scores_ptr, ids_ptr, begin, end, first, columns, BLOCK: tl.constexpr):
    for at in range(begin, end, BLOCK):
        position = at + tl.arange(0, BLOCK)
        column = tl.load(ids_ptr + position, mask=position < end, other=-1) - first
        tl.store(scores_ptr + column, LOWEST, mask=(column >= 0) & (column < columns))


@triton.jit(do_not_specialize=["first", "columns", "nnz", "K"])
def catalogue_products_drop_kernel(
    scores_ptr, indptr_ptr, indices_ptr, listed_ptr, first, columns, stride, nnz, K, EXCLUDES: tl.constexpr,
    LISTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Scores -inf of what a row does not count among the items from `first` on."""
    row = tl.program_id(0).to(tl.int64)
    scores_ptr += row * stride
    if EXCLUDES:
        begin, end, _ = excluded_range(indptr_ptr, row, nnz)
        drop_listed(scores_ptr, indices_ptr, begin, end, first, columns, BLOCK)
    if LISTS:
        drop_listed(scores_ptr, listed_ptr, row * K, row * K + K, first, columns, BLOCK)


@triton.jit
def biased_scores(scores_ptr, bias_ptr, stride_bias, column, columns, HAS_BIAS: tl.constexpr):
    inside = column < columns
    scores = tl.load(scores_ptr + column, mask=inside, other=LOWEST)
    if HAS_BIAS:
        scores += tl.load(bias_ptr + column.to(tl.int64) * stride_bias, mask=inside, other=0.0).to(tl.float32)
    return scores


@triton.jit(do_not_specialize=["columns"])
def catalogue_products_mass_kernel(
    scores_ptr, bias_ptr, tops_ptr, sums_ptr, stride, stride_bias, columns, HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Takes a piece's scores into the largest score of each row and the sum of e^(score - largest)."""
    row = tl.program_id(0).to(tl.int64)
    scores_ptr += row * stride
    top = tl.full([BLOCK], LOWEST, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for begin in range(0, columns, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        scores = biased_scores(scores_ptr, bias_ptr, stride_bias, column, columns, HAS_BIAS)
        larger = tl.where(scores > top, scores, top)
        larger = tl.where(scores == scores, larger, scores)
        safe = tl.where(larger == LOWEST, 0.0, larger)
        total = total * tl.exp(top - safe) + tl.exp(scores - safe)
        top = larger
    before, sum_before = tl.load(tops_ptr + row), tl.load(sums_ptr + row)
    largest = tl.maximum(tl.max(top, 0), before)
    safe = tl.where(largest == LOWEST, 0.0, largest)
    total = tl.sum(total * tl.exp(top - safe), 0) + sum_before * tl.exp(before - safe)
    tl.store(tops_ptr + row, largest)
    tl.store(sums_ptr + row, total)


@triton.jit(do_not_specialize=["columns"])
def catalogue_products_weights_kernel(
    scores_ptr, bias_ptr, tops_ptr, grads_ptr, sums_ptr, weights_ptr, stride, stride_bias, plane_stride, columns,
    HAS_BIAS: tl.constexpr, PLANES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """[PLANES, rows, stride] planes of scale · e^(score - top), the last first; 0 past the columns and in rows of scale 0."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    top, scale = tl.load(tops_ptr + row), scale_of(grads_ptr, sums_ptr, row, row >= 0)
    scores = biased_scores(scores_ptr + row * stride, bias_ptr, stride_bias, column, columns, HAS_BIAS)
    weights = tl.where(column < columns, scale * tl.exp(scores - top), 0.0)
    weights = tl.where(scale == 0, 0.0, weights)
    for which in tl.static_range(PLANES):
        plane = plane_of(weights, PLANES - 1 - which).to(tl.bfloat16)
        tl.store(weights_ptr + which * plane_stride + row * stride + column, plane, mask=column < stride)


@triton.jit(do_not_specialize=["rows"])
def catalogue_products_fold_kernel(
    products_ptr, grads_ptr, bias_ptr, rows, D, WIDTH, OUTER: tl.constexpr, PLANES: tl.constexpr,
    HAS_BIAS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Adds products [OUTER, rows, PLANES, WIDTH], over OUTER and PLANES, to grads [rows, D]; column D to biases'."""
    row = (tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R))[:, None]
    d = (tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D))[None, :]
    inside = (row < rows) & (d < D + HAS_BIAS)
    total = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    part_ptrs = products_ptr + row * PLANES * WIDTH + d
    for _ in range(OUTER):
        for plane in tl.static_range(PLANES):
            total += tl.load(part_ptrs + plane * WIDTH, mask=inside, other=0.0)
        part_ptrs += rows.to(tl.int64) * PLANES * WIDTH
    kept = inside & (d < D)
    grad_ptrs = grads_ptr + row * D + d
    tl.store(grad_ptrs, total + tl.load(grad_ptrs, mask=kept, other=0.0), mask=kept)
    if HAS_BIAS:
        bias = inside & (d == D)
        bias_ptrs = bias_ptr + row + d * 0
        tl.store(bias_ptrs, total + tl.load(bias_ptrs, mask=bias, other=0.0), mask=bias)


def pairs(planes: int) -> list[tuple[int, int]]:
    """Of planes whose products matter: the others are below 2^-24 of the whole.

    The largest come last: a sum of matrix units loses a little of itself at every step, and is small until then. The last
    have plane 0 on the left, so that the last on the right are all planes."""
    return [(i, j) for i in reversed(range(planes)) for j in reversed(range(planes)) if i + j <= 2]


def pattern(planes: Sequence[int]) -> int:
    return sum(plane << (2 * part) for part, plane in enumerate(planes))


def split(
    table: Tensor, planes: Sequence[int], width: int, rows: int | None = None, weighed: tuple[Tensor, Tensor] | None = None,
    ones: bool = False,
) -> Tensor:  # fmt: skip
    """[rows, len(planes) · width] bfloat16 planes of a table's rows; `weighed`: the rows' gradients and sums."""
    n, D = table.shape
    rows = n if rows is None else rows
    parts = torch.empty((rows, len(planes) * width), dtype=torch.bfloat16, device=table.device)
    block_d = min(triton.next_power_of_2(width), 128)
    block_r = TILE // block_d
    catalogue_products_split_kernel[(triton.cdiv(rows, block_r), triton.cdiv(width, block_d))](
        table, *(weighed or (table, table)), parts, table.stride(0), rows, n, D, width, PATTERN=pattern(planes),
        PARTS=len(planes), SCALED=weighed is not None, ONES=ones, BLOCK_R=block_r, BLOCK_D=block_d, num_warps=4,
    )  # fmt: skip
    return parts


def product(left: Tensor, right: Tensor) -> Tensor:
    """[…, M, N] float32 of bfloat16 matrices; exact products, summed in fp32."""
    if left.is_cuda:
        multiply = torch.mm if left.dim() == 2 else torch.bmm
        return multiply(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


class Piece(NamedTuple):
    """Some rows' scores [rows, stride] of the items `first` to `first + columns`, and those items' planes."""

    rows: slice
    first: int
    columns: int
    scores: Tensor
    planes: Tensor


class Weighed(NamedTuple):
    """Of some rows [R]: the gradients of their log-masses, their largest scores, and their sums."""

    grads: Tensor
    tops: Tensor
    sums: Tensor


class Products:
    """Tables with contiguous rows, and what each row does not count: CSR lists, and listed ids [B, K]."""

    def __init__(self, users, items, exclude_indptr, exclude_indices, item_bias, listed) -> None:
        self.users, self.items, self.item_bias = rows_contiguous(users), rows_contiguous(items), item_bias
        self.exclude, self.faulty, self.kept = None, None, None
        self.listed = listed.contiguous() if listed is not None and listed.numel() else None
        if exclude_indptr is not None and len(users):
            self.exclude = exclude_indptr.contiguous(), exclude_indices.contiguous()
            self.faulty = faulty_rows(self.exclude, len(items))
        self.n_planes = PLANES[users.dtype]
        self.lefts, self.rights = zip(*pairs(self.n_planes))
        D, has_bias = users.shape[1], item_bias is not None
        self.width = max(triton.cdiv(D + has_bias, ALIGNED), 1) * ALIGNED  # room for a column of ones

    def empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=self.users.device)

    def zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float32, device=self.users.device)

    def pieces(self) -> Iterator[Piece]:
        """All of them in order; one alone is kept. Whoever lets go of one makes room for the next."""
        B, N = len(self.users), len(self.items)
        if self.kept is not None:
            yield self.kept
            return
        score_bytes = 4 + 2 * WEIGHT_PLANES[self.users.dtype]
        height = min(B, MOST_ROWS)
        unit = GROUPS * ALIGNED
        most = min(WORKSPACE_BYTES // (score_bytes * max(height, 1)), MOST_COLUMNS) // unit * unit
        most = min(max(most, unit), triton.cdiv(max(N, 1), unit) * unit)
        for b in range(0, B, max(height, 1)):
            rows = slice(b, min(b + height, B))
            left = split(self.users[rows], self.lefts, self.width)
            for first in range(0, N, most):
                piece = self.piece(rows, left, first, min(most, N - first))
                if height == B and most >= N:
                    self.kept = piece
                yield piece
                del piece

    def piece(self, rows: slice, left: Tensor, first: int, columns: int) -> Piece:
        stride = triton.cdiv(columns, GROUPS * ALIGNED) * GROUPS * ALIGNED
        planes = split(self.items[first : first + columns], self.rights, self.width, stride)
        scores = product(left, planes.t())
        R = len(left)
        if self.exclude is not None or self.listed is not None:
            indptr, indices = (
                (scores, scores) if self.exclude is None else (self.exclude[0][rows.start :], self.exclude[1])
            )
            listed = scores if self.listed is None else self.listed[rows]
            catalogue_products_drop_kernel[(R,)](
                scores, indptr, indices, listed, first, columns, stride, indices.numel(),
                0 if self.listed is None else self.listed.shape[1], EXCLUDES=self.exclude is not None,
                LISTS=self.listed is not None, BLOCK=128,
            )  # fmt: skip
        return Piece(rows, first, columns, scores, planes)

    def bias_of(self, piece: Piece) -> tuple[Tensor, int]:
        if self.item_bias is None:
            return piece.scores, 0
        return self.item_bias[piece.first :], self.item_bias.stride(0)

    def mass(self) -> tuple[Tensor, Tensor, Tensor]:
        """Log-masses, tops and sums [B]."""
        B = len(self.users)
        tops, sums = self.empty(B).fill_(-torch.inf), self.zeros(B)
        for piece in self.pieces():
            bias, stride_bias = self.bias_of(piece)
            catalogue_products_mass_kernel[(len(piece.scores),)](
                piece.scores, bias, tops[piece.rows], sums[piece.rows], piece.scores.stride(0), stride_bias,
                piece.columns, HAS_BIAS=self.item_bias is not None, BLOCK=BLOCK, num_warps=4,
            )  # fmt: skip
            del piece, bias
        if self.faulty is not None:
            sums.masked_fill_(self.faulty, torch.nan)
        return tops + sums.log(), tops, sums

    def grads(self, grad: Tensor, tops: Tensor, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients by users, items and biases (none where there are none), float32."""
        (B, D), N = self.users.shape, len(self.items)
        grads = self.zeros(B, D), self.zeros(N, D), self.zeros(N if self.item_bias is not None else 0)
        rows_given = grad.float().contiguous(), tops.contiguous(), sums.contiguous()
        rows, of_rows = None, None
        for piece in self.pieces():
            part = Weighed(*(given[piece.rows] for given in rows_given))
            if piece.rows != rows:
                rows, of_rows = piece.rows, self.weighed_rows(piece.rows, part)
            self.add_grads(piece, part, of_rows, grads)
            del piece
        return grads

    def weighed_rows(self, rows: slice, part: Weighed) -> Tensor:
        """[heights · R, planes · width] planes of users, under each other as often as weights have planes."""
        planes, has_bias = range(self.n_planes), self.item_bias is not None
        of_rows = split(self.users[rows], planes, self.width, weighed=(part.grads, part.sums), ones=has_bias)
        return of_rows.repeat(WEIGHT_PLANES[self.users.dtype], 1)

    def add_grads(self, piece: Piece, part: Weighed, of_rows: Tensor, grads: tuple[Tensor, ...]) -> None:
        weights = self.weights(piece, part)
        heights, R, stride = weights.shape
        parts = weights.view(heights * R, GROUPS, -1).transpose(0, 1)
        items = piece.planes[:, -self.n_planes * self.width :]
        items = torch.where(items.isfinite(), items, 0).unflatten(0, (GROUPS, -1))  # what has no part adds 0
        self.fold(product(parts, items), GROUPS * heights, grads[0][piece.rows], None)
        columns = slice(piece.first, piece.first + piece.columns)
        by_item = product(weights.view(heights * R, stride).t(), of_rows)
        self.fold(by_item, 1, grads[1][columns], None if self.item_bias is None else grads[2][columns])

    def fold(self, products: Tensor, outer: int, grads: Tensor, bias: Tensor | None) -> None:
        rows, D = grads.shape
        wide = D + (bias is not None)
        if not rows * wide:
            return
        block_d = min(triton.next_power_of_2(wide), 128)
        block_r = max(TILE // block_d // min(outer, 8), 1)
        catalogue_products_fold_kernel[(triton.cdiv(rows, block_r), triton.cdiv(wide, block_d))](
            products, grads, grads if bias is None else bias, rows, D, self.width, OUTER=outer, PLANES=self.n_planes,
            HAS_BIAS=bias is not None, BLOCK_R=block_r, BLOCK_D=block_d, num_warps=4,
        )  # fmt: skip

    def weights(self, piece: Piece, part: Weighed) -> Tensor:
        R, stride = piece.scores.shape
        heights = WEIGHT_PLANES[self.users.dtype]
        weights = torch.empty((heights, R, stride), dtype=torch.bfloat16, device=piece.scores.device)
        bias, stride_bias = self.bias_of(piece)
        catalogue_products_weights_kernel[(R, triton.cdiv(stride, BLOCK))](
            piece.scores, bias, part.tops, part.grads, part.sums, weights, stride, stride_bias, R * stride,
            piece.columns, HAS_BIAS=self.item_bias is not None, PLANES=heights, BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip
        return weights
