"""Methods of the command line that need more than one teacher's rankings: what they are given, and how they resume."""

from __future__ import annotations

import json

import pytest
import torch

from rankdistill.checkpoint import load_checkpoint
from rankdistill.cli import main
from rankdistill.commands import open_dataset
from rankdistill.config import DataConfig, DistillConfig, MethodConfig, ModelConfig, TrainingConfig
from rankdistill.data import generate
from rankdistill.methods import base_weight, given_for
from rankdistill.models.saved import build_model

SMALL = [
    "--data.options={n_users: 120, n_items: 100, mean_interactions: 12, min_interactions: 6, n_groups: 5}",
    "--progress=false",
]
TRAINING = ["--training.evaluate_every=1", "--training.batch_size=256", "--training.keep_best=false"]
EPOCHS = 8


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Two teachers and their trajectories, trained a little too slowly to be converged."""
    folders = []
    for seed, width in ((0, 16), (1, 12)):
        folder = tmp_path_factory.mktemp("teacher")
        arguments = ["train", *SMALL, *TRAINING, f"--out={folder}", f"--model.width={width}", "--training.epochs=6",
                     "--training.learning_rate=0.02", f"--training.seed={seed}", "--trajectory.every=2",
                     "--trajectory.k=60"]  # fmt: skip
        assert main(arguments) == 0
        folders.append(folder)
    return folders


def command(name, teachers, options="{}"):
    """What each method is given, without rankings."""
    given = {
        "bd": [f"--teacher={teachers[0]}"],
        "concf": ["--student.name=multi_head"],
        "rce_kd": [f"--teacher={teachers[0]}"],
        "hetcomp": ["--trajectories=" + json.dumps([f"{t}/trajectory" for t in teachers])],
    }[name]
    return ["distill", *SMALL, *TRAINING, f"--method.name={name}", f"--method.options={options}",
            "--training.learning_rate=0.02", "--student.width=8", *given]  # fmt: skip


OPTIONS = {
    "bd": "{period: 3}",
    "concf": "{n_listed: 20, period: 2, n_states: 2}",
    "rce_kd": "{n_ranked: 60, n_listed: 20, n_sampled: 10}",
    "hetcomp": "{n_listed: 40, n_compared: 20, period: 2}",
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_resumed_run_goes_on_bit_for_bit(name, teachers, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    arguments = command(name, teachers, OPTIONS[name])
    assert main([*arguments, f"--out={whole}", f"--training.epochs={EPOCHS}"]) == 0
    assert main([*arguments, f"--out={parts}", "--training.epochs=5"]) == 0
    halfway = load_checkpoint(parts / "checkpoint.safetensors")[0]
    assert main([*arguments, f"--out={parts}", f"--training.epochs={EPOCHS}"]) == 0
    found = [load_checkpoint(folder / "checkpoint.safetensors")[0] for folder in (whole, parts)]
    assert found[0].keys() == found[1].keys()
    for group, tensors in found[0].items():
        assert tensors.keys() == found[1][group].keys()
        for key, tensor in tensors.items():
            assert torch.equal(tensor, found[1][group][key]), f"{group}/{key}"
    assert any(not torch.equal(t, halfway["model"][key]) for key, t in found[0]["model"].items())
    state = {
        "bd": {"teacher.user_table", "draws.drawn"},
        "concf": {"queue.states", "queue.consensus", "balance.weights", "balance.second"},
        "rce_kd": set(),
        "hetcomp": {"knowledge.versions", "knowledge.last", "knowledge.compared"},
    }[name]
    assert found[0].get("term0", {}).keys() >= state
    if name == "hetcomp":
        assert found[0]["term0"]["knowledge.versions"].max() > 0, "somebody went on to a later checkpoint"
    if name == "concf":
        assert (found[0]["term0"]["queue.consensus"] >= 0).all()


def test_bd_trains_a_copy_of_its_teacher_and_saves_it(teachers, tmp_path, capsys):
    before = load_checkpoint(teachers[0] / "model.safetensors")[0]["model"]
    arguments = command("bd", teachers)
    assert main([*arguments, f"--out={tmp_path}/a", "--training.epochs=3"]) == 0
    printed = capsys.readouterr().out
    assert f"teacher: {tmp_path}/a/teacher.safetensors" in printed
    assert printed.count("recall@50") == 2
    after = load_checkpoint(tmp_path / "a" / "teacher.safetensors")[0]["model"]
    assert not torch.equal(before["user_table"], after["user_table"])
    again = load_checkpoint(teachers[0] / "model.safetensors")[0]["model"]
    assert torch.equal(before["user_table"], again["user_table"])
    assert main(["evaluate", *SMALL[:1], f"--model={tmp_path}/a/teacher.safetensors"]) == 0
    fresh = [a for a in arguments if "--teacher" not in a] + ["--new_teacher.width=12"]
    assert main([*fresh, f"--out={tmp_path}/b", "--training.epochs=3"]) == 0
    made = load_checkpoint(tmp_path / "b" / "teacher.safetensors")[0]["model"]
    assert made["user_table"].shape == (120, 12)
    student = load_checkpoint(tmp_path / "b" / "model.safetensors")[0]["model"]
    assert student["user_table"].shape == (120, 8)


def test_a_run_reports_the_teacher_that_trained_along(tmp_path):
    arguments = ["run", *SMALL, *TRAINING, f"--out={tmp_path}", "--teacher.width=12", "--student.width=4",
                 "--training.epochs=3", "--method.name=bd", "--method.list_length=20"]  # fmt: skip
    assert main(arguments) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert [row["model"] for row in results["rows"]] == [
        "teacher (mf, 12)", "student (mf, 4)", "student + bd (mf, 4)", "teacher + bd (mf, 12)",
    ]  # fmt: skip
    assert results["rows"][0]["metrics"] != results["rows"][3]["metrics"]
    assert (tmp_path / "distilled_teacher" / "model.safetensors").is_file()
    assert main(arguments) == 0, "a finished run is read again"
    assert json.loads((tmp_path / "results.json").read_text())["rows"] == results["rows"]


def test_the_head_that_recommends_is_saved(teachers, tmp_path):
    options = "{n_listed: 20, recommends: multinomial}"
    out = tmp_path / "s"
    assert main([*command("concf", teachers, options), f"--out={out}", "--training.epochs=2"]) == 0
    assert load_checkpoint(out / "model.safetensors")[0]["model"]["recommending"] == 4
    assert main(["recommend", *SMALL[:1], f"--model={out}", "--users=[3]", f"--out={tmp_path}/r.csv"]) == 0
    assert main(["extract", *SMALL, f"--model={out}", f"--out={tmp_path}/r.safetensors", "--k=9"]) == 0


def test_the_base_loss_is_left_out_where_it_is_published_so(teachers, tmp_path):
    assert base_weight([MethodConfig("hetcomp")], None) == base_weight([MethodConfig("concf")], None) == 0
    assert base_weight([MethodConfig("rrd"), MethodConfig("hetcomp")], None) == 0
    assert base_weight([MethodConfig("rrd"), MethodConfig("bd")], None) == 1
    assert base_weight([MethodConfig("hetcomp")], 0.5) == 0.5
    found = {}
    for weight in (None, 0.0, 1.0):
        out = tmp_path / str(weight)
        arguments = command("hetcomp", teachers, OPTIONS["hetcomp"])
        more = [] if weight is None else [f"--base_weight={weight}"]
        assert main([*arguments, f"--out={out}", "--training.epochs=2", *more]) == 0
        found[weight] = load_checkpoint(out / "model.safetensors")[0]["model"]["user_table"]
    assert torch.equal(found[None], found[0.0])
    assert not torch.equal(found[None], found[1.0])


def test_what_hetcomp_is_given(teachers):
    options = {"n_users": 120, "n_items": 100, "mean_interactions": 12, "min_interactions": 6, "n_groups": 5}
    dataset = open_dataset(DataConfig(options=options))
    config = DistillConfig("x", trajectories=[f"{t}/trajectory" for t in teachers])
    given = given_for(config, dataset)
    checkpoints = given.value("checkpoints")
    assert [[r.metadata["after_epochs"] for r in teacher] for teacher in checkpoints] == [["2", "4", "6"]] * 2
    observed, train = given.value("observed"), dataset.train.csr()
    assert observed.shape == (120, 6), "a tenth of the lists"
    kept = observed >= 0
    assert torch.equal(kept.sum(1), train.counts.clamp(max=6))
    rows = torch.arange(120)[:, None].expand_as(observed)
    assert train.contains(rows[kept], observed[kept]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method.name=rrd"], "method rrd: expected rankings, a file or folder of rankdistill extract, or a teacher that makes them; got none"),
        (["--method.name=hetcomp"], "method hetcomp: expected trajectories, folders of trainings with trajectory.every; got none"),
        (["--method.name=bd"], "method bd: expected a teacher, a model's folder or file"),
        (["--method.name=rce_kd"], "method rce_kd: expected a teacher"),
        (["--method.name=concf"], "expected a student with heads, MultiHeadFactorization (multi_head); got MatrixFactorization"),
        (["--method.name=rrd", "--new_teacher.width=3"], "expected new_teacher for a method that trains its teacher along"),
        (["--method.name=bd", "--new_teacher.width=3", "--teacher=TEACHER"], "without teacher; got bd with teacher="),
        (["--method.name=hetcomp", "--trajectories=[TEACHER]"], "expected a folder of a finished training with trajectory.every"),
    ],
)  # fmt: skip
def test_bad_command_lines_are_one_clear_line(arguments, message, teachers, tmp_path, capsys):
    arguments = [a.replace("TEACHER", str(teachers[0])) for a in arguments]
    assert main(["distill", *SMALL, f"--out={tmp_path}", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_trajectory_without_moments_is_refused(tmp_path, capsys):
    arguments = [
        "train",
        *SMALL,
        f"--out={tmp_path}",
        "--training.epochs=2",
        "--trajectory.every=5",
        "--model.width=4",
    ]
    assert main(arguments) == 0
    distil = ["distill", *SMALL, f"--out={tmp_path}/s", "--method.name=hetcomp"]
    assert main([*distil, f"--trajectories=[{tmp_path}/trajectory]"]) == 1
    assert "expected a ranking or more before the last" in capsys.readouterr().err
    assert main([*arguments, "--trajectory.k=0"]) != 0


def test_new_teachers_differ_from_the_student():
    data = generate(30, 20, mean_interactions=6, min_interactions=4, n_groups=2, groups_per_user=1)
    config = DistillConfig(
        "x", method=MethodConfig("bd"), new_teacher=ModelConfig(width=20), training=TrainingConfig(seed=3)
    )
    given = given_for(config, data)
    assert given.teacher.user_table.shape == (30, 20)
    assert not torch.equal(given.teacher.user_table, build_model("mf", data, 20, seed=3).user_table)
