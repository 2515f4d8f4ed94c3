"""The methods as modules, one file each; `Distillation` is what they share."""

from rankdistill.losses.batch import Batch, Share
from rankdistill.losses.bidirectional_distillation import BidirectionalDistillation
from rankdistill.losses.collaborative_distillation import CollaborativeDistillation
from rankdistill.losses.consensus_learning import ConsensusLearning
from rankdistill.losses.distillation import Distillation, VectorDistillation
from rankdistill.losses.distillation_experts import DistillationExperts
from rankdistill.losses.dual_correction import DualCorrection
from rankdistill.losses.frequency_distillation import FrequencyDistillation
from rankdistill.losses.full_topology_distillation import FullTopologyDistillation
from rankdistill.losses.heterogeneous_compression import HeterogeneousCompression
from rankdistill.losses.hierarchical_topology_distillation import HierarchicalTopologyDistillation
from rankdistill.losses.hint_regression import HintRegression
from rankdistill.losses.item_side_ranking_regularization import ItemSideRankingRegularization
from rankdistill.losses.listwise_distillation import ListwiseDistillation
from rankdistill.losses.personalized_hint_regression import PersonalizedHintRegression
from rankdistill.losses.preference_consistent_distillation import PreferenceConsistentDistillation
from rankdistill.losses.ranking_distillation import RankingDistillation
from rankdistill.losses.rejuvenated_cross_entropy_distillation import RejuvenatedCrossEntropyDistillation
from rankdistill.losses.relational_knowledge_distillation import RelationalKnowledgeDistillation
from rankdistill.losses.relaxed_ranking_distillation import RelaxedRankingDistillation
from rankdistill.losses.unbiased_distillation import UnbiasedDistillation

__all__ = [
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
]
