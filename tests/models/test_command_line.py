"""Models on the command line: trained, evaluated, extracted, taught, and what README says of them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest

from rankdistill import Rankings
from rankdistill.cli import main
from rankdistill.config import ModelConfig
from rankdistill.models.kinds import MODELS, model_settings
from rankdistill.pages import models_table

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> list[str]:
    """A file with timestamps, split by them."""
    path = tmp_path_factory.mktemp("data") / "interactions.csv"
    draws = np.random.default_rng(0)
    rows = [(u, i, t) for u in range(60) for t, i in enumerate(draws.permutation(40)[:12])]
    path.write_text("user,item,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows))
    return [f"--data.source={path}", "--data.split=temporal"]


def test_names_are_those_of_the_configuration():
    assert set(MODELS) == set(get_args(get_type_hints(ModelConfig)["name"]))


def test_readme_has_the_table_of_the_docstrings():
    assert models_table() in README, "rankdistill.pages.models_table() makes it anew"


@pytest.mark.parametrize("name", MODELS)
def test_settings_are_described_and_kept(name):
    for key in model_settings(name):
        assert f"{key}" in MODELS[name].__doc__, f"expected {key} among Args"


@pytest.mark.parametrize("name", ["cml", "neumf", "lightgcn", "multvae", "item_autoencoder", "sasrec"])
def test_from_training_to_lists(name, data, tmp_path, capsys):
    option = next(key for key in ("n_layers", "margin", "dropout", "init_std") if key in model_settings(name))
    value = 2 if option == "n_layers" else 0.3
    training = ["--training.epochs=2", "--training.batch_size=64", "--progress=false"]
    arguments = [f"--model.name={name}", "--model.width=8", f"--model.options={{{option}: {value}}}"]
    assert main(["train", *data, *training, *arguments, f"--out={tmp_path}/t"]) == 0
    trained = capsys.readouterr().out.replace(f"\nEverything is in {tmp_path}/t/\n", "")
    assert main(["evaluate", *data, f"--model={tmp_path}/t"]) == 0
    assert capsys.readouterr().out == trained, "the same numbers from the file"
    lists = f"{tmp_path}/lists.safetensors"
    assert (
        main(["extract", *data, "--progress=false", f"--model={tmp_path}/t", "--k=20", f"--out={lists}"]) == 0
    )
    assert (Rankings.load(lists).lengths == 20).all()
    best = ["recommend", *data, f"--model={tmp_path}/t", "--k=5", f"--out={tmp_path}/best.csv"]
    assert main([*best, "--exclude=train"]) == 0
    with open(f"{tmp_path}/best.csv", newline="") as file:
        first = [int(row["item"]) for row in csv.DictReader(file) if row["user"] == "0"]
    assert first == Rankings.load(lists).indices[0, :5].tolist()
    student = [
        f"--student.name={name}",
        "--student.width=8",
        "--method.options={n_interesting: 5, n_uninteresting: 5}",
    ]
    teacher = [f"--teacher={tmp_path}/t", "--method.list_length=20"]
    assert main(["distill", *data, *training, *student, *teacher, f"--out={tmp_path}/s"]) == 0
    capsys.readouterr()
    code = main(["export", *data, f"--model={tmp_path}/t", f"--out={tmp_path}/x.npz"])
    assert code == (name == "neumf")
    if code:
        assert "export: expected a model with vectors; got a function of scores" in capsys.readouterr().err


def test_wrong_settings_are_one_clear_line(data, tmp_path, capsys):
    arguments = ["train", *data, f"--out={tmp_path}", "--model.name=lightgcn", "--model.options={n_layer: 2}"]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert (
        "expected options of init_std, n_layers for lightgcn; got 'n_layer'. The nearest key is n_layers"
        in error
    )
    split = [
        data[0],
        "--data.split=none",
        f"--out={tmp_path}",
        "--model.name=cml",
        "--training.optimizer=lazy_sgd",
    ]
    assert main(["train", *split]) == 1
    assert (
        "expected a model with tables() and sparse_grad for lazy_sgd; got Collab" in capsys.readouterr().err
    )


def test_a_checkpoint_of_another_model_is_not_taken_for_tables(data, tmp_path, capsys):
    training = ["--training.epochs=1", "--progress=false", "--model.width=4", f"--out={tmp_path}"]
    assert main(["train", *data, *training, "--model.name=cml"]) == 0
    (tmp_path / "model.safetensors").unlink()
    assert main(["evaluate", *data, f"--model={tmp_path}"]) == 1
    assert "expected a model, or a checkpoint of user_table and item_table" in capsys.readouterr().err
