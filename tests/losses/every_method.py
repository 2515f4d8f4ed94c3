"""A small world in which every method of the command line can be made: data, a teacher, its rankings and trajectories."""

from __future__ import annotations

from functools import cache

import torch

from rankdistill import Batch, MatrixFactorization
from rankdistill.data import Dataset, generate
from rankdistill.data.interactions import Interactions
from rankdistill.methods import METHODS, Given, make_method, settings_of, student_of
from rankdistill.models.ranked import seen_rankings, unseen_rankings
from rankdistill.models.saved import build_model
from rankdistill.models.trajectory import KeptTrajectory
from tests.case import randint

U, N, D_T, D_S, LISTED = 60, 50, 12, 6, 20
CUT = {"period": 2, "start_epoch": 1}  # so that a few epochs reach what comes later
NAMES = tuple(METHODS)


@cache
def world() -> Dataset:
    return generate(
        U, N, mean_interactions=9, min_interactions=6, n_groups=4, groups_per_user=2, width=16, seed=5
    )


def without_train_items(dataset: Dataset, users: int) -> Dataset:
    """The first `users` users lose their train items."""
    train = dataset.train
    kept = train.users >= users
    parts = Interactions(train.users[kept], train.items[kept], U, N), dataset.valid, dataset.test
    return Dataset(*parts, dataset.users, dataset.items, "without")


def teacher_of(n_users: int = U, n_items: int = N, width: int = D_T, seed: int = 1) -> MatrixFactorization:
    return MatrixFactorization(n_users, n_items, width, seed=seed, init_std=0.5)


def given_in(dataset: Dataset, k: int = LISTED, **changes) -> Given:
    """All that a method may ask for: two teachers at two checkpoints each, the first teacher's rankings and tables."""
    teacher = teacher_of()
    kept = []
    for seed in (1, 2):
        models = teacher_of(seed=seed), teacher_of(seed=seed + 7)
        checkpoints = [unseen_rankings(model, dataset, LISTED) for model in models]
        kept.append(KeptTrajectory(checkpoints, seen_rankings(models[0], dataset, 2)))
    parts = {
        "rankings": unseen_rankings(teacher, dataset, k), "student_width": D_S, "teacher": teacher, "trajectories": kept,
    }  # fmt: skip
    return Given(dataset, **{**parts, **changes})


def options_of(name: str) -> dict[str, object]:
    """Of a method's settings those that are too large for this world, cut to it."""
    found = {}
    for key, value in settings_of(name).items():
        if key in CUT:
            found[key] = CUT[key]
        elif isinstance(value, int) and key.startswith(("n_", "list_length")) and value > LISTED:
            found[key] = LISTED
    return found


def make(name: str, given: Given | None = None, **options):
    return make_method(name, given or given_in(world()), {**options_of(name), **options})


def make_student(name: str, seed: int = 3, scale: float = 20.0, width: int = D_S):
    """What the method teaches, its vectors `scale` times as long as a new model's."""
    model = build_model(student_of(name), world(), width, seed=seed)
    with torch.no_grad():
        for table in (model.user_table, model.item_table):
            table *= scale
    return model


def make_batch(method, epoch: int, dataset: Dataset | None = None, size: int = 24) -> Batch:
    """Train interactions, some of them twice, with the negatives that the method chooses, or others."""
    train = (dataset or world()).train
    rows = randint(0, len(train), (size,), seed=epoch + 11)
    rows[1] = rows[0]
    users, positives = train.users[rows], train.items[rows]
    negatives = method.negatives(epoch, users, positives)
    return Batch(users, positives, randint(0, N, (size, 1), seed=12) if negatives is None else negatives)


def begin(method, student, epochs: int) -> Batch:
    """Begins epochs 0 to `epochs`, and gives a batch of the last."""
    for epoch in range(epochs + 1):
        method.begin_epoch(epoch, student)
    return make_batch(method, epochs)


def objective(method, student, batch: Batch) -> torch.Tensor:
    """The loss, and that of a teacher that trains along."""
    of_teacher = method.teacher_loss(student, batch)
    loss = method(student, batch)
    return loss if of_teacher is None else loss + of_teacher


def gradients(loss: torch.Tensor, *modules) -> dict[str, torch.Tensor]:
    named = {f"{at}.{n}": p for at, module in enumerate(modules) for n, p in module.named_parameters()}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: grad for name, grad in zip(named, found) if grad is not None}
