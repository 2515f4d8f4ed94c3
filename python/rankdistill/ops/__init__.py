"""The ops. Importing this module registers them all with torch (needed before loading an exported program)."""

import rankdistill.ops.lazy_update  # noqa: F401 (registers what rankdistill.optim calls)
from rankdistill.ops.catalogue_log_mass import catalogue_log_mass
from rankdistill.ops.catalogue_plackett_luce import catalogue_plackett_luce
from rankdistill.ops.complement_sample import complement_sample
from rankdistill.ops.cross_relation_distance import cross_relation_distance
from rankdistill.ops.dropout_mask import dropout_mask
from rankdistill.ops.embedding_plackett_luce import embedding_plackett_luce
from rankdistill.ops.gathered_inner_product import gathered_inner_product
from rankdistill.ops.grouped_relation_distance import grouped_relation_distance
from rankdistill.ops.gumbel_noise import gumbel_noise
from rankdistill.ops.inner_product_rank import inner_product_rank
from rankdistill.ops.inner_product_topk import inner_product_topk
from rankdistill.ops.masked_rank import masked_rank
from rankdistill.ops.masked_topk import masked_topk
from rankdistill.ops.pair_distance_huber import pair_distance_huber
from rankdistill.ops.pair_sample import pair_sample
from rankdistill.ops.plackett_luce import plackett_luce
from rankdistill.ops.position_sample import position_sample
from rankdistill.ops.relation import relation
from rankdistill.ops.relation_distance import relation_distance
from rankdistill.ops.routed_experts import routed_experts
from rankdistill.ops.triplet_angle_huber import triplet_angle_huber
from rankdistill.ops.weighted_sample import weighted_sample

__all__ = [
    "catalogue_log_mass",
    "catalogue_plackett_luce",
    "complement_sample",
    "cross_relation_distance",
    "dropout_mask",
    "embedding_plackett_luce",
    "gathered_inner_product",
    "grouped_relation_distance",
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
]
