"""Trajectories: rankings kept while a model trains."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from rankdistill import MatrixFactorization, Rankings, Trainer
from rankdistill.config import TrainingConfig
from rankdistill.data import CSR, Dataset, generate
from rankdistill.models import ranked
from rankdistill.models.ranked import seen_rankings, unseen_rankings
from rankdistill.models.trajectory import KeptTrajectory, Trajectory, evenly, moments
from tests.case import generator, randn

CONFIG = TrainingConfig(
    epochs=7, batch_size=256, learning_rate=0.02, evaluate_every=1, metric="recall@20", keep_best=False
)


@pytest.fixture(scope="module")
def dataset():
    return generate(80, 60, mean_interactions=12, min_interactions=6, n_groups=4, groups_per_user=2, seed=3)


def train(dataset, folder, epochs, every=2, keep=None, config=CONFIG):
    model = MatrixFactorization(dataset.n_users, dataset.n_items, 8, seed=1)
    trajectory = Trajectory(folder, every, 20, dataset)
    trainer = Trainer(model, dataset, replace(config, epochs=epochs), folder=keep, after_epoch=trajectory)
    trainer.fit()
    trajectory.finish(model, trainer.learned_epochs)
    return model


def test_what_is_kept_is_what_the_model_ranked_then(dataset, tmp_path):
    model = train(dataset, tmp_path / "t", 7)
    kept = KeptTrajectory.load(tmp_path / "t", dataset)
    assert [r.metadata["after_epochs"] for r in kept.checkpoints] == ["2", "4", "6", "7"]
    then = train(dataset, tmp_path / "short", 4)
    assert torch.equal(kept.checkpoints[1].indices, unseen_rankings(then, dataset, 20).indices)
    assert not torch.equal(kept.checkpoints[1].indices, kept.checkpoints[2].indices)
    assert torch.equal(kept.checkpoints[3].indices, unseen_rankings(model, dataset, 20).indices)
    assert torch.equal(kept.seen.indices, seen_rankings(model, dataset, 2).indices)


def test_a_resumed_training_keeps_the_same(dataset, tmp_path):
    train(dataset, tmp_path / "a", 7)
    train(dataset, tmp_path / "b", 3, keep=tmp_path / "kept")
    train(dataset, tmp_path / "b", 7, keep=tmp_path / "kept")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_moments_of_an_earlier_run_and_after_the_best_do_not_count(dataset, tmp_path):
    train(dataset, tmp_path / "t", 6, every=1)
    Trajectory(tmp_path / "t", 4, 20, dataset)(2, MatrixFactorization(dataset.n_users, dataset.n_items, 8))
    assert [n for n, _ in moments(tmp_path / "t")] == [1, 2]
    assert not (tmp_path / "t" / "last.safetensors").exists()
    with pytest.raises(
        FileNotFoundError, match="expected a folder of a finished training .*without last.safetensors"
    ):
        KeptTrajectory.load(tmp_path / "t", dataset)
    config = replace(CONFIG, keep_best=True, learning_rate=0.1)
    model = train(dataset, tmp_path / "u", 30, every=1, config=config)
    kept = KeptTrajectory.load(tmp_path / "u", dataset)
    epochs = int(kept.checkpoints[-1].metadata["after_epochs"])
    assert 2 <= len(kept.checkpoints) == epochs < 30
    assert torch.equal(kept.checkpoints[-1].indices, unseen_rankings(model, dataset, 20).indices)


EARLY = "the first is of epoch 15, and with keep_best the teacher is that of its best validation. "
ANEW = "Train the teacher anew, in another folder, with"


@pytest.mark.parametrize(
    ("kept", "epochs", "told"),
    [
        ([15, 30], 9, f": {EARLY}{ANEW} trajectory.every below 9 or training.keep_best false"),
        ([15], 1, f": {EARLY}{ANEW} training.keep_best false"),
        ([], 9, f". {ANEW} trajectory.every below 9"),
        ([], 1, f". {ANEW} more epochs"),
    ],
)
def test_too_late_a_first_moment_is_explained(kept, epochs, told, dataset, tmp_path):
    model = MatrixFactorization(dataset.n_users, dataset.n_items, 8)
    trajectory = Trajectory(tmp_path / "t", 15, 5, dataset)
    for moment in kept:
        trajectory(moment - 1, model)
    trajectory.finish(model, epochs)
    with pytest.raises(ValueError, match=rf"which is of epoch {epochs}; got none in \S*t{re.escape(told)}$"):
        KeptTrajectory.load(tmp_path / "t", dataset)


def test_seen_items_by_definition():
    dense = torch.rand(9, 14, generator=generator(1)) < 0.3
    dense[2], dense[5] = False, True
    seen = CSR.from_any(dense)
    dataset = Dataset.from_csr(seen)
    model = MatrixFactorization(9, 14, 4)
    model.user_table.data, model.item_table.data = randn(9, 4, seed=2), randn(14, 4, seed=3)
    found = seen_rankings(model, dataset, 5)
    scores = (model.user_table @ model.item_table.T).detach()
    for user in range(9):
        items = dense[user].nonzero().flatten().tolist()
        best = sorted(items, key=lambda i: -scores[user, i].item())[:5]
        assert found.indices[user].tolist() == best + [-1] * (5 - len(best))
        assert found.lengths[user] == len(best)
    assert found.scores[2].tolist() == [-torch.inf] * 5
    assert found.scores[5, 0].item() == pytest.approx(scores[5].max().item(), rel=1e-6)


def test_a_long_history_makes_blocks_small(monkeypatch):
    dense = torch.rand(50, 40, generator=generator(1)) < 0.1
    dense[17] = True
    dataset, model, sizes = Dataset.from_csr(CSR.from_any(dense)), MatrixFactorization(50, 40, 4), []
    whole = seen_rankings(model, dataset, 5)
    monkeypatch.setattr(ranked, "SCORES", 160, raising=False)
    score = model.score
    monkeypatch.setattr(
        model, "score", lambda users, items: (sizes.append(items.numel()), score(users, items))[1]
    )
    found = seen_rankings(model, dataset, 5)
    assert len(sizes) == 13
    assert max(sizes) <= 160
    assert torch.equal(found.indices, whole.indices)
    assert torch.equal(found.scores, whole.scores)
    assert torch.equal(found.lengths, whole.lengths)


def test_as_many_checkpoints_of_each():
    lists = lambda count: [
        Rankings.from_scores(torch.rand(2, 5), 2, metadata={"n": str(n)}) for n in range(count)
    ]
    kept = [KeptTrajectory(lists(count), lists(1)[0]) for count in (9, 4, 3)]
    found = [[int(r.metadata["n"]) for r in teacher] for teacher in evenly(kept)]
    assert found == [[2, 5, 8], [0, 2, 3], [0, 1, 2]]


def test_bad_settings(dataset, tmp_path):
    for change in ({"every": 0}, {"k": 0}):
        with pytest.raises(
            ValueError, match=f"trajectory: expected {next(iter(change))} of 1 or more; got 0"
        ):
            Trajectory(**{"folder": tmp_path, "every": 1, "k": 1, "dataset": dataset} | change)
    train(dataset, tmp_path / "t", 4)
    other = generate(80, 60, mean_interactions=12, min_interactions=6, n_groups=4, groups_per_user=2, seed=3)
    other = Dataset.from_csr(CSR.from_any(other.train.csr().to_dense()[:70]))
    with pytest.raises(ValueError, match="expected rankings of 70 users; got 80"):
        KeptTrajectory.load(tmp_path / "t", other)
