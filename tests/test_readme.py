"""README's code does what it says."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from rankdistill import Factors, MatrixFactorization, Rankings, export_program
from rankdistill.data import CSR, generate
from tests.case import generator, randn
from tests.cases import CASES

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def code(name: str) -> str:
    """The block behind the comment `name`."""
    return re.search(rf"<!-- {name} -->\n```python\n(.*?)```", README, re.DOTALL)[1]


CODE = code("drop-in")


def test_the_drop_in_adds_at_most_five_lines():
    own = ("base_loss(", "optimizer", "loss.backward", "for epoch", "for users")
    added = [line for line in CODE.splitlines() if line.strip() and not line.strip().startswith(own)]
    assert [line.split("#")[0].strip() for line in added if "method" in line or "ankings" in line] == [
        line.split("#")[0].strip() for line in added
    ]
    assert len(added) <= 5


def test_the_drop_in_trains_a_student():
    users = torch.arange(12).repeat_interleave(5)
    positives = torch.randint(0, 60, users.shape, generator=generator(1))
    student = MatrixFactorization(12, 60, 4, init_std=0.5)
    before = student.item_table.detach().clone()
    used = []

    def base_loss(users, positives, negatives):
        used.append(len(users))
        pairs = student.score(users, torch.stack([positives, negatives], 1))
        return torch.nn.functional.softplus(pairs[:, 1] - pairs[:, 0]).sum()

    def batches():
        for rows in torch.randperm(len(users), generator=generator(2)).split(20):
            yield users[rows], positives[rows], torch.randint(0, 60, rows.shape, generator=generator(3))

    names = {
        "teacher_users": randn(12, 16, seed=4), "teacher_items": randn(60, 16, seed=5),
        "train": CSR.from_pairs(users, positives, 12, 60), "epochs": 2, "student": student, "batches": batches,
        "base_loss": base_loss, "optimizer": torch.optim.Adam(student.parameters()),
    }  # fmt: skip
    exec(CODE, names)  # noqa: S102
    assert used == [20, 20, 20] * 2
    assert names["loss"].item() > 0
    assert not torch.equal(student.item_table, before)


def test_rankings_beyond_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    users, items, train = randn(30, 8, seed=1), randn(200, 8, seed=2), CSR.empty(30, 200)
    save_file({"users": users}, "users.safetensors")
    save_file({"items": items}, "items.safetensors")
    names = {"train": train}
    exec(code("extraction"), names)  # noqa: S102
    expected = Rankings.from_vectors(users, items, 100)
    assert torch.equal(names["rankings"].indices, expected.indices)


def test_teachers_of_any_origin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = generate(30, 40, mean_interactions=8, min_interactions=5, n_groups=4, groups_per_user=1)
    users, items = randn(30, 8, seed=1), randn(40, 8, seed=2)
    np.save("users.npy", users.numpy())
    np.save("items.npy", items.numpy())
    tables = {"user_embedding": nn.Embedding.from_pretrained(users), "item_embedding": items}
    names = {
        "users": users, "items": items, "item_bias": randn(40, seed=3), "dataset": dataset,
        "implicit_model": SimpleNamespace(user_factors=users.numpy(), item_factors=items.numpy()),
        "ids_of_its_rows": dataset.users.ids, "ids_of_its_items": dataset.items.ids,
        "graph_model": SimpleNamespace(**tables), "network": lambda ids: users[ids] @ items.T,
    }  # fmt: skip
    exec(code("teachers"), names)  # noqa: S102
    expected = Rankings.from_vectors(users, items, 100, dataset.train.csr())
    assert torch.equal(names["rankings"].indices, expected.indices)


def test_a_program_is_served(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    factors = Factors(randn(30, 8, seed=1), randn(40, 8, seed=2))
    export_program(factors, "student.pt2", k=5, exclude=True)
    seen = {"seen_indptr": torch.tensor([0, 2, 3]), "seen_items": torch.tensor([1, 5, 0])}
    names = {"users": torch.tensor([3, 3]), **seen}
    exec(code("program"), names)  # noqa: S102
    assert torch.equal(names["items"], factors.topk(torch.tensor([3, 3]), 5, tuple(seen.values())).indices)


def test_the_table_of_ops_says_what_serves_each():
    rows = re.findall(r"^\| (`[^|]*`) \| (C\+\+|torch) \| ([^|]*) \|$", README, re.MULTILINE)
    said = {op: row[1:] for row in rows for op in re.findall(r"`(\w+)`", row[0])}
    found = {}
    for op, case in CASES.items():
        served = [name for name in ("NATIVE", "CUDA", "TRITON") if hasattr(case.module, name)]
        of_cuda = {"CUDA": "CUDA C++", "TRITON": "Triton"}
        device = [of_cuda[name] for name in served if name in of_cuda] or ["torch"]
        rest = ["torch"] if device == ["CUDA C++"] else []
        found[op] = ("C++" if "NATIVE" in served else "torch", ", or ".join(device + rest))
    assert said == found
