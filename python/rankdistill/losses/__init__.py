"""The methods as modules, one file each; `Distillation` is what they share."""

from rankdistill.losses.distillation import Batch, Distillation
from rankdistill.losses.relaxed_ranking_distillation import RelaxedRankingDistillation

__all__ = ["Batch", "Distillation", "RelaxedRankingDistillation"]
