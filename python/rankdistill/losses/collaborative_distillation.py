"""Collaborative distillation as a module: softened responses of items that the ranks choose."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill import functional
from rankdistill.data.csr import CSR
from rankdistill.losses.batch import Batch
from rankdistill.losses.distillation import Distillation, Student
from rankdistill.losses.list_scores import list_scores, n_interactions, teacher_scores, unique_rows
from rankdistill.losses.settings import (
    expect_above_zero,
    expect_at_least,
    expect_begun,
    expect_choice,
    expect_reduction,
    expect_sizes,
    fits_at_hand,
)
from rankdistill.losses.whole_catalogue import Ranker, catalogue_ranker
from rankdistill.rankings import Rankings
from rankdistill.sampling import tournament_positions

GUIDES = ("teacher", "student")
ROWS_AT_ONCE = 4096


class CollaborativeDistillation(Distillation):
    """Collaborative distillation (CD): click probabilities of unobserved items, drawn the likelier the better they rank.

    Per epoch and user n positions of a ranking are drawn, each the better of two with weights exp(−(position + 1)/temperature);
    the student's σ(score) is to be the teacher's σ((score + shift)/softness) there (`functional.collaborative_distillation`).

    Args:
        rankings: the teacher's lists with its scores, train items excluded (3000 items in re-implementations).
        exclude: every user's train items; needed by the student's guide.
        n_samples: draws per user and epoch.
        guide: whose ranking positions are drawn from: "teacher", or "student", ranked anew every epoch.
        teacher: anything with `score(users, items)`, for the student's guide.
        temperature: of positions; None for 20 times the list's length, as re-implemented (nearly uniform).
        softness: t1, which divides the teacher's shifted logits, > 0.
        shift: t2, added to the teacher's logits.
        reduction: "sum" over interactions and draws (KDs), or "mean" over both (UnKD).
        seed: of the draws.

    Raises:
        TypeError, ValueError: settings out of range; train items of another size; the student's guide without a teacher.
        IndexError: users without rankings (on a CPU). RuntimeError: a batch before `begin_epoch`, or that without a student that guides.

    Cost:
        An epoch's draw: O(U·n·log K) time, 12·U·n bytes; where the student guides also its top K of every user. A batch: n
        scores per unique user.

    Forms:
        The original code could not be had: what is matched are two re-implementations. They put 1e-10 within logarithms, where
        here logits are used, and differ in `reduction`. What one of them calls the student's guide ranks by the teacher,
        once; here it is the student, every epoch. Draws may repeat an item, as theirs do. The defaults are of both, the draws of
        UnKD, the sum of KDs, which draws 2: beside a summed loss UnKD's share is a weight of 0.1/50.

    Source:
        Lee et al., Collaborative Distillation for Top-N Recommendation, ICDM 2019; tournaments and lists of 3000 as in
        the re-implementations of UnKD and KDs. Published weight about 0.1.

    Example:
        >>> from rankdistill.data import CSR
        >>> rankings = Rankings.from_scores(torch.rand(2, 5), k=4)
        >>> method = CollaborativeDistillation(rankings, CSR.empty(2, 5), n_samples=3)
        >>> method.begin_epoch(0)
        >>> loss = method(MatrixFactorization(2, 5, width=4), torch.tensor([0, 1, 1]))
    """

    divides = "users"
    needs = frozenset({"rankings", "scores"})
    default_weight = 0.1

    def __init__(
        self,
        rankings: Rankings,
        exclude: CSR,
        n_samples: int = 50,
        guide: str = "teacher",
        teacher: Student | None = None,
        temperature: float | None = None,
        softness: float = 2.0,
        shift: float = 0.0,
        reduction: str = "sum",
        seed: int = 0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        expect_choice(name, "guide", guide, GUIDES)
        if guide == "student" and teacher is None:
            raise ValueError(f"{name}: expected a teacher with score(users, items) for that guide; got None")
        expect_at_least(name, 1, n_samples=n_samples, **{"k of rankings": rankings.k})
        expect_reduction(name, reduction)
        object.__setattr__(self, "teacher", teacher)  # no part of the module: neither trained nor saved
        self.rankings, self.exclude, self.guide = rankings, CSR.from_any(exclude).to("cpu"), guide
        excluded = self.exclude.n_rows, self.exclude.n_columns
        expect_sizes(name, "exclude", excluded, (rankings.n_users, rankings.n_items), "rankings")
        self.n_samples, self.softness, self.shift = n_samples, softness, shift
        self.temperature = 20.0 * rankings.k if temperature is None else temperature
        expect_above_zero(name, softness=softness, temperature=self.temperature)
        self.reduction, self.seed = reduction, seed
        self._epoch: int | None = None
        self._items: Tensor | None = None  # [U, n] int64; -1 for none; None: batch by batch
        self._scores: Tensor | None = None  # [U, n], the teacher's

    def begin_epoch(self, epoch: int, student: Student | None = None) -> None:
        """Draws the epoch's items for every user, where there are not too many or the student guides."""
        name, guides = type(self).__name__, self.guide == "student"
        if guides and student is None:
            raise RuntimeError(f"{name}: expected begin_epoch(epoch, student), as it guides; got none")
        self._epoch, self._items, self._scores = epoch, None, None
        if guides or fits_at_hand(self.rankings.n_users):
            blocks = torch.arange(self.rankings.n_users).split(ROWS_AT_ONCE)
            best = catalogue_ranker(student, self.rankings.k, self.rankings.n_items) if guides else None
            self._items, self._scores = map(torch.cat, zip(*(self.draw(users, best) for users in blocks)))

    def draw(self, users: Tensor, best: Ranker | None = None) -> tuple[Tensor, Tensor]:
        """The epoch's items of users, by the guide's lists, and the teacher's scores of them, [n, n_samples] each."""
        if best is None:
            lists = self.rankings
            ranked, scores, lengths = lists.indices[users].long(), lists.scores[users], lists.lengths[users]
        else:
            (_, ranked, lengths), scores = best(users, self.exclude.rows(users)), None
        positions = tournament_positions(
            users, lengths.long(), self.n_samples, self.temperature, seed=self.seed, epoch=self._epoch
        )
        at = positions.clamp_min(0)
        items = ranked.gather(1, at).masked_fill(positions < 0, -1)
        if scores is not None:
            return items, scores.gather(1, at)
        return items, teacher_scores(self.teacher, users, items.clamp_min(0))

    def forward(self, student: Student, batch: Batch | Tensor) -> Tensor:
        """The loss of the batch's interactions; a user counts as often as it occurs."""
        expect_begun(type(self).__name__, self._epoch)
        users, counts = unique_rows(batch, type(self).__name__, self.rankings.n_users)
        if self._items is None:
            items, known = (found.to(users.device) for found in self.draw(users.cpu()))
        else:
            self._items, self._scores = self._items.to(users.device), self._scores.to(users.device)
            items, known = (found.index_select(0, users) for found in (self._items, self._scores))
        scores = list_scores(student, users, items.clamp_min(0))
        known = known.to(scores)
        losses = functional.collaborative_distillation(known, scores, self.softness, self.shift, "none")
        total = (losses.masked_fill(items < 0, 0).sum(1) * counts).sum()
        return total if self.reduction == "sum" else total / max(n_interactions(batch) * self.n_samples, 1)
