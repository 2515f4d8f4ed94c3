"""Tables that fit no single device: rows divided among ranks, and the ops that training and ranking need of them."""

from rankdistill.sharded.catalogue import catalogue_log_mass, catalogue_plackett_luce, inner_product_topk
from rankdistill.sharded.exchange import Ranks
from rankdistill.sharded.layout import Layout
from rankdistill.sharded.scores import embedding_plackett_luce, gathered_inner_product
from rankdistill.sharded.table import ReplicatedTable, ShardedTable

__all__ = [
    "Layout",
    "Ranks",
    "ReplicatedTable",
    "ShardedTable",
    "catalogue_log_mass",
    "catalogue_plackett_luce",
    "embedding_plackett_luce",
    "gathered_inner_product",
    "inner_product_topk",
]
