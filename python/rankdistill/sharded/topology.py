"""Full topology distillation of entities whose rows are divided among ranks: Gram matrices travel, rows do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rankdistill.functional.topology import over_pairs
from rankdistill.ops import checks
from rankdistill.ops.relation import check_kind
from rankdistill.ops.relation_distance import forward_gram
from rankdistill.sharded.routes import Route
from rankdistill.sharded.table import ShardedTable, check_range


class Side(NamedTuple):
    """Ids of one side's entities in this rank's batch, with the tables of their vectors.

    Args:
        ids: int64 of any shape; -1 for none.
        teacher: their vectors, which no gradient reaches.
        student: the same, a table of the same layout and of any width.
    """

    ids: Tensor
    teacher: ShardedTable
    student: ShardedTable


def full_topology_distillation(
    sides: Sequence[Side], kind: str = "cosine", reduction: str = "sum", exact_value: bool = True
) -> Tensor:
    """Full topology distillation (FTD) of all ranks' entities, each once, whichever ranks' batches name it.

    loss = Σ_ij (A_ij − S_ij)² over all ordered pairs of the union of entities, users and items together

    Args:
        sides: users and items, or one of them.
        kind, reduction, exact_value: as in `functional.full_topology_distillation`.

    Returns:
        A scalar: the loss / W on every rank, so that ranks' losses add up to the whole, as those of rows do.

    Contract:
        As the op, with Gram matrices summed in float64 per rank, then over ranks.

    Raises:
        TypeError, ValueError, IndexError: no ids or kind, tables of two layouts; on the other ranks a ConnectionError.

    Cost:
        O(n·D_t·(D_t/2 + 2·D_s)) time for n entities that a rank owns. A rank sends 4 bytes per distinct id, and its
        Gram matrices, 8·(D_s² + D_t·D_s + D_t²) bytes, to be added up: DESIGN.md SH-5.

    Source:
        Kang et al., Topology Distillation for Recommender System, KDD 2021, equation 3.

    Example:
        >>> teacher, student = ShardedTable(torch.eye(2)), ShardedTable(torch.ones(2, 3))
        >>> full_topology_distillation([Side(torch.tensor([0, 1, 1]), teacher, student)]).detach()
        tensor(2.)
    """
    op = "full_topology_distillation"
    checks.expect(len(sides) > 0, op, "one side or more", "none")
    ranks = sides[0].student.ranks

    def prepare():
        check_kind(op, kind)
        routes = []
        for ids, teacher, student in sides:
            check_range(op, "ids", ids, -1, student.n_rows, student.rows)
            if teacher.layout != student.layout:
                raise ValueError(
                    f"{op}: expected a teacher and a student of one layout; got {teacher.layout.starts} and "
                    f"{student.layout.starts}"
                )
            unique = torch.unique(ids[ids >= 0])
            routes.append(Route(student.layout, torch.zeros_like(unique), unique, 1))
        return routes, [total for route in routes for total in route.totals]

    call = f"{op} of {len(sides)} sides, {kind}, {reduction}"
    routes, told = ranks.agreed(
        call,
        prepare,
        sides[0].student.rows.device,
        **{f"side {at}": side.student.rows for at, side in enumerate(sides)},
    )
    teachers, students = [], []
    for at, ((_, teacher, student), route) in enumerate(zip(sides, routes)):
        coming = [row[ranks.size * at + ranks.rank] for row in told]
        own = torch.unique(ranks.moved(route.positions, route.totals, coming))
        teachers.append(teacher.rows.detach()[own.long()])
        students.append(student.read(own))
    student = torch.cat(students)
    loss = _Topology.apply(torch.cat(teachers), student, kind, exact_value, ranks)
    count = ranks.add_up(torch.tensor([len(student)], device=student.device)) if reduction == "mean" else [0]
    return over_pairs(op, loss, int(count[0]) ** 2, reduction)


class _Topology(torch.autograd.Function):
    @staticmethod
    def forward(ctx, teacher, student, kind, exact_value, ranks):
        loss, slopes = forward_gram(
            teacher, student, kind, exact_value, ctx.needs_input_grad[1], add_up=ranks.add_up
        )
        ctx.save_for_backward(slopes)
        ctx.ranks, ctx.dtype = ranks, student.dtype
        return loss / ranks.size

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        # Every rank's share of the loss depends on the same sums.
        grad = ctx.ranks.add_up(grad.clone()) / ctx.ranks.size
        return None, (grad * ctx.saved_tensors[0]).to(ctx.dtype), None, None, None
