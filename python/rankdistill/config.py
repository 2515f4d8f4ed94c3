"""The settings of training and of a run. No torch here: `--help` reads only this."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class TrainingConfig:
    """How a model is trained.

    Args:
        epochs: passes over the train interactions, > 0.
        batch_size: interactions per step, > 0.
        learning_rate: of Adam, > 0.
        weight_decay: of Adam (added to the gradient), on every row, >= 0.
        n_negatives: negative items per positive one, drawn anew each epoch.
        evaluate_every: epochs between evaluations on the validation part; the first and the last epoch are
            always evaluated. 0 for the last alone.
        evaluate_test: also evaluate the test part each time (for learning curves; never used to choose).
        patience: stop after this many evaluations without a better validation metric; 0 to train to the end.
        metric: what validation compares, such as recall@50.
        keep_best: end with the weights of the best validation, not the last ones.
        seed: of initial values, shuffles and draws.
    """

    epochs: int = 100
    batch_size: int = 1024
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    n_negatives: int = 1
    evaluate_every: int = 10
    evaluate_test: bool = False
    patience: int = 0
    metric: str = "recall@50"
    keep_best: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "n_negatives"):
            _expect(getattr(self, name) >= 1, f"training.{name} of 1 or more", getattr(self, name))
        for name in ("evaluate_every", "patience", "weight_decay"):
            _expect(getattr(self, name) >= 0, f"training.{name} of 0 or more", getattr(self, name))
        _expect(self.learning_rate > 0, "training.learning_rate above 0", self.learning_rate)
        name, _, cutoff = self.metric.partition("@")
        _expect(bool(name) and cutoff.isdigit() and int(cutoff) > 0, "training.metric as name@cutoff", self.metric)


def _expect(condition: bool, expected: str, got: object) -> None:
    if not condition:
        raise ValueError(f"config: expected {expected}; got {got}")
