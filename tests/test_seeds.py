"""Several seeds: each is the run that it would be alone, is run once, and goes on after a kill."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from rankdistill import Trainer, load_factors
from rankdistill.cli import main
from rankdistill.data import generate
from rankdistill.methods import METHODS
from rankdistill.metrics import evaluate
from rankdistill.models.saved import load_teacher
from rankdistill.seeds import seeds_of
from tests.process import kill_at_line

OPTIONS = {"n_users": 120, "n_items": 150, "mean_interactions": 15, "min_interactions": 6, "n_groups": 5}
SMALL = [f"--data.options={json.dumps(OPTIONS)}", "--progress=false", "--training.evaluate_every=1", "--training.batch_size=256"]  # fmt: skip


def train(out, *more, epochs=3) -> int:
    return main(["train", *SMALL, f"--training.epochs={epochs}", "--model.width=4", f"--out={out}", *more])


def kept(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "user_metrics.safetensors")


@pytest.mark.parametrize(
    ("given", "expected"),
    [("0..4", [0, 1, 2, 3, 4]), ("7..7", [7]), ("3,0, 9", [3, 0, 9]), ([5, 1], [5, 1]), (4, [4]), ("4", [4])],
)
def test_seeds_are_spans_or_lists(given, expected):
    assert seeds_of(given) == expected


@pytest.mark.parametrize("given", ["4..0", "0-4", "", "1,1", [], [-1], "a", "1,,2", [2, 2]])
def test_what_names_no_seeds_is_a_clear_error(given):
    with pytest.raises(
        ValueError, match="seeds: expected 0..4, or a list of different seeds of 0 or more; got"
    ):
        seeds_of(given)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "out"
    assert train(out, "--seeds=0..2") == 0
    return out


def test_a_seed_is_the_run_that_it_would_be_alone(plain, tmp_path):
    assert train(tmp_path, "--training.seed=2") == 0
    assert torch.equal(load_factors(tmp_path).users, load_factors(plain / "seed-2").users)
    assert not torch.equal(load_factors(plain / "seed-1").users, load_factors(plain / "seed-2").users)
    dataset = generate(**OPTIONS)
    model = load_teacher(str(plain / "seed-2"), dataset)
    expected = evaluate(model, dataset.test.csr(), dataset.held_out_exclude("test"))
    for metric, values in kept(plain / "seed-2").items():
        assert len(values) == int((dataset.test.csr().counts > 0).sum())
        assert float(values.mean()) == pytest.approx(expected[metric], rel=1e-12)


def test_a_finished_seed_is_not_run_again(plain, monkeypatch):
    before = {p: p.stat().st_mtime_ns for p in plain.glob("seed-*/*.safetensors")}
    report = (plain / "seeds.json").read_text()
    trained = []
    real = Trainer.fit
    monkeypatch.setattr(Trainer, "fit", lambda self: trained.append(self.config.seed) or real(self))
    assert train(plain, "--seeds=0..2") == 0
    assert trained == []
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert (plain / "seeds.json").read_text() == report
    assert train(plain, "--seeds=[1, 3]") == 0
    assert trained == [3]
    assert json.loads((plain / "seeds.json").read_text())["seeds"] == [1, 3]


def test_the_report_has_means_deviations_and_tests(plain, tmp_path, capsys):
    pytest.importorskip("scipy", reason="scipy is not installed: no p-values in the report")
    out = tmp_path / "rrd"
    arguments = ["distill", *SMALL, "--training.epochs=3", "--student.width=4", f"--teacher={plain}/seed-0",
                 "--method.list_length=30", f"--out={out}", "--seeds=[0, 2]", f"--compare={plain}"]  # fmt: skip
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    result = json.loads((out / "seeds.json").read_text())
    ours = [kept(out / f"seed-{s}")["recall@50"] for s in (0, 2)]
    others = [kept(path)["recall@50"] for path in sorted(plain.glob("seed-*"))]
    entry = result["metrics"]["recall@50"]
    assert entry["this"]["values"] == [float(v.mean()) for v in ours]
    assert entry["this"]["std"] == pytest.approx(float(torch.tensor(entry["this"]["values"]).std()), rel=1e-5)
    assert len(entry["other"]["values"]) == len(others)
    users = (sum(ours) / len(ours)) - (sum(others) / len(others))
    assert entry["over_users"]["n"] == len(users)
    assert entry["over_users"]["difference"] == pytest.approx(float(users.mean()))
    assert entry["over_seeds"]["n"] == 2
    for text in ("± ", "p users (Wilcoxon)", "over 2 common seeds", f"| {entry['this']['mean']:.4f}"[2:]):
        assert text in printed
    assert printed.split("\n\nEverything")[0] in (out / "seeds.md").read_text()


def test_a_single_run_is_compared_with_by_measuring_its_model(plain, tmp_path):
    assert train(tmp_path / "alone", "--training.seed=5") == 0
    assert train(tmp_path / "two", "--seeds=[0]", f"--compare={tmp_path}/alone") == 0
    result = json.loads((tmp_path / "two" / "seeds.json").read_text())["metrics"]["ndcg@10"]
    assert "over_seeds" not in result
    dataset = generate(**OPTIONS)
    model = load_teacher(f"{tmp_path}/alone", dataset)
    expected = evaluate(model, dataset.test.csr(), dataset.held_out_exclude("test"), [10])["ndcg@10"]
    assert result["other"]["values"] == [pytest.approx(expected, rel=1e-12)]


def test_other_metrics_than_those_kept_are_measured_again(plain, tmp_path):
    assert train(tmp_path, "--seeds=[0]", "--training.metric=mrr@7", f"--compare={plain}") == 0
    result = json.loads((tmp_path / "seeds.json").read_text())
    assert next(iter(result["metrics"])) == "mrr@7"
    assert result["metrics"]["mrr@7"]["over_users"]["n"] > 50


def test_it_is_killed_and_goes_on(tmp_path):
    arguments = [
        sys.executable,
        "-m",
        "rankdistill",
        "train",
        *SMALL,
        "--training.epochs=25",
        "--model.width=4",
        "--seeds=0..2",
    ]
    run = lambda out: subprocess.Popen([*arguments, f"--out={out}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    whole = run(tmp_path / "whole")
    assert whole.wait(300) == 0, whole.stderr.read().decode()
    killed, finished = 0, None
    for seed, lines in ((0, 4), (1, 3), (1, 15), (2, 8)):
        log = tmp_path / "killed" / f"seed-{seed}" / "log.jsonl"
        killed += kill_at_line(run(tmp_path / "killed"), log, lines)
        if seed == 1 and finished is None:
            finished = (tmp_path / "killed" / "seed-0" / "model.safetensors").stat().st_mtime_ns
    assert killed == 4
    last = run(tmp_path / "killed")
    assert last.wait(300) == 0, last.stderr.read().decode()
    assert (tmp_path / "killed" / "seed-0" / "model.safetensors").stat().st_mtime_ns == finished
    for seed in range(3):
        a, b = (kept(tmp_path / side / f"seed-{seed}") for side in ("whole", "killed"))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
    reports = [(tmp_path / side / "seeds.json").read_text() for side in ("whole", "killed")]
    assert reports[0] == reports[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds=4..0"], "seeds: expected 0..4, or a list"),
        (["--compare=PLAIN"], "config: expected seeds beside compare="),
        (["--seeds=[0]", "--compare=OUT/nothing"], "load_factors: expected a model's folder or file"),
        (["--seeds=[0]", "--compare=OUT"], "expected finished seeds or a model to compare with; got"),
        (["--seeds=[0]", "--compare=PLAIN", "--data.seed=1"], "expected a run on this data set, split alike"),
        (["--seeds=[0]", "--training.metric=auc@5"], "config: expected training.metric of recall"),
    ],
)
def test_bad_arguments_are_one_clear_line(arguments, message, plain, tmp_path, capsys):
    arguments = [a.replace("OUT", str(tmp_path)).replace("PLAIN", str(plain)) for a in arguments]
    assert train(tmp_path / "x", *arguments) == 1
    assert message in capsys.readouterr().err


def test_other_settings_need_another_folder(plain, capsys):
    assert (
        main(["train", *SMALL, "--training.epochs=3", "--model.width=5", f"--out={plain}", "--seeds=0..2"])
        == 1
    )
    assert "seeds: expected model.width=4, as " in capsys.readouterr().err
    assert train(plain, "--seeds=0..2", "--data.seed=3") == 1
    assert "expected data.seed=0" in capsys.readouterr().err


def test_a_default_that_has_changed_since_is_other_settings(plain, tmp_path, monkeypatch, capsys):
    """Seeds of one folder are averaged: all must have been distilled alike."""
    arguments = ["distill", *SMALL, "--training.epochs=1", "--student.width=4", f"--teacher={plain}/seed-0",
                 "--method.list_length=30", f"--out={tmp_path}"]  # fmt: skip
    assert main([*arguments, "--seeds=[0]", "--method.options={n_intersting: 5}"]) == 1
    assert "n_interesting" in capsys.readouterr().err
    assert main([*arguments, "--seeds=[0]"]) == 0
    kept_settings = json.loads((tmp_path / "settings.json").read_text())["method"]
    assert kept_settings["options"]["n_interesting"] == 40
    assert kept_settings["weight"] == METHODS["rrd"].default_weight
    monkeypatch.setattr(METHODS["rrd"], "default_weight", 0.25)
    assert main([*arguments, "--seeds=[0, 1]"]) == 1
    assert "seeds: expected method.weight=" in capsys.readouterr().err
    assert not (tmp_path / "seed-1").exists()


def test_another_teacher_in_the_same_place_is_other_settings(plain, tmp_path, capsys):
    teacher = tmp_path / "teacher"
    shutil.copytree(plain / "seed-0", teacher)
    arguments = ["distill", *SMALL, "--training.epochs=1", "--student.width=4", f"--teacher={teacher}",
                 "--method.list_length=30", f"--out={tmp_path}/out"]  # fmt: skip
    assert main([*arguments, "--seeds=[0]"]) == 0
    shutil.rmtree(teacher)
    shutil.copytree(plain / "seed-1", teacher)
    capsys.readouterr()
    assert main([*arguments, "--seeds=[0, 1]"]) == 1
    assert "seeds: expected contents of teacher=" in capsys.readouterr().err
    assert not (tmp_path / "out" / "seed-1").exists()
