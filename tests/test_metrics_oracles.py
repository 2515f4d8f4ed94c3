"""Metrics against those of scikit-learn and torchmetrics, which rank and count by themselves."""

from __future__ import annotations

import pytest
import torch

from rankdistill.data import CSR
from rankdistill.metrics import evaluate_users
from tests.case import generator

B, N, CUTOFFS = 40, 60, (1, 5, 20, 60)
SCORES = torch.rand(
    B, N, generator=generator(1)
)  # no two of a row are equal; torchmetrics' recall takes no others than > 0
RELEVANT = torch.rand(B, N, generator=generator(2)) < 0.15
RELEVANT[:, 0] |= ~RELEVANT.any(1)


class Scored:
    """A model of given scores."""

    def score(self, users, items):
        return SCORES[users].gather(1, items)


@pytest.fixture(scope="module")
def found() -> dict[str, torch.Tensor]:
    names = ["recall", "ndcg", "hit_rate", "mrr", "precision", "auc", "reciprocal_rank"]
    return evaluate_users(Scored(), CSR.from_any(RELEVANT), CSR.empty(B, N), CUTOFFS, names)[1]


def test_those_of_scikit_learn(found):
    metrics = pytest.importorskip("sklearn.metrics", reason="no scikit-learn")
    for user in range(B):
        truth, scores = RELEVANT[user].numpy().astype(int), SCORES[user].numpy()
        assert found["auc"][user] == pytest.approx(metrics.roc_auc_score(truth, scores))
        for cutoff in CUTOFFS:
            expected = metrics.ndcg_score(truth[None], scores[None], k=cutoff)
            assert found[f"ndcg@{cutoff}"][user] == pytest.approx(expected)


def test_those_of_torchmetrics(found):
    retrieval = pytest.importorskip("torchmetrics.functional.retrieval", reason="no torchmetrics")
    oracles = {
        "recall": retrieval.retrieval_recall,
        "ndcg": retrieval.retrieval_normalized_dcg,
        "hit_rate": retrieval.retrieval_hit_rate,
        "mrr": retrieval.retrieval_reciprocal_rank,
        "precision": retrieval.retrieval_precision,
    }
    for user in range(B):
        expected = retrieval.retrieval_reciprocal_rank(SCORES[user], RELEVANT[user])
        assert found["reciprocal_rank"][user] == pytest.approx(float(expected))
        for name, oracle in oracles.items():
            for cutoff in CUTOFFS:
                expected = float(oracle(SCORES[user], RELEVANT[user], top_k=cutoff))
                assert found[f"{name}@{cutoff}"][user] == pytest.approx(expected), (name, cutoff)
