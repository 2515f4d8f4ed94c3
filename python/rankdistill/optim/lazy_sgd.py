"""Gradient descent on the touched rows of embedding tables, with weight decay that is caught up exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rankdistill.ops.lazy_update import row_ids
from rankdistill.optim.tables import TableOptimizer


@dataclass
class Decay:
    """log_decay: Σ log(1 − lr·decay) over a table's steps; marks [N]: as it stood when each row was last up to date.

    No marks where there was no decay yet.
    """

    log_decay: float
    marks: Tensor | None


class LazySGD(TableOptimizer):
    """Gradient descent with weight decay, equal to torch.optim.SGD's, that touches only rows with gradients.

    Every step is row ← (1 − lr·weight_decay)·row − lr·g for every row of a table that has a gradient. Rows that are not
    touched get their factors, product of the learning rates as they were, when they are touched or read next:
    by `step`, `catch_up` or `state_dict`. What reads rows before that sees them undecayed, so call
    `catch_up(table, ids)` before a forward that reads `ids`, and `catch_up()` before you copy a table or overwrite it
    (`copy_`, a model's `state_dict` and `load_state_dict`): what is overwritten later would get the decay that the rows
    before it missed.

    Args:
        params: contiguous float32 or float64 tables, rows first.
        lr: learning rate, > 0; may change between steps.
        weight_decay: >= 0, with lr·weight_decay < 1.

    Raises:
        TypeError: a dense gradient, at the step.
        ValueError: a group's settings out of range, in the constructor and in `add_param_group`; lr·weight_decay of 1 or
            more, at the step.

    Cost:
        A step and `catch_up(table, ids)` O(rows · D) time; `catch_up()` and `state_dict()` O(N·D). 8 bytes per row
        from a table's first step with decay on.

    Example:
        >>> table = torch.nn.Parameter(torch.ones(1000, 1))
        >>> optimizer = LazySGD([table], lr=0.1, weight_decay=1.0)
        >>> torch.nn.functional.embedding(torch.tensor([7]), table, sparse=True).sum().backward()
        >>> optimizer.step()
        >>> table.detach()[6:8, 0]
        tensor([1.0000, 0.8000])
        >>> optimizer.catch_up()
        >>> table.detach()[6:8, 0]
        tensor([0.9000, 0.8000])
    """

    def __init__(self, params, lr: float = 1e-3, weight_decay: float = 0.0):
        self._decay: dict[Tensor, Decay] = {}
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    def expect_settings(self, settings: dict) -> None:
        lr, weight_decay = settings["lr"], settings["weight_decay"]
        if not lr > 0 or not weight_decay >= 0:
            raise ValueError(
                f"LazySGD: expected lr above 0 and weight_decay of 0 or more; got {lr} and {weight_decay}"
            )

    @torch.no_grad()
    def step(self, closure=None):
        """One step of every table that has a gradient; returns what `closure` does."""
        loss = self.evaluated(closure)
        steps = list(self.touched())
        for group, *_ in steps:
            shrink = float(group["lr"]) * float(group["weight_decay"])
            if not shrink < 1:
                raise ValueError(f"LazySGD: expected lr x weight_decay below 1; got {shrink}")
        for group, table, ids, grads in steps:
            rate = float(group["lr"])
            shrink = rate * float(group["weight_decay"])
            decay = self._of(table, shrink)
            after = decay.log_decay + math.log1p(-shrink)
            torch.ops.rankdistill.lazy_update_sgd(
                table, decay.marks, ids, grads, rate, 1 - shrink, decay.log_decay, after
            )
            decay.log_decay = after
            torch.autograd.graph.increment_version(table)
        return loss

    @torch.no_grad()
    def catch_up(self, table: Tensor | None = None, ids: Tensor | None = None) -> None:
        """Gives rows the decay that they have missed.

        Args:
            table: one of the tables; None for all of them.
            ids: int64 or int32 of any shape, rows of `table`, in any order and with repeats; -1 for none. None for all.

        Raises:
            TypeError: ids of another dtype.
            ValueError: ids without their table.
            IndexError: ids below -1, or N and more (on a device, where indices are checked).
        """
        if ids is not None:
            ids = row_ids(ids)
            if table is None:
                raise ValueError("LazySGD: expected ids with their table; got ids alone")
        for one in list(self._decay) if table is None else [table]:
            decay = self._decay.get(one)
            if decay is None or decay.log_decay == 0:
                continue
            torch.ops.rankdistill.lazy_update_catch_up(one, decay.marks, ids, decay.log_decay)
            # Rows that a forward of this step has read are up to date and stay as they are: autograd need not know.
            if ids is None:
                torch.autograd.graph.increment_version(one)
                decay.log_decay = 0.0
                decay.marks.zero_()

    def __getstate__(self) -> dict:
        self.catch_up()
        return {**super().__getstate__(), "_decay": {}}

    def state_dict(self) -> dict:
        """Catches up, so that nothing besides the tables and the settings has to be kept."""
        self.catch_up()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict) -> None:
        """Takes the tables as up to date, which they are where they were saved with a `state_dict`."""
        super().load_state_dict(state_dict)
        self._decay.clear()

    def _of(self, table: Tensor, shrink: float) -> Decay:
        if table not in self._decay:
            if not shrink:
                return Decay(0.0, None)
            marks = torch.zeros(len(table), dtype=torch.float64, device=table.device)
            self._decay[table] = Decay(0.0, marks)
        return self._decay[table]
