"""What several teachers know at the checkpoints that each user's student is ready for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rankdistill import functional
from rankdistill.data.csr import CSR
from rankdistill.losses.distillation import Student
from rankdistill.losses.whole_catalogue import catalogue_ranker
from rankdistill.rankings import Rankings
from rankdistill.rankings.ensemble import ensemble_rankings

ROWS_AT_ONCE = 4096


class CheckpointKnowledge(nn.Module):
    """Rankings of M teachers at V checkpoints, and which one each user learns from, which `state_dict` keeps."""

    def __init__(
        self, checkpoints: Sequence[Sequence[Rankings]], exclude: CSR, n_listed: int, n_compared: int
    ) -> None:
        super().__init__()
        name, longest, (U, N) = (
            "HeterogeneousCompression",
            max(n_listed, n_compared),
            (exclude.n_rows, exclude.n_columns),
        )
        if not checkpoints or len({len(teacher) for teacher in checkpoints}) != 1 or not checkpoints[0]:
            raise ValueError(
                f"{name}: expected as many checkpoints of each teacher; got {[len(t) for t in checkpoints]}"
            )
        for rankings in (r for teacher in checkpoints for r in teacher):
            if (rankings.n_users, rankings.n_items) != (U, N) or rankings.k < longest:
                raise ValueError(
                    f"{name}: expected rankings of {U} users × {N} items, as exclude, {longest} items each; "
                    f"got {rankings.n_users} × {rankings.n_items}, {rankings.k} each"
                )
        self.exclude, self.n_listed, self.n_compared = exclude, n_listed, n_compared
        # [M, V, U, longest]
        self.lists = torch.stack(
            [torch.stack([r.indices[:, :longest].int() for r in t]) for t in checkpoints]
        )
        M = len(checkpoints)
        self.register_buffer("versions", torch.zeros(M, U, dtype=torch.int64))
        self.register_buffer("last", torch.full((M, U), torch.nan, dtype=torch.float64))
        self.register_buffer("compared", torch.tensor(False))

    @property
    def is_last(self) -> bool:
        """Whether all users are at the last checkpoints: means per teacher, rounded to two decimals as released."""
        means = self.versions.double().mean(1).round(decimals=2)
        return bool(means.sum() >= len(means) * (self.lists.shape[1] - 1))

    def advance(self, student: Student, step: int, looseness: float, decay: float, gain: str) -> None:
        """Compares the student with the next checkpoints, and goes on to those it is near."""
        versions, last = functional.advance_checkpoints(
            self.versions.cpu(), self.last.cpu() if self.compared else None, self.student_lists(student),
            self.lists[..., : self.n_compared].long(), step, looseness, decay, gain,
        )  # fmt: skip
        self.versions.copy_(versions)
        self.last.copy_(last)
        self.compared.fill_(True)

    @torch.no_grad()
    def student_lists(self, student: Student) -> Tensor:
        """[U, n_compared] int64, the student's best items that are not train items."""
        best = catalogue_ranker(student, self.n_compared, self.exclude.n_columns)
        parts = torch.arange(self.lists.shape[2]).split(ROWS_AT_ONCE)
        return torch.cat([best(users, self.exclude.rows(users)).indices for users in parts])

    def ranking(self, position_temperature: float) -> Tensor:
        """[U, n_listed] int64, the ensemble's ranking by each user's checkpoints."""
        users = torch.arange(self.lists.shape[2])
        chosen = torch.stack([lists[at, users] for lists, at in zip(self.lists, self.versions.cpu())])
        top = ensemble_rankings(chosen[..., : self.n_listed].long(), self.n_listed, position_temperature)
        short = (top < 0).any(1)
        if short.any():
            user = int(short.nonzero()[0])
            raise ValueError(
                f"HeterogeneousCompression: expected {self.n_listed} items that some teacher lists for every user; "
                f"got {int((top[user] >= 0).sum())} for user {user}"
            )
        return top
