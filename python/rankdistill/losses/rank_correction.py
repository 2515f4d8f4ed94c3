"""What a student ranks too low and too high of a teacher's list, and draws of both."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rankdistill.functional.reduction import widened
from rankdistill.losses.batch import Share
from rankdistill.losses.distillation import Student
from rankdistill.losses.list_scores import list_above_the_rest, list_scores
from rankdistill.losses.settings import expect_rows
from rankdistill.losses.whole_catalogue import expect_scoring_vectors
from rankdistill.ops import inner_product_rank, weighted_sample
from rankdistill.rankings import Rankings
from rankdistill.sampling import STREAMS, rank_discrepancy_weights, ranks_among_themselves
from rankdistill.vector_scores import all_vectors, bias_of, device_of

ROWS_AT_ONCE = 16384


class RankCorrection(nn.Module):
    """One side's lists, and the weights of their entries by the student's ranks of them, which `state_dict` keeps."""

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
        # Above 0 what is ranked too low, below 0 what is ranked too high.
        self.register_buffer("signed_weights", torch.zeros(rankings.n_users, rankings.k))

    @torch.no_grad()
    def measure(self, student: Student) -> None:
        device, lists = device_of(student), self.rankings
        if self.among == "catalogue":
            n_items = lists.n_users if self.swapped else lists.n_items
            expect_scoring_vectors("DualCorrection", student, n_items)
            own, other = ("item", "user") if self.swapped else ("user", "item")
            mine = all_vectors(student, own, lists.n_users)
            others = all_vectors(student, other, lists.n_items)
            bias = bias_of(student, "user" if self.swapped else "item")
        for rows in torch.arange(lists.n_users).split(ROWS_AT_ONCE):
            columns = lists.indices[rows].long()
            if self.among == "catalogue":
                ranks = inner_product_rank(mine[rows.to(device)], others, columns.to(device), item_bias=bias)
            else:
                scores = list_scores(student, rows.to(device), columns.to(device), self.swapped)
                ranks = ranks_among_themselves(scores)
            under, over = rank_discrepancy_weights(ranks, self.sharpness)
            found = (under - over).to(self.signed_weights)
            self.signed_weights[rows.to(found.device)] = found.masked_fill_((columns < 0).to(found.device), 0)

    def weights(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Of under- and over-estimated entries, [n, k] each; 0 where there is no entry."""
        (signed,) = widened(self.signed_weights.index_select(0, rows.to(self.signed_weights.device)).cpu())
        weights = signed.clamp_min(0), signed.neg_().clamp_min_(0)
        if not self.floor:
            return weights
        listed = self.rankings.indices[rows.cpu()] >= 0
        return tuple(side.clamp_min(self.floor) * listed for side in weights)

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
        expect_rows(op, "item" if self.swapped else "user", whole, self.rankings.n_users)
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
