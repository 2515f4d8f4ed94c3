"""What ranks hold of a model that they train where its tables are divided: each its rows, and what is small."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from rankdistill.data.csr import CSR
from rankdistill.losses.distillation import Distillation
from rankdistill.rankings.distributed import Processes
from rankdistill.sharded.checkpoint import facts_in, load_sharded, save_sharded, tables_of
from rankdistill.sharded.evaluation import evaluate
from rankdistill.sharded.table import summed_parameters

CHECKPOINT = "checkpoint"  # a folder
States = dict[str, dict[str, Tensor]]


class Slices:
    """Every rank has the rows of tables that it owns, their gradient and their moments; all write and read together.

    Of what a trainer asks, as `parallel.Copies` answers it for whole models.

    Args:
        model: with a `ShardedTable` or more among its modules.
        processes: that train; the ranks of its tables.

    Raises:
        ValueError: tables of other ranks.
    """

    read_alike = False
    checkpoint = CHECKPOINT

    def __init__(self, model: nn.Module, processes: Processes) -> None:
        self.model, self.processes = model, processes
        for name, table in tables_of(model).items():
            if table.layout.ranks != processes.size:
                raise ValueError(
                    f"{processes.op}: expected tables divided among the {processes.size} processes that train; got "
                    f"{name} on {table.layout.ranks}"
                )

    def expect_method(self, method: Distillation) -> None:
        if method.reads_whole is not None:
            raise ValueError(
                f"{type(method).__name__}: expected a student with whole tables, as it reads {method.reads_whole}; got one "
                "whose tables are divided by rows (sharded), which gives scores and vectors of ids"
            )

    def unsummed(self, parameters: Iterable[Tensor]) -> list[Tensor]:
        return without(parameters, summed_parameters(self.model))

    def equal(self, parameters: Iterable[Tensor]) -> list[Tensor]:
        return without(parameters, [table.rows for table in tables_of(self.model).values()])

    def evaluate(self, control: Processes, truth: CSR, exclude: CSR, *settings: object) -> dict[str, float]:
        return evaluate(self.model, truth.to("cpu"), exclude.to("cpu"), *settings)

    def save(
        self,
        control: Processes,
        folder: Path,
        optimizers: Mapping[str, torch.optim.Optimizer],
        states: States,
        facts: dict,
    ) -> None:
        save_sharded(folder / CHECKPOINT, self.model, optimizers, facts, self.processes.group, states=states)

    def load(
        self,
        control: Processes,
        folder: Path,
        optimizers: Mapping[str, torch.optim.Optimizer],
        check: Callable[[dict], None],
    ) -> tuple[States, dict] | None:
        facts, path = None, folder / CHECKPOINT
        with control.together():
            if control.rank == 0:
                facts = facts_in(path)
                if facts is not None:
                    check(facts)
        if not control.share(facts is not None)[0]:
            return None
        states: States = {}
        facts = load_sharded(path, self.model, optimizers, self.processes.group, states=states)
        return states, facts


def without(parameters: Iterable[Tensor], others: Iterable[Tensor]) -> list[Tensor]:
    known = {id(other) for other in others}
    return [p for p in parameters if id(p) not in known]
