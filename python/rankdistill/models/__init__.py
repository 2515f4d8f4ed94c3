"""Small, readable models that serve as teachers and students; what comes from other libraries, and files of factors."""

from rankdistill.models.factor_files import export_factors, load_factors
from rankdistill.models.factors import Factors
from rankdistill.models.matrix_factorization import MatrixFactorization
from rankdistill.models.multi_head_factorization import MultiHeadFactorization
from rankdistill.models.program import export_program
from rankdistill.models.teachers import ScoreTeacher, as_teacher

__all__ = [
    "Factors",
    "MatrixFactorization",
    "MultiHeadFactorization",
    "ScoreTeacher",
    "as_teacher",
    "export_factors",
    "export_program",
    "load_factors",
]
