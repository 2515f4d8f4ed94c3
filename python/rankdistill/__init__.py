"""Large-catalogue knowledge distillation for recommender systems on native kernels.

Public names load on first use, so importing the package does not import torch.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_EXPORTS = {
    "rankdistill.losses": ["Batch", "Distillation", "RelaxedRankingDistillation"],
    "rankdistill.models": ["MatrixFactorization"],
    "rankdistill.ops": [
        "complement_sample",
        "embedding_plackett_luce",
        "gathered_inner_product",
        "inner_product_topk",
        "plackett_luce",
        "position_sample",
    ],
    "rankdistill.rankings": ["Rankings", "distributed_inner_product_topk", "extract_rankings"],
    "rankdistill.trainer": ["Term", "Trainer"],
}
_HOME = {name: module for module, names in _EXPORTS.items() for name in names}
_MODULES = {"config", "data", "functional", "losses", "metrics", "models", "ops"}

__all__ = sorted([*_HOME, *_MODULES])


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"rankdistill.{name}")
    raise AttributeError(f"module 'rankdistill' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
