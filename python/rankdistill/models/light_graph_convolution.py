"""Vectors that are means over the graph of train interactions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rankdistill.data.csr import CSR
from rankdistill.losses.settings import expect_at_least
from rankdistill.models.recommender import rows_of
from rankdistill.models.train_matrix import TrainMatrix, row_sums
from rankdistill.models.vector_tables import VectorTables
from rankdistill.ops import gathered_inner_product


class LightGraphConvolution(VectorTables):
    """Light graph convolution (LightGCN): vectors propagated over the train graph, the layers' mean; BPR.

    X_{l+1} = Â·Y_l, Y_{l+1} = Âᵀ·X_l, Â_ui = 1/√(n_u·n_i) for train interactions; user and item vectors are the means
    of X_0 … X_n and of Y_0 … Y_n, X_0 and Y_0 the tables. Scores are their inner products.

    Args:
        train: [U, N] interactions, the graph; part of the model and of its file.
        width: D, numbers per vector.
        seed: of the initial values, N(0, init_std²).
        init_std: their standard deviation.
        n_layers: n, >= 0; 0 is matrix factorisation.

    Raises:
        TypeError, ValueError: sizes or n_layers out of range; `loss` of a batch without positives or negatives.
        IndexError: ids out of range (on a CPU).

    Cost:
        O(n·nnz·D) time and O((U + N)·D) memory, forward and backward, once a batch: propagated vectors are kept until
        a table changes or a gradient has gone through them. Large batches therefore pay.

    Source:
        He et al., LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation, SIGIR 2020.

    Example:
        >>> from rankdistill.data import CSR
        >>> train = CSR.from_pairs(torch.tensor([0, 1]), torch.tensor([2, 2]), n_rows=2, n_columns=3)
        >>> LightGraphConvolution(train, width=4).score(torch.tensor([0]), torch.tensor([[2, 1]])).shape
        torch.Size([1, 2])
    """

    def __init__(
        self, train: CSR, width: int, seed: int = 0, init_std: float = 0.1, n_layers: int = 3
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        super().__init__(train.n_rows, train.n_columns, width, generator, init_std)
        expect_at_least(type(self).__name__, 0, n_layers=n_layers)
        self.n_layers = n_layers
        self.train_matrix = TrainMatrix(train)
        self.kept = Kept()

    def propagated(self) -> tuple[Tensor, Tensor]:
        """[U, D] and [N, D]."""
        return self.kept.of((self.user_table, self.item_table), self._propagate)

    def _propagate(self) -> tuple[Tensor, Tensor]:
        by_user, by_item = self.train_matrix.of_users(), self.train_matrix.of_items()
        weights = [edge_weights(*sides) for sides in ((by_user, by_item), (by_item, by_user))]
        users, items = self.user_table, self.item_table
        sums = [users, items]
        for _ in range(self.n_layers):
            users, items = (
                Propagation.apply(items, by_user, weights[0], by_item, weights[1]),
                Propagation.apply(users, by_item, weights[1], by_user, weights[0]),
            )
            sums = [sums[0] + users, sums[1] + items]
        return sums[0] / (self.n_layers + 1), sums[1] / (self.n_layers + 1)

    def user_vectors(self, ids: Tensor | None = None) -> Tensor:
        """[B, D] of users [B] int64, or of all: propagated."""
        return rows_of(self.propagated()[0], ids)

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """[K, D] of items [K] int64, or of all: propagated."""
        return rows_of(self.propagated()[1], ids)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """[B, K] scores of items [B, K] int64 (-1 scores -inf) for users [B] int64."""
        return gathered_inner_product(*self.propagated(), items, users)


def edge_weights(rows: CSR, columns: CSR) -> Tensor:
    """[nnz] 1/√(entries of the row · entries of the column), in the order of `rows`."""
    own = rows.counts.repeat_interleave(rows.counts, output_size=len(rows))
    return (own * columns.counts[rows.indices]).double().rsqrt()


class Propagation(torch.autograd.Function):
    """matrix · table, whose gradient reads the transposed matrix by rows instead of scattering."""

    @staticmethod
    def forward(ctx, table, rows, weights, columns, column_weights):
        ctx.columns, ctx.column_weights = columns, column_weights
        return row_sums(table, rows, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return row_sums(grad.contiguous(), ctx.columns, ctx.column_weights), None, None, None, None


class Kept:
    """What was computed of parameters, until one of them changes or a gradient has gone through it."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.read, self.made, self.with_grad = (), (), False

    def of(self, parameters: tuple[Tensor, ...], compute) -> tuple[Tensor, ...]:
        grad = torch.is_grad_enabled()
        # By value: a fused optimiser does not count up a parameter's version.
        same = self.with_grad == grad and len(self.read) == len(parameters)
        if same and all(
            a.device == b.device and a.dtype == b.dtype and torch.equal(a, b)
            for a, b in zip(self.read, parameters)
        ):
            return self.made
        self.read = tuple(parameter.detach().clone() for parameter in parameters)
        self.made, self.with_grad = compute(), grad
        for tensor in self.made:
            if tensor.requires_grad:
                tensor.register_hook(lambda _: self.forget())
        return self.made

    def __deepcopy__(self, memo) -> Kept:
        return Kept()

    def __reduce__(self):
        return Kept, ()
