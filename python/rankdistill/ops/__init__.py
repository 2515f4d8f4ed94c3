"""The ops. Importing this module registers them all with torch (needed before loading an exported program)."""

from rankdistill.ops.complement_sample import complement_sample
from rankdistill.ops.embedding_plackett_luce import embedding_plackett_luce
from rankdistill.ops.gathered_inner_product import gathered_inner_product
from rankdistill.ops.inner_product_rank import inner_product_rank
from rankdistill.ops.inner_product_topk import inner_product_topk
from rankdistill.ops.masked_rank import masked_rank
from rankdistill.ops.masked_topk import masked_topk
from rankdistill.ops.plackett_luce import plackett_luce
from rankdistill.ops.position_sample import position_sample

__all__ = [
    "complement_sample",
    "embedding_plackett_luce",
    "gathered_inner_product",
    "inner_product_rank",
    "inner_product_topk",
    "masked_rank",
    "masked_topk",
    "plackett_luce",
    "position_sample",
]
