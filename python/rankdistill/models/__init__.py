"""Small, readable models that serve as teachers and students."""

from rankdistill.models.matrix_factorization import MatrixFactorization

__all__ = ["MatrixFactorization"]
