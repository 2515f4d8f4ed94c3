"""Models out of the command line and teachers into it, whatever holds them."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from rankdistill import Rankings, load_factors
from rankdistill.cli import main

SMALL = [
    "--data.options={n_users: 60, n_items: 80, mean_interactions: 12, min_interactions: 6, n_groups: 5}",
    "--progress=false",
]
DATA = SMALL[:1]
TRAINING = ["--training.epochs=2", "--training.evaluate_every=1", "--training.batch_size=256"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    assert main(["train", *SMALL, *TRAINING, f"--out={folder}", "--model.width=16"]) == 0
    return folder


def metrics(source, folder) -> dict:
    assert main(["evaluate", *DATA, f"--model={source}", f"--out={folder}/metrics.json"]) == 0
    return json.loads((folder / "metrics.json").read_text())


def distilled(folder, *arguments) -> torch.Tensor:
    assert main(["distill", *SMALL, *TRAINING, f"--out={folder}", "--student.width=4", "--method.list_length=30", *arguments]) == 0  # fmt: skip
    return load_factors(folder).users.clone()


def test_what_is_exported_is_evaluated_and_teaches_alike(teacher, tmp_path, capsys):
    expected, student = metrics(teacher, tmp_path), distilled(tmp_path / "0", f"--teacher={teacher}")
    rankings = tmp_path / "rankings.safetensors"
    assert main(["extract", *SMALL, f"--model={teacher}", f"--out={rankings}", "--k=30"]) == 0
    assert torch.equal(distilled(tmp_path / "1", f"--rankings={rankings}"), student)
    for i, name in enumerate(("f.npz", "f.safetensors")):
        assert main(["export", f"--model={teacher}", f"--out={tmp_path}/{name}"]) == 0
        assert "60 users, 80 items, float32 of width 16" in capsys.readouterr().out
        assert metrics(tmp_path / name, tmp_path) == expected
        assert torch.equal(distilled(tmp_path / f"2{i}", f"--teacher={tmp_path}/{name}"), student)
        assert torch.equal(
            distilled(tmp_path / f"3{i}", f"--teacher={tmp_path}/{name}", "--method.name=de"),
            distilled(tmp_path / f"4{i}", f"--teacher={teacher}", "--method.name=de"),
        )
    factors = load_factors(tmp_path / "f.npz")
    np.save(tmp_path / "users.npy", factors.users.numpy())
    np.save(tmp_path / "items.npy", factors.items.numpy())
    pair = f"{tmp_path}/users.npy,{tmp_path}/items.npy"
    assert metrics(pair, tmp_path) == expected
    assert torch.equal(distilled(tmp_path / "5", f"--teacher={pair}"), student)
    assert main(["export", f"--model={pair}", *DATA, f"--out={tmp_path}/g.npz"]) == 0
    assert load_factors(tmp_path / "g.npz").item_ids.tolist() == factors.item_ids.tolist()


def test_a_program_of_a_run(teacher, tmp_path):
    path = tmp_path / "student.pt2"
    assert main(["export", f"--model={teacher}", f"--out={path}", "--k=6", "--exclude=true"]) == 0
    users = torch.tensor([4, 40])
    program = torch.export.load(path).module()
    _, items, _ = program(users, torch.tensor([0, 1, 3]), torch.tensor([5, 6, 7]))
    expected = load_factors(teacher).topk(users, 6, (torch.tensor([0, 1, 3]), torch.tensor([5, 6, 7])))
    assert torch.equal(items, expected.indices)


MODULE = """
import numpy as np
from rankdistill import load_factors
factors = load_factors({teacher!r})

class LightFM:
    def get_user_representations(self):
        return np.arange(60.0), factors.users.numpy()
    def get_item_representations(self):
        return np.zeros(80), factors.items.numpy()

model = LightFM()

def scores(users):
    return factors.users[users].double() @ factors.items.double().T
