"""Factors as files and as programs: what is written is what is read, whole or not at all."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rankdistill import (
    Factors,
    MatrixFactorization,
    Trainer,
    as_teacher,
    export_factors,
    export_program,
    load_factors,
)
from rankdistill.config import TrainingConfig
from rankdistill.data import CSR, generate
from rankdistill.metrics import evaluate
from rankdistill.models.saved import load_teacher, save_model
from rankdistill.ops import inner_product_topk
from rankdistill.rankings.tables import Table
from tests.case import DTYPES, randn
from tests.process import output

U, N, D = 12, 90, 6
INTEGERS = np.arange(N)[::-1] * 3
STRINGS = np.array([f'nutzer-{i:02d}\n"ä{i}' for i in range(U)])[::-1]


def factors(dtype=torch.float32, **without) -> Factors:
    made = {
        "users": randn(U, D, seed=1).to(dtype), "items": randn(N, D, seed=2).to(dtype),
        "item_bias": randn(N, seed=3).to(dtype), "user_bias": randn(U, seed=4).to(dtype),
        "user_ids": STRINGS, "item_ids": INTEGERS,
    }  # fmt: skip
    return Factors(**made | without)


def same(a: Factors, b: Factors) -> None:
    for name in ("users", "items", "item_bias", "user_bias"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None), name
        assert x is None or (x.dtype == y.dtype and torch.equal(x, y)), name
    for name in ("user_ids", "item_ids"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None), name
        assert x is None or (x.dtype.kind == y.dtype.kind and x.tolist() == y.tolist()), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_what_is_written_is_read(tmp_path, suffix, dtype):
    path = tmp_path / f"f.{suffix}"
    if dtype == torch.bfloat16 and suffix == "npz":
        with pytest.raises(
            ValueError, match=r"expected a \.safetensors file for bfloat16 tables; got .*f\.npz"
        ):
            export_factors(factors(dtype), path)
        assert not path.exists()
        return
    for written in (
        factors(dtype),
        factors(dtype, user_bias=None, user_ids=None),
        factors(dtype, item_bias=None, user_bias=None, user_ids=None, item_ids=None),
        factors(dtype, user_ids=np.arange(U), item_ids=INTEGERS.astype(str)),
    ):
        export_factors(written, path)
        same(load_factors(path), written)
    assert list(tmp_path.iterdir()) == [path], "nothing is left beside it"


def test_the_files_need_no_rankdistill(tmp_path):
    written = factors()
    export_factors(written, tmp_path / "f.npz")
    export_factors(written, tmp_path / "f.safetensors")
    with np.load(tmp_path / "f.npz") as arrays:
        assert sorted(arrays.files) == ["item_bias", "item_ids", "items", "user_bias", "user_ids", "users"]
        assert np.array_equal(arrays["users"], written.users.numpy())
        assert arrays["user_ids"].tolist() == STRINGS.tolist()
    tensors = load_file(tmp_path / "f.safetensors")
    assert sorted(tensors) == ["item_bias", "item_ids", "items", "user_bias", "user_ids_lines", "users"]
    lines = bytes(tensors["user_ids_lines"].tolist()).decode("ascii").splitlines()
    assert [json.loads(line) for line in lines] == STRINGS.tolist()


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "f.npz"
    export_factors(factors(), path)
    before = path.read_bytes()

    def full(file, **arrays):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        export_factors(factors(item_bias=None), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_scores_lists_and_metrics_count_biases():
    made = factors(torch.float64)
    dense = made.users @ made.items.T + made.item_bias + made.user_bias[:, None]
    ids = torch.tensor([3, 0, 3])
    listed = torch.tensor([[4, -1], [0, 89], [7, 7]])
    expected = dense[ids[:, None], listed.clamp_min(0)].masked_fill(listed < 0, -torch.inf)
    torch.testing.assert_close(made.score(ids, listed), expected)
    seen = CSR.from_any(torch.rand(U, N, generator=torch.Generator().manual_seed(1)) < 0.3)
    order = dense.masked_fill(seen.to_dense().bool(), -torch.inf).sort(1, descending=True)
    rankings = made.rankings(9, seen)
    assert torch.equal(rankings.indices.long(), order.indices[:, :9])
    torch.testing.assert_close(rankings.scores.double(), order.values[:, :9], rtol=1e-6, atol=1e-6)
    found = made.topk(ids, 9, seen.rows(ids))
    assert torch.equal(found.indices, order.indices[ids, :9])
    torch.testing.assert_close(found.scores, order.values[ids, :9])
    of_items = made.swapped().rankings(3).indices.long()
    assert torch.equal(of_items, dense.T.sort(1, descending=True).indices[:, :3])
    # Where a bias makes every user's best item the relevant one, metrics must see it.
    bias = torch.zeros(N, dtype=torch.float64)
    bias[50] = 1e3
    truth = CSR.from_pairs(torch.arange(U), torch.full((U,), 50), U, N)
    empty = CSR.empty(U, N)
    biased = dataclasses.replace(made, item_bias=bias)
    assert evaluate(biased, truth, empty, [1], ["recall", "auc"]) == {"recall@1": 1.0, "auc": 1.0}
    assert evaluate(dataclasses.replace(made, item_bias=None), truth, empty, [1], ["recall"])["recall@1"] < 1


@pytest.fixture(scope="module")
def dataset():
    return generate(40, 60, mean_interactions=8, min_interactions=5, n_groups=4, groups_per_user=1)


def test_rows_are_found_by_their_ids(dataset):
    model = MatrixFactorization(40, 60, 5, init_std=1.0)
    users, items = torch.randperm(43), torch.randperm(60)  # three users more than the data set has
    more = torch.cat([model.user_vectors().detach(), torch.zeros(3, 5)])
    shuffled = Factors(more[users], model.item_vectors().detach()[items], user_ids=users, item_ids=items)
    aligned = shuffled.aligned(dataset)
    assert torch.equal(aligned.users, model.user_table)
    assert torch.equal(aligned.items, model.item_table)
    assert aligned.aligned(dataset).users is aligned.users, "rows in order are not copied"
    missing = dataclasses.replace(
        shuffled, item_ids=np.where(shuffled.item_ids > 57, shuffled.item_ids + 100, shuffled.item_ids)
    )
    with pytest.raises(
        ValueError,
        match="for every one of the 60 items of the data set generated; got none for 2 of them .*58",
    ):
        missing.aligned(dataset)
    with pytest.raises(
        ValueError, match="expected rows of 40 users, as the data set generated; got 43, without user_ids"
    ):
        dataclasses.replace(shuffled, user_ids=None).aligned(dataset)


def test_models_and_checkpoints_are_factors(dataset, tmp_path):
    model = MatrixFactorization(40, 60, 5)
    config = TrainingConfig(epochs=4, batch_size=64, learning_rate=0.05, evaluate_every=1, metric="recall@10")
    trainer = Trainer(model, dataset, config, folder=tmp_path)
    trainer.fit()
    of_checkpoint = load_factors(tmp_path)  # an interrupted run's folder has no model yet
    assert torch.equal(of_checkpoint.users, trainer.best["user_table"])
    assert of_checkpoint.user_ids is None
    save_model(tmp_path / "model.safetensors", model, "mf", dataset)
    found = load_factors(tmp_path)
    assert torch.equal(found.items, model.item_table)
    assert found.user_ids.tolist() == dataset.users.ids.tolist()
    assert isinstance(load_teacher(str(tmp_path), dataset), MatrixFactorization)
    for suffix in ("npz", "safetensors"):
        export_factors(found, tmp_path / f"f.{suffix}")
        teacher = load_teacher(f"{tmp_path}/f.{suffix}", dataset)
        arguments = dataset.test.csr(), dataset.held_out_exclude("test"), [5, 10]
        assert evaluate(teacher, *arguments) == evaluate(model, *arguments)


def test_tables_in_files_of_their_own(tmp_path):
    made = factors()
    np.save(tmp_path / "users.npy", made.users.numpy())
    np.save(tmp_path / "items.npy", made.items.numpy())
    np.savez(tmp_path / "rest.npz", bias=made.item_bias.numpy(), other=made.items.numpy())
    two = load_factors(f"{tmp_path}/users.npy,{tmp_path}/rest.npz#other")
    assert two.item_bias is None
    assert torch.equal(two.items, made.items)
    three = load_factors(f"{tmp_path}/users.npy,{tmp_path}/items.npy,{tmp_path}/rest.npz#bias")
    same(three, factors(user_bias=None, user_ids=None, item_ids=None))


@pytest.mark.parametrize("name", ["a,b", "a#b", "a,b#c,d", "a#b.npy"])
def test_separators_in_the_names_of_folders(tmp_path, name):
    folder, made = tmp_path / name, factors()
    folder.mkdir()
    np.save(folder / "users.npy", made.users.numpy())
    np.savez(folder / "rest.npz", **{"bias": made.item_bias.numpy(), "items#1": made.items.numpy()})
    two = load_factors(f"{folder}/users.npy,{folder}/rest.npz#items#1")
    assert torch.equal(two.users, made.users)
    assert torch.equal(two.items, made.items)
    three = load_factors(f"{folder}/users.npy,{folder}/rest.npz#items#1,{folder}/rest.npz#bias")
    same(three, factors(user_bias=None, user_ids=None, item_ids=None))
    with pytest.raises(FileNotFoundError, match=f"expected users in a file; got {folder}/none.npy, which"):
        Table.of("load_factors", "users", f"{folder}/none.npy#users")


def broken(folder):
    users, items = np.zeros((3, 2), np.float32), np.zeros((4, 2), np.float32)
    np.savez(folder / "names.npz", user_emb=users, item_emb=items)
    yield (
        "names.npz",
        "expected arrays named users and items; got item_emb, user_emb in .*Others are named as",
    )
    np.savez(folder / "ids.npz", users=users, items=items, user_ids=np.array(["a", "b", None], dtype=object))
    yield "ids.npz", "expected a .npz file of plain arrays; got .*store them as integers"
    np.savez(folder / "ints.npz", users=users.astype(int), items=items)
    yield "ints.npz", "expected users as float16, float32 or float64; got int64"
    (folder / "cut.npz").write_bytes((folder / "ids.npz").read_bytes()[:200])
    yield "cut.npz", "expected a .npz file of plain arrays"
    np.savez(folder / "width.npz", users=users, items=np.zeros((4, 3), np.float32))
    yield "width.npz", r"width.npz: expected items of width 2, as users; got float32 \[4, 3\]"
    np.savez(folder / "count.npz", users=users, items=items, item_ids=np.arange(3))
    yield "count.npz", "expected 4 item_ids; got 3"
    np.savez(folder / "twice.npz", users=users, items=items, item_ids=np.array([1, 2, 2, 3]))
    yield "twice.npz", "expected item_ids without repeats; got 2 twice"
    np.savez(folder / "bias.npz", users=users, items=items, item_bias=np.zeros(3, np.float32))
    yield "bias.npz", r"expected item_bias of 4 entries; got float32 \[3\]"
    tensors = {"users": torch.zeros(3, 2), "items": torch.zeros(4, 2)}
    save_file(
        tensors | {"user_ids_lines": torch.tensor(list(b"nonsense"), dtype=torch.uint8)},
        folder / "lines.safetensors",
    )
    yield "lines.safetensors", "expected user_ids_lines as JSON strings, one a line"
    save_file(tensors | {"user_ids": torch.zeros(3)}, folder / "float.safetensors")
    yield "float.safetensors", "expected user_ids as int64; got torch.float32"
    factors().rankings(3).save(folder / "rankings.safetensors")
    yield "rankings.safetensors", "a file of rankings: it is given as rankings, not as a teacher"
    (folder / "empty").mkdir()
    yield "empty", "expected a folder with model.safetensors or checkpoint.safetensors"
    (folder / "text.csv").write_text("1,2\n")
    yield "text.csv", "expected a .safetensors, .npz or .pt file, or users.npy,items.npy; got"
    yield "absent.npz", "which does not exist"
    yield "a,b,c,d", "expected users,items or users,items,item_bias as files"


def test_files_of_something_else_are_clear_errors(tmp_path):
    for name, message in broken(tmp_path):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            load_factors(f"{tmp_path}/{name}")
    with pytest.raises(ValueError, match=r"expected a \.npz or \.safetensors file; got f\.npy"):
        export_factors(factors(), "f.npy")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("exclude", [False, True])
def test_a_program_gives_the_models_lists_for_any_batch(tmp_path, dtype, exclude):
    made = factors(dtype)
    export_program(made, tmp_path / "f.pt2", k=7, exclude=exclude)
    assert [p.name for p in tmp_path.iterdir()] == ["f.pt2"]
    program = torch.export.load(tmp_path / "f.pt2").module()
    for B in (1, 2, 5, 300):
        users = torch.randint(0, U, (B,), generator=torch.Generator().manual_seed(B))
        seen = CSR.from_any(torch.rand(B, N, generator=torch.Generator().manual_seed(B)) < 0.4)
        lists = (seen.indptr, seen.indices) if exclude else ()
        scores, indices, lengths = program(users, *lists)
        expected = inner_product_topk(made.users[users], made.items, 7, lists or None, made.item_bias)
        assert torch.equal(indices, expected.indices)
        assert torch.equal(lengths, expected.lengths)
        assert torch.equal(scores, expected.scores + made.user_bias[users, None])
    if exclude:  # none, and all of them
        nothing = program(torch.tensor([4]), torch.tensor([0, 0]), torch.zeros(0, dtype=torch.int64))
        assert torch.equal(nothing[1], made.topk(torch.tensor([4]), 7).indices)
        assert program(torch.tensor([4]), torch.tensor([0, N]), torch.arange(N))[2].tolist() == [0]


def test_a_program_serves_where_only_the_operators_are_imported(tmp_path):
    made = factors(user_bias=None)
    export_program(made, tmp_path / "f.pt2", k=3)
    code = f"""
