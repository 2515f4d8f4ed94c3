"""What a student says of the whole catalogue: lists above all the rest of it, and its best items."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rankdistill import functional
from rankdistill.data.csr import CSR
from rankdistill.losses.distillation import Student
from rankdistill.ops import catalogue_plackett_luce, inner_product_topk, masked_topk
from rankdistill.ops.inner_product_topk import InnerProductTopK
from rankdistill.vector_scores import (
    all_vectors,
    bias_of,
    device_of,
    evaluating,
    ranked_by_vectors,
    row_scores,
)

SCORES = 1 << 24  # of a student without vectors that exist at a time
Ranker = Callable[..., InnerProductTopK]


def list_above_the_catalogue(
    op: str,
    student: Student,
    users: Tensor,
    items: Tensor,
    lengths: Tensor,
    exclude: CSR,
    reduction: str,
    total: Tensor | None = None,
) -> Tensor:
    """`list_above_the_rest` of all items but those that `exclude` has for a user, by the student's vectors and item biases.

    A user's bias is in all scores of its row, and changes nothing.
    """
    if hasattr(student, "catalogue_list_losses"):
        losses = student.catalogue_list_losses(users, items, lengths, exclude)
    elif getattr(student, "scores_are_inner_products", False):
        vectors = student.user_vectors(users), all_vectors(student, "item", exclude.n_columns)
        bias = bias_of(student, "item")
        losses = catalogue_plackett_luce(*vectors, items, lengths, exclude, bias)
    else:
        expected = "a student whose scores are inner products, but for biases, and that says so (scores_are_inner_products)"
        raise TypeError(f"{op}: expected {expected}; got {type(student).__name__}")
    if total is None or reduction == "sum":
        return functional.reduce_rows(op, losses, lengths > 0, reduction)
    return functional.reduce_rows(op, losses, lengths > 0, "sum") / total.clamp_min(1)


def expect_scoring_vectors(method: str, student: Student, n_items: int) -> None:
    """The student's scores are inner products of its vectors, but for biases."""
    if not ranked_by_vectors(student, torch.arange(1), n_items):
        expected = (
            "a student whose scores are inner products of its user_vectors and item_vectors, but for biases"
        )
        raise TypeError(f"{method}: expected {expected}; got {type(student).__name__}")


def scoring_vectors(student: Student, users: Tensor, n_items: int) -> tuple[Tensor, Tensor]:
    """Vectors of users [n], and of all items, whose inner products are the student's scores, but for a bias of the user's."""
    vectors, items = student.user_vectors(users), all_vectors(student, "item", n_items)
    bias = bias_of(student, "item")
    if bias is None:
        return vectors, items
    # A coordinate more, which is 1 of every user.
    vectors = torch.cat([vectors, vectors.new_ones(len(vectors), 1)], 1)
    items = torch.cat([items, bias[:, None]], 1)  # of the wider dtype
    return vectors.to(items.dtype), items


@torch.no_grad()
def catalogue_ranker(student: Student, k: int, n_items: int) -> Ranker:
    """A function of users [B] int64, and of what to leave out with a row for each: the student's k best items, on the CPU.

    By its `best_items` where it has these; by its vectors and item biases where they make its scores, the items' read once
    and for all; else by its scores of all `n_items`, 2^24 at a time by `row_scores`. In evaluation mode, whatever the student is in.
    """
    device = device_of(student)
    if hasattr(student, "best_items"):

        @evaluating(student)
        def by_itself(users: Tensor, exclude: CSR | None = None) -> InnerProductTopK:
            exclude = None if exclude is None else exclude.to(device)
            return InnerProductTopK(
                *(part.cpu() for part in student.best_items(users.to(device), k, exclude))
            )

        return by_itself
    if ranked_by_vectors(student, torch.arange(1), n_items):
        with evaluating(student):
            bias, items = bias_of(student, "item"), all_vectors(student, "item", n_items).cpu()
        bias = None if bias is None else bias.cpu()

        @torch.no_grad()
        @evaluating(student)
        def by_vectors(users: Tensor, exclude: CSR | None = None) -> InnerProductTopK:
            return inner_product_topk(student.user_vectors(users.to(device)).cpu(), items, k, exclude, bias)

        return by_vectors
    items = torch.arange(n_items, device=device)

    @torch.no_grad()
    @evaluating(student)
    def by_scores(users: Tensor, exclude: CSR | None = None) -> InnerProductTopK:
        parts = []
        for rows in torch.arange(len(users)).split(max(1, SCORES // max(1, len(items)))):
            scores = row_scores(student, users[rows], items).cpu()
            parts.append(masked_topk(scores, k, None if exclude is None else exclude.rows(rows)))
        return InnerProductTopK(*(torch.cat(part) for part in zip(*parts)))

    return by_scores
