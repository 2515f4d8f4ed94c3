"""Optimisers for embedding tables: their steps cost what the touched rows cost, not what the table does."""

from rankdistill.optim.choice import make_optimizers
from rankdistill.optim.lazy_adam import LazyAdam
from rankdistill.optim.lazy_sgd import LazySGD

__all__ = ["LazyAdam", "LazySGD", "make_optimizers"]