import json, sys, torch, rankdistill.ops
ids = {{"item_ids": "", "user_ids": ""}}
program = torch.export.load({str(tmp_path / "f.pt2")!r}, extra_files=ids).module()
rows = program(torch.tensor([5, 2]))[1].tolist()
items = [json.loads(line) for line in ids["item_ids"].splitlines()]
assert not any(name.startswith("rankdistill." + part) for name in sys.modules for part in ("models", "data", "losses"))
print([[items[row] for row in line] for line in rows])
"""
    rows = made.topk(torch.tensor([5, 2]), 3).indices
    assert output(code) == str(INTEGERS[rows.numpy()].tolist())


def test_programs_that_cannot_be_are_clear_errors(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"expected a \.pt2 file; got f\.pt"):
        export_program(factors(), "f.pt", 3)
    with pytest.raises(ValueError, match="expected k of 1 or more; got int 0"):
        export_program(factors(), "f.pt2", 0)
    with pytest.raises(TypeError, match="expected k as an int; got float 2.5"):
        export_program(factors(), "f.pt2", 2.5)
    real = torch.export.load
    monkeypatch.setattr(torch.export, "load", lambda file: real(file) and OtherProgram())
    with pytest.raises(
        RuntimeError, match="expected a program with the lists of the factors; got other lists"
    ):
        export_program(factors(), tmp_path / "f.pt2", 3)
    assert not list(tmp_path.iterdir()), "a program that is wrong does not appear"


class OtherProgram:
    def module(self):
        return lambda users: tuple(part + 1 for part in as_teacher(factors()).topk(users, 3))


@pytest.mark.parametrize("suffix", ["pt", "pth"])
@pytest.mark.parametrize("old", [False, True])
def test_tensors_that_torch_saved(tmp_path, suffix, old):
    made, path = factors(user_ids=None, item_ids=None), tmp_path / f"f.{suffix}"
    tensors = {n: getattr(made, n) for n in ("users", "items", "item_bias", "user_bias")}
    torch.save(tensors | {"item_ids": torch.arange(made.n_items) + 3, "epoch": 7}, path, _use_new_zipfile_serialization=not old)  # fmt: skip
    same(load_factors(path), dataclasses.replace(made, item_ids=np.arange(made.n_items) + 3))
    torch.save(made.users, tmp_path / "users.pt")
    torch.save({"item.weight": torch.nn.Parameter(made.items)}, tmp_path / f"rest.{suffix}")
    two = load_factors(f"{tmp_path}/users.pt,{tmp_path}/rest.{suffix}#item.weight")
    same(two, factors(item_bias=None, user_bias=None, user_ids=None, item_ids=None))


def test_a_pickle_that_could_run_code_is_refused(tmp_path):
    torch.save({"users": torch.ones(2, 2), "config": dataclasses.field}, tmp_path / "f.pt")
    with pytest.raises(
        ValueError, match=r"load_factors: expected tensors that torch.save wrote; got .*f.pt: "
    ):
        load_factors(tmp_path / "f.pt")
    torch.save([torch.ones(2, 2)], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="expected a tensor or a dict of tensors; got list"):
        load_factors(tmp_path / "list.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "f.pt").read_bytes()[:100])
    with pytest.raises(ValueError, match="expected tensors that torch.save wrote"):
        load_factors(tmp_path / "cut.pt")
    torch.save({"user_emb": torch.ones(2, 2), "item_emb": torch.ones(2, 2)}, tmp_path / "names.pt")
    with pytest.raises(ValueError, match="got item_emb, user_emb in .*names.pt#NAME"):
        load_factors(tmp_path / "names.pt")
