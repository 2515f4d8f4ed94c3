"""Ids that rows name, sent to the ranks that own them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rankdistill.data.csr import padded_rows
from rankdistill.sharded.exchange import Ranks
from rankdistill.sharded.layout import Layout


@dataclass(frozen=True)
class Entries:
    """Entries of the rows of all ranks, in their order, that came to this one.

    indptr [R + 1] and positions [n] in its block, both int64, ascending within a row where they were so at the sender.
    """

    indptr: Tensor
    positions: Tensor

    def padded(self) -> tuple[Tensor, Tensor]:
        """[R, K] positions row by row from the left, -1 past them, and which are entries; K is the longest row's."""
        return padded_rows(self.indptr, self.positions)


class Route:
    """Where the ids of this rank's rows go.

    Args:
        layout: of the table that the ids are of.
        rows: [n] int64 in [0, B), ascending: which row names each id.
        ids: [n] int64 in [0, N).
        B: rows.
    """

    def __init__(self, layout: Layout, rows: Tensor, ids: Tensor, B: int) -> None:
        owners = layout.owners(ids)
        # Stable: ids of one owner stay in the order of rows, and within a row in theirs.
        self.order = torch.argsort(owners, stable=True)
        self.positions = layout.within(ids, owners)[self.order]
        counts = torch.bincount(owners * B + rows, minlength=layout.ranks * B).view(layout.ranks, B)
        self.counts, self.totals = counts.to(torch.int32), counts.sum(1).tolist()

    @classmethod
    def of_lists(cls, layout: Layout, ids: Tensor) -> Route:
        """Of ids [B, K], -1 for none; `order` is then of those that are some, by row."""
        listed = ids >= 0
        return cls(layout, listed.nonzero()[:, 0], ids[listed], len(ids))

    @classmethod
    def of_csr(cls, layout: Layout, indptr: Tensor, indices: Tensor) -> Route:
        rows = torch.arange(len(indptr) - 1, device=indptr.device)
        rows = rows.repeat_interleave(indptr.diff(), output_size=len(indices))
        return cls(layout, rows, indices, len(indptr) - 1)

    def send(self, ranks: Ranks, sizes: list[int], coming: list[int]) -> Entries:
        """What came here of all ranks' routes.

        Args:
            sizes: B of every rank.
            coming: how many ids come from every rank. 4 bytes are sent per row and rank, and per id.
        """
        B = self.counts.shape[1]
        counts = ranks.moved(self.counts.flatten(), [B] * ranks.size, sizes).long()
        positions = ranks.moved(self.positions, self.totals, coming)
        return Entries(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), positions.long())
