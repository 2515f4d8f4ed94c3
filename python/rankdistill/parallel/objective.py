"""What a student is trained for: its own loss and weighted distillation terms, as one module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from rankdistill.losses.batch import Batch, share_of
from rankdistill.losses.distillation import Distillation


class Term(NamedTuple):
    """A distillation method and its weight in the loss.

    Args:
        weight: of the method's loss; that of a teacher that trains along has none.
        method: what is called as method(model, batch).
    """

    weight: float
    method: Distillation


class Objective(nn.Module):
    """The weighted sum of a model's own loss and of distillation terms: `objective(batch)` is a batch's loss.

    With a share (`batch.share`) it is that share's part: parts, and their gradients, add up to the whole batch's.

    Args:
        model: with `loss(batch)`, a sum over the batch's interactions.
        terms: (weight, method) of each.
        base_weight: of the model's own loss; 0 leaves it out.

    Raises:
        ValueError: base_weight of 0 without terms.

    Example:
        >>> model = MatrixFactorization(n_users=3, n_items=5, width=2)
        >>> batch = Batch(torch.tensor([0, 2]), torch.tensor([4, 1]), torch.tensor([[0], [0]]))
        >>> whole = Objective(model)(batch)
        >>> parts = [Objective(model)(batch._replace(share=Share(rank, 2))) for rank in range(2)]
        >>> torch.allclose(sum(parts), whole)
        True
    """

    def __init__(
        self,
        model: nn.Module,
        terms: Sequence[Term | tuple[float, Distillation]] = (),
        base_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if not base_weight and not terms:
            raise ValueError("Objective: expected terms, or a base_weight other than 0; got neither, no loss")
        self.model, self.base_weight = model, base_weight
        self.weights = [weight for weight, _ in terms]
        self.methods = nn.ModuleList(method for _, method in terms)

    def forward(self, batch: Batch) -> Tensor:
        loss = self.base_weight * self.model.loss(batch.own()) if self.base_weight else 0.0
        for weight, method in zip(self.weights, self.methods):
            if share_of(batch).size > 1:
                expect_divided(method)
            loss = loss + weight * method(self.model, batch)
            teacher_loss = method.teacher_loss(self.model, batch)
            if teacher_loss is not None:
                loss = loss + teacher_loss
        return loss


def expect_divided(method: Distillation) -> None:
    """The method's losses of shares add up, as it says by `divides`."""
    if method.divides is None:
        raise ValueError(
            f"{type(method).__name__}: expected `divides`, what processes divide among themselves; got None. A method "
            "that is a sum over rows takes its part of them (Batch.share) and says so; train this one on one process"
        )
