"""Tables divided by rows among two and three ranks: values, gradients and errors of one rank with the whole table."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from benchmarks.harness import Shape
from benchmarks.sharded_items import on_ranks
from torch import Tensor

from rankdistill import data, functional, ops, sharded
from rankdistill.metrics import evaluate
from rankdistill.models import MatrixFactorization
from tests.robust import sharded_ranks
from tests.robust.sharded_ranks import CUTS, OPS, SPLITS, STEPS, TRAININGS, B, D, K, N, U, batch, numbers

SCRIPT = Path(__file__).with_name("sharded_ranks.py")
DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Ranks:
    """What the processes answered, by rank."""

    world: int
    folder: Path
    answers: list[dict]

    def every(self, name: str) -> list:
        found = [answers[name] for answers in self.answers]
        wrong = [one for one in found if isinstance(one, str)]
        assert not wrong, wrong
        return found


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request, tmp_path_factory) -> Ranks:
    world, folder = request.param, tmp_path_factory.mktemp("ranks")
    model, optimizer = sharded_ranks.begun(1)
    sharded_ranks.train(model, optimizer, range(2), slice(None), sharded_ranks.listed_loss)
    sharded.save_sharded(folder / "alone", model, {"optimizer": optimizer})
    command = [sys.executable, str(SCRIPT)]
    processes = [
        subprocess.Popen([*command, str(rank), str(world), str(folder)], cwd="/", stderr=subprocess.PIPE, text=True)
        for rank in range(world)
    ]  # fmt: skip
    ended = [(process.communicate(timeout=240)[1], process.returncode) for process in processes]
    assert [status for _, status in ended] == [0] * (world - 1) + [9], [text for text, _ in ended]
    return Ranks(world, folder, [torch.load(folder / f"answers-{rank}") for rank in range(world)])


class Whole:
    """The whole batch on one rank with the whole table."""

    def __init__(self, dtype: torch.dtype) -> None:
        for name, value in batch(dtype).items():
            setattr(self, name, value)
        for table in (self.users, self.items, self.bias):
            table.requires_grad_()

    def expected(self, name: str) -> dict[str, Tensor]:
        scores = lambda ids, bias=None: ops.gathered_inner_product(
            self.users, self.items, ids, item_bias=bias
        )
        tables = self.users, self.items
        if name == "lookup":
            rows = self.items[self.ids]
            (rows * self.weights[:, :3, None]).sum().backward()
            return {"values": rows.detach(), "rows": self.items.grad}
        if name == "lists":
            found = ops.inner_product_topk(
                *(t.detach() for t in tables), 13, self.exclude, self.bias.detach()
            )
            return dict(zip(("values", "indices", "lengths"), found))
        values = {
            "few scores": lambda: scores(self.few),
            "scores with biases": lambda: scores(self.listed, self.bias),
            "embedding": lambda: ops.embedding_plackett_luce(*tables, self.listed, K, self.lengths),
            "log-mass": lambda: ops.catalogue_log_mass(*tables, self.exclude, self.bias),
            "catalogue": lambda: ops.catalogue_plackett_luce(*tables, self.ended),
            "catalogue but some": lambda: ops.catalogue_plackett_luce(
                *tables, self.listed[:, :K], self.lengths, self.exclude, self.bias
            ),
        }.get(name, lambda: scores(self.listed))()
        weights = self.weights[:, : values.shape[1]] if values.dim() == 2 else self.weights[:, 0]
        (torch.where(values > -torch.inf, values, 0) * weights).sum().backward()
        grads = {"rows": self.items.grad, "users": self.users.grad, "bias": self.bias.grad}
        return {"values": values.detach()} | grads


SAME_BITS = ("lookup", "scores", "few scores", "lists")  # of the values: none is a sum over ranks


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("name", OPS)
def test_values_and_gradients_are_those_of_one_rank(ranks, name, cuts, dtype):
    found = ranks.every(f"{name}, {cuts}, {dtype}")
    expected = Whole(getattr(torch, dtype)).expected(name)
    tight = 1e-12 if dtype == "float64" else 2e-6
    for part, wanted in expected.items():
        parts = [one.get(part) for one in found]
        if wanted is None:
            assert all(one is None for one in parts), part
            continue
        joined = torch.cat([one for one in parts if one is not None])
        assert (joined.dtype, joined.shape) == (wanted.dtype, wanted.shape), part
        if part in ("indices", "lengths") or (part == "values" and name.startswith(SAME_BITS)):
            assert torch.equal(joined, wanted), part
        else:
            bound = tight * (1 + wanted.abs())
            assert bool(((joined - wanted).abs() <= bound).all()), (part, (joined - wanted).abs().max())


@pytest.mark.parametrize("name", OPS)
def test_no_rows_on_any_rank(ranks, name):
    for found in ranks.every(f"{name}, no rows"):
        assert not len(found["values"])
        assert found.get("rows") is None or not bool(found["rows"].any())


def test_lists_of_narrow_tables_are_those_of_one_rank(ranks):
    whole = batch(torch.bfloat16)
    for part, wanted in zip(
        zip(*ranks.every("bfloat16")), ops.inner_product_topk(whole["users"], whole["items"], 13)
    ):
        assert torch.equal(torch.cat(part), wanted)


SLIPS = {
    "an id too large": "IndexError: ShardedTable.lookup: expected ids in [0, 90); got ",
    "ids of no kind": "TypeError: ShardedTable.lookup: expected ids as an int64 tensor; got int32 ",
    "a listed id too large": "IndexError: catalogue_plackett_luce: expected listed item_ids in [-1, 90); got ",
    "users of another width": "ValueError: catalogue_log_mass: expected users of width 16, as the table; got float32 [3, 17]",
}
UNLIKE = {
    "lists of another length": "ValueError: gathered_inner_product of 7 items a row with gradients of rows: expected every "
    "rank to call it; got gathered_inner_product of 6 items a row with gradients of rows on rank {last}",
    "gradients of some": "ValueError: catalogue_log_mass with gradients of users, rows: expected every rank to call it; "
    "got catalogue_log_mass with gradients of rows on rank {last}",
    "another op": "ValueError: catalogue_log_mass with gradients of rows: expected every rank to call it; got "
    "ShardedTable.lookup with gradients of rows on rank {last}",
    "another k": "ValueError: inner_product_topk of 5: expected every rank to call it; got inner_product_topk of 6 on "
    "rank {last}",
    "tables of another width": "ValueError: ShardedTable: expected the same width on all ranks; got 16 on rank 0, 17 on "
    "rank {last}",
    "tables of another size": "ValueError: ShardedTable: expected the same n_rows on all ranks; got 90 on rank 0, 91 on "
    "rank {last}",
    "another seed": "ValueError: ShardedTable: expected the same generator on all ranks; got ",
}


def test_a_slip_of_one_rank_is_an_error_on_all_and_the_group_goes_on(ranks):
    last = ranks.world - 1
    *others, own = (answers["failures"] for answers in ranks.answers)
    for name, text in SLIPS.items():
        assert own[name].startswith(text), own[name]
        told = f"AgreementError: ShardedTable: expected every process to go on; got a failure of rank {last}: {own[name]}"
        assert [one[name] for one in others] == [told] * last
    for name, text in UNLIKE.items():
        for one in others:
            assert one[name].startswith(text.format(last=last)), one[name]
        assert own[name].startswith("ValueError: "), own[name]
    rows = torch.cat([one["a good call after all these"] for one in (*others, own)])
    assert torch.equal(rows, batch()["items"][batch()["ids"]])


def test_gradients_that_need_no_sum_over_ranks_are_named():
    model = torch.nn.ModuleList(
        [sharded_ranks.factorization(1, "adam", replicate_users=True), torch.nn.Linear(2, 2)]
    )
    assert {id(p) for p in sharded.summed_parameters(model)} == {id(t) for t in model[0].tables()}


def alone(key: str) -> MatrixFactorization:
    """The same training on one rank."""
    name = key.split(",")[0]
    model = MatrixFactorization(U, N, 8, seed=3, init_std=0.1, sparse_grad=name != "adam")
    optimizer = sharded_ranks.optimizer_of(name, model)

    def listed(model, users, lists):
        model.reading(users, lists)
        sparse = model.sparse_grad
        return ops.embedding_plackett_luce(*model.tables(), lists, 4, user_ids=users, sparse_grad=sparse)

    sharded_ranks.train(model, optimizer, range(STEPS), slice(None), listed)
    getattr(optimizer, "catch_up", lambda: None)()
    return model


@pytest.mark.parametrize("key", TRAININGS)
def test_training_is_that_of_one_rank_and_goes_on_after_a_stop(ranks, key):
    found, model = ranks.every(key), alone(key)
    first = MatrixFactorization(U, N, 8, seed=3, init_std=0.1)
    replicated = TRAININGS[key].get("replicate_users", False)
    for side, (table, initial) in enumerate(zip(model.tables(), first.tables())):
        parts = [one["tables"][side] for one in found], [one["initial"][side] for one in found]
        if side == 0 and replicated:
            assert all(torch.equal(part, parts[0][0]) for part in parts[0]), "copies part"
            parts = [p[:1] for p in parts]
        ended, begun = (torch.cat(part) for part in parts)
        assert torch.equal(begun, initial)
        assert float((ended - begun).abs().max()) > 0.01
        torch.testing.assert_close(ended, table.detach(), rtol=0, atol=2e-5)
    assert all(one["resumed alike"] for one in found), "the same number of ranks goes on with the same bits"


@pytest.mark.parametrize("key", TRAININGS)
def test_a_checkpoint_of_several_ranks_is_one_of_one_rank(ranks, key):
    name = key.split(",")[0]
    replicated = TRAININGS[key].get("replicate_users", False)
    model = sharded_ranks.factorization(1, name, replicate_users=replicated)
    optimizer = sharded_ranks.optimizer_of(name, model)
    facts = sharded.load_sharded(ranks.folder / key, model, {"optimizer": optimizer})
    sharded_ranks.train(model, optimizer, range(facts["step"], STEPS), slice(None), sharded_ranks.listed_loss)
    getattr(optimizer, "catch_up", lambda: None)()
    for side, table in enumerate(model.tables()):
        parts = [one["tables"][side] for one in ranks.every(key)]
        whole = parts[0] if side == 0 and replicated else torch.cat(parts)
        torch.testing.assert_close(table.detach(), whole, rtol=0, atol=2e-5)


def test_a_checkpoint_of_one_rank_is_one_of_several(ranks):
    parts = sharded_ranks.loaded(1, ranks.folder)
    assert bool(parts[2].any())
    for whole, found in zip(parts, zip(*ranks.every("loaded"))):
        assert torch.equal(torch.cat(found), whole)


def test_a_checkpoint_without_room_leaves_the_former_one(tmp_path):
    def saved(width: int) -> sharded.ShardedFactorization:
        model = sharded.ShardedFactorization(200, 100, width)
        sharded.save_sharded(
            tmp_path / "kept", model, {"adam": torch.optim.Adam(model.parameters())}, {"width": width}
        )
        return model

    model = saved(4)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(
            OSError, match=r"save_sharded: expected 1,200,000 bytes of room in .*kept; got .* on rank 0"
        ):
            saved(1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    again = sharded.ShardedFactorization(200, 100, 4, seed=9)
    assert sharded.load_sharded(tmp_path / "kept", again, {}) == {"width": 4}
    assert all(torch.equal(a, b) for a, b in zip(model.tables(), again.tables()))
    for part in (tmp_path / "kept").glob("*.distcp"):
        part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(OSError, match=r"load_sharded: expected whole files in .*kept; got .* on rank 0"):
        sharded.load_sharded(tmp_path / "kept", again, {})


def test_a_former_checkpoint_goes_once_the_new_one_is_on_the_disk(tmp_path, monkeypatch):
    """All its files and both folders: a machine that stops then has one of the two whole."""
    model, folder = sharded.ShardedFactorization(20, 10, 4), tmp_path / "kept"
    real, synced = os.fsync, []

    def fsync(handle: int) -> None:
        synced.append((Path(os.readlink(f"/proc/self/fd/{handle}")), {p.name for p in tmp_path.iterdir()}))
        real(handle)

    for width in (1, 2):
        synced.clear()
        monkeypatch.setattr(os, "fsync", fsync)
        sharded.save_sharded(folder, model, facts={"width": width})
        monkeypatch.undo()
    within = [path.relative_to(tmp_path) for path, _ in synced]
    assert within[-2:] == [Path("kept.partial"), Path()]
    assert synced[-1][1] == {"kept", "kept.former"}
    written = {path.name.strip(".").split(".")[0] for path in within[:-2]}
    assert {p.name.strip(".").split(".")[0] for p in folder.iterdir()} <= written
    assert {p.name for p in tmp_path.iterdir()} == {"kept"}


def test_a_checkpoint_of_another_model_is_an_error(ranks):
    model = sharded.ShardedFactorization(U, N + 1, 8)
    with pytest.raises(ValueError, match=r"expected '/item_table.rows' of \(91, 8\); got \(90, 8\)"):
        sharded.load_sharded(ranks.folder / "adam", model, {})
    with pytest.raises(ValueError, match="which the model and its optimisers has not"):
        sharded.load_sharded(ranks.folder / "adam", sharded_ranks.factorization(1, "adam"), {})
    with pytest.raises(FileNotFoundError, match="expected a checkpoint; got none in"):
        sharded.load_sharded(ranks.folder / "nothing", model, {})


def test_evaluation_is_that_of_one_rank_ties_included(ranks):
    model = MatrixFactorization(U, N, 8, seed=3, init_std=0.1)
    sharded_ranks.with_ties(model)
    expected = evaluate(model, *sharded_ranks.judged(), [5, 20])
    for found in ranks.every("evaluation"):
        assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "reduction"), [("cosine", "sum"), ("inner_product", "mean"), ("squared_distance", "sum")]
)
def test_topology_of_the_union_of_batches(ranks, kind, reduction):
    whole, found = batch(), ranks.every(kind)
    users, items = whole["users"].requires_grad_(), whole["items"].requires_grad_()
    listed = torch.unique(whole["listed"][whole["listed"] >= 0])
    teacher = torch.cat([numbers(B, 24, seed=10), numbers(N, 24, seed=9)[listed]])
    expected = functional.full_topology_distillation(
        teacher, torch.cat([users, items[listed]]), kind, reduction
    )
    expected.backward()
    torch.testing.assert_close(sum(one["loss"] for one in found), expected.detach(), rtol=5e-6, atol=0)
    for name, grad in (("users", users.grad), ("rows", items.grad)):
        joined = torch.cat([one[name] for one in found])
        assert bool(((joined - grad).abs() <= 1e-5 * (1 + grad.abs())).all()), name


def test_topology_sends_gram_matrices_and_ids(ranks):
    W, whole = ranks.world, batch()
    cuts, splits = CUTS["empty"][W], SPLITS["uneven"][W]
    for rank, found in enumerate(ranks.every("cosine")):
        listed = torch.unique(whole["listed"][splits[rank] : splits[rank + 1]])
        listed = listed[listed >= 0]
        elsewhere = int(
            ((listed < cuts[rank]) | (listed >= cuts[rank + 1])).sum()
        )  # users are all their rank's own
        grams = sum(8 * entries * 2 * (W - 1) // W for entries in (D * D, D * 24, 24 * 24))
        assert found["sent"] == (W - 1) * 8 * (2 * W + 6) + 4 * elsewhere + grams + 4 * 2 * (W - 1) // W


def test_the_catalogue_sends_users_and_lists_whatever_the_number_of_items(ranks):
    splits, W = SPLITS["uneven"][ranks.world], ranks.world
    for rank, found in enumerate(ranks.every("bytes")):
        own = slice(splits[rank], splits[rank + 1])
        rows = own.stop - own.start
        for (sent, counted), times in zip(found, (1, 10), strict=True):
            assert sent == counted, "the table's own count"
            lists = batch()["ended"] * times
            cuts = torch.tensor(sharded.Layout.even(N * times, W).starts)
            owner = torch.bucketize(lists, cuts[1:], right=True)
            here, others_rows = (lists >= 0) & (owner == rank), B - rows
            to_others = int((lists[own] >= 0).sum() - here[own].sum())
            from_others = int(here.sum() - here[own].sum())
            # agreement; users there, their gradients back; list sizes; ids and gradients there, scores back; masses, both
            expected = (W - 1) * 8 * (2 * W + 6) + 4 * D * ((W - 1) * rows + others_rows)
            expected += (
                (W - 1) * 4 * rows + 8 * to_others + 4 * from_others + 4 * ((W - 1) * rows + others_rows)
            )
            assert sent == expected


def test_a_rank_that_ends_is_an_error_on_the_others(ranks):
    *others, last = ranks.answers
    assert "a rank that ends" not in last
    for answers in others:
        text = answers["a rank that ends"]
        assert isinstance(text, str), "a backward went on without a rank"
        assert text.startswith("AgreementError: ShardedTable: expected every process to answer; got "), text


@pytest.mark.slow
def test_a_rank_holds_its_rows_and_their_optimiser():
    """Peak above an idle rank, of a table in two parts under lazy Adam: rows and two moments, times 1.3 at most."""
    shape = Shape("two ranks", {"B": 128, "N": 400_000, "D": 64, "K": 40, "L": 40})
    for found in on_ranks(2, "memory", shape, 1):
        assert 3 * found["slice"] < found["peak"] < 1.3 * 3 * found["slice"]


@pytest.mark.parametrize("starts", [(0,), (1, 2), (0, 3, 2)])
def test_a_layout_begins_at_0_and_never_falls(starts):
    with pytest.raises(
        ValueError, match="^Layout: expected starts from 0 on that never fall, two or more; got"
    ):
        sharded.Layout(starts)


@pytest.mark.parametrize("kind", [sharded.ShardedTable, sharded.ReplicatedTable])
def test_a_table_is_of_floats(kind):
    with pytest.raises(TypeError, match=f"^{kind.__name__}: expected rows as a float"):
        kind(torch.zeros(3, 2, dtype=torch.int64))


def test_the_pages_loop_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs" / "distributed.md").read_text(encoding="utf-8")
    program = text.split("<!-- sharded -->\n```python\n")[1].split("```")[0]
    lists = torch.stack(
        [torch.randperm(60, generator=torch.Generator().manual_seed(u))[:50] for u in range(9)]
    )
    ids = torch.arange(9)
    names = {
        "n_users": 9, "n_items": 60, "epochs": 2, "batches": lambda _: [(ids, ids + 3, (ids + 5)[:, None], lists)],
        "truth": data.CSR.from_pairs(ids, lists[:, 0], 9, 60), "exclude": data.CSR.empty(9, 60),
    }  # fmt: skip
    before = MatrixFactorization(9, 60, 64).item_table
    exec(program, names)  # noqa: S102
    assert not torch.equal(names["model"].item_table.rows, before)
    assert 0 <= names["metrics"]["recall@10"] <= 1
    again = sharded.ShardedFactorization(9, 60, width=64, seed=1, sparse_grad=True)
    assert sharded.load_sharded("checkpoint", again, {"adam": names["LazyAdam"](again.tables())}) == {
        "epoch": 1
    }
    assert torch.equal(again.item_table.rows, names["model"].item_table.rows)
