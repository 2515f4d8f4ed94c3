"""A checkpoint is of a teacher too: of its weights and of its lists' scores, not of its lists alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rankdistill import (
    CollaborativeDistillation,
    ListwiseDistillation,
    MatrixFactorization,
    Term,
    Trainer,
    as_teacher,
)
from rankdistill.config import TrainingConfig
from rankdistill.data import generate
from rankdistill.models.ranked import unseen_rankings

CONFIG = TrainingConfig(epochs=1, batch_size=512, learning_rate=0.01)


@pytest.mark.parametrize("what", ["scores", "tables", "module"])
def test_a_checkpoint_of_another_teachers_scores_is_refused(tmp_path, what):
    """The same lists, but other scores; or another teacher, which a method asks while it trains."""
    dataset = generate(60, 50, mean_interactions=12, min_interactions=6, n_groups=6)
    shown = MatrixFactorization(dataset.n_users, dataset.n_items, 4, init_std=0.5)
    rankings = unseen_rankings(shown, dataset, 20)

    def made(seed):
        teacher = MatrixFactorization(dataset.n_users, dataset.n_items, 4, seed=seed)
        if what == "scores":
            method = ListwiseDistillation(
                replace(rankings, scores=rankings.scores - seed), 10, form="list_net_2"
            )
        else:
            teacher = teacher if what == "module" else as_teacher(teacher)
            method = CollaborativeDistillation(
                rankings, dataset.train.csr(), guide="student", teacher=teacher
            )
        model = MatrixFactorization(dataset.n_users, dataset.n_items, 8, seed=1)
        return Trainer(
            model, dataset, replace(CONFIG, epochs=1 + seed), [Term(0.01, method)], folder=tmp_path
        )

    made(0).fit()
    with pytest.raises(ValueError, match=r"expected term 0\.(rankings|teacher)='.*', as the checkpoint in "):
        made(1).fit()
