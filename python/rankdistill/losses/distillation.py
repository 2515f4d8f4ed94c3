"""What every distillation method is: a loss that reads a student and a batch, and redraws between epochs."""

from __future__ import annotations

from typing import ClassVar, NamedTuple, Protocol

from torch import Tensor, nn


class Batch(NamedTuple):
    """One step's interactions.

    users [B] int64 (they may repeat); positives [B] or negatives [B, ...] int64, where the method or the
    model's own objective reads them.
    """

    users: Tensor
    positives: Tensor | None = None
    negatives: Tensor | None = None


class Student(Protocol):
    """What a method asks of a model. Vectors are asked for only by methods whose `needs` say so."""

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores [B, K] of items [B, K] int64 for users [B] int64, with gradients."""


class Distillation(nn.Module):
    """A distillation method.

    In a training loop: `begin_epoch(epoch, student)` before an epoch's first batch, `method(student, batch)` for
    a scalar to add to the loss, times the method's weight. Trainable parts (experts, projectors) are ordinary
    parameters: give them to the optimiser. All that a resume needs is in `state_dict`; `begin_epoch` after a
    resume then goes on as if nothing had happened.

    `needs` names what the teacher must provide, of "rankings", "scores", "user_vectors", "item_vectors" and
    "checkpoints" (rankings of several moments of its training).
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    default_weight: ClassVar[float] = 1.0

    def begin_epoch(self, epoch: int, student: Student) -> None:
        """Redraws, refreshes or advances for `epoch` (0-based). Called once per epoch, in order."""

    def negatives(self, epoch: int, users: Tensor, positives: Tensor) -> Tensor | None:
        """Negative items [n, ...] for all interactions of an epoch, where the method chooses them; else None."""
        return None

    def forward(self, student: Student, batch: Batch) -> Tensor:
        """The loss of one batch: a scalar."""
        raise NotImplementedError(
            f"{type(self).__name__}: expected a forward(student, batch); got a class without one"
        )

    def teacher_loss(self, student: Student, batch: Batch) -> Tensor | None:
        """The loss of a teacher that trains together with the student (its parameters are the module's); else None.

        A trainer adds it once, unweighted: neither loss reaches the other's parameters.
        """
        return None
