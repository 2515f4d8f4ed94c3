"""Memory of methods in a world of many users and a million items: `large_world.py U METHOD …` prints MiB by method."""

from __future__ import annotations

import json
import sys

import torch

from rankdistill import Batch, MatrixFactorization, Rankings, memory
from rankdistill.data import CSR, Dataset
from rankdistill.methods import Given, make_method, student_of
from rankdistill.models.saved import build_model
from rankdistill.models.trajectory import KeptTrajectory
from tests.case import randint

N, LISTED, SEEN, D_T, D_S = 1_000_000, 60, 4, 8, 4
OPTIONS = {"hetcomp": {"n_listed": 50, "n_compared": 25}}


def lists(rows: int, columns: int, seed: int) -> Rankings:
    """Lists of different columns, as a teacher might give them: making real ones would take all scores."""
    first, step = (
        randint(low, high, (rows, 1), seed=seed + at)
        for at, (low, high) in enumerate(((0, columns), (1, columns // LISTED)))
    )
    indices = (first + step * torch.arange(LISTED)) % columns
    scores = torch.arange(LISTED, 0, -1.0).expand(rows, -1).contiguous()
    return Rankings(indices.int(), scores, torch.full((rows,), LISTED, dtype=torch.int32), columns)


class Lists(Given):
    def value(self, name: str) -> object:
        U = self.dataset.n_users
        if name == "item_rankings":
            return lists(N, U, 2)
        return lists(U, N, 3) if name == "full_rankings" else super().value(name)


def world(U: int) -> Lists:
    train = CSR.from_pairs(torch.arange(U).repeat_interleave(SEEN), randint(0, N, (SEEN * U,), seed=0), U, N)
    dataset = Dataset.from_csr((train.indptr, train.indices), n_items=N, name="large")
    teacher = MatrixFactorization(U, N, D_T, init_std=1.0)
    kept = [
        KeptTrajectory([lists(U, N, seed), lists(U, N, seed + 5)], lists(U, N, seed + 9)) for seed in (1, 2)
    ]
    return Lists(dataset, lists(U, N, 1), D_S, teacher, 0, kept)


def peak(name: str, given: Lists) -> float:
    """MiB above what stood: making a method and a student, the beginning of an epoch, a step's gradients."""
    train = given.dataset.train
    before = memory.reset_peak()
    method = make_method(name, given, OPTIONS.get(name, {}))
    student = build_model(student_of(name), given.dataset, D_S, seed=0)
    method.begin_epoch(0, student)
    rows = torch.arange(1024) * 37 % len(train)
    users, positives = train.users[rows], train.items[rows]
    negatives = method.negatives(0, users, positives)
    if negatives is None:
        negatives = randint(0, N, (1024, 1), seed=4)
    method(student, Batch(users, positives, negatives)).backward()
    found = memory.peak_since(before) / 2**20
    assert any(p.grad is not None and p.grad.any() for p in student.parameters()), f"{name} teaches nothing"
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = world(int(sys.argv[1]))
    print(json.dumps({name: peak(name, given) for name in sys.argv[2:]}))
