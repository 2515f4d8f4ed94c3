"""The optimisers of training by name; none ever stands in for another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from rankdistill.optim.lazy_adam import LazyAdam
from rankdistill.optim.lazy_sgd import LazySGD

LAZY = ("lazy_adam", "lazy_sgd")


def make_optimizers(
    name: str,
    tables: Sequence[nn.Parameter],
    others: Sequence[nn.Parameter],
    learning_rate: float,
    weight_decay: float,
) -> dict[str, torch.optim.Optimizer]:
    """The optimisers that `name` stands for: "optimizer", and "dense_optimizer" where a lazy one leaves `others`.

    adam: torch.optim.Adam, fused, on all parameters, with decay added to the gradient. lazy_adam: `LazyAdam` on the
    tables, that Adam on the others. lazy_sgd: `LazySGD` on the tables, torch.optim.SGD with the same decay on the others.

    Args:
        name: adam, lazy_adam or lazy_sgd.
        tables: parameters that get sparse gradients where the optimiser is lazy.
        others: all other parameters.
        learning_rate: > 0.
        weight_decay: >= 0; 0 for lazy_adam.

    Raises:
        ValueError: another name, decay for lazy_adam, or what the optimiser itself refuses.

    Example:
        >>> table, weight = (torch.nn.Parameter(torch.ones(3, 2)) for _ in range(2))
        >>> sorted(make_optimizers("lazy_sgd", [table], [weight], learning_rate=0.1, weight_decay=1e-3))
        ['dense_optimizer', 'optimizer']
    """
    if name == "adam":
        everything = [*tables, *others]
        return {"optimizer": dense_adam(everything, learning_rate, weight_decay)}
    if name == "lazy_adam":
        if weight_decay:
            raise ValueError(f"lazy_adam: expected weight_decay of 0, which it has not; got {weight_decay}")
        made = {"optimizer": LazyAdam(tables, learning_rate)}
        dense = dense_adam
    elif name == "lazy_sgd":
        made = {"optimizer": LazySGD(tables, learning_rate, weight_decay)}
        dense = dense_sgd
    else:
        raise ValueError(f"optimizer: expected adam, {' or '.join(LAZY)}; got {name!r}")
    if others:
        made["dense_optimizer"] = dense(others, learning_rate, weight_decay)
    return made


def dense_adam(parameters, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)


def dense_sgd(parameters, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=learning_rate, weight_decay=weight_decay)
