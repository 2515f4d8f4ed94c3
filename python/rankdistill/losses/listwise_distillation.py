"""Listwise distillation as a module: the teacher's scores or order of its best items, by ListNet or ListMLE."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill import functional
from rankdistill.losses.batch import Batch, share_of, users_of
from rankdistill.losses.distillation import Distillation, Student
from rankdistill.losses.list_scores import list_scores, reduce_interactions, unique_rows
from rankdistill.losses.settings import (
    expect_above_zero,
    expect_choice,
    expect_reduction,
    expect_whole,
    expect_within,
)
from rankdistill.ops import plackett_luce
from rankdistill.rankings import Rankings

FORMS = ("list_net", "list_net_2", "list_mle")


class ListwiseDistillation(Distillation):
    """Listwise distillation: the student's scores of the teacher's K best items of a user are to agree with the teacher's.

    list_net (`functional.list_net`): cross entropy of softmaxes (also known as softmax or KL distillation); list_net_2: of the first two places;
    list_mle (`functional.list_mle`): the likelihood of the teacher's order, for which no score of the teacher is needed.

    Args:
        rankings: the teacher's lists with its scores.
        n_listed: K.
        form: "list_net", "list_net_2" or "list_mle".
        temperature: of both softmaxes, dimensionless, > 0; nothing is multiplied by its square.
        unique: whether a user of the batch counts once, or as often as it occurs (as released).
        reduction: "sum" (as released) or "mean" over interactions of users with a list, or where `unique` over those users.

    Raises:
        TypeError, ValueError: settings out of range; more listed items than the rankings have.
        IndexError: users that rankings have no row for (on a CPU).

    Cost:
        A batch: K scores per unique user.

    Forms:
        As released in KDs: summed, repeated users counted as often (`unique` changes it), no factor T². The Kullback–Leibler
        form differs by the teacher's entropy, which has no gradient. Its code for two places clips scores at 60 and floors
        1 − p at 1e-4; here both are exact.

    Source:
        Cao et al., ICML 2007; Xia et al., ICML 2008; Hinton et al., 2015.

    Example:
        >>> method = ListwiseDistillation(Rankings.from_scores(torch.rand(2, 5), k=3), n_listed=3)
        >>> method.begin_epoch(0, None)
        >>> loss = method(MatrixFactorization(2, 5, width=4), torch.tensor([0, 1, 1]))
    """

    divides = "users"
    needs = frozenset({"rankings", "scores"})

    def __init__(
        self,
        rankings: Rankings,
        n_listed: int = 50,
        form: str = "list_net",
        temperature: float = 1.0,
        unique: bool = False,
        reduction: str = "sum",
    ) -> None:
        super().__init__()
        name = type(self).__name__
        expect_whole(name, n_listed=n_listed)
        expect_within(name, "n_listed", n_listed, 1, rankings.k, ", as rankings")
        expect_choice(name, "form", form, FORMS)
        expect_reduction(name, reduction)
        expect_above_zero(name, temperature=temperature)
        self.rankings, self.n_listed, self.form = rankings, n_listed, form
        self.temperature, self.unique, self.reduction = temperature, unique, reduction

    def forward(self, student: Student, batch: Batch | Tensor) -> Tensor:
        """The loss of the batch's users."""
        users, counts = unique_rows(batch, type(self).__name__, self.rankings.n_users)
        rows, device = users.to(self.rankings.indices.device), users.device
        items = self.rankings.indices[rows, : self.n_listed].long().to(device)
        lengths = self.rankings.lengths[rows].long().clamp(max=self.n_listed).to(device)
        scores = list_scores(student, users, items.clamp_min(0))
        if self.form == "list_mle":
            losses = plackett_luce(scores / self.temperature, None, lengths)
        else:
            wanted = self.rankings.scores[rows, : self.n_listed].to(scores)
            top = 2 if self.form == "list_net_2" else 1
            losses = functional.list_net(wanted, scores, self.temperature, top, lengths, "none")
        weights = counts.clamp(max=1) if self.unique else counts
        weights = weights * (lengths > 0)
        total = weights.sum()
        if share_of(batch).size > 1 and self.reduction == "mean":
            every, times = torch.unique(users_of(batch), return_counts=True)
            listed = self.rankings.lengths[every.to(self.rankings.lengths.device)].to(device) > 0
            total = ((times.clamp(max=1) if self.unique else times) * listed).sum()
        return reduce_interactions(losses, weights, self.reduction, total)