"""


def test_objects_and_functions_of_a_module_of_ones_own(teacher, tmp_path, monkeypatch, capsys):
    (tmp_path / "own_teacher_module.py").write_text(MODULE.format(teacher=str(teacher)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    expected = metrics(teacher, tmp_path)
    assert metrics("own_teacher_module:model", tmp_path) == pytest.approx(expected)
    assert metrics("own_teacher_module:scores", tmp_path) == pytest.approx(expected)
    student = distilled(tmp_path / "0", f"--teacher={teacher}")
    for i, name in enumerate(("model", "scores")):
        torch.testing.assert_close(
            distilled(tmp_path / f"1{i}", f"--teacher=own_teacher_module:{name}"), student
        )
        extract = ["extract", *SMALL, f"--model=own_teacher_module:{name}", "--k=9"]
        assert main([*extract, f"--out={tmp_path}/r{i}.safetensors"]) == 0
        assert main([*extract, f"--out={tmp_path}/folder"]) == 1
        assert "expected out as a .safetensors file for a teacher with a score function or user biases" in capsys.readouterr().err  # fmt: skip
        capsys.readouterr()
        assert (
            main(
                [
                    "recommend",
                    *DATA,
                    f"--model=own_teacher_module:{name}",
                    "--users=[3, 7]",
                    "--k=2",
                    "--exclude=train",
                ]
            )
            == 0
        )
        lines = capsys.readouterr().out.split()
        rankings = Rankings.load(tmp_path / f"r{i}.safetensors")
        assert [int(line.split(",")[2]) for line in lines[1:]] == rankings.indices[
            [3, 7], :2
        ].flatten().tolist()
    biased, scored = (Rankings.load(tmp_path / f"r{i}.safetensors").scores for i in (0, 1))
    torch.testing.assert_close(biased, scored + torch.arange(60.0)[:, None], rtol=1e-5, atol=1e-5)


def test_a_model_of_several_heads_is_exported_by_the_one_that_recommends(tmp_path):
    out = tmp_path / "run"
    assert (
        main(["train", *SMALL, *TRAINING, f"--out={out}", "--model.name=multi_head", "--model.width=8"]) == 0
    )
    assert main(["export", f"--model={out}", f"--out={tmp_path}/f.npz"]) == 0
    assert metrics(tmp_path / "f.npz", tmp_path) == metrics(out, tmp_path)


def test_methods_that_read_no_rankings_and_teachers_that_train_along(teacher, tmp_path, capsys):
    assert main(["export", f"--model={teacher}", f"--out={tmp_path}/f.npz"]) == 0
    arguments = ["distill", *SMALL, *TRAINING, "--student.width=4", "--method.name=bd"]
    assert main([*arguments, f"--teacher={tmp_path}/f.npz", f"--out={tmp_path}/a"]) == 1
    assert "method bd: expected a teacher that can be trained along, a model's folder or file; got a Factors" in capsys.readouterr().err  # fmt: skip
    assert main([*arguments, f"--teacher={teacher}", f"--out={tmp_path}/b", "--seeds=[0, 1]"]) == 0
    for seed in (0, 1):
        assert load_factors(tmp_path / "b" / f"seed-{seed}" / "teacher.safetensors").width == 16
    assert main([*arguments, "--new_teacher.width=12", f"--out={tmp_path}/c", "--seeds=[0, 1]"]) == 0
    new = [load_factors(tmp_path / "c" / f"seed-{seed}" / "teacher.safetensors").users for seed in (0, 1)]
    assert new[0].shape[1] == 12
    assert not torch.equal(*new)
    capsys.readouterr()
    assert main(["train", *SMALL, *TRAINING, f"--out={tmp_path}/d", "--seeds=0..1", "--trajectory.every=1",
                 f"--trajectory.folder={tmp_path}/t"]) == 1  # fmt: skip
    assert "config: expected each seed's own trajectory folder; got" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["distill", *DATA, "--out=OUT/a"], "method rrd: expected rankings, a file or folder of rankdistill extract, or a teacher that makes them; got none"),
        (["distill", *DATA, "--out=OUT/b", "--teacher=json:absent"], "expected a name in json; got 'absent'"),
        (["distill", *DATA, "--out=OUT/c", "--teacher=no_such_module:x"], "No module named 'no_such_module'"),
        (["distill", *DATA, "--out=OUT/d", "--teacher=json:decoder"], "as_teacher: expected two tables"),
        (["distill", *DATA, "--out=OUT/e", "--teacher=json:loads", "--method.name=de"], "got a ScoreTeacher, which has none"),
        (["distill", *DATA, "--out=OUT/e", "--teacher=json:loads"], "JSON object must be"),
        (["distill", "--out=OUT/f", "--teacher=TEACHER"], "expected a model of this data set's users"),
        (["export", "--model=TEACHER", "--out=OUT/g.onnx"], "expected a .npz or .safetensors file; got"),
        (["export", "--model=OUT", "--out=OUT/g.npz"], "expected a folder with model.safetensors or checkpoint.safetensors"),
        (["export", "--model=TEACHER", "--out=OUT/g.pt2", "--k=0"], "expected k of 1 or more"),
        (["export", *DATA, "--model=json:loads", "--out=OUT/g.npz"], "export: expected a model with vectors; got a function"),
        (["export", "--model=TEACHER", "--data.source=generated", "--out=OUT/g.npz"], "expected a model of this data set's"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_clear_line(arguments, message, teacher, tmp_path, capsys):
    arguments = [a.replace("OUT", str(tmp_path)).replace("TEACHER", str(teacher)) for a in arguments]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("g*"))
