"""Metric learning: an item is the better, the nearer it is to the user."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rankdistill.losses.batch import Batch
from rankdistill.models.recommender import once_each, rows_of
from rankdistill.models.vector_tables import VectorTables
from rankdistill.ops import gathered_inner_product


class CollaborativeMetricLearning(VectorTables):
    """Collaborative metric learning (CML): points in the unit ball, hinges between distances.

    score(u, i) = −‖x_u − y_i‖² = ⟨√2·x_u, √2·y_i⟩ − ‖y_i‖² − ‖x_u‖², x and y the tables' rows, projected onto the unit
    ball: vectors are √2·x and √2·y, and the squares are biases of items and users, so exact top-k of inner products ranks.
    loss = Σ log(1 + N·v/J) · max(margin + d²(u, i) − min_j d²(u, j), 0) over J negatives j, of which v violate the margin:
    N·v/J estimates the positive's rank. The paper's covariance term is left out.

    Args:
        n_users, n_items: rows of the two tables.
        width: D, numbers per vector.
        seed: of the initial values, N(0, init_std²).
        init_std: their standard deviation; None for 1/√D, as long as the ball's radius on average.
        margin: between squared distances, > 0; those in the ball are at most 4.

    Raises:
        TypeError, ValueError: sizes that are no whole numbers of 1 or more, a margin not above 0; `loss` of a batch without positives or negatives.
        IndexError: ids out of range (on a CPU).

    Cost:
        O(B·J·D) time and O(B·J) memory a batch. Several negatives (`training.n_negatives`) make the better ranks.

    Source:
        Hsieh et al., Collaborative Metric Learning, WWW 2017, equations 1 to 4.

    Example:
        >>> model = CollaborativeMetricLearning(n_users=3, n_items=5, width=2)
        >>> bool((model.score(torch.tensor([0]), torch.tensor([[4, 1]])) <= 0).all())
        True
    """

    scores_are_inner_products = False  # but for the biases

    def __init__(
        self,
        n_users: int,
        n_items: int,
        width: int,
        seed: int = 0,
        init_std: float | None = None,
        margin: float = 1.0,
    ) -> None:
        std = 1 / math.sqrt(max(width, 1)) if init_std is None else init_std
        super().__init__(n_users, n_items, width, torch.Generator().manual_seed(seed), std)
        if not margin > 0:
            raise ValueError(f"{type(self).__name__}: expected margin above 0; got {margin}")
        self.margin = margin

    def user_vectors(self, ids: Tensor | None = None) -> Tensor:
        """[B, D] of users [B] int64, or of all."""
        return doubled(rows_of(self.user_table, ids))

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """[K, D] of items [K] int64, or of all."""
        return doubled(rows_of(self.item_table, ids))

    @property
    def user_bias(self) -> Tensor:
        """[U] −‖x_u‖²"""
        return half_square(self.user_vectors())

    @property
    def item_bias(self) -> Tensor:
        """[N] −‖y_i‖²"""
        return half_square(self.item_vectors())

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """[B, K] scores of items [B, K] int64 (-1 scores -inf) for users [B] int64."""
        listed, at = once_each(items)
        vectors, points = self.user_vectors(users), self.item_vectors(listed)
        products = gathered_inner_product(vectors, points, at, None, half_square(points))
        return products + half_square(vectors)[:, None]

    def loss(self, batch: Batch) -> Tensor:
        """The hinges of the batch's pairs, each user's nearest negative alone, weighted; summed."""
        positive, negative = self.pair_scores(batch)
        violates = negative + self.margin > positive
        counted = torch.isfinite(negative).sum(1).clamp_min(1)
        weights = torch.log1p(self.n_items * violates.sum(1).to(negative) / counted)
        return (weights * (self.margin + negative.amax(1) - positive[:, 0]).clamp_min(0)).sum()


def doubled(rows: Tensor) -> Tensor:
    """√2 times rows that are first projected onto the unit ball: those inside stay as they are."""
    return math.sqrt(2) * nn.functional.normalize(rows, eps=1.0)


def half_square(rows: Tensor) -> Tensor:
    """[n] −‖row‖²/2"""
    return -rows.square().sum(1) / 2
