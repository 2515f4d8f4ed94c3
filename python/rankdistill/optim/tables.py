"""What the lazy optimisers share: tables they take, and gradients they take."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.ops.touched_rows import coalesce_rows


class TableOptimizer(torch.optim.Optimizer):
    """An optimiser of contiguous float32 or float64 tables by sparse gradients over their first dimension."""

    def __init__(self, params, defaults: dict) -> None:
        self.expect_settings(defaults)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict) -> None:
        """Takes a group whole or, where its tables or settings are refused, not at all."""
        super().add_param_group(dict(param_group) if isinstance(param_group, dict) else param_group)
        try:
            self.expect_settings(self.param_groups[-1])
            self.expect_tables(self.param_groups[-1]["params"])
        except BaseException:
            self.param_groups.pop()
            raise

    def expect_settings(self, settings: dict) -> None:
        """A ValueError for the defaults or a group's settings that the rule does not take."""
        raise NotImplementedError

    def expect_tables(self, tables: list[Tensor]) -> None:
        for table in tables:
            if table.dtype not in (torch.float32, torch.float64):
                raise TypeError(f"{self.name}: expected float32 or float64 tables; got {table.dtype}")
            if table.layout != torch.strided or table.dim() < 1 or not table.is_contiguous():
                raise ValueError(
                    f"{self.name}: expected contiguous tables of one dimension or more; got {list(table.shape)}"
                )

    @property
    def name(self) -> str:
        return type(self).__name__

    def touched(self):
        """(group, table, ids [M], their gradients [M, ...]) of every table that has a gradient."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    yield group, table, *self.rows(table)

    def rows(self, table: Tensor) -> tuple[Tensor, Tensor]:
        grad = table.grad
        found = f"one over {grad.sparse_dim()} dimensions" if grad.is_sparse else f"a {grad.layout} one"
        if not grad.is_sparse or grad.sparse_dim() != 1:
            raise TypeError(
                f"{self.name}: expected a sparse gradient of touched rows (sparse_grad=True, or sparse=True of an "
                f"embedding); got {found} for a table of {list(table.shape)}. Give dense parameters to a dense "
                "optimiser"
            )
        return coalesce_rows(grad)

    @staticmethod
    def evaluated(closure):
        if closure is None:
            return None
        with torch.enable_grad():
            return closure()
