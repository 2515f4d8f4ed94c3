"""The losses as pure functions of tensors. They know nothing of models."""

from rankdistill.functional.annealing import annealed_temperature
from rankdistill.functional.catalogue import (
    catalogue_cross_entropy,
    heterogeneous_compression,
    joined_log_mass,
    multinomial_likelihood,
    unordered_ranking_distillation,
)
from rankdistill.functional.checkpoints import advance_checkpoints, ranking_discrepancy
from rankdistill.functional.consensus import (
    balanced_gradient_norms,
    consensus_learning,
    metric_learning,
)
from rankdistill.functional.latent import (
    distillation_experts,
    expert_routing,
    frequency_distillation,
    hint_regression,
    personalized_hint_regression,
)
from rankdistill.functional.lists import list_mle, list_net, rejuvenated_cross_entropy
from rankdistill.functional.ranking import (
    bayesian_personalized_ranking,
    discrepancy_weights,
    position_weights,
    ranking_distillation,
    relaxed_ranking_distillation,
)
from rankdistill.functional.reduction import REDUCTIONS, reduce_rows
from rankdistill.functional.responses import (
    bidirectional_distillation,
    calibrated_listwise_distillation,
    collaborative_distillation,
    importance_aware_ranking_distillation,
    pointwise_distillation,
    preference_consistency,
)
from rankdistill.functional.topology import (
    full_topology_distillation,
    group_means,
    hierarchical_topology_distillation,
    relational_knowledge_distillation,
)

__all__ = [
    "REDUCTIONS",
    "advance_checkpoints",
    "annealed_temperature",
    "balanced_gradient_norms",
    "bayesian_personalized_ranking",
    "bidirectional_distillation",
    "calibrated_listwise_distillation",
    "catalogue_cross_entropy",
    "collaborative_distillation",
    "consensus_learning",
    "discrepancy_weights",
    "distillation_experts",
    "expert_routing",
    "frequency_distillation",
    "full_topology_distillation",
    "group_means",
    "heterogeneous_compression",
    "hierarchical_topology_distillation",
    "hint_regression",
    "importance_aware_ranking_distillation",
    "joined_log_mass",
    "list_mle",
    "list_net",
    "metric_learning",
    "multinomial_likelihood",
    "personalized_hint_regression",
    "pointwise_distillation",
    "position_weights",
    "preference_consistency",
    "ranking_discrepancy",
    "ranking_distillation",
    "reduce_rows",
    "rejuvenated_cross_entropy",
    "relational_knowledge_distillation",
    "relaxed_ranking_distillation",
    "unordered_ranking_distillation",
]
