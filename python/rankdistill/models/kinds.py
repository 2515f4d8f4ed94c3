"""The models that the command line offers by name."""

from __future__ import annotations

from rankdistill.models.matrix_factorization import MatrixFactorization
from rankdistill.models.multi_head_factorization import MultiHeadFactorization

MODELS = {"mf": MatrixFactorization, "multi_head": MultiHeadFactorization}
