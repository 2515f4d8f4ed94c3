"""Triton kernels of gathered_inner_product: a listed item's vector is read where it is used, and never written.

A program has a row, or a part of its list, and the row's user in registers. Gradients by tables are sums by id
(touched_rows.py). A row with an id out of range reads nothing by it and becomes NaN; DESIGN.md TT-3.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from rankdistill.kernels.triton.selection import rows_contiguous
from rankdistill.kernels.triton.touched_rows import (
    Occurrences,
    Touched,
    add_rows,
    occurrences,
    occurrences_of_ids,
    short_dtype,
    wide_dtype,
)
from torch import Tensor

TILE = 4096  # numbers of listed vectors that a program holds at a time
WIDEST_BLOCK = 256
LEAST_IDS = 1024  # of a row's list to a program
MOST_PROGRAMS = 64  # to a row
COUNTS = ["U", "N"]  # only compared with: no compilation for another batch, or for its divisors


@triton.jit
def user_of(user_ids_ptr, row, U, HAS_USER_IDS: tl.constexpr):
    """The row's user, or 0 and that it is faulty."""
    user = row
    if HAS_USER_IDS:
        user = tl.load(user_ids_ptr + row)
    sound = (user >= 0) & (user < U)
    return tl.where(sound, user, 0), sound == 0


@triton.jit
def list_is_faulty(item_ids_ptr, row, K, N, BLOCK_IDS: tl.constexpr):
    """Whether a row lists an id outside [-1, N)."""
    faults = tl.zeros([BLOCK_IDS], tl.int32)
    for first in range(0, K, BLOCK_IDS):
        slots = first + tl.arange(0, BLOCK_IDS)
        ids = tl.load(item_ids_ptr + row * K + slots, mask=slots < K, other=-1)
        faults += ((ids < -1) | (ids >= N)).to(tl.int32)
    return tl.sum(faults, 0) > 0


