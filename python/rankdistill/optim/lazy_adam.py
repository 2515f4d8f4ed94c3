"""Adam on the touched rows of embedding tables."""

from __future__ import annotations

import math

import torch

from rankdistill.optim.tables import TableOptimizer


class LazyAdam(TableOptimizer):
    """Adam that updates the rows a sparse gradient touches, and their moments, and no other (lazy Adam).

    The rule of torch.optim.SparseAdam: for touched rows m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g² and
    row ← row − lr·√(1 − β₂ᵗ)/(1 − β₁ᵗ)·m/(√v + eps), t the number of steps of the table. Rows that are not touched
    keep their moments: this is not dense Adam, and it has no weight decay.

    Args:
        params: contiguous float32 or float64 tables, rows first.
        lr: learning rate, > 0; may change between steps.
        betas: β₁ and β₂ in [0, 1).
        eps: > 0.

    Raises:
        ValueError: a group's settings out of range, in the constructor and in `add_param_group`.
        TypeError: a dense gradient, at the step.

    Cost:
        A step O(touched rows · D) time and no memory that lasts; two tables of moments in all.

    Example:
        >>> table = torch.nn.Parameter(torch.ones(1000, 1))
        >>> optimizer = LazyAdam([table], lr=0.1)
        >>> torch.nn.functional.embedding(torch.tensor([7]), table, sparse=True).sum().backward()
        >>> optimizer.step()
        >>> table.detach()[6:8, 0]
        tensor([1.0000, 0.9000])
    """

    def __init__(
        self, params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ):
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps})

    def expect_settings(self, settings: dict) -> None:
        lr, betas, eps = settings["lr"], settings["betas"], settings["eps"]
        if not lr > 0 or not eps > 0:
            raise ValueError(f"LazyAdam: expected lr and eps above 0; got {lr} and {eps}")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"LazyAdam: expected betas, two in [0, 1); got {betas}")

    @torch.no_grad()
    def step(self, closure=None):
        """One step of every table that has a gradient; returns what `closure` does."""
        loss = self.evaluated(closure)
        for group, table, ids, grads in list(self.touched()):
            state = self.state[table]
            if not state:
                state["step"] = 0
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
            state["step"] = step = int(state["step"]) + 1
            beta1, beta2 = group["betas"]
            size = float(group["lr"]) * math.sqrt(1 - beta2**step) / (1 - beta1**step)
            torch.ops.rankdistill.lazy_update_adam(
                table, state["exp_avg"], state["exp_avg_sq"], ids, grads, beta1, beta2, size, group["eps"]
            )
            torch.autograd.graph.increment_version(table)
        return loss
