"""What a teacher knows, as an artifact: per user a top-K list of items with scores; extraction, files, checks."""

from rankdistill.rankings.distributed import distributed_inner_product_topk
from rankdistill.rankings.extraction import extract_rankings
from rankdistill.rankings.listed import rankings_from_table
from rankdistill.rankings.rankings import Rankings

__all__ = ["Rankings", "distributed_inner_product_topk", "extract_rankings", "rankings_from_table"]
