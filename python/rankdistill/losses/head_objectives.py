"""What the heads of a model over shared vectors lose on a batch, each by its own objective, and on listed items."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from rankdistill import functional
from rankdistill.data.csr import CSR
from rankdistill.losses.batch import Batch, expect_interactions
from rankdistill.losses.distillation import Student
from rankdistill.losses.dropout import EpochDropout
from rankdistill.ops import gathered_inner_product

HEADS = ("ranking", "metric", "binary", "squared", "multinomial", "item_multinomial")
CLAMPED, CLAMP = ("ranking", "multinomial"), 40.0  # scores of listed items, as released


class Touched(NamedTuple):
    """What a batch reads of the shared vectors, each user and item once.

    users [n], items [m] int64 ascending; user_rows [n, D], item_rows [m, D]; of the pairs of a positive and a negative
    item pair_users [P], pair_positives [P], pair_negatives [P], the batch's positives [q] each once, and listed [n, K]
    (-1 for none): all of them places in users and items.
    """

    users: Tensor
    items: Tensor
    user_rows: Tensor
    item_rows: Tensor
    pair_users: Tensor
    pair_positives: Tensor
    pair_negatives: Tensor
    positives: Tensor
    listed: Tensor


def touched(student: Student, batch: Batch, lists: Tensor) -> Touched:
    """`lists` [U, K] are the items that each user's scores are asked for."""
    batch = expect_interactions("ConsensusLearning", batch)
    users, at = torch.unique(batch.users, return_inverse=True)
    listed = lists.to(users.device)[users].long()
    positives, negatives = batch.listed("ConsensusLearning").tensor_split([1], 1)
    positives = positives[:, 0].contiguous()
    pair, column = (negatives >= 0).nonzero(as_tuple=True)
    negatives = negatives[pair, column]
    items = torch.unique(torch.cat([positives, negatives, listed[listed >= 0]]))
    place = lambda ids: torch.searchsorted(items, ids)
    return Touched(
        users, items, student.rows("user", users), student.rows("item", items), at[pair],
        place(positives)[pair], place(negatives), place(torch.unique(positives)),
        place(listed).masked_fill(listed < 0, -1),
    )  # fmt: skip


def dropped_vectors(
    student: Student, head: str, read: Touched, dropout: EpochDropout, share: float
) -> tuple[Tensor, Tensor]:
    """A head's vectors of the users and items read, [n, W] and [m, W], each with dropout of its own."""
    both = []
    for side, ids, rows in (("user", read.users, read.user_rows), ("item", read.items, read.item_rows)):
        factors = dropout.factors((len(ids), rows.shape[1] // 2), share)
        both.append(student.head_vectors(head, side, ids, rows, factors.to(rows.dtype)))
    return tuple(both)


def own_loss(
    student: Student, head: str, read: Touched, users: Tensor, items: Tensor, train: tuple[CSR, CSR]
) -> Tensor:
    """A head's loss by its own objective, of its vectors users [n, W] and items [m, W]; summed.

    `train` holds the items of every user, and the users of every item.
    """
    if head == "multinomial":
        seen = train[0].rows(read.users.cpu()).to(users.device)
        return functional.multinomial_likelihood(users, student.head_vectors(head, "item"), seen)
    if head == "item_multinomial":
        seen = train[1].rows(read.items[read.positives].cpu()).to(users.device)
        catalogue = student.head_vectors(head, "user")
        return functional.multinomial_likelihood(items[read.positives], catalogue, seen)
    of_users = users[read.pair_users]
    positive, negative = ((of_users * items[at]).sum(1) for at in (read.pair_positives, read.pair_negatives))
    if head == "ranking":
        return functional.bayesian_personalized_ranking(positive, negative)
    if head == "metric":
        return functional.metric_learning(-positive / student.nearness, -negative / student.nearness)
    if head == "binary":
        return (softplus(-positive) + softplus(negative)).sum()
    return (1 - positive).square().sum() + negative.square().sum()


def listed_scores(head: str, read: Touched, users: Tensor, items: Tensor) -> Tensor:
    """[n, K] a head's scores of the listed items; -inf for none."""
    scores = gathered_inner_product(users, items, read.listed)
    if head in CLAMPED:
        scores = scores.clamp(-CLAMP, CLAMP)
    return scores.masked_fill(read.listed < 0, -torch.inf)
