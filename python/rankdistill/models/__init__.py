"""Small, readable models that serve as teachers and students."""

from rankdistill.models.matrix_factorization import MatrixFactorization
from rankdistill.models.multi_head_factorization import MultiHeadFactorization

__all__ = ["MatrixFactorization", "MultiHeadFactorization"]
