"""The training loop: it learns, it resumes bit for bit, it stops, it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from rankdistill import (
    BidirectionalDistillation,
    ListwiseDistillation,
    MatrixFactorization,
    Rankings,
    RelaxedRankingDistillation,
    Term,
    Trainer,
)
from rankdistill import trainer as trainer_module
from rankdistill.checkpoint import load_checkpoint, save_checkpoint
from rankdistill.config import TrainingConfig
from rankdistill.data import CSR, Dataset, generate
from rankdistill.data.interactions import Interactions
from rankdistill.files import AtWork, alone_in
from rankdistill.losses import Distillation
from rankdistill.models.saved import build_model
from rankdistill.sampling import sample_negatives, within_row_positions
from rankdistill.trainer import LOCK, LOG

CONFIG = TrainingConfig(epochs=6, batch_size=256, learning_rate=0.01, evaluate_every=2, metric="recall@20")


@pytest.fixture(scope="module")
def dataset():
    return generate(200, 150, mean_interactions=20, min_interactions=8, n_groups=6, groups_per_user=2, seed=3)


def make(dataset, config=CONFIG, distil=True, **options):
    model = MatrixFactorization(dataset.n_users, dataset.n_items, 8, seed=1)
    terms = []
    if distil:
        teacher = MatrixFactorization(dataset.n_users, dataset.n_items, 16, seed=2, init_std=1.0)
        rankings = Rankings.from_vectors(
            teacher.user_vectors(), teacher.item_vectors(), 40, dataset.train.csr()
        )
        terms = [Term(1e-2, RelaxedRankingDistillation(rankings, dataset.train.csr(), 10, 10))]
    return Trainer(model, dataset, config, terms, **options)


def weights(trainer):
    return [p.detach().clone() for p in trainer.model.parameters()]


def test_it_learns(dataset):
    config = replace(CONFIG, epochs=30, evaluate_every=0, evaluate_test=True)
    trained = make(dataset, config, distil=False)
    untrained = trained.evaluate()["test/recall@20"]
    history = trained.fit()
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert history[-1]["test/recall@20"] > 1.5 * untrained


def test_an_epoch_is_the_plain_torch_loops(dataset):
    """The same shuffles and negatives through nn.Embedding-like indexing, softplus and Adam give the same weights."""
    config = replace(CONFIG, epochs=2, keep_best=False)
    trainer = make(dataset, config, distil=False)
    start = weights(trainer)
    trainer.fit()
    users, items = (t.double().requires_grad_() for t in start)
    adam = torch.optim.Adam([users, items], lr=config.learning_rate, weight_decay=config.weight_decay)
    train = dataset.train
    for epoch in range(2):
        negatives = sample_negatives(
            train.users, within_row_positions(train.users), train.csr(), seed=0, epoch=epoch
        )
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(config.batch_size):
            u, i, j = users[train.users[rows]], items[train.items[rows]], items[negatives[rows, 0]]
            loss = torch.nn.functional.softplus((u * j).sum(1) - (u * i).sum(1)).sum()
            adam.zero_grad()
            loss.backward()
            adam.step()
    for ours, theirs in zip(weights(trainer), (users, items)):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=1e-4)


def test_resume_is_bit_identical(dataset, tmp_path):
    whole = make(dataset, folder=tmp_path / "whole")
    whole_history = whole.fit()
    make(dataset, replace(CONFIG, epochs=3), folder=tmp_path / "parts").fit()
    resumed = make(dataset, folder=tmp_path / "parts")
    history = resumed.fit()
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    strip = lambda records: [{k: v for k, v in r.items() if k != "seconds" and "/" not in k} for r in records]
    assert strip(history) == strip(whole_history)
    again = make(dataset, folder=tmp_path / "parts")
    assert again.fit() == history, "a finished run is only read"
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(again), strict=True))
    assert [json.loads(line)["epoch"] for line in (tmp_path / "parts" / "log.jsonl").open()] == list(range(6))


SCRIPT = """
import sys, torch
from rankdistill.config import TrainingConfig
from tests.test_trainer import make
from rankdistill.data import generate
torch.set_num_threads(1)
data = generate(200, 150, mean_interactions=20, min_interactions=8, n_groups=6, groups_per_user=2, seed=3)
config = TrainingConfig(epochs=60, batch_size=256, learning_rate=0.01, evaluate_every=1, metric="recall@20")
trainer = make(data, config, folder=sys.argv[1])
trainer.fit()
torch.save([p.detach() for p in trainer.model.parameters()], sys.argv[2])
"""


def test_killed_at_any_moment_it_goes_on_as_if_nothing_had_happened(tmp_path):
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment = {**os.environ, "PYTHONPATH": root}

    def start(folder):
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / folder), str(tmp_path / f"{folder}.pt")]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)

    whole = start("whole")
    assert whole.wait(300) == 0, whole.stderr.read().decode()
    kills = 0
    for lines in (5, 23, 40):
        running = start("killed")
        log = tmp_path / "killed" / "log.jsonl"
        deadline = time.time() + 120
        while running.poll() is None and time.time() < deadline:
            if log.exists() and log.read_bytes().count(b"\n") >= lines:
                running.send_signal(signal.SIGKILL)
                kills += running.wait() == -signal.SIGKILL
                break
            time.sleep(0.002)
    assert kills >= 1, "no run was killed before its end"
    last = start("killed")
    assert last.wait(300) == 0, last.stderr.read().decode()
    expected, found = (torch.load(tmp_path / f"{name}.pt") for name in ("whole", "killed"))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    epochs = [json.loads(line)["epoch"] for line in (tmp_path / "killed" / "log.jsonl").open()]
    assert epochs == list(range(60))


def test_what_killed_runs_left_of_checkpoints_is_removed(dataset, tmp_path):
    make(dataset, replace(CONFIG, epochs=2), folder=tmp_path).fit()
    for n in range(4):
        (tmp_path / f".checkpoint.safetensors.{n}.partial").write_bytes(bytes(1000))
    (tmp_path / ".log.jsonl.a.partial").write_text("")
    (tmp_path / ".others.partial").write_text("kept")
    make(dataset, folder=tmp_path).fit()
    found = {path.name for path in tmp_path.iterdir() if path.name != "tensorboard"}
    assert found == {"checkpoint.safetensors", "log.jsonl", ".others.partial"}


def test_rankings_of_what_is_no_item_are_refused(dataset, tmp_path):
    trainer = make(dataset, folder=tmp_path)
    trainer.terms[0].method.rankings.indices[5, 2] = -3
    with pytest.raises(
        ValueError, match=r"Rankings: expected .* for user 5; got -3 at place 2: a damaged file"
    ):
        trainer.fit()
    assert not list(tmp_path.iterdir())


def test_two_trainers_do_not_share_a_folder(dataset, tmp_path):
    """Nor does a kill keep one out: the lock is the process's."""
    code = """
import sys, time
from pathlib import Path
from rankdistill.files import alone_in
from rankdistill.trainer import LOCK, LOG
with alone_in(Path(sys.argv[1]), "test", "training", LOCK):
    print("held", flush=True)
    time.sleep(120)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        trainer = make(dataset, folder=tmp_path)
        with pytest.raises(
            AtWork, match="Trainer: expected .* for this training alone; got another one at work in it"
        ):
            trainer.fit()
        assert [path.name for path in tmp_path.iterdir()] == [LOCK], "nothing was written"
        other.kill()
    inner: list = []

    def second(epoch, model):
        with pytest.raises(AtWork):
            make(dataset, folder=tmp_path).fit()
        inner.append(epoch)

    trainer.after_epoch = second
    trainer.fit()
    assert inner == [record["epoch"] for record in trainer.history] == list(range(6))
    assert not (tmp_path / LOCK).exists()
    with alone_in(tmp_path, "a command", "run"):
        assert make(dataset, folder=tmp_path).fit() == trainer.history, "part of another work in the folder"


def test_early_stopping_keeps_the_best(dataset):
    trainer = make(
        dataset, replace(CONFIG, epochs=400, evaluate_every=1, patience=3, learning_rate=0.05), distil=False
    )
    history = trainer.fit()
    values = [r["valid/recall@20"] for r in history]
    best = values.index(max(values))
    assert len(history) == best + 4 < 400
    assert trainer.evaluate()["valid/recall@20"] == pytest.approx(max(values))


def test_another_seed_shuffles_otherwise(dataset):
    positions = torch.arange(1000)
    orders = [
        make(dataset, replace(CONFIG, seed=seed))._shuffled(0, positions)[0] for seed in (0, 1, 2**40 + 1)
    ]
    assert not any(torch.equal(a, b) for i, a in enumerate(orders) for b in orders[i + 1 :])


def test_another_seed_is_another_run(dataset):
    first, second = (make(dataset, replace(CONFIG, epochs=1, seed=seed)) for seed in (0, 1))
    first.fit()
    second.fit()
    assert not torch.equal(*(weights(t)[0] for t in (first, second)))


def test_global_random_state_is_left_alone(dataset):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    make(dataset, replace(CONFIG, epochs=1)).fit()
    assert torch.equal(torch.rand(3), expected)


def test_a_checkpoint_of_other_settings_is_refused(dataset, tmp_path):
    make(dataset, replace(CONFIG, epochs=1), folder=tmp_path).fit()
    with pytest.raises(ValueError, match=r"expected learning_rate=0.01, as the checkpoint in .*; got 0.5"):
        make(dataset, replace(CONFIG, learning_rate=0.5), folder=tmp_path).fit()


def other_objective(trainer, what):
    """The same trainer, but for what the model learns from."""
    weight, method = trainer.terms[0]
    model, base_weight, terms = trainer.model, 1.0, [Term(weight, method)]
    if what == "weight":
        terms = [Term(10.0, method)]
    elif what == "base weight":
        base_weight = 0.0
    elif what == "setting":
        method.temperature = 5.0
    elif what == "method":
        terms = [Term(weight, ListwiseDistillation(method.rankings, 10))]
    else:
        terms = []
    return Trainer(
        model, trainer.dataset, trainer.config, terms, base_weight=base_weight, folder=trainer.folder
    )


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("weight", "expected weight of term 0=0.01, as the checkpoint in .*; got 10.0"),
        ("base weight", "expected base_weight=1.0, as the checkpoint in .*; got 0.0"),
        ("setting", "expected term 0.temperature=10.0, as the checkpoint in .*; got 5.0"),
        ("method", "expected kind of term 0='RelaxedRankingDistillation', .*; got 'ListwiseDistillation'"),
        ("no method", "expected number of terms=1, as the checkpoint in .*; got 0"),
    ],
)
def test_a_checkpoint_of_another_objective_is_refused(dataset, tmp_path, what, told):
    """Or a search over weights in one folder would give one model for all of them."""
    make(dataset, replace(CONFIG, epochs=1), folder=tmp_path).fit()
    with pytest.raises(ValueError, match=told):
        other_objective(make(dataset, folder=tmp_path), what).fit()


def test_a_checkpoint_of_other_data_or_another_model_is_refused(dataset, tmp_path):
    """Or what is held out here was learned there."""
    make(dataset, replace(CONFIG, epochs=2), folder=tmp_path).fit()
    other = generate(
        200, 150, mean_interactions=20, min_interactions=8, n_groups=6, groups_per_user=2, seed=4
    )
    with pytest.raises(
        ValueError, match="expected train interactions='.*', as the checkpoint in .*; got '.*'"
    ):
        make(other, folder=tmp_path).fit()
    times = torch.arange(len(dataset.train))
    timed = replace(dataset, train=replace(dataset.train, timestamps=times))
    with pytest.raises(
        ValueError, match="expected train interactions='.*', as the checkpoint in .*; got '.*'"
    ):
        make(timed, folder=tmp_path).fit()
    changed = make(dataset, folder=tmp_path)
    rankings = changed.terms[0].method.rankings
    rankings.indices[0] = rankings.indices[0].flip(0)
    with pytest.raises(ValueError, match="expected term 0.rankings='.*', as the checkpoint in .*; got '.*'"):
        make_again(changed).fit()
    wide = MatrixFactorization(dataset.n_users, dataset.n_items, 9, seed=1)
    with pytest.raises(
        ValueError,
        match=r"expected shape of model.user_table='\[200, 8\]', as the checkpoint in .*; got '\[200, 9\]'",
    ):
        Trainer(wide, dataset, CONFIG, make(dataset).terms, folder=tmp_path).fit()
    with pytest.raises(
        ValueError, match="expected epochs of 2 or more, as many as the checkpoint in .* has; got 1"
    ):
        make(dataset, replace(CONFIG, epochs=1), folder=tmp_path).fit()


def test_a_checkpoint_that_does_not_say_what_it_is_of_is_refused(dataset, tmp_path):
    make(dataset, replace(CONFIG, epochs=2), folder=tmp_path).fit()
    tensors, facts = load_checkpoint(tmp_path / trainer_module.CHECKPOINT)
    del facts["described"]
    save_checkpoint(tmp_path / trainer_module.CHECKPOINT, tensors, facts)
    with pytest.raises(ValueError, match="expected a checkpoint that says what it is of; got one without in"):
        make(dataset, folder=tmp_path).fit()


def make_again(trainer):
    return Trainer(trainer.model, trainer.dataset, trainer.config, trainer.terms, folder=trainer.folder)


@pytest.mark.parametrize("name", ["multvae", "item_autoencoder"])
def test_a_model_that_has_learned_goes_on_itself(dataset, tmp_path, name):
    """What it knows of the epoch that was interrupted is none of its settings."""
    config = replace(CONFIG, epochs=3, evaluate_every=1, batch_size=8)

    def interrupt(epoch, model):
        if epoch == 1:
            raise KeyboardInterrupt

    model, whole = (build_model(name, dataset, 4, 0, {}) for _ in range(2))
    with pytest.raises(KeyboardInterrupt):
        Trainer(model, dataset, config, folder=tmp_path, after_epoch=interrupt).fit()
    Trainer(model, dataset, config, folder=tmp_path).fit()
    Trainer(whole, dataset, config).fit()
    assert all(map(torch.equal, model.parameters(), whole.parameters()))


@pytest.mark.parametrize("every", [0, 100])
def test_a_run_without_evaluations_is_kept_by_time(dataset, tmp_path, monkeypatch, every):
    """An interruption then loses a minute, and not everything."""
    config = replace(CONFIG, epochs=5, evaluate_every=every)
    epochs = []

    def interrupt(epoch, model):
        epochs.append(epoch)
        if len(epochs) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer_module, "SECONDS_WITHOUT_CHECKPOINT", 0.0)
    monkeypatch.setattr(trainer_module, "SAVES_APART", 0.0)
    with pytest.raises(KeyboardInterrupt):
        make(dataset, config, folder=tmp_path, after_epoch=interrupt).fit()
    resumed = make(dataset, config, folder=tmp_path, after_epoch=lambda epoch, model: epochs.append(epoch))
    resumed.fit()
    assert epochs == [0, 1, 2, 3, 3, 4]
    whole = make(dataset, config)
    whole.fit()
    assert all(map(torch.equal, weights(whole), weights(resumed)))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"metric": "foo@20"}, "expected training.metric of "),
        ({"evaluate_test": True}, "expected a test part for evaluate_test"),
    ],
)
def test_what_cannot_be_measured_is_told_before_an_epoch(dataset, changes, told):
    parts = (
        dataset.train,
        dataset.valid,
        Interactions(dataset.test.users[:0], dataset.test.items[:0], 200, 150),
    )
    without = Dataset(*parts, dataset.users, dataset.items)
    with pytest.raises(ValueError, match=told):
        make(without, replace(CONFIG, **changes), distil=False)


def test_interactions_with_some_negatives_train():
    """More negatives asked for than there are: as many as there are count, and nobody is left out."""
    users, items = torch.arange(4).repeat_interleave(6), torch.arange(24) % 8
    data = Dataset.from_arrays((users.tolist(), items.tolist()))
    trainer = Trainer(
        MatrixFactorization(4, 8, 2, seed=1, init_std=0.5), data, replace(CONFIG, epochs=1, n_negatives=5)
    )
    drawn = trainer._epoch_interactions(0)[2]
    assert len(drawn) == 24
    assert ((drawn >= 0).sum(1) == 2).all()
    assert trainer.fit()[0]["loss"] > 0


def test_a_teacher_that_trains_along_is_of_the_same_epoch(dataset, tmp_path):
    """Of the best validation, as the student, also where the run is taken up again."""
    seen = []

    def trainer(**changes):
        teacher = MatrixFactorization(dataset.n_users, dataset.n_items, 8, seed=5, init_std=0.5)
        student = MatrixFactorization(dataset.n_users, dataset.n_items, 4, seed=6)
        method = BidirectionalDistillation(teacher, dataset.train.csr())
        watch = lambda epoch, model: seen.append((teacher.user_table.clone(), model.user_table.clone()))
        best_at_one = lambda model: {"valid/recall@20": -abs(len(seen) - 2)}
        made = Trainer(
            student, dataset, replace(CONFIG, evaluate_every=1, **changes), [Term(1.0, method)], after_epoch=watch,
            evaluation=best_at_one, folder=tmp_path,
        )  # fmt: skip
        return made, teacher, student

    for epochs in (4, 4, 6):
        made, teacher, student = trainer(epochs=epochs)
        made.fit()
        assert made.best_epoch == 1
        of_teacher, of_student = seen[1]
        assert teacher.user_table.equal(of_teacher)
        assert student.user_table.equal(of_student)
    assert len(seen) == 6


def test_a_truncated_checkpoint_is_refused(dataset, tmp_path):
    make(dataset, replace(CONFIG, epochs=1), folder=tmp_path).fit()
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="expected a whole safetensors file; got .*checkpoint"):
        make(dataset, folder=tmp_path).fit()


def test_a_diverging_run_stops_with_its_epoch(dataset):
    class Exploding(Distillation):
        def forward(self, student, batch):
            return student.score(batch.users, batch.positives[:, None]).sum() * float("inf")

    with pytest.raises(FloatingPointError, match="expected a finite loss; got (nan|inf|-inf) in epoch 0"):
        Trainer(make(dataset).model, dataset, CONFIG, [Term(1.0, Exploding())]).fit()


def test_a_user_with_every_item_trains_nothing():
    full = CSR.from_any(torch.tensor([[True, True, True], [True, False, False]]))
    data = Dataset.from_csr(full)
    model = MatrixFactorization(2, 3, 2)
    before = model.user_table.detach().clone()
    Trainer(model, data, TrainingConfig(epochs=2, weight_decay=0.0, metric="recall@1")).fit()
    moved = (model.user_table != before).any(1)
    assert moved.tolist() == [False, True]


@pytest.mark.parametrize("kind", ["multvae", "item_autoencoder"])
def test_a_model_of_whole_users_or_items_learns_also_from_who_has_every_item(kind):
    data = Dataset.from_csr(CSR.from_any(torch.ones(2, 4, dtype=torch.bool)))
    model = build_model(kind, data, 4, 0, {})
    trainer = Trainer(model, data, TrainingConfig(epochs=1, metric="recall@1"))
    assert trainer.train_epoch(0) > 0


def test_methods_may_choose_negatives_and_train_their_teacher(dataset):
    class Both(Distillation):
        def __init__(self):
            super().__init__()
            self.teacher = torch.nn.Parameter(torch.ones(1))
            self.seen = []

        def negatives(self, epoch, users, positives):
            return torch.full((len(users), 2), 7)

        def forward(self, student, batch):
            self.seen.append(batch.negatives)
            return 0.0 * student.score(batch.users, batch.negatives).sum()

        def teacher_loss(self, student, batch):
            return (self.teacher**2).sum()

    method = Both()
    Trainer(make(dataset).model, dataset, replace(CONFIG, epochs=1), [Term(1.0, method)]).fit()
    assert all((n == 7).all() and n.shape[1] == 2 for n in method.seen)
    assert method.teacher.item() < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [({"epochs": 0}, "training.epochs of 1 or more; got 0"), ({"learning_rate": 0.0}, "learning_rate above 0"),
     ({"metric": "recall"}, "training.metric as name@cutoff; got recall"),
     ({"metric": "recall@²"}, "training.metric as name@cutoff; got recall@²"),
     ({"patience": -1}, "patience of 0 or more")],
)  # fmt: skip
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**change)


def test_training_and_measuring_have_their_modes(dataset):
    learned, measured = [], []

    class Modes(MatrixFactorization):
        def loss(self, batch):
            learned.append(self.training)
            return super().loss(batch)

        def item_vectors(self, ids=None):
            measured.append(self.training)
            return super().item_vectors(ids)

    config = replace(CONFIG, epochs=3, evaluate_every=1)
    Trainer(Modes(dataset.n_users, dataset.n_items, 8), dataset, config).fit()
    assert all(learned), "also after an evaluation"
    assert measured
    assert not any(measured)
    modes = []
    measure = lambda model: modes.append(model.training) or {"valid/recall@20": 0.5}
    make(dataset, config, False, evaluation=measure).fit()
    assert modes == [False] * 3


def test_the_best_epoch_is_the_earliest_of_equals(dataset):
    values = iter([0.1, 0.3, 0.2, 0.3])
    measure = lambda model: {"valid/recall@20": next(values)}
    trainer = make(dataset, replace(CONFIG, epochs=4, evaluate_every=1), False, evaluation=measure)
    trainer.fit()
    assert trainer.best_epoch == 1


def test_the_best_weights_are_kept_only_where_asked(dataset):
    seen, values = [], iter([0.3, 0.2, 0.1])
    measure = lambda model: {"valid/recall@20": next(values)}
    look = lambda epoch, model: seen.append(model.user_table.detach().clone())
    config = replace(CONFIG, epochs=3, evaluate_every=1, keep_best=False)
    trainer = make(dataset, config, False, evaluation=measure, after_epoch=look)
    trainer.fit()
    assert trainer.model.user_table.equal(seen[2])


def test_the_metric_is_measured_whatever_its_cutoff(dataset):
    trainer = make(dataset, replace(CONFIG, epochs=1, metric="capped_recall@7"), False)
    assert "valid/capped_recall@7" in trainer.fit()[0]
    assert trainer.best_epoch == 0


def test_seconds_of_a_resumed_run_go_on(dataset, tmp_path):
    make(dataset, replace(CONFIG, epochs=3), folder=tmp_path).fit()
    seconds = [record["seconds"] for record in make(dataset, folder=tmp_path).fit()]
    assert seconds == sorted(seconds)


def test_checkpoints_keep_their_distance(dataset, tmp_path):
    kept, path = [], tmp_path / trainer_module.CHECKPOINT
    look = lambda epoch, model: kept.append(path.exists())
    config = replace(CONFIG, epochs=4, evaluate_every=1)
    make(dataset, config, folder=tmp_path, after_epoch=look, seconds_between_checkpoints=3600.0).fit()
    assert kept == [False] * 4
    assert path.exists(), "the end is kept"


def test_slow_checkpoints_take_a_tenth_of_the_time(dataset, tmp_path, monkeypatch):
    """Epochs of 50 s, checkpoints of 70 s, by a clock that only these move."""
    clock, saved = [0.0], []
    now = lambda: clock[0]
    monkeypatch.setattr(trainer_module, "time", SimpleNamespace(monotonic=now, perf_counter=now))

    def save(*given):
        clock[0] += 70.0
        saved.append(clock[0])

    def learned(epoch, model):
        clock[0] += 50.0

    trainer = make(
        dataset, replace(CONFIG, epochs=40, evaluate_every=0), False, folder=tmp_path, after_epoch=learned
    )
    monkeypatch.setattr(trainer.held, "save", save)
    monkeypatch.setattr(trainer, "train_epoch", lambda epoch: 0.0)
    trainer.fit()
    # After 60 s, then 630 s after each; and at the end.
    assert saved == [170.0, 890.0, 1610.0, 2280.0]


def test_whoever_asks_gets_what_the_log_gets(dataset, tmp_path):
    told = []
    make(dataset, folder=tmp_path, after_record=told.append).fit()
    assert told == [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert "valid/recall@20" in told[0]
    with pytest.raises(ValueError, match="expected terms, or a base_weight other than 0; got neither"):
        make(dataset, distil=False, base_weight=0.0)
