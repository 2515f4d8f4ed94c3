"""What the models share: how a trainer batches for them, and layers whose initial values come from a generator."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from rankdistill.experts import linear_parameters
from rankdistill.losses.dropout import EpochDropout


class Recommender(nn.Module):
    """A model of users and items: subclasses have `score`, `loss`, `n_users`, `n_items` and `width`.

    Scores and vectors are free of noise; what a model draws (dropout, a latent vector) is drawn in `loss` alone, by the
    seed, the epoch and the order of batches, so that a resumed run repeats it.
    """

    # What a trainer's batch holds: "interactions" in any order, or all train interactions of some "users" or "items".
    batch_by: ClassVar[str] = "interactions"

    # Whether scores are the inner products of `user_vectors` and `item_vectors`, biases none, and whole tables of them
    # cheap: methods may then read the vectors instead of calling `score`, which is faster.
    scores_are_inner_products: ClassVar[bool] = False

    least_width: ClassVar[int] = 1

    def begin_epoch(self, epoch: int) -> None:
        """Called before an epoch's first batch: what is drawn in it depends on `epoch` (0-based)."""


class NoisyRecommender(Recommender):
    """A model that draws in `loss`, from `noise`; `begun` is the epoch.

    Args:
        seed: of the noise.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.noise = EpochDropout(seed)
        self.begun: int | None = None

    def begin_epoch(self, epoch: int) -> None:
        self.begun = epoch
        self.noise.begin(epoch, next(self.parameters()).device)


def linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A layer with the values that torch.nn.Linear would draw, of this generator."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    weight, bias = linear_parameters(1, outputs, inputs, generator)
    with torch.no_grad():
        layer.weight.copy_(weight[0])
        layer.bias.copy_(bias[0])
    return layer


def normal(rows: int, columns: int, generator: torch.Generator, std: float) -> nn.Parameter:
    """[rows, columns] of N(0, std²)."""
    return nn.Parameter(torch.randn(rows, columns, generator=generator) * std)


def rows_of(table: Tensor, ids: Tensor | None, sparse: bool = False) -> Tensor:
    """[..., D] the rows of ids [...], or the table; refuses ids out of range, and one below 0, an index's rows from the end."""
    if ids is None:
        return table
    try:
        return nn.functional.embedding(ids, table, sparse=sparse)
    except IndexError as error:
        found = f"{int(ids.min())} to {int(ids.max())}"
        raise IndexError(f"vectors: expected ids in [0, {len(table)}); got {found}") from error


def once_each(items: Tensor) -> tuple[Tensor, Tensor]:
    """The different ids [n] of items [B, K], ascending, and where each entry stands among them (-1 stays -1)."""
    listed = torch.unique(items[items >= 0])
    return listed, torch.searchsorted(listed, items.clamp_min(0)).masked_fill(items < 0, -1)
