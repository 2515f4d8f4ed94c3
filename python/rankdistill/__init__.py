"""Large-catalogue knowledge distillation for recommender systems on native kernels.

Public names load on first use, so importing the package does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from rankdistill import (
        config as config,
        data as data,
        functional as functional,
        losses as losses,
        metrics as metrics,
        models as models,
        ops as ops,
        optim as optim,
        parallel as parallel,
        sharded as sharded,
    )
    from rankdistill.denormals import flushed_denormals as flushed_denormals
    from rankdistill.losses import (
        Batch as Batch,
        BidirectionalDistillation as BidirectionalDistillation,
        CollaborativeDistillation as CollaborativeDistillation,
        ConsensusLearning as ConsensusLearning,
        Distillation as Distillation,
        DistillationExperts as DistillationExperts,
        DualCorrection as DualCorrection,
        FrequencyDistillation as FrequencyDistillation,
        FullTopologyDistillation as FullTopologyDistillation,
        HeterogeneousCompression as HeterogeneousCompression,
        HierarchicalTopologyDistillation as HierarchicalTopologyDistillation,
        HintRegression as HintRegression,
        ItemSideRankingRegularization as ItemSideRankingRegularization,
        ListwiseDistillation as ListwiseDistillation,
        PersonalizedHintRegression as PersonalizedHintRegression,
        PreferenceConsistentDistillation as PreferenceConsistentDistillation,
        RankingDistillation as RankingDistillation,
        RejuvenatedCrossEntropyDistillation as RejuvenatedCrossEntropyDistillation,
        RelationalKnowledgeDistillation as RelationalKnowledgeDistillation,
        RelaxedRankingDistillation as RelaxedRankingDistillation,
        Share as Share,
        UnbiasedDistillation as UnbiasedDistillation,
        VectorDistillation as VectorDistillation,
    )
    from rankdistill.models import (
        CollaborativeMetricLearning as CollaborativeMetricLearning,
        Factors as Factors,
        ItemAutoencoder as ItemAutoencoder,
        LightGraphConvolution as LightGraphConvolution,
        MatrixFactorization as MatrixFactorization,
        MultiHeadFactorization as MultiHeadFactorization,
        MultinomialAutoencoder as MultinomialAutoencoder,
        NeuralMatrixFactorization as NeuralMatrixFactorization,
        ScoreTeacher as ScoreTeacher,
        SelfAttentiveRecommendation as SelfAttentiveRecommendation,
        as_teacher as as_teacher,
        export_factors as export_factors,
        export_program as export_program,
        load_factors as load_factors,
    )

    # Each from its own module: mypy takes a name that is a module's too for the module, where packages import each other.
    from rankdistill.ops.catalogue_log_mass import catalogue_log_mass as catalogue_log_mass
    from rankdistill.ops.catalogue_plackett_luce import catalogue_plackett_luce as catalogue_plackett_luce
    from rankdistill.ops.complement_sample import complement_sample as complement_sample
    from rankdistill.ops.cross_relation_distance import cross_relation_distance as cross_relation_distance
    from rankdistill.ops.dropout_mask import dropout_mask as dropout_mask
    from rankdistill.ops.embedding_plackett_luce import embedding_plackett_luce as embedding_plackett_luce
    from rankdistill.ops.gathered_inner_product import gathered_inner_product as gathered_inner_product
    from rankdistill.ops.grouped_relation_distance import (
        grouped_relation_distance as grouped_relation_distance,
    )
    from rankdistill.ops.gumbel_noise import gumbel_noise as gumbel_noise
    from rankdistill.ops.inner_product_rank import inner_product_rank as inner_product_rank
    from rankdistill.ops.inner_product_topk import inner_product_topk as inner_product_topk
    from rankdistill.ops.masked_rank import masked_rank as masked_rank
    from rankdistill.ops.masked_topk import masked_topk as masked_topk
    from rankdistill.ops.pair_distance_huber import pair_distance_huber as pair_distance_huber
    from rankdistill.ops.pair_sample import pair_sample as pair_sample
    from rankdistill.ops.plackett_luce import plackett_luce as plackett_luce
    from rankdistill.ops.position_sample import position_sample as position_sample
    from rankdistill.ops.relation import relation as relation
    from rankdistill.ops.relation_distance import relation_distance as relation_distance
    from rankdistill.ops.routed_experts import routed_experts as routed_experts
    from rankdistill.ops.triplet_angle_huber import triplet_angle_huber as triplet_angle_huber
    from rankdistill.ops.weighted_sample import weighted_sample as weighted_sample
    from rankdistill.ops.prepared_items import PreparedItems as PreparedItems, prepare_items as prepare_items
    from rankdistill.optim import LazyAdam as LazyAdam, LazySGD as LazySGD
    from rankdistill.parallel import (
        Objective as Objective,
        Term as Term,
        reduce_gradients as reduce_gradients,
    )
    from rankdistill.rankings import (
        Rankings as Rankings,
        distributed_inner_product_topk as distributed_inner_product_topk,
        extract_rankings as extract_rankings,
        rankings_from_table as rankings_from_table,
    )
    from rankdistill.trainer import Trainer as Trainer
else:

    def __getattr__(name: str):
        if name in _HOME:
            return getattr(importlib.import_module(_HOME[name]), name)
        if name in _MODULES:
            return importlib.import_module(f"rankdistill.{name}")
        raise AttributeError(f"module 'rankdistill' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
