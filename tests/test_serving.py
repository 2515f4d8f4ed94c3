"""The serving benchmark: it times what a server does, in turn, and says under what conditions."""

from __future__ import annotations

import json

import pytest
import torch

from rankdistill import Factors, serving
from rankdistill.cli import main
from rankdistill.data import CSR
from rankdistill.models import export_factors
from tests.case import randn

QUICK = {"queries": 100, "warmup": 0.0}


def factors(width, n_items=200, **more) -> Factors:
    return Factors(randn(30, width, seed=1), randn(n_items, width, seed=2), **more)


@pytest.mark.parametrize("prepares", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_a_query_is_what_the_model_lists(monkeypatch, prepares, biased):
    biases = {"item_bias": randn(200, seed=3), "user_bias": randn(30, seed=4)} if biased else {}
    made, found = factors(8, **biases), []
    real = serving.inner_product_topk
    monkeypatch.setattr(serving, "inner_product_topk", lambda *args: found.append(real(*args)) or found[-1])
    seen = CSR.from_any(torch.rand(30, 200, generator=torch.Generator().manual_seed(1)) < 0.2)
    users = torch.tensor([7, 7, 2])
    serving.Server(made, 5, seen, prepares).query(users)
    assert all(map(torch.equal, found[0], made.topk(users, 5, seen.rows(users))))


def test_models_are_asked_in_turn_for_the_same_users(monkeypatch):
    asked = []
    monkeypatch.setattr(
        serving.Server, "query", lambda self, users: asked.append((self.factors.width, users.tolist()))
    )
    monkeypatch.setattr(serving, "peak_beside", lambda call, on_cuda: (None, call()))
    serving.measure({"a": factors(4), "b": factors(8)}, 5, [3], **QUICK)
    timed = asked[2:]  # one untimed query each
    assert [width for width, _ in timed[:8]] == [4, 8, 8, 4, 4, 8, 8, 4]
    assert all(timed[i][1] == timed[i + 1][1] for i in range(0, 200, 2))
    assert len({str(users) for _, users in timed}) > 90


def test_numbers_fit_each_other():
    rows = serving.measure({"student": factors(8), "teacher": factors(64)}, 5, [1, 20], **QUICK)
    assert [(row.model, row.batch_size) for row in rows] == [("student", 1), ("teacher", 1), ("student", 20), ("teacher", 20)]  # fmt: skip
    for row in rows:
        assert row.queries == 100
        assert 0 < row.p50_ms <= row.p99_ms
        assert row.users_per_second == pytest.approx(row.batch_size / row.mean_ms * 1e3)
        width = 8 if row.model == "student" else 64
        assert (row.user_bytes, row.item_bytes) == (30 * width * 4, 200 * width * 4)
    assert rows[0].times_first == rows[2].times_first == 1.0
    assert rows[1].times_first == pytest.approx(rows[1].p50_ms / rows[0].p50_ms)


def test_the_peak_of_a_call_is_seen():
    megabytes = lambda: torch.ones(64 << 18).sum()
    peak, _ = serving.peak_beside(megabytes, False)
    if peak is None:
        pytest.skip("the system does not tell a process its peak memory")
    assert 60 << 20 < peak < 100 << 20


@pytest.fixture
def files(tmp_path):
    export_factors(factors(8), tmp_path / "student.npz")
    export_factors(factors(64), tmp_path / "teacher.safetensors")
    return tmp_path


def test_the_command_prints_one_table_and_writes_it(files, capsys):
    before = torch.get_num_threads()
    arguments = ["bench-serving", f"--student={files}/student.npz", f"--teacher={files}/teacher.safetensors",
                 "--k=7", "--batch_sizes=[1,4]", "--queries=100", "--warmup=0", "--threads=1", f"--out={files}/out"]  # fmt: skip
    assert main(arguments) == 0
    assert torch.get_num_threads() == before
    printed = capsys.readouterr().out
    text = (files / "out" / "serving.md").read_text()
    assert printed.count("| student") == printed.count("| teacher") == 2
    assert printed.split("\n\nEverything")[0] in text
    assert "1 threads of torch" in text
    results = json.loads((files / "out" / "serving.json").read_text())
    assert (results["torch_threads"], results["k"], results["excluded_items_per_user"]) == (1, 7, None)
    assert [row["batch_size"] for row in results["rows"]] == [1, 1, 4, 4]


def test_train_items_are_left_out_where_data_are_named(files, capsys):
    data = (
        "--data.options={n_users: 30, n_items: 200, mean_interactions: 9, min_interactions: 6, n_groups: 4}"
    )
    assert main(["bench-serving", f"--student={files}/student.npz", data, "--queries=100", "--warmup=0", "--batch_sizes=[2]",
                 f"--out={files}/out"]) == 0  # fmt: skip
    assert json.loads((files / "out" / "serving.json").read_text())["excluded_items_per_user"] > 4
    assert "items per user left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--queries=99"], "bench-serving: expected queries of 100 or more, for p99; got int 99"),
        (["--k=0"], "bench-serving: expected k of 1 or more; got int 0"),
        (["--batch_sizes=[]"], "bench-serving: expected batch_sizes of 1 or more; got list []"),
        (["--teacher=nothing.npz"], "nothing.npz, which does not exist"),
        (["--data.options={n_users: 31, n_items: 200}"], "expected rows of 31 users"),
    ],
)
def test_bad_arguments_are_one_clear_line(files, arguments, message, capsys):
    assert main(["bench-serving", f"--student={files}/student.npz", f"--out={files}/out", *arguments]) == 1
    assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match="expected models of 30 users × 9 items; got 30 × 200 of a"):
        serving.measure({"a": factors(4)}, 5, exclude=CSR.empty(30, 9), **QUICK)


def test_times_are_quantiles():
    server = serving.Server(factors(4), 5, None, True)
    row = serving._served("a", server, 1, [float(i) for i in range(101)], [1.0], torch.tensor([0]))
    assert (row.p50_ms, row.p99_ms, row.mean_ms) == (50.0, 99.0, 50.0)


def test_models_of_different_users_are_asked_for_those_of_both():
    few = Factors(randn(3, 4, seed=1), randn(200, 4, seed=2))
    assert len(serving.measure({"a": factors(4), "b": few}, 5, [2], **QUICK)) == 2


def test_queries_belong_to_their_seed(monkeypatch):
    asked = []
    monkeypatch.setattr(serving.Server, "query", lambda self, users: asked.append(users.tolist()))
    monkeypatch.setattr(serving, "peak_beside", lambda call, on_cuda: (None, call()))
    for seed in (0, 1):
        serving.measure({"a": factors(4)}, 5, [3], seed=seed, **QUICK)
    assert asked[: len(asked) // 2] != asked[len(asked) // 2 :]
