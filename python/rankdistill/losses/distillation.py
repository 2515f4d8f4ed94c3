"""What every distillation method is: a loss that reads a student and a batch, and redraws between epochs."""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from rankdistill.losses.batch import Batch, Share, real_interactions
from rankdistill.losses.entities import Entities, expect_tables, learning_own
from rankdistill.losses.settings import expect_ids, expect_vectors


class Student(Protocol):
    """What a method asks of a model. Vectors are asked for only by methods whose `needs` say so.

    Losses read it in the mode that it is in; what `begin_epoch` looks at is read in evaluation mode, which is undone.
    """

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores [B, K] of items [B, K] int64 for users [B] int64, with gradients."""


class Distillation(nn.Module):
    """A distillation method.

    In a training loop: `begin_epoch(epoch, student)` before an epoch's first batch, `method(student, batch)` for
    a scalar to add to the loss, times the method's weight. Trainable parts (experts, projectors) are ordinary parameters: give
    them to the optimiser. Between epochs all that a resume needs is in `state_dict`; `begin_epoch` then goes on as if nothing had
    happened. Within an epoch it is not all: some methods draw by how many batches there were.

    For that reason too torch.utils.checkpoint belongs around the student's towers, not around a method, which may draw anew when
    it is recomputed: other gradients, without a word.

    `needs` names what the teacher must provide, of "rankings", "scores", "user_vectors", "item_vectors",
    "checkpoints" (rankings of several moments of its training) and "model" (the teacher itself, which trains along).

    `divides` says what processes that train together divide among themselves, so that their losses for the shares of a
    batch (`Batch.share`) add up to the whole batch's: "users", "interactions", "entities" (unique users and items),
    "gradients" (all compute the whole, each learns for its entities) or "nothing" (rank 0 has the whole, which all
    compute). None: the method knows no shares, and is refused. `reads_whole`: what it reads of a student's whole tables,
    which no process has where they are divided by rows.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    default_weight: ClassVar[float] = 1.0
    default_base_weight: ClassVar[float] = 1.0  # of the student's own loss beside it; 0 where there is none
    divides: ClassVar[str | None] = None
    reads_whole: ClassVar[str | None] = None

    def begin_epoch(self, epoch: int, student: Student) -> None:
        """Redraws, refreshes or advances for `epoch` (0-based). Called once per epoch, in order."""

    def negatives(self, epoch: int, users: Tensor, positives: Tensor) -> Tensor | None:
        """Negative items [n, ...] for all interactions of an epoch, where the method chooses them; else None."""
        return None

    def forward(self, student: Student, batch: Batch) -> Tensor:
        """The loss of one batch: a scalar."""
        raise NotImplementedError(f"{type(self).__name__}: expected a forward(student, batch); got none")

    @property
    def trained_teacher(self) -> nn.Module | None:
        """The teacher that trains together with the student, where there is one."""
        return None

    def teacher_loss(self, student: Student, batch: Batch) -> Tensor | None:
        """The loss of a teacher that trains together with the student (its parameters are the module's); else None.

        A trainer adds it once, unweighted: neither loss reaches the other's parameters.
        """
        return None


class VectorDistillation(Distillation):
    """A method that teaches vectors: the teacher is two frozen tables, the student has `user_vectors` and `item_vectors`.

    Args:
        teacher_users: [U, D_t] float, a tensor, an array or an embedding layer.
        teacher_items: [N, D_t] float, likewise. Neither is in `state_dict`.
        student_width: D_s, where the method has parts made for it; None for any.

    Raises:
        TypeError: tables that are none, or not of floats; a student without vectors. ValueError: tables of two widths, a student of
            another width than `student_width`. IndexError: a user or an item that the teacher's tables have no row for.
    """

    needs = frozenset({"user_vectors", "item_vectors"})
    divides = "entities"

    def __init__(
        self, teacher_users: Tensor, teacher_items: Tensor, student_width: int | None = None
    ) -> None:
        super().__init__()
        self.student_width = student_width
        tables = {"teacher_users": teacher_users, "teacher_items": teacher_items}
        for name, table in expect_tables(type(self).__name__, **tables):
            self.register_buffer(name, table, persistent=False)

    @property
    def teacher_width(self) -> int:
        return self.teacher_users.shape[1]

    def rows(
        self,
        student: Student,
        side: str,
        *ids: Tensor | None,
        weight: float = 1.0,
        share: Share | None = None,
        whole: bool = False,
    ) -> Entities:
        """The vectors of one side, of one or two sets of ids that are made unique each.

        Of a share its rows alone; or, where `whole`, all of them, of which the share's have gradients.
        """
        unique = [torch.unique(part) for part in ids if part is not None]
        found = torch.cat(unique) if unique else self.teacher_users.new_empty(0, dtype=torch.int64)
        parts = torch.cat([torch.full_like(u, at) for at, u in enumerate(unique)]) if unique else found
        teacher = self.teacher_users if side == "user" else self.teacher_items
        for ids_of_part in unique:
            expect_ids(type(self).__name__, side, ids_of_part, len(teacher), f"teacher_{side}s")
        expect_vectors(type(self).__name__, student)
        read = student.user_vectors if side == "user" else student.item_vectors
        if share and not whole:
            found, parts = map(share.take, (found, parts))
        vectors = learning_own(read, found, share) if share and whole else read(found)
        if self.student_width is not None and vectors.shape[1] != self.student_width:
            raise ValueError(
                f"{type(self).__name__}: expected a student's {side} vectors of width {self.student_width}, "
                f"as student_width; got {vectors.shape[1]}"
            )
        weights = torch.full((len(found),), weight, dtype=vectors.dtype, device=vectors.device)
        # A table of the teacher's may stay in files, or in another memory than the student's.
        known = teacher.index_select(0, found.to(teacher.device)).to(found.device)
        return Entities(side, found, known, vectors, weights, parts)

    def sides(self, student: Student, batch: Batch) -> tuple[Entities, Entities]:
        """Users once, positives and negatives with half weight each, as the losses of vectors are released."""
        users, *items, share = real_interactions(type(self).__name__, batch)
        found = self.rows(student, "item", *items, weight=0.5, share=share)
        return self.rows(student, "user", users, share=share), found

    def together(self, student: Student, batch: Batch) -> tuple[Entities, Entities]:
        """Users, and items positive and negative together, as the losses of relations are released; all of a batch's."""
        users, *items, _ = real_interactions(type(self).__name__, batch)
        parts = [part.flatten() for part in items if part is not None]
        sides = ("user", users), ("item", torch.cat(parts) if parts else None)
        return tuple(self.rows(student, *side, share=batch.share, whole=True) for side in sides)