@triton.jit(do_not_specialize=COUNTS)
def gathered_inner_product_forward_kernel(
    users_ptr, user_ids_ptr, items_ptr, item_ids_ptr, bias_ptr, scores_ptr, stride_users_row, stride_items_row,
    stride_bias, U, N, K, D, part, HAS_USER_IDS: tl.constexpr, HAS_BIAS: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr, D_BLOCKS: tl.constexpr, BLOCK_IDS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    dtype = scores_ptr.dtype.element_ty
    user, faulty = user_of(user_ids_ptr, row, U, HAS_USER_IDS)
    faulty = faulty | list_is_faulty(item_ids_ptr, row, K, N, BLOCK_IDS)
    d = tl.arange(0, BLOCK_D)
    user_ptrs = users_ptr + user * stride_users_row + d
    vector = tl.load(user_ptrs, mask=(d < D) & (faulty == 0), other=0.0).to(dtype)
    begin = tl.program_id(1) * part
    for first in range(begin, tl.minimum(begin + part, K), BLOCK_K):
        slots = first + tl.arange(0, BLOCK_K)
        ids = tl.load(item_ids_ptr + row * K + slots, mask=slots < K, other=-1)
        listed = (ids >= 0) & (ids < N)
        item_ptrs = items_ptr + ids[:, None] * stride_items_row + d[None, :]
        sums = tl.zeros([BLOCK_K], dtype)
        for block in range(D_BLOCKS):
            inside = block * BLOCK_D + d < D
            if D_BLOCKS > 1:
                vector = tl.load(user_ptrs + block * BLOCK_D, mask=inside & (faulty == 0), other=0.0).to(
                    dtype
                )
            items = tl.load(item_ptrs + block * BLOCK_D, mask=listed[:, None] & inside[None, :], other=0.0)
            sums += tl.sum(items.to(dtype) * vector[None, :], 1)
        if HAS_BIAS:
            sums += tl.load(bias_ptr + ids * stride_bias, mask=listed, other=0.0).to(dtype)
        scores = tl.where(faulty, float("nan"), tl.where(listed, sums, float("-inf")))
        tl.store(scores_ptr + row * K + slots, scores, mask=slots < K)


@triton.jit(do_not_specialize=COUNTS)
def gathered_inner_product_row_grads_kernel(
    grad_ptr, user_ids_ptr, items_ptr, item_ids_ptr, row_grads_ptr, stride_items_row, U, N, K, D,
    HAS_USER_IDS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_IDS: tl.constexpr,
):  # fmt: skip
    """[B, D] the gradient of each row's user vector."""
    row = tl.program_id(0).to(tl.int64)
    dtype = row_grads_ptr.dtype.element_ty
    _, faulty = user_of(user_ids_ptr, row, U, HAS_USER_IDS)
    faulty = faulty | list_is_faulty(item_ids_ptr, row, K, N, BLOCK_IDS)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    sums = tl.zeros([BLOCK_K, BLOCK_D], dtype)
    for first in range(0, K, BLOCK_K):
        slots = first + tl.arange(0, BLOCK_K)
        ids = tl.load(item_ids_ptr + row * K + slots, mask=slots < K, other=-1)
        listed = (ids >= 0) & (ids < N)
        grads = tl.load(grad_ptr + row * K + slots, mask=listed, other=0.0)
        items = tl.load(
            items_ptr + ids[:, None] * stride_items_row + d[None, :],
            mask=(listed & (grads != 0))[:, None] & (d < D)[None, :],  # 0 times what is no number adds 0
            other=0.0,
        )
        sums += grads[:, None] * items.to(dtype)
    tl.store(row_grads_ptr + row * D + d, tl.where(faulty, float("nan"), tl.sum(sums, 0)), mask=d < D)


@triton.jit(do_not_specialize=COUNTS)
def gathered_inner_product_keys_kernel(
    user_ids_ptr, item_ids_ptr, keys_ptr, U, N, K, HAS_USER_IDS: tl.constexpr, BLOCK_IDS: tl.constexpr
):
    """[B, K] the ids as keys of a sort; N for what touches no row: -1, and all that a faulty row lists."""
    row = tl.program_id(0).to(tl.int64)
    _, faulty = user_of(user_ids_ptr, row, U, HAS_USER_IDS)
    faulty = faulty | list_is_faulty(item_ids_ptr, row, K, N, BLOCK_IDS)
    for first in range(0, K, BLOCK_IDS):
        slots = first + tl.arange(0, BLOCK_IDS)
        ids = tl.load(item_ids_ptr + row * K + slots, mask=slots < K, other=-1)
        keys = tl.where(faulty | (ids < 0), N, ids)
        tl.store(keys_ptr + row * K + slots, keys.to(keys_ptr.dtype.element_ty), mask=slots < K)


class Call(NamedTuple):
    """Tables with contiguous rows, and ids, as the kernels read them."""

    users: Tensor  # [U, D]
    user_ids: Tensor | None
    items: Tensor  # [N, D]
    item_ids: Tensor  # [B, K]
    item_bias: Tensor | None

    @property
    def dtype(self) -> torch.dtype:
        return wide_dtype(self.users.dtype)

    @property
    def has_user_ids(self) -> bool:
        return self.user_ids is not None

    def block_ids(self) -> int:
        return min(triton.next_power_of_2(max(self.item_ids.shape[1], 1)), LEAST_IDS)

    def block_d(self, most: int = WIDEST_BLOCK) -> int:
        return min(triton.next_power_of_2(max(self.users.shape[1], 1)), most)

    def empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.users.device)

    def zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self.dtype, device=self.users.device)

    def scores(self) -> Tensor:
        (B, K), (U, D) = self.item_ids.shape, self.users.shape
        scores = self.empty(B, K)
        if B * K:
            part = max(LEAST_IDS, triton.next_power_of_2(triton.cdiv(K, MOST_PROGRAMS)))
            block_d = self.block_d()
            gathered_inner_product_forward_kernel[(B, triton.cdiv(K, part))](
                self.users, self.users if self.user_ids is None else self.user_ids, self.items, self.item_ids,
                self.users if self.item_bias is None else self.item_bias, scores, self.users.stride(0),
                self.items.stride(0), 0 if self.item_bias is None else self.item_bias.stride(0), U, len(self.items), K, D,
                part, HAS_USER_IDS=self.has_user_ids, HAS_BIAS=self.item_bias is not None,
                BLOCK_K=rows_of_a_tile(block_d, K), BLOCK_D=block_d, D_BLOCKS=triton.cdiv(D, block_d),
                BLOCK_IDS=self.block_ids(), num_warps=4,
            )  # fmt: skip
        return scores

    def row_grads(self, grad_scores: Tensor) -> Tensor:
        """[B, D] of contiguous gradients [B, K] of the scores."""
        (B, K), (U, D) = self.item_ids.shape, self.users.shape
        grads = self.empty(B, D)
        if B * D:
            block_d = self.block_d(128)
            gathered_inner_product_row_grads_kernel[(B, triton.cdiv(D, block_d))](
                grad_scores, self.users if self.user_ids is None else self.user_ids, self.items, self.item_ids, grads,
                self.items.stride(0), U, len(self.items), K, D, HAS_USER_IDS=self.has_user_ids,
                BLOCK_K=rows_of_a_tile(block_d, K), BLOCK_D=block_d, BLOCK_IDS=self.block_ids(), num_warps=4,
            )  # fmt: skip
        return grads

    def listed(self) -> Occurrences:
        (B, K), N = self.item_ids.shape, len(self.items)
        keys = torch.empty((B, K), dtype=short_dtype(N), device=self.users.device)
        if B * K:
            gathered_inner_product_keys_kernel[(B,)](
                self.users if self.user_ids is None else self.user_ids, self.item_ids, keys, len(self.users), N, K,
                HAS_USER_IDS=self.has_user_ids, BLOCK_IDS=self.block_ids(), num_warps=4,
            )  # fmt: skip
        return occurrences(keys, N)

    def add_item_grads(
        self, grad_scores: Tensor, grad_items: Tensor, grad_bias: Tensor | None, touched: Touched | None,
        found: Occurrences, adds: bool = False,
    ) -> None:  # fmt: skip
        """Writes, or adds, the touched rows of the items' gradients, and of their biases' if there are biases."""
        shared = {"touched": touched, "adds": adds}
        K = self.item_ids.shape[1]
        add_rows(grad_items, found, self.users, weights=grad_scores, rows=self.user_ids, K=K, **shared)
        if grad_bias is not None and self.item_bias is not None:
            add_rows(grad_bias.view(-1, 1), found, grad_scores.view(-1, 1), **shared)


