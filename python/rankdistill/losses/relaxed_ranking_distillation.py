"""Relaxed ranking distillation as a module: the loss and its two samplers."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill import functional
from rankdistill.data.csr import CSR
from rankdistill.losses.distillation import Batch, Distillation, Student
from rankdistill.ops import complement_sample, embedding_plackett_luce, position_sample
from rankdistill.rankings import Rankings
from rankdistill.sampling import STREAMS

ROWS_PER_DRAW = 65536


class RelaxedRankingDistillation(Distillation):
    """Relaxed ranking distillation (RRD): the top of a teacher's ranking in order, above everything else.

    Once per epoch and user it draws K positions of the teacher's list, the better the likelier, and L items
    that are neither train items nor on the list; a batch's loss is `functional.relaxed_ranking_distillation`
    of the student's scores of them, over the batch's unique users.

    Args:
        rankings: the teacher's lists, train items excluded, for every user (the released code keeps 500 items).
        exclude: every user's train items: what is never drawn as uninteresting.
        n_interesting: K, positions drawn.
        n_uninteresting: L, items drawn.
        temperature: of the position weights exp(−(position + 1)/temperature), dimensionless, > 0.
        reduction: "sum" (the paper's, to which published weights belong) or "mean" over users.
        seed: of the draws.

    Raises:
        ValueError: rankings and train items of different catalogues or users.

    Cost:
        An epoch's draw: O(U·(list length + L·log)) time, 4·U·(K + L) bytes. A batch: K + L scores per unique user.

    Source:
        Kang et al., DE-RRD: A Knowledge Distillation Framework for Recommender System, CIKM 2020, section 4.2.
        Published weight: 1e-3 with a BPR student, 1e-1 with NeuMF, summed over a batch of 1024.

    Example:
        >>> from rankdistill.data import CSR
        >>> train = CSR.from_pairs(torch.tensor([0, 1]), torch.tensor([3, 0]), n_rows=2, n_columns=5)
        >>> rankings = Rankings.from_scores(torch.rand(2, 5), k=2, exclude=train)
        >>> method = RelaxedRankingDistillation(rankings, exclude=train)
        >>> method.begin_epoch(0)
        >>> loss = 1e-3 * method(MatrixFactorization(2, 5, width=4), torch.tensor([0, 1]))
    """

    needs = frozenset({"rankings"})
    default_weight = 1e-3

    def __init__(
        self,
        rankings: Rankings,
        exclude: CSR,
        n_interesting: int = 40,
        n_uninteresting: int = 40,
        temperature: float = 10.0,
        reduction: str = "sum",
        seed: int = 0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        exclude = CSR.from_any(exclude)
        if (exclude.n_rows, exclude.n_columns) != (rankings.n_users, rankings.n_items):
            raise ValueError(
                f"{name}: expected exclude of {rankings.n_users} users × {rankings.n_items} items, as rankings; "
                f"got {exclude.n_rows} × {exclude.n_columns}"
            )
        for argument, value in (("n_interesting", n_interesting), ("n_uninteresting", n_uninteresting)):
            if value < 0:
                raise ValueError(f"{name}: expected {argument} of 0 or more; got {value}")
        if reduction not in ("sum", "mean"):
            raise ValueError(f"{name}: expected reduction sum or mean; got {reduction!r}")
        self.rankings, self.exclude = rankings, exclude.to("cpu")
        self.n_interesting, self.n_uninteresting = n_interesting, n_uninteresting
        self.temperature, self.reduction, self.seed = temperature, reduction, seed
        self._items: Tensor | None = None  # [U, K + L] int32, this epoch's draw; -1 for none
        self._lengths: Tensor | None = None  # [U] int64
        self._tail_is_padded = False

    def begin_epoch(self, epoch: int, student: Student | None = None) -> None:
        """Draws the epoch's items for every user."""
        U, K, L = self.rankings.n_users, self.n_interesting, self.n_uninteresting
        items = torch.empty((U, K + L), dtype=torch.int32)
        self._lengths = self.rankings.lengths.long().clamp(max=K)
        draw = {"seed": self.seed, "epoch": epoch}
        for users in torch.arange(U).split(ROWS_PER_DRAW):
            rows = slice(int(users[0]), int(users[-1]) + 1)
            positions = position_sample(
                users,
                self.rankings.lengths[rows].long(),
                K,
                self.temperature,
                stream=STREAMS["interesting"],
                **draw,
            )
            ranked = self.rankings.indices[rows]
            if ranked.shape[1]:
                items[rows, :K] = ranked.gather(1, positions.clamp_min(0)).masked_fill(positions < 0, -1)
            else:
                items[rows, :K] = -1
            items[rows, K:] = complement_sample(
                users, self.rankings.n_items, L, self.exclude, self.rankings.indices,
                stream=STREAMS["uninteresting"], **draw,
            )  # fmt: skip
        self._items, self._tail_is_padded = items, bool((items[:, K:] < 0).any())

    def forward(self, student: Student, batch: Batch | Tensor) -> Tensor:
        """The loss of the batch's unique users; `batch` may be their ids alone, [B] int64."""
        if self._items is None:
            raise RuntimeError(
                f"{type(self).__name__}: expected begin_epoch before the first batch; got none"
            )
        users = torch.unique(batch if isinstance(batch, Tensor) else batch.users)
        if self._items.device != users.device:
            self._items, self._lengths = self._items.to(users.device), self._lengths.to(users.device)
        items, lengths = self._items.index_select(0, users).long(), self._lengths.index_select(0, users)
        if getattr(student, "scores_are_inner_products", False):
            if hasattr(student, "reading"):
                student.reading(users, items)
            losses = embedding_plackett_luce(
                student.user_vectors(), student.item_vectors(), items, self.n_interesting, lengths, users,
                sparse_grad=getattr(student, "sparse_grad", False),
            )  # fmt: skip
            return functional.reduce_rows(type(self).__name__, losses, lengths > 0, self.reduction)
        scores = student.score(users, items.clamp_min(0))
        interesting, uninteresting = scores.split([self.n_interesting, self.n_uninteresting], dim=1)
        if self._tail_is_padded:
            uninteresting = uninteresting.masked_fill(items[:, self.n_interesting :] < 0, -torch.inf)
        return functional.relaxed_ranking_distillation(interesting, uninteresting, lengths, self.reduction)
