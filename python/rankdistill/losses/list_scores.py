"""A student's scores of lists: of items for users, or, with the sides swapped, of users for items."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rankdistill import functional
from rankdistill.data.csr import CSR
from rankdistill.losses.batch import Batch, share_of
from rankdistill.losses.distillation import Student
from rankdistill.ops import embedding_plackett_luce, gathered_inner_product, inner_product_topk, masked_topk
from rankdistill.ops.inner_product_topk import InnerProductTopK

SCORES = 1 << 24  # of a student without vectors that exist at a time
Ranker = Callable[..., InnerProductTopK]


def unique_rows(batch: Batch | Tensor) -> tuple[Tensor, Tensor]:
    """The users of the batch's share once each [n], and how often each occurs in the batch [n] int64."""
    users, counts = torch.unique(batch if isinstance(batch, Tensor) else batch.users, return_counts=True)
    share = share_of(batch)
    return share.take(users), share.take(counts)


def n_interactions(batch: Batch | Tensor) -> int:
    """Of the whole batch."""
    return len(batch if isinstance(batch, Tensor) else batch.users)


def reduce_interactions(losses: Tensor, counts: Tensor, reduction: str, total: Tensor | int) -> Tensor:
    """The "sum" over a batch's interactions of the losses [n] of rows that occur `counts` [n] times, or that over the
    `total` of the whole batch's interactions ("mean")."""
    found = (losses * counts).sum()
    return found if reduction == "sum" else found / torch.as_tensor(total, device=found.device).clamp_min(1)


def device_of(model: Student) -> torch.device | str:
    """Where a model's parameters or tables are; the CPU where that is not known."""
    held = next(model.parameters(), None) if isinstance(model, nn.Module) else getattr(model, "users", None)
    return held.device if isinstance(held, Tensor) else "cpu"


def teacher_scores(teacher: Student, users: Tensor, items: Tensor) -> Tensor:
    """A frozen teacher's scores, made where its tables are and brought to where the ids are."""
    device = device_of(teacher)
    with torch.no_grad():
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
    if getattr(student, "scores_are_inner_products", False):
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
    if getattr(student, "scores_are_inner_products", False):
        losses = embedding_plackett_luce(
            *tables(student, rows, columns, swapped), columns, list_size, lengths, rows,
            sparse_grad=getattr(student, "sparse_grad", False),
        )  # fmt: skip
        return functional.reduce_rows(op, losses, lengths > 0, reduction)
    scores = list_scores(student, rows, columns, swapped)
    listed, rest = scores.split([list_size, columns.shape[1] - list_size], dim=1)
    return functional.relaxed_ranking_distillation(listed, rest, lengths, reduction)


@torch.no_grad()
def catalogue_ranker(student: Student, k: int) -> Ranker:
    """A function of users [B] int64, and of what to leave out with a row for each: the student's k best items, on the CPU.

    By its vectors and item biases where it has vectors, the items' read once and for all; else by its scores of all items,
    2^24 at a time.
    """
    device = device_of(student)
    if hasattr(student, "item_vectors"):
        bias, items = getattr(student, "item_bias", None), student.item_vectors().cpu()
        bias = None if bias is None else bias.cpu()

        @torch.no_grad()
        def by_vectors(users: Tensor, exclude: CSR | None = None) -> InnerProductTopK:
            return inner_product_topk(student.user_vectors(users.to(device)).cpu(), items, k, exclude, bias)

        return by_vectors
    items = torch.arange(student.n_items, device=device)

    @torch.no_grad()
    def by_scores(users: Tensor, exclude: CSR | None = None) -> InnerProductTopK:
        parts = []
        for rows in torch.arange(len(users)).split(max(1, SCORES // max(1, len(items)))):
            scores = student.score(users[rows].to(device), items.expand(len(rows), -1)).cpu()
            parts.append(masked_topk(scores, k, None if exclude is None else exclude.rows(rows)))
        return InnerProductTopK(*(torch.cat(part) for part in zip(*parts)))

    return by_scores
