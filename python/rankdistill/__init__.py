"""Large-catalogue knowledge distillation for recommender systems on native kernels.

Public names load on first use, so importing the package does not import torch.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_EXPORTS = {
    "rankdistill.denormals": ["flushed_denormals"],
    "rankdistill.losses": [
        "Batch",
        "BidirectionalDistillation",
        "CollaborativeDistillation",
        "ConsensusLearning",
        "Distillation",
        "DistillationExperts",
        "DualCorrection",
        "FrequencyDistillation",
        "FullTopologyDistillation",
        "HeterogeneousCompression",
        "HierarchicalTopologyDistillation",
        "HintRegression",
        "ItemSideRankingRegularization",
        "ListwiseDistillation",
        "PersonalizedHintRegression",
        "PreferenceConsistentDistillation",
        "RankingDistillation",
        "RejuvenatedCrossEntropyDistillation",
        "RelationalKnowledgeDistillation",
        "RelaxedRankingDistillation",
        "Share",
        "UnbiasedDistillation",
        "VectorDistillation",
    ],
    "rankdistill.models": [
        "CollaborativeMetricLearning",
        "Factors",
        "ItemAutoencoder",
        "LightGraphConvolution",
        "MatrixFactorization",
        "MultiHeadFactorization",
        "MultinomialAutoencoder",
        "NeuralMatrixFactorization",
        "ScoreTeacher",
        "SelfAttentiveRecommendation",
        "as_teacher",
        "export_factors",
        "export_program",
        "load_factors",
    ],
    "rankdistill.ops": [
        "catalogue_log_mass",
        "catalogue_plackett_luce",
        "complement_sample",
        "cross_relation_distance",
        "embedding_plackett_luce",
        "gathered_inner_product",
        "grouped_relation_distance",
        "dropout_mask",
        "gumbel_noise",
        "inner_product_rank",
        "inner_product_topk",
        "masked_rank",
        "masked_topk",
        "pair_distance_huber",
        "pair_sample",
        "plackett_luce",
        "position_sample",
        "relation",
        "relation_distance",
        "routed_experts",
        "triplet_angle_huber",
        "weighted_sample",
    ],
    "rankdistill.optim": ["LazyAdam", "LazySGD"],
    "rankdistill.ops.prepared_items": ["PreparedItems", "prepare_items"],
    "rankdistill.rankings": [
        "Rankings",
        "distributed_inner_product_topk",
        "extract_rankings",
        "rankings_from_table",
    ],
    "rankdistill.parallel": ["Objective", "Term", "reduce_gradients"],
    "rankdistill.trainer": ["Trainer"],
}
_HOME = {name: module for module, names in _EXPORTS.items() for name in names}
_MODULES = {
    "config",
    "data",
    "functional",
    "losses",
    "metrics",
    "models",
    "ops",
    "optim",
    "parallel",
    "sharded",
}

__all__ = sorted([*_HOME, *_MODULES])


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"rankdistill.{name}")
    raise AttributeError(f"module 'rankdistill' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
