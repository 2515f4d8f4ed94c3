"""Small, readable models that serve as teachers and students; what comes from other libraries, and files of factors."""

from rankdistill.models.collaborative_metric_learning import CollaborativeMetricLearning
from rankdistill.models.factor_files import export_factors, load_factors
from rankdistill.models.factors import Factors
from rankdistill.models.item_autoencoder import ItemAutoencoder
from rankdistill.models.light_graph_convolution import LightGraphConvolution
from rankdistill.models.matrix_factorization import MatrixFactorization
from rankdistill.models.multi_head_factorization import MultiHeadFactorization
from rankdistill.models.multinomial_autoencoder import MultinomialAutoencoder
from rankdistill.models.neural_matrix_factorization import NeuralMatrixFactorization
from rankdistill.models.program import export_program
from rankdistill.models.self_attentive_recommendation import SelfAttentiveRecommendation
from rankdistill.models.teachers import ScoreTeacher, as_teacher

__all__ = [
    "CollaborativeMetricLearning",
    "Factors",
    "ItemAutoencoder",
    "LightGraphConvolution",
    "MatrixFactorization",
    "MultiHeadFactorization",
    "MultinomialAutoencoder",
    "NeuralMatrixFactorization",
    "ScoreTeacher",
    "SelfAttentiveRecommendation",
    "as_teacher",
    "export_factors",
    "export_program",
    "load_factors",
]
