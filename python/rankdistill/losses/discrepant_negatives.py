"""Negatives of two models that learn from each other, drawn by how differently they rank the whole catalogue."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rankdistill.data.csr import CSR
from rankdistill.losses.distillation import Student
from rankdistill.sampling import (
    STREAMS,
    bidirectional_weights,
    ranks_among_themselves,
    sample_with_replacement,
    within_row_positions,
)
from rankdistill.vector_scores import device_of, evaluating, row_scores, scores_are_products

CELLS = 1 << 21  # users × items at a time
LEARNERS = ("teacher", "student")


class DiscrepantNegatives(nn.Module):
    """For every train interaction J negatives of either learner in each of `period` epochs, which `state_dict` keeps."""

    def __init__(
        self,
        name: str,
        train: CSR,
        n_negatives: int,
        period: int,
        sharpness: tuple[float, float],
        ranked: bool,
        seed: int,
    ) -> None:
        super().__init__()
        self.name, self.train_items, self.sharpness = name, train, sharpness
        self.n_negatives, self.period, self.ranked, self.seed = n_negatives, period, ranked, seed
        users, items = train.pairs()
        self.register_buffer("keys", users * train.n_columns + items, persistent=False)
        shape = (len(LEARNERS), period, len(train), n_negatives)
        self.register_buffer("drawn", torch.full(shape, -1, dtype=torch.int32))
        self.register_buffer("since", torch.tensor(-1))  # the first of the epochs that were drawn for

    def has(self, epoch: int) -> bool:
        return 0 <= int(self.since) <= epoch < int(self.since) + self.period

    @torch.no_grad()
    def draw(self, epoch: int, teacher: Student, student: Student) -> None:
        """Ranks the catalogue by both, a block of users at a time, and draws for `period` epochs from `epoch` on."""
        U, N = self.train_items.n_rows, self.train_items.n_columns
        device = self.drawn.device
        epochs = torch.arange(epoch, epoch + self.period, device=device)
        for users in torch.arange(U, device=device).split(max(1, CELLS // max(N, 1))):
            first, last = int(users[0]), int(users[-1]) + 1
            seen = self.train_items.window(range(first, last), range(N)).to(device)
            entries = slice(int(self.train_items.indptr[first]), int(self.train_items.indptr[last]))
            rows, _ = seen.pairs()
            with evaluating(teacher, student):
                ranks = [self.ranks(model, users, seen).to(device) for model in (teacher, student)]
            slots = within_row_positions(rows)[:, None] * self.n_negatives
            slots = slots + torch.arange(self.n_negatives, device=device)  # [n, J]
            # [period, n, J], each entry's counter
            counters = torch.broadcast_tensors(epochs[:, None, None], rows[:, None], slots)
            when, row, slot = (part.flatten() for part in counters)
            for at, weights in enumerate(bidirectional_weights(*ranks, *self.sharpness)):
                found = sample_with_replacement(
                    row, weights, users[row], slot,
                    seed=self.seed, epoch=when, stream=STREAMS[f"{LEARNERS[at]}_negatives"],
                )  # fmt: skip
                self.drawn[at][:, entries] = found.view(counters[0].shape).int()
        self.since.fill_(epoch)

    def ranks(self, model: Student, users: Tensor, seen: CSR) -> Tensor:
        """[B, N] int64 of all items, where the model scores; train items stand at score 0, or have rank -1."""
        if scores_are_products(model):
            scores = model.user_vectors(users.to(device_of(model))) @ model.item_vectors().T
        else:
            scores = row_scores(model, users, torch.arange(seen.n_columns))
        # A sort: every item's rank is asked for, while `masked_rank` searches for each of some.
        pairs = seen.to(scores.device).pairs()
        scores[pairs] = 0 if self.ranked else -torch.inf
        ranks = ranks_among_themselves(scores)
        if not self.ranked:
            ranks[pairs] = -1
        return ranks

    def of(self, learner: str, epoch: int, users: Tensor, positives: Tensor) -> Tensor:
        """[n, J] int64 negatives of train interactions in an epoch that was drawn for; -1 for none."""
        if not self.has(epoch):
            raise RuntimeError(
                f"{self.name}: expected begin_epoch({epoch}, student) before its negatives; got none"
            )
        wanted = (users.long() * self.train_items.n_columns + positives).to(self.keys.device)
        at = torch.searchsorted(self.keys, wanted).clamp_max(max(len(self.keys) - 1, 0))
        if len(wanted) and not (len(self.keys) and bool((self.keys[at] == wanted).all())):
            raise ValueError(f"{self.name}: expected interactions of train; got others")
        return self.drawn[LEARNERS.index(learner), epoch - int(self.since)][at].long().to(users.device)
