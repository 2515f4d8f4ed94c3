"""The ops. Importing this module registers them all with torch (needed before loading an exported program)."""

from rankdistill.ops.gathered_inner_product import gathered_inner_product
from rankdistill.ops.inner_product_topk import InnerProductTopK, inner_product_topk

__all__ = ["InnerProductTopK", "gathered_inner_product", "inner_product_topk"]
