"""The models that the command line offers by name, and what their constructors are given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from torch import nn

from rankdistill.losses.settings import expect_options
from rankdistill.models.collaborative_metric_learning import CollaborativeMetricLearning
from rankdistill.models.item_autoencoder import ItemAutoencoder
from rankdistill.models.light_graph_convolution import LightGraphConvolution
from rankdistill.models.matrix_factorization import MatrixFactorization
from rankdistill.models.multi_head_factorization import MultiHeadFactorization
from rankdistill.models.multinomial_autoencoder import MultinomialAutoencoder
from rankdistill.models.neural_matrix_factorization import NeuralMatrixFactorization
from rankdistill.models.self_attentive_recommendation import SelfAttentiveRecommendation

MODELS: dict[str, type[nn.Module]] = {
    "mf": MatrixFactorization,
    "multi_head": MultiHeadFactorization,
    "cml": CollaborativeMetricLearning,
    "neumf": NeuralMatrixFactorization,
    "lightgcn": LightGraphConvolution,
    "multvae": MultinomialAutoencoder,
    "item_autoencoder": ItemAutoencoder,
    "sasrec": SelfAttentiveRecommendation,
}
# What constructors are given by a data set, by a model's file, or by a trainer; not by the settings.
GIVEN = ("n_users", "n_items", "train", "histories", "width", "seed", "sparse_grad")


def model_settings(name: str) -> dict[str, object]:
    """A model's settings beside its width, with their defaults."""
    parameters = inspect.signature(MODELS[name]).parameters
    return {key: p.default for key, p in parameters.items() if key not in GIVEN}


def make_model(
    op: str, name: str, width: int, given: Mapping[str, Callable[[], object]], options: Mapping[str, object]
) -> nn.Module:
    """The model with these settings; what else its constructor asks for is made by `given`, by name.

    Raises:
        ValueError: no such model or setting; the nearest setting is named.
    """
    if name not in MODELS:
        raise ValueError(f"{op}: expected a model of {', '.join(MODELS)}; got {name!r}")
    expect_options(op, "options", options, model_settings(name), f" for {name}")
    asked = inspect.signature(MODELS[name]).parameters
    return MODELS[name](
        width=width, **{key: make() for key, make in given.items() if key in asked}, **options
    )
