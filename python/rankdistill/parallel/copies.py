"""What several processes hold of a model that they train: each the whole, with equal weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from rankdistill.checkpoint import load_checkpoint, load_optimizer_tensors, optimizer_tensors, save_checkpoint
from rankdistill.data.csr import CSR
from rankdistill.losses.distillation import Distillation
from rankdistill.metrics import evaluate
from rankdistill.parallel.state import broadcast_state
from rankdistill.rankings.distributed import Processes

CHECKPOINT = "checkpoint.safetensors"
States = dict[str, dict[str, Tensor]]


class Copies:
    """Every process has the whole model; rank 0 writes it, and reads it for all.

    Of what a trainer asks, where a model's tables may be divided instead (`sharded.Slices`). `control` is the processes over
    a group that carries CPU tensors.

    Args:
        model: the same on all processes.
        processes: that train it together.
    """

    read_alike = True  # several processes read the same rows of tables
    checkpoint = CHECKPOINT

    def __init__(self, model: nn.Module, processes: Processes) -> None:
        self.model, self.processes = model, processes

    def expect_method(self, method: Distillation) -> None:
        """An error for a method that cannot train what processes hold."""

    def unsummed(self, parameters: Iterable[Tensor]) -> list[Tensor]:
        """Those whose gradients are still to be added up over processes after a backward."""
        return list(parameters)

    def equal(self, parameters: Iterable[Tensor]) -> list[Tensor]:
        """Those that all processes have alike."""
        return list(parameters)

    def evaluate(self, control: Processes, truth: CSR, exclude: CSR, *settings: object) -> dict[str, float]:
        """`metrics.evaluate` of the model, by all processes together."""
        return evaluate(self.model, truth, exclude, *settings, processes=control)

    def save(
        self,
        control: Processes,
        folder: Path,
        optimizers: Mapping[str, torch.optim.Optimizer],
        states: States,
        facts: dict,
    ) -> None:
        """Writes the model, optimisers and further states by name."""
        with control.together():
            if control.rank == 0:
                tensors = {"model": self.model.state_dict(), **states}
                tensors |= {name: optimizer_tensors(optimizer) for name, optimizer in optimizers.items()}
                save_checkpoint(folder / CHECKPOINT, tensors, facts)

    def load(
        self,
        control: Processes,
        folder: Path,
        optimizers: Mapping[str, torch.optim.Optimizer],
        check: Callable[[dict], None],
    ) -> tuple[States, dict] | None:
        """Puts the folder's checkpoint back, if it has one, whose facts pass `check`: its states and facts."""
        read, path = None, folder / CHECKPOINT
        with control.together():
            if control.rank == 0 and path.exists():
                read = load_checkpoint(path)
                check(read[1])
        read = broadcast_state(control, read)
        if read is None:
            return None
        states, facts = read
        self.model.load_state_dict(states.pop("model"))
        for name, optimizer in optimizers.items():
            load_optimizer_tensors(optimizer, states.pop(name, {}))
        return states, facts
