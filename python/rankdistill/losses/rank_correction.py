"""What a student ranks too low and too high of a teacher's list, and draws of both."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rankdistill.losses.batch import Share
from rankdistill.losses.distillation import Student
from rankdistill.losses.list_scores import list_above_the_rest, list_scores
from rankdistill.ops import inner_product_rank, weighted_sample
from rankdistill.rankings import Rankings
from rankdistill.sampling import STREAMS, rank_discrepancy_weights, ranks_among_themselves

ROWS_AT_ONCE = 16384


class RankCorrection(nn.Module):
    """One side's lists, and the student's ranks of their entries among themselves, which `state_dict` keeps."""

    def __init__(
        self,
        rankings: Rankings,
        sharpness: float,
        among: str,
        floor: float,
        swapped: bool,
        streams: tuple[str, str],
    ) -> None:
        super().__init__()
        self.rankings, self.sharpness, self.among, self.floor = rankings, sharpness, among, floor
        self.swapped, self.streams = swapped, streams
        ranks = torch.arange(rankings.k, dtype=torch.int32).repeat(rankings.n_users, 1)
        self.register_buffer("student_ranks", ranks)

    @torch.no_grad()
    def measure(self, student: Student) -> None:
        device = self.student_ranks.device
        for rows in torch.arange(self.rankings.n_users).split(ROWS_AT_ONCE):
            columns = self.rankings.indices[rows].long()
            if self.among == "catalogue":
                tables = student.user_vectors(), student.item_vectors()
                mine, others = tables[::-1] if self.swapped else tables
                ranks = inner_product_rank(mine[rows.to(device)], others, columns.to(device))
            else:
                scores = list_scores(student, rows.to(device), columns.to(device), self.swapped)
                ranks = ranks_among_themselves(scores)
            self.student_ranks[rows.to(device)] = ranks.to(torch.int32)

    def weights(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Of under- and over-estimated entries, [n, k] each; 0 where there is no entry."""
        ranks = self.student_ranks.index_select(0, rows.to(self.student_ranks.device)).cpu().long()
        listed = self.rankings.indices[rows.cpu()] >= 0
        under, over = rank_discrepancy_weights(ranks, self.sharpness)
        return under.clamp_min(self.floor) * listed, over.clamp_min(self.floor) * listed

    def loss(
        self,
        op: str,
        student: Student,
        whole: Tensor,
        share: Share,
        n: int,
        reduction: str,
        seed: int,
        epoch: int,
    ) -> Tensor:
        """The share's part of the loss of all rows of a batch."""
        rows = share.take(whole)
        here = rows.cpu()
        listed = self.rankings.indices[here].long()
        drawn = [
            weighted_sample(here, weights, n, seed=seed, epoch=epoch, stream=STREAMS[stream])
            for weights, stream in zip(self.weights(rows), self.streams, strict=True)
        ]
        columns = [listed.gather(1, at.clamp_min(0)).masked_fill(at < 0, -1) for at in drawn]
        lengths = (drawn[0] >= 0).sum(1).to(rows.device)
        columns = torch.cat(columns, 1).to(rows.device)
        total = None
        if share.size > 1 and reduction == "mean":
            total = (self.weights(whole)[0] > 0).any(1).sum().to(rows.device)
        return list_above_the_rest(op, student, rows, columns, n, lengths, reduction, self.swapped, total)
