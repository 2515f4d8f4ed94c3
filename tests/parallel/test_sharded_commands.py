"""`train` and `distill` with tables divided by rows: under torchrun, on one process, and what they refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rankdistill.cli import main
from rankdistill.models import load_factors

ROOT = Path(__file__).parents[2]
SMALL = [
    "--data.options={n_users: 150, n_items: 120, mean_interactions: 15, min_interactions: 6, n_groups: 5}",
    "--progress=false",
]
TRAINING = ["--training.evaluate_every=1", "--training.batch_size=256", "--training.learning_rate=0.01"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    assert (
        main(["train", *SMALL, *TRAINING, "--training.epochs=3", "--model.width=16", f"--out={folder}"]) == 0
    )
    return folder


def under_torchrun(n: int, *arguments: str) -> str:
    """What rank 0 prints."""
    program = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}", "-m", "rankdistill")
    done = subprocess.run(
        [sys.executable, *program, *arguments], env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd="/", timeout=200,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def history(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_student_under_torchrun_is_that_of_one_process(teacher, tmp_path, capsys):
    """Distilled above the whole catalogue, in two parts; then ranked, exported and evaluated as any model."""
    distil = [
        "distill", *SMALL, *TRAINING, f"--teacher={teacher}", "--student.width=8", "--method.list_length=30",
        "--method.options={n_interesting: 10, n_uninteresting: null}", "--method.weight=0.01",
    ]  # fmt: skip
    assert main([*distil, "--training.epochs=3", f"--out={tmp_path}/one"]) == 0
    capsys.readouterr()
    sharded = [*distil, "--student.sharded=true", f"--out={tmp_path}/two"]
    under_torchrun(2, *sharded, "--training.epochs=2")
    printed = under_torchrun(2, *sharded, "--training.epochs=3")
    one, two = load_factors(tmp_path / "one"), load_factors(tmp_path / "two")
    torch.testing.assert_close(two.users, one.users, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(two.items, one.items, rtol=1e-4, atol=1e-5)
    assert (two.item_ids == one.item_ids).all()
    for found, wanted in zip(history(tmp_path / "two"), history(tmp_path / "one"), strict=True):
        assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
        assert found.keys() == wanted.keys()
    assert main(["evaluate", *SMALL[:1], f"--model={tmp_path}/two"]) == 0
    metrics, _, place = printed.strip().partition("\n\n")
    assert capsys.readouterr().out.strip() == metrics, "once, by rank 0"
    assert place == f"Everything is in {tmp_path}/two/"
    assert main(["export", f"--model={tmp_path}/two", f"--out={tmp_path}/two.npz"]) == 0


def test_one_process_has_all_rows(tmp_path):
    train = ["train", *SMALL, *TRAINING, "--training.epochs=2", "--model.options={init_std: 0.1}"]
    for name, more in (("whole", []), ("rows", ["--model.sharded=true"])):
        assert main([*train, *more, f"--out={tmp_path}/{name}"]) == 0
    whole, rows = load_factors(tmp_path / "whole"), load_factors(tmp_path / "rows")
    torch.testing.assert_close(rows.items, whole.items, rtol=1e-5, atol=1e-6)
    assert (tmp_path / "rows" / "checkpoint" / "facts.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--model.sharded=true", "--model.name=lightgcn"], "config: expected name of mf for a sharded model; got lightgcn"),
        (["train", "--model.sharded=true", "--trajectory.every=2"], "expected model.sharded of false for train with a trajectory; got True"),
        (["run", "--student.sharded=true"], "config: expected student.sharded of false for run; got True"),
        (["tune", "--student.sharded=true"], "config: expected student.sharded of false for tune; got True"),
        (["distill", "--new_teacher.sharded=true"], "config: expected new_teacher.sharded of false for distill; got True"),
        (
            ["train", "--model.sharded=true", "--model.options={init_sdt: 1}"],
            "build_model: expected options of init_std, replicate_users for sharded mf; got 'init_sdt'. The nearest key is init_std",
        ),
        (
            ["distill", "--teacher=TEACHER", "--student.sharded=true", "--method.name=bd"],
            "BidirectionalDistillation: expected a student with whole tables, as it reads scores of all items",
        ),
    ],
)  # fmt: skip
def test_what_is_for_whole_models_is_one_clear_line(arguments, message, teacher, tmp_path, capsys):
    arguments = [a.replace("TEACHER", str(teacher)) for a in arguments]
    assert main([*arguments, *SMALL, *TRAINING, "--training.epochs=1", f"--out={tmp_path}/out"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_a_rank_holds_its_slice(tmp_path):
    """Rows, two moments, the evaluation's copy, a checkpoint on its way: six slices at most; and writing no table."""
    program = (
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "tests.parallel.sharded_memory",
    )
    done = subprocess.run(
        [sys.executable, *program, str(tmp_path)], env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=ROOT, timeout=200,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert 3 * found["slice"] < found["trained"] < 6 * found["slice"]
        assert found["written"] < 3 * (32 << 20), "pieces of 32 MiB"