def rows_of_a_tile(block_d: int, K: int) -> int:
    return max(min(TILE // block_d, triton.next_power_of_2(max(K, 1)), 256), 16)


def call_of(
    users: Tensor, user_ids: Tensor | None, items: Tensor, item_ids: Tensor, item_bias: Tensor | None
) -> Call:
    ids = None if user_ids is None else user_ids.contiguous()
    return Call(rows_contiguous(users), ids, rows_contiguous(items), item_ids.contiguous(), item_bias)


def dense_grads(call: Call, grad_scores: Tensor, row_grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of users, items and item_bias from those of the scores [B, K] and of each row's user [B, D], wide."""
    grad_users = row_grads
    if call.user_ids is not None:
        grad_users = call.zeros(*call.users.shape)
        add_rows(grad_users, occurrences_of_ids(call.user_ids, len(call.users)), row_grads)
    grad_items = call.zeros(*call.items.shape)
    grad_bias = call.empty(0) if call.item_bias is None else call.zeros(len(call.items))
    call.add_item_grads(grad_scores, grad_items, grad_bias, None, call.listed())
    return grad_users, grad_items, grad_bias


def sparse_grads(
    call: Call, grad_scores: Tensor, row_grads: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `dense_grads`, of touched rows: users' ids and gradients, items' ids, their gradients and their biases'."""
    seen, grad_users = torch.empty(0, dtype=torch.int64, device=row_grads.device), row_grads
    if call.user_ids is not None:
        found = occurrences_of_ids(call.user_ids, len(call.users))
        touched = found.touched()
        seen, grad_users = touched.ids, call.empty(len(touched.ids), call.users.shape[1])
        add_rows(grad_users, found, row_grads, touched=touched)
    found = call.listed()
    touched = found.touched()
    grad_items = call.empty(len(touched.ids), call.items.shape[1])
    grad_bias = call.empty(0 if call.item_bias is None else len(touched.ids))
    call.add_item_grads(grad_scores, grad_items, grad_bias, touched, found)
    return seen, grad_users, touched.ids, grad_items, grad_bias


def narrowed(grads: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    if dtype == wide_dtype(dtype):
        return grads
    return tuple(g.to(dtype) if g.is_floating_point() else g for g in grads)


def gathered_inner_product_forward(
    users: Tensor, user_ids: Tensor | None, items: Tensor, item_ids: Tensor, item_bias: Tensor | None,
    sparse_grad: bool,
) -> Tensor:  # fmt: skip
    return call_of(users, user_ids, items, item_ids, item_bias).scores()


def gathered_inner_product_backward(
    grad_scores: Tensor, users: Tensor, user_ids: Tensor | None, items: Tensor, item_ids: Tensor,
    item_bias: Tensor | None, grads=dense_grads,
) -> tuple[Tensor, ...]:  # fmt: skip
    call = call_of(users, user_ids, items, item_ids, item_bias)
    grad_scores = grad_scores.to(call.dtype).contiguous()
    return narrowed(grads(call, grad_scores, call.row_grads(grad_scores)), users.dtype)


def gathered_inner_product_sparse_backward(*args) -> tuple[Tensor, ...]:
    return gathered_inner_product_backward(*args, grads=sparse_grads)
