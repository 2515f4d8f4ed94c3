"""The ops. Importing this module registers them all with torch (needed before loading an exported program)."""

from rankdistill.ops.gathered_inner_product import gathered_inner_product

__all__ = ["gathered_inner_product"]
