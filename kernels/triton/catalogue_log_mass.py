"""Triton kernels of catalogue_log_mass: tiles of scores that live in registers, summed or weighed as they are made.

The catalogue is cut into segments that depend on N alone; a program has a tile of rows and a segment, and segments are
joined in order. Gradients compute the scores again: one sweep for users, one for items, no atomics. DESIGN.md CM-5.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from rankdistill.kernels.triton.catalogue_products import PLANES, Products
from rankdistill.kernels.triton.catalogue_tile import (
    LOWEST,
    NO_ITEM,
    counted_scores,
    edges_from,
    edges_of,
    kept_rows,
    table_tile,
    weight_tile,
    weighted,
)
from rankdistill.kernels.triton.order import excluded_range, first_not_below
from rankdistill.kernels.triton.score_tile import norms_above
from rankdistill.kernels.triton.selection import faulty_rows, rows_contiguous
from rankdistill.kernels.triton.touched_rows import wide_dtype
from torch import Tensor

BLOCK_R, BLOCK_N = (
    64,
    64,
)  # fewer rows where gradients are summed, half by users and a quarter by items: spills
SEGMENTS = 32
PART_BYTES = 64 << 20  # of the segments' gradients by users, which exist for some rows at a time
SUM_BLOCK = 256
MOST_WIDTH = {
    2: 128,
    4: 64,
    8: 32,
}  # of a table's rows, and of a gradient's, in one piece, by bytes of a number


@triton.jit
def catalogue_log_mass_edges_kernel(
    indptr_ptr, indices_ptr, edges_ptr, B, N, nnz, SEGMENTS: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """[B, SEGMENTS + 1] the positions of each row's exclusions where the catalogue's segments begin."""
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    segment = tl.program_id(1)
    begin, end, _ = excluded_range(indptr_ptr, tl.minimum(rows, B - 1).to(tl.int64), nnz)
    first_item = tl.cdiv(N, BLOCK_N).to(tl.int64) * segment // SEGMENTS * BLOCK_N
    edge = first_not_below(indices_ptr, begin, end, first_item, tl.max(end - begin, 0))
    edge = tl.where(segment == SEGMENTS, end, edge)
    tl.store(edges_ptr + rows.to(tl.int64) * (SEGMENTS + 1) + segment, edge, mask=rows < B)


@triton.jit
def catalogue_log_mass_forward_kernel(
    users_ptr, items_ptr, bias_ptr, edges_ptr, indices_ptr, listed_edges_ptr, listed_ptr, norms_ptr, floors_ptr,
    tile_norms_ptr, tile_biases_ptr, tops_ptr, sums_ptr, stride_users_row, stride_items_row, stride_bias, B, N, D,
    HAS_BIAS: tl.constexpr, EXCLUDES: tl.constexpr, LISTS: tl.constexpr, SKIPS: tl.constexpr, SEGMENTS: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    D_BLOCKS: tl.constexpr,
):  # fmt: skip
    """[SEGMENTS, B] the largest score of each row in a segment, and the sum of e^(score - largest)."""
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    real = rows < B
    segment = tl.program_id(1)
    dtype: tl.constexpr = tops_ptr.dtype.element_ty
    users = rows
    if D_BLOCKS == 1:
        users = table_tile(users_ptr, rows, real, tl.arange(0, BLOCK_D), stride_users_row, D)
    at, end, excluded = edges_of(edges_ptr, indices_ptr, rows, real, segment, SEGMENTS, EXCLUDES)
    list_at, list_end, listed = edges_of(listed_edges_ptr, listed_ptr, rows, real, segment, SEGMENTS, LISTS)
    if SKIPS:
        norms = tl.load(norms_ptr + rows, mask=real, other=0.0)
        floors = tl.load(floors_ptr + rows, mask=real, other=0.0)
    top = tl.full([BLOCK_R], LOWEST, dtype)
    total = tl.zeros([BLOCK_R], dtype)
    tiles = tl.cdiv(N, BLOCK_N).to(tl.int64)
    for tile in range(tiles * segment // SEGMENTS, tiles * (segment + 1) // SEGMENTS):
        any_kept = 1
        if SKIPS:
            kept = kept_rows(norms, floors, tile_norms_ptr, tile_biases_ptr, tile, real)
            any_kept = tl.max(kept.to(tl.int32), 0)
        if any_kept > 0:
            columns = tile * BLOCK_N + tl.arange(0, BLOCK_N)
            scores, at, excluded, list_at, listed = counted_scores(
                users_ptr, users, items_ptr, bias_ptr, rows, real, columns, columns < N, tile, indices_ptr, at, end,
                excluded, listed_ptr, list_at, list_end, listed, stride_users_row, stride_items_row, stride_bias, D, dtype,
                HAS_BIAS, EXCLUDES, LISTS, PRECISION, BLOCK_R, BLOCK_N, BLOCK_D, D_BLOCKS,
            )  # fmt: skip
            if SKIPS:
                scores = tl.where(kept[:, None], scores, LOWEST)
            larger = tl.maximum(top, tl.max(scores, 1))
            safe = tl.where(larger == LOWEST, 0.0, larger)
            total = total * tl.exp(top - safe) + tl.sum(tl.exp(scores - safe[:, None]), 1)
            top = larger
    tl.store(tops_ptr + segment.to(tl.int64) * B + rows, top, mask=real)
    tl.store(sums_ptr + segment.to(tl.int64) * B + rows, total, mask=real)


@triton.jit
def catalogue_log_mass_join_kernel(
    part_tops_ptr, part_sums_ptr, faulty_ptr, log_masses_ptr, tops_ptr, sums_ptr, B, HAS_FAULTS: tl.constexpr,
    SEGMENTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = rows < B
    dtype: tl.constexpr = tops_ptr.dtype.element_ty
    top = tl.full([BLOCK], LOWEST, dtype)
    at = rows
    for _ in range(SEGMENTS):
        top = tl.maximum(top, tl.load(part_tops_ptr + at, mask=real, other=LOWEST))
        at += B
    safe = tl.where(top == LOWEST, 0.0, top)
    total = tl.zeros([BLOCK], dtype)
    at = rows
    for _ in range(SEGMENTS):
        part_top = tl.load(part_tops_ptr + at, mask=real, other=LOWEST)
        part = tl.load(part_sums_ptr + at, mask=real, other=0.0)
        total += part * tl.exp(part_top - safe)
        at += B
    if HAS_FAULTS:
        faulty = tl.load(faulty_ptr + rows, mask=real, other=0) != 0
        total = tl.where(faulty, float("nan"), total)
    tl.store(log_masses_ptr + rows, top + tl.log(total), mask=real)
    tl.store(tops_ptr + rows, top, mask=real)
    tl.store(sums_ptr + rows, total, mask=real)


@triton.jit
def catalogue_log_mass_users_kernel(
    users_ptr, items_ptr, bias_ptr, edges_ptr, indices_ptr, listed_edges_ptr, listed_ptr, norms_ptr, floors_ptr,
    tile_norms_ptr, tile_biases_ptr, tops_ptr, scales_ptr, parts_ptr, stride_users_row, stride_items_row, stride_bias,
    B, N, D, HAS_BIAS: tl.constexpr, EXCLUDES: tl.constexpr, LISTS: tl.constexpr, SKIPS: tl.constexpr,
    SEGMENTS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, D_BLOCKS: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """[SEGMENTS, B, D] each segment's part of the gradients by users."""
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    real = rows < B
    segment = tl.program_id(1)
    g = tl.program_id(2) * BLOCK_G + tl.arange(0, BLOCK_G)
    dtype: tl.constexpr = parts_ptr.dtype.element_ty
    users = rows
    if D_BLOCKS == 1:
        users = table_tile(users_ptr, rows, real, tl.arange(0, BLOCK_D), stride_users_row, D)
    tops = tl.load(tops_ptr + rows, mask=real, other=0.0)
    scales = tl.load(scales_ptr + rows, mask=real, other=0.0)
    at, end, excluded = edges_of(edges_ptr, indices_ptr, rows, real, segment, SEGMENTS, EXCLUDES)
    list_at, list_end, listed = edges_of(listed_edges_ptr, listed_ptr, rows, real, segment, SEGMENTS, LISTS)
    if SKIPS:
        norms = tl.load(norms_ptr + rows, mask=real, other=0.0)
        floors = tl.load(floors_ptr + rows, mask=real, other=0.0)
    grads = tl.zeros([BLOCK_R, BLOCK_G], dtype)
    tiles = tl.cdiv(N, BLOCK_N).to(tl.int64)
    for tile in range(tiles * segment // SEGMENTS, tiles * (segment + 1) // SEGMENTS):
        any_kept = 1
        if SKIPS:
            kept = kept_rows(norms, floors, tile_norms_ptr, tile_biases_ptr, tile, real)
            any_kept = tl.max(kept.to(tl.int32), 0)
        if any_kept > 0:
            columns = tile * BLOCK_N + tl.arange(0, BLOCK_N)
            scores, at, excluded, list_at, listed = counted_scores(
                users_ptr, users, items_ptr, bias_ptr, rows, real, columns, columns < N, tile, indices_ptr, at, end,
                excluded, listed_ptr, list_at, list_end, listed, stride_users_row, stride_items_row, stride_bias, D, dtype,
                HAS_BIAS, EXCLUDES, LISTS, PRECISION, BLOCK_R, BLOCK_N, BLOCK_D, D_BLOCKS,
            )  # fmt: skip
            if SKIPS:
                scores = tl.where(kept[:, None], scores, LOWEST)
            items = table_tile(items_ptr, columns, columns < N, g, stride_items_row, D)
            grads = weighted(weight_tile(scores, tops, scales), items, grads, PRECISION)
    part_ptrs = parts_ptr + (segment.to(tl.int64) * B + rows)[:, None] * D + g[None, :]
    tl.store(part_ptrs, grads, mask=real[:, None] & (g < D)[None, :])


@triton.jit
def catalogue_log_mass_sum_kernel(parts_ptr, sums_ptr, n, SEGMENTS: tl.constexpr, BLOCK: tl.constexpr):
    """[n] the sum of parts [SEGMENTS, n], in order."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < n
    total = tl.zeros([BLOCK], sums_ptr.dtype.element_ty)
    for _ in range(SEGMENTS):
        total += tl.load(parts_ptr + offsets, mask=inside, other=0.0)
        parts_ptr += n
    tl.store(sums_ptr + offsets, total, mask=inside)


@triton.jit
def catalogue_log_mass_items_kernel(
    users_ptr, items_ptr, bias_ptr, edges_ptr, indices_ptr, listed_edges_ptr, listed_ptr, norms_ptr, floors_ptr,
    tile_norms_ptr, tile_biases_ptr, tops_ptr, scales_ptr, grad_items_ptr, grad_bias_ptr, stride_users_row,
    stride_items_row, stride_bias, B, N, D, HAS_BIAS: tl.constexpr, EXCLUDES: tl.constexpr, LISTS: tl.constexpr,
    SKIPS: tl.constexpr, SEGMENTS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, D_BLOCKS: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """The gradients by a tile of items and their biases: a sweep over all rows in order."""
    tile = tl.program_id(0).to(tl.int64)
    columns = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    there = columns < N
    g = tl.program_id(1) * BLOCK_G + tl.arange(0, BLOCK_G)
    dtype: tl.constexpr = grad_items_ptr.dtype.element_ty
    tiles = tl.cdiv(N, BLOCK_N).to(tl.int64)
    # The segment in which the tile lies: the last that begins at or before it.
    segment = ((tile + 1) * SEGMENTS - 1) // tiles
    grads = tl.zeros([BLOCK_N, BLOCK_G], dtype)
    bias_grads = tl.zeros([BLOCK_N], dtype)
    for block in range(tl.cdiv(B, BLOCK_R)):
        rows = block * BLOCK_R + tl.arange(0, BLOCK_R)
        real = rows < B
        any_kept = 1
        if SKIPS:
            norms = tl.load(norms_ptr + rows, mask=real, other=0.0)
            floors = tl.load(floors_ptr + rows, mask=real, other=0.0)
            kept = kept_rows(norms, floors, tile_norms_ptr, tile_biases_ptr, tile, real)
            any_kept = tl.max(kept.to(tl.int32), 0)
        if any_kept > 0:
            at, end, excluded = edges_from(edges_ptr, indices_ptr, rows, real, segment, tile * BLOCK_N, SEGMENTS, EXCLUDES)  # fmt: skip
            list_at, list_end, listed = edges_from(listed_edges_ptr, listed_ptr, rows, real, segment, tile * BLOCK_N, SEGMENTS, LISTS)  # fmt: skip
            users = rows
            if D_BLOCKS == 1:
                users = table_tile(users_ptr, rows, real, tl.arange(0, BLOCK_D), stride_users_row, D)
            scores, _, _, _, _ = counted_scores(
                users_ptr, users, items_ptr, bias_ptr, rows, real, columns, there, tile, indices_ptr, at, end,
                excluded, listed_ptr, list_at, list_end, listed, stride_users_row, stride_items_row, stride_bias, D, dtype,
                HAS_BIAS, EXCLUDES, LISTS, PRECISION, BLOCK_R, BLOCK_N, BLOCK_D, D_BLOCKS,
            )  # fmt: skip
            if SKIPS:
                scores = tl.where(kept[:, None], scores, LOWEST)
            tops = tl.load(tops_ptr + rows, mask=real, other=0.0)
            scales = tl.load(scales_ptr + rows, mask=real, other=0.0)
            weights = weight_tile(scores, tops, scales)
            weighed = real & (scales != 0)
            users = table_tile(users_ptr, rows, weighed, g, stride_users_row, D)
            grads = weighted(weights.T, users, grads, PRECISION)
            bias_grads += tl.sum(weights, 0)
    tl.store(
        grad_items_ptr + columns[:, None] * D + g[None, :], grads, mask=there[:, None] & (g < D)[None, :]
    )
    if HAS_BIAS:
        tl.store(grad_bias_ptr + columns, bias_grads, mask=there & (tl.program_id(1) == 0))


class Lists(NamedTuple):
    """Ids by row, ascending, and where each segment of the catalogue begins in them [B, SEGMENTS + 1]."""

    edges: Tensor
    indices: Tensor


class Skipping(NamedTuple):
    """Norms and best biases from above, and what a tile's bound must reach to be counted in a row."""

    norms: Tensor  # [B]
    floors: Tensor  # [B]
    tile_norms: Tensor  # [tiles]
    tile_biases: Tensor  # [tiles]

    def of(self, rows: slice) -> Skipping:
        return self._replace(norms=self.norms[rows], floors=self.floors[rows])


def precision_of(dtype: torch.dtype, device: torch.device) -> str:
    """Of products: exact ones of 16-bit storage, else with the accuracy of fp32 (or fp64) by matrix units."""
    if device.type == "cpu":  # Triton's interpreter multiplies no bfloat16
        return "ieee"
    return "storage" if dtype.itemsize == 2 else "tf32x3"


class Catalogue(NamedTuple):
    """Tables with contiguous rows, what each row does not count, and which rows' exclusions are malformed."""

    users: Tensor
    items: Tensor
    item_bias: Tensor | None
    excluded: Lists | None
    listed: Lists | None
    faulty: Tensor | None

    @property
    def dtype(self) -> torch.dtype:
        return wide_dtype(self.users.dtype)

    @property
    def segments(self) -> int:
        return max(min(SEGMENTS, triton.cdiv(len(self.items), BLOCK_N)), 1)

    def empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.users.device)

    def of(self, rows: slice) -> Catalogue:
        lists = (part and part._replace(edges=part.edges[rows]) for part in (self.excluded, self.listed))
        return Catalogue(self.users[rows], self.items, self.item_bias, *lists, None)

    def arguments(self, skipping: Skipping | None) -> tuple:
        """What every sweep takes first; any pointer serves for what is not there."""
        nothing = self.users
        lists = [*(self.excluded or (nothing, nothing)), *(self.listed or (nothing, nothing))]
        bias = nothing if self.item_bias is None else self.item_bias
        return self.users, self.items, bias, *lists, *(skipping or (nothing,) * 4)

    def sizes(self) -> tuple[int, ...]:
        stride = 0 if self.item_bias is None else self.item_bias.stride(0)
        (B, D), N = self.users.shape, len(self.items)
        return self.users.stride(0), self.items.stride(0), stride, B, N, D

    def options(self, skipping: Skipping | None) -> dict:
        D, dtype = self.users.shape[1], self.users.dtype
        block = max(16, triton.next_power_of_2(D)) if MOST_WIDTH[dtype.itemsize] >= D else 32
        return {
            "HAS_BIAS": self.item_bias is not None,
            "EXCLUDES": self.excluded is not None,
            "LISTS": self.listed is not None,
            "SKIPS": skipping is not None,
            "SEGMENTS": self.segments,
            "PRECISION": precision_of(dtype, self.users.device),
            "BLOCK_R": BLOCK_R,
            "BLOCK_N": BLOCK_N,
            "BLOCK_D": block,
            "D_BLOCKS": triton.cdiv(D, block),
            "num_warps": 8,
        }

    def block_g(self) -> int:
        """Columns of a gradient that a program adds up."""
        most = MOST_WIDTH[self.users.dtype.itemsize]
        return max(16, min(triton.next_power_of_2(max(self.users.shape[1], 1)), most))

    def skipping(self, skipped_mass: float, floors: Tensor) -> Skipping | None:
        """`floors` [B]: a bound of each row's log-mass from below."""
        N = len(self.items)
        if skipped_mass <= 0 or not N:
            return None
        tiles = triton.cdiv(N, BLOCK_N)
        norms = torch.zeros(tiles * BLOCK_N, dtype=torch.float32, device=self.items.device)
        norms[:N] = norms_above(self.items.float())
        biases = norms.new_zeros(tiles)
        if self.item_bias is not None:
            padded = norms.new_full((tiles * BLOCK_N,), -math.inf)
            padded[:N] = torch.where(self.item_bias.isnan(), math.inf, self.item_bias).float()
            biases = padded.view(tiles, BLOCK_N).amax(1)
        least = floors + math.log(skipped_mass / N)
        tile_norms = norms.view(tiles, BLOCK_N).amax(1)
        return Skipping(
            *(t.to(self.dtype) for t in (norms_above(self.users.float()), least, tile_norms, biases))
        )

    def mass(self, skipping: Skipping | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Log-masses, tops and sums [B]."""
        B, N, segments = len(self.users), len(self.items), self.segments
        log_masses, tops, sums = (self.empty(B) for _ in range(3))
        if not B:
            return log_masses, tops, sums
        part_tops, part_sums = self.empty(segments, B), self.empty(segments, B)
        if N:
            catalogue_log_mass_forward_kernel[(triton.cdiv(B, BLOCK_R), segments)](
                *self.arguments(skipping), part_tops, part_sums, *self.sizes(), **self.options(skipping)
            )
        else:
            part_tops.fill_(-math.inf)
            part_sums.zero_()
        catalogue_log_mass_join_kernel[(triton.cdiv(B, SUM_BLOCK),)](
            part_tops, part_sums, tops if self.faulty is None else self.faulty, log_masses, tops, sums, B,
            HAS_FAULTS=self.faulty is not None, SEGMENTS=segments, BLOCK=SUM_BLOCK,
        )  # fmt: skip
        return log_masses, tops, sums

    def grads(
        self, grad: Tensor, tops: Tensor, sums: Tensor, skipped_mass: float = 0.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients by users, items and biases (none where there are none), in the accumulator's dtype."""
        (B, D), N = self.users.shape, len(self.items)
        grad = grad.to(self.dtype)
        scales = torch.where((sums == 0) | (grad == 0), 0.0, grad / sums)
        tops, skipping = tops.contiguous(), self.skipping(skipped_mass, tops + sums.log())
        grad_users, grad_items = self.empty(B, D), self.empty(N, D)
        grad_bias = self.empty(0 if self.item_bias is None else N)
        if not N:
            return grad_users.zero_(), grad_items, grad_bias
        block = self.block_g() if skipping is None else min(self.block_g(), 32)  # more would spill
        chunks = max(triton.cdiv(D, block), 1)
        catalogue_log_mass_items_kernel[(triton.cdiv(N, BLOCK_N), chunks)](
            *self.arguments(skipping), tops, scales, grad_items, grad_bias, *self.sizes(), BLOCK_G=block,
            **self.options(skipping) | {"BLOCK_R": BLOCK_R // 2},
        )  # fmt: skip
        together = max(PART_BYTES // max(self.segments * D * self.dtype.itemsize, 1) // BLOCK_R, 1) * BLOCK_R
        for first in range(0, B if D else 0, together):
            rows = slice(first, min(first + together, B))
            part, skips = self.of(rows), skipping and skipping.of(rows)
            R = rows.stop - rows.start
            parts = self.empty(self.segments, R, D)
            catalogue_log_mass_users_kernel[(triton.cdiv(R, BLOCK_R // 2), self.segments, chunks)](
                *part.arguments(skips), tops[rows], scales[rows], parts, *part.sizes(), BLOCK_G=block,
                **part.options(skips) | {"BLOCK_R": BLOCK_R // 2},
            )  # fmt: skip
            catalogue_log_mass_sum_kernel[(triton.cdiv(R * D, SUM_BLOCK),)](
                parts, grad_users[rows], R * D, SEGMENTS=self.segments, BLOCK=SUM_BLOCK
            )
        return grad_users, grad_items, grad_bias


def lists_of(indptr: Tensor, indices: Tensor, N: int, segments: int) -> Lists:
    """Of CSR lists [B + 1], [nnz], contiguous."""
    B = len(indptr) - 1
    edges = torch.zeros((B, segments + 1), dtype=torch.int64, device=indptr.device)
    if B:
        catalogue_log_mass_edges_kernel[(triton.cdiv(B, BLOCK_R), segments + 1)](
            indptr, indices, edges, B, N, indices.numel(), SEGMENTS=segments, BLOCK_R=BLOCK_R, BLOCK_N=BLOCK_N
        )
    return Lists(edges, indices)


def catalogue_of(
    users: Tensor, items: Tensor, exclude_indptr: Tensor | None, exclude_indices: Tensor | None,
    item_bias: Tensor | None, listed: Tensor | None = None,
) -> Catalogue:  # fmt: skip
    """`listed` [B, K]: ids that a row does not count besides, in any order; -1 is none."""
    catalogue = Catalogue(rows_contiguous(users), rows_contiguous(items), item_bias, None, None, None)
    N, segments = len(items), catalogue.segments
    if exclude_indptr is not None and len(users):
        exclude = exclude_indptr.contiguous(), exclude_indices.contiguous()
        catalogue = catalogue._replace(
            excluded=lists_of(*exclude, N, segments), faulty=faulty_rows(exclude, N)
        )
    if listed is not None and listed.numel():
        B, K = listed.shape
        ascending = torch.where(listed < 0, NO_ITEM.value, listed).sort(dim=1).values.flatten()
        starts = torch.arange(B + 1, device=listed.device) * K
        catalogue = catalogue._replace(listed=lists_of(starts, ascending, N, segments))
    return catalogue


def whole_catalogue(
    users: Tensor, items: Tensor, exclude_indptr: Tensor | None, exclude_indices: Tensor | None,
    item_bias: Tensor | None, listed: Tensor | None = None,
) -> Products | Catalogue:  # fmt: skip
    """As `catalogue_of`, by products of matrices where their planes hold the tables' numbers."""
    make = Products if users.dtype in PLANES else catalogue_of
    return make(users, items, exclude_indptr, exclude_indices, item_bias, listed)


def catalogue_log_mass_forward(
    users: Tensor, items: Tensor, exclude_indptr: Tensor | None, exclude_indices: Tensor | None,
    item_bias: Tensor | None, skipped_mass: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    given = users, items, exclude_indptr, exclude_indices, item_bias
    if skipped_mass <= 0:
        return whole_catalogue(*given).mass()
    catalogue = catalogue_of(*given)
    first = catalogue_of(
        users, items[:BLOCK_N], None, None, None if item_bias is None else item_bias[:BLOCK_N]
    )
    if catalogue.excluded is not None:
        within = lists_of(exclude_indptr.contiguous(), catalogue.excluded.indices, BLOCK_N, 1)
        first = first._replace(excluded=within)
    return catalogue.mass(catalogue.skipping(skipped_mass, first.mass()[1]))


def catalogue_log_mass_backward(
    grad_log_masses: Tensor, users: Tensor, items: Tensor, exclude_indptr: Tensor | None,
    exclude_indices: Tensor | None, item_bias: Tensor | None, tops: Tensor, sums: Tensor, skipped_mass: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    given = users, items, exclude_indptr, exclude_indices, item_bias
    if skipped_mass <= 0:
        grads = whole_catalogue(*given).grads(grad_log_masses, tops, sums)
    else:
        grads = catalogue_of(*given).grads(grad_log_masses, tops, sums, skipped_mass)
    return tuple(g.to(users.dtype) for g in grads)
