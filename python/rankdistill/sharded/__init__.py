"""Tables that fit no single device: rows divided among ranks, and the ops that training and ranking need of them."""

from rankdistill.sharded.catalogue import catalogue_log_mass, catalogue_plackett_luce, inner_product_topk
from rankdistill.sharded.checkpoint import load_sharded, save_sharded
from rankdistill.sharded.evaluation import evaluate
from rankdistill.sharded.exchange import Ranks
from rankdistill.sharded.factorization import ShardedFactorization
from rankdistill.sharded.layout import Layout
from rankdistill.sharded.scores import embedding_plackett_luce, gathered_inner_product
from rankdistill.sharded.table import ReplicatedTable, ShardedTable, summed_parameters
from rankdistill.sharded.topology import Side, full_topology_distillation
from rankdistill.sharded.writing import write_tables

__all__ = [
    "Layout",
    "Ranks",
    "ReplicatedTable",
    "ShardedFactorization",
    "ShardedTable",
    "Side",
    "catalogue_log_mass",
    "catalogue_plackett_luce",
    "embedding_plackett_luce",
    "evaluate",
    "full_topology_distillation",
    "gathered_inner_product",
    "inner_product_topk",
    "load_sharded",
    "save_sharded",
    "summed_parameters",
    "write_tables",
]
