"""Lists drawn anew every epoch: of a teacher's ranking, the better the likelier, above what it does not rank."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from rankdistill.data.csr import CSR
from rankdistill.losses.batch import Batch, share_of, unique_users
from rankdistill.losses.distillation import Distillation, Student
from rankdistill.losses.list_scores import list_above_the_rest
from rankdistill.losses.settings import (
    expect_above_zero,
    expect_at_least,
    expect_begun,
    expect_reduction,
    expect_rows,
    expect_sizes,
    fits_at_hand,
)
from rankdistill.losses.whole_catalogue import list_above_the_catalogue
from rankdistill.ops import complement_sample, position_sample
from rankdistill.rankings import Rankings
from rankdistill.sampling import STREAMS

ROWS_PER_DRAW = 65536


class DrawnLists(Distillation):
    """What `RelaxedRankingDistillation` says, for rows that are users or, where `swapped`, items (their "items" users)."""

    needs = frozenset({"rankings"})
    default_weight = 1e-3
    divides = "users"
    streams: ClassVar[tuple[str, str]] = ("interesting", "uninteresting")
    swapped: ClassVar[bool] = False
    method: ClassVar[str | None] = None  # the name in errors; the class's own by default

    def __init__(
        self,
        rankings: Rankings,
        exclude: CSR,
        n_interesting: int = 40,
        n_uninteresting: int | None = 40,
        temperature: float = 10.0,
        reduction: str = "sum",
        seed: int = 0,
    ) -> None:
        super().__init__()
        name = self.method or type(self).__name__
        exclude = CSR.from_any(exclude)
        listed = rankings.n_users, rankings.n_items
        expect_sizes(name, "exclude", (exclude.n_rows, exclude.n_columns), listed, "rankings")
        expect_at_least(name, 0, n_interesting=n_interesting, n_uninteresting=n_uninteresting or 0)
        expect_above_zero(name, temperature=temperature)
        expect_reduction(name, reduction)
        self.rankings, self.exclude = rankings, exclude.to("cpu")
        self.n_interesting, self.n_uninteresting = n_interesting, n_uninteresting
        self.temperature, self.reduction, self.seed = temperature, reduction, seed
        self._epoch: int | None = None
        # [U, K + L] int32, this epoch's draw, -1 for none; None: batch by batch.
        self._items: Tensor | None = None
        self._lengths: Tensor | None = None  # [U] int64

    def begin_epoch(self, epoch: int, student: Student | None = None) -> None:
        """Draws the epoch's items for every user, where there are not too many."""
        U = self.rankings.n_users
        self._epoch, self._items, self._lengths = epoch, None, None
        if fits_at_hand(U):
            items = torch.empty((U, self.n_interesting + (self.n_uninteresting or 0)), dtype=torch.int32)
            lengths = torch.empty(U, dtype=torch.int64)
            for users in torch.arange(U).split(ROWS_PER_DRAW):
                items[users], lengths[users] = self.draw(users)
            self._items, self._lengths = items, lengths

    def draw(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """The epoch's items [n, K + L] int32 of users [n] on the CPU, and how many of the first K count."""
        K, L = self.n_interesting, self.n_uninteresting or 0
        known = self.rankings.lengths[users].long()
        draw = {"seed": self.seed, "epoch": self._epoch}
        positions = position_sample(
            users, known, K, self.temperature, stream=STREAMS[self.streams[0]], **draw
        )
        ranked, items = self.rankings.indices[users], torch.empty((len(users), K + L), dtype=torch.int32)
        if ranked.shape[1]:
            items[:, :K] = ranked.gather(1, positions.clamp_min(0)).masked_fill(positions < 0, -1)
        else:
            items[:, :K] = -1
        items[:, K:] = complement_sample(
            users, self.rankings.n_items, L, self.exclude, self.rankings.indices,
            stream=STREAMS[self.streams[1]], **draw,
        )  # fmt: skip
        return items, known.clamp(max=K)

    def forward(self, student: Student, batch: Batch | Tensor) -> Tensor:
        """The loss of the batch's unique users; `batch` may be their ids alone, [B] int64."""
        name, whole = self.method or type(self).__name__, unique_users(batch)
        expect_begun(name, self._epoch)
        expect_rows(name, "user", whole, self.rankings.n_users)
        return self.loss_of(student, share_of(batch).take(whole), whole)

    def drawn(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """This epoch's items [n, K + L] int64 (-1 for none) of rows [n], and how many of the first K count."""
        if self._items is None:
            items, lengths = (found.to(rows.device) for found in self.draw(rows.cpu()))
            return items.long(), lengths
        if self._items.device != rows.device:
            self._items, self._lengths = self._items.to(rows.device), self._lengths.to(rows.device)
        return self._items.index_select(0, rows).long(), self._lengths.index_select(0, rows)

    def known(self, rows: Tensor) -> CSR:
        """Of rows [n] what is excluded or in the teacher's list: all that is never drawn as uninteresting."""
        here = rows.cpu()
        lists, train = self.rankings.indices[here].long(), self.exclude.rows(here)
        listed, (owners, items) = lists >= 0, train.pairs()
        pairs = torch.cat([listed.nonzero()[:, 0], owners]), torch.cat([lists[listed], items])
        return CSR.from_pairs(*pairs, len(here), train.n_columns).to(rows.device)

    def loss_of(self, student: Student, rows: Tensor, whole: Tensor) -> Tensor:
        """The loss of rows [n] int64, each once, of all rows of the batch."""
        items, lengths = self.drawn(rows)
        name = self.method or type(self).__name__
        total = None
        if self.reduction == "mean" and len(rows) < len(whole):
            known = self.rankings.lengths[whole.to(self.rankings.lengths.device)]
            total = ((known > 0).sum() * (self.n_interesting > 0)).to(rows.device)
        if self.n_uninteresting is None:
            return list_above_the_catalogue(
                name, student, rows, items, lengths, self.known(rows), self.reduction, total
            )
        return list_above_the_rest(
            name, student, rows, items, self.n_interesting, lengths, self.reduction, self.swapped, total
        )
