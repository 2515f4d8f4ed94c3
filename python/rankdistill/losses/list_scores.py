"""A student's scores of lists: of items for users, or, with the sides swapped, of users for items."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill import functional
from rankdistill.losses.batch import Batch, share_of, users_of
from rankdistill.losses.distillation import Student
from rankdistill.losses.settings import expect_rows
from rankdistill.ops import embedding_plackett_luce, gathered_inner_product
from rankdistill.vector_scores import device_of, evaluating, scores_are_products


def unique_rows(batch: Batch | Tensor, method: str, n_users: int) -> tuple[Tensor, Tensor]:
    """The users of the batch's share once each [n], and how often each occurs in the batch [n] int64.

    IndexError, on the CPU, for users that the method has no rankings of.
    """
    users, counts = torch.unique(users_of(batch), return_counts=True)
    expect_rows(method, "user", users, n_users)
    share = share_of(batch)
    return share.take(users), share.take(counts)


def n_interactions(batch: Batch | Tensor) -> int:
    """Of the whole batch."""
    return len(users_of(batch))


def reduce_interactions(losses: Tensor, counts: Tensor, reduction: str, total: Tensor | int) -> Tensor:
    """The "sum" over a batch's interactions of the losses [n] of rows that occur `counts` [n] times, or that over the
    `total` of the whole batch's interactions ("mean")."""
    found = (losses * counts).sum()
    return found if reduction == "sum" else found / torch.as_tensor(total, device=found.device).clamp_min(1)


def teacher_scores(teacher: Student, users: Tensor, items: Tensor) -> Tensor:
    """A frozen teacher's scores, made where its tables are and brought to where the ids are."""
    device = device_of(teacher)
    with torch.no_grad(), evaluating(teacher):
        return teacher.score(users.to(device), items.to(device)).to(users.device)


def tables(student: Student, rows: Tensor, columns: Tensor, swapped: bool) -> tuple[Tensor, Tensor]:
    """Both whole tables of a student whose scores are inner products, the one that `rows` index first."""
    if hasattr(student, "reading"):
        student.reading(*((columns, rows) if swapped else (rows, columns)))
    users, items = student.user_vectors(), student.item_vectors()
    return (items, users) if swapped else (users, items)


def list_scores(student: Student, rows: Tensor, columns: Tensor, swapped: bool = False) -> Tensor:
    """[n, K] scores of columns [n, K] int64 (-1 scores -inf) with rows [n] int64; rows are items where `swapped`."""
    if not swapped:
        return student.score(rows, columns.clamp_min(0)).masked_fill(columns < 0, -torch.inf)
    if scores_are_products(student):
        sparse = getattr(student, "sparse_grad", False)
        return gathered_inner_product(
            *tables(student, rows, columns, True), columns, rows, sparse_grad=sparse
        )
    pairs = student.score(columns.clamp_min(0).flatten(), rows.repeat_interleave(columns.shape[1])[:, None])
    return pairs.view(columns.shape).masked_fill(columns < 0, -torch.inf)


def list_above_the_rest(
    op: str,
    student: Student,
    rows: Tensor,
    columns: Tensor,
    list_size: int,
    lengths: Tensor,
    reduction: str,
    swapped: bool = False,
    total: Tensor | None = None,
) -> Tensor:
    """`relaxed_ranking_distillation` of the first `list_size` columns above the others.

    A "mean" is over `total` rows where these are but a share of them.
    """
    if total is not None and reduction == "mean":
        arguments = (op, student, rows, columns, list_size, lengths, "sum", swapped)
        return list_above_the_rest(*arguments) / total.clamp_min(1)
    if scores_are_products(student):
        losses = embedding_plackett_luce(
            *tables(student, rows, columns, swapped), columns, list_size, lengths, rows,
            sparse_grad=getattr(student, "sparse_grad", False),
        )  # fmt: skip
        return functional.reduce_rows(op, losses, lengths > 0, reduction)
    if hasattr(student, "list_losses"):
        losses = student.list_losses(rows, columns, list_size, lengths, swapped)
        return functional.reduce_rows(op, losses, lengths > 0, reduction)
    scores = list_scores(student, rows, columns, swapped)
    listed, rest = scores.split([list_size, columns.shape[1] - list_size], dim=1)
    return functional.relaxed_ranking_distillation(listed, rest, lengths, reduction)
