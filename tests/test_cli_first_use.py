"""What a person meets at first: their own files, one id where a list is meant, settings under another name."""

from __future__ import annotations

import csv
import re
import tracemalloc

import numpy as np
import polars
import pytest
import torch

from rankdistill import Factors, commands
from rankdistill.cli import main
from rankdistill.config import RecommendConfig
from rankdistill.data import Dataset
from rankdistill.rankings import Rankings

LITTLE = ["--training.epochs=1", "--model.width=4", "--progress=false"]
PAIRS = [(f"u{user}", f"i{user * k % 29}") for user in range(31) for k in range(1, 12)]


def written(path, pairs=PAIRS, header="user,item", separator=","):
    lines = [header.replace(",", separator)] if header else []
    path.write_text("\n".join([*lines, *(separator.join(pair) for pair in pairs)]) + "\n")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    data = written(folder / "mine.csv")
    assert main(["train", f"--data.source={data}", *LITTLE, f"--out={folder}/m"]) == 0
    return folder


def failure(arguments, capsys) -> str:
    try:
        assert main(arguments) == 1
    except SystemExit as exit:
        assert exit.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def recommended(arguments, capsys) -> set[tuple[str, str]]:
    capsys.readouterr()
    assert main(["recommend", *arguments]) == 0
    return {(row[0], row[2]) for row in list(csv.reader(capsys.readouterr().out.splitlines()))[1:]}


def test_nothing_that_users_have_is_recommended(trained, capsys):
    arguments = [f"--model={trained}/m", f"--data.source={trained}/mine.csv", "--k=29"]
    unseen = {(user, f"i{item}") for user, _ in PAIRS for item in range(29)} - set(PAIRS)
    assert recommended(arguments, capsys) == unseen
    of_train = recommended([*arguments, "--exclude=train"], capsys)
    assert of_train > unseen
    whole = recommended([*arguments, "--exclude=train", "--data.split=none"], capsys)
    assert whole == unseen, "everything is train"


def test_few_lines_of_recommendations_exist_at_a_time(tmp_path, monkeypatch):
    dataset = Dataset.from_arrays((np.arange(500), np.arange(500) % 100))
    factors = Factors(torch.randn(500, 4), torch.randn(100, 4))
    monkeypatch.setattr(commands, "open_dataset", lambda _: dataset)
    monkeypatch.setattr(commands, "load_teacher", lambda *_: factors)
    monkeypatch.setattr(commands, "LINES", 500, raising=False)
    tracemalloc.start()
    try:
        commands.recommend(RecommendConfig(model="m", k=50, out=f"{tmp_path}/r.csv"))
        assert tracemalloc.get_traced_memory()[1] < 1e6, "all lines at once take 5 MB"
    finally:
        tracemalloc.stop()
    with open(tmp_path / "r.csv", newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["user", "position", "item", "score"]
    found = factors.topk(torch.arange(500), 50, dataset.train.csr())
    assert [int(line[0]) for line in lines] == torch.arange(500).repeat_interleave(50).tolist()
    assert [int(line[1]) for line in lines] == [*range(1, 51)] * 500
    assert [int(line[2]) for line in lines] == found.indices.flatten().tolist()
    assert [line[3] for line in lines] == [f"{score:.6g}" for score in found.scores.flatten().tolist()]


def test_nothing_is_printed_before_an_error(trained, capsys):
    arguments = [f"--model={trained}/m", f"--data.source={trained}/mine.csv", "--k=-1"]
    capsys.readouterr()
    assert main(["recommend", *arguments]) == 1
    assert capsys.readouterr().out == ""


def test_one_value_is_a_list_of_one(trained, capsys):
    arguments = [f"--model={trained}/m", f"--data.source={trained}/mine.csv", "--k=2"]
    listed = recommended([*arguments, "--users=[u3]"], capsys)
    assert listed == recommended([*arguments, "--users=u3"], capsys)
    assert listed == recommended([*arguments, "--users", "u3"], capsys)
    assert {user for user, _ in listed} == {"u3"}
    assert "'007'" in failure(["recommend", *arguments, "--users", "007"], capsys)
    assert main(["evaluate", *arguments[:2], "--cutoffs", "5"]) == 0
    assert set(re.findall(r"@(\d+)", capsys.readouterr().out)) == {"5"}
    parts = ["--data.ratios=0.5,0.25,0.25", f"--out={trained}/parts", *LITTLE]
    assert main(["train", arguments[1], *parts]) == 0


def test_ids_by_commas_are_told_how_to_be_a_list(trained, capsys):
    recommend = ["recommend", f"--model={trained}/m", f"--data.source={trained}/mine.csv"]
    told = failure([*recommend, "--users", "u0,u5"], capsys)
    assert "got 'u0,u5' at position 0. Several ids are a list: --users '[u0,u5]'" in told
    assert "are a list" not in failure([*recommend, "--users", "nobody"], capsys)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["train", "--epochs", "2"], "training.epochs."),
        (["train", "--epochs=2"], "training.epochs."),
        (["distill", "--seed", "1"], "training.seed (or data.seed)."),
        (["distill", "--width", "4"], "student.width."),
        (["run", "--width=4"], "student.width (or teacher.width)."),
        (["distill", "--teacher.width=4"], "student.width."),
        (["train", "--data.sorce=a"], "data.source."),
        (["evaluate", "--model=m", "--epochs=2"], None),
    ],
)
def test_the_nearest_key_is_one_of_the_command(arguments, key, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    error = failure([*arguments, *out], capsys)
    assert error.strip().endswith(f"The nearest key is {key}") if key else "nearest key" not in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--data.source=DATA", "--data.options.min_ratings=3"],
            "timestamp_column, user_column for the reader; got 'min_ratings'. The nearest key is min_rating",
        ),
        (["--data.train=DATA", "--data.options.user=3"], "for the reader; got 'user'"),
        (["--data.options.n_item=3"], "for the generator; got 'n_item'. The nearest key is n_items"),
        (["--data.options.n_users=40.5"], "generate: expected n_users as an integer; got 40.5"),
        (["--data.options.mean_interactions=many"], "expected mean_interactions as a number; got 'many'"),
        (["--data.source=FLOATS"], "floats.parquet: expected user ids as integers or strings; got float64 values"),
        (["--data.source=DATA", "--data.options.user_column=who"], "expected a column 'who'; got ['user', 'item']"),
    ],
)  # fmt: skip
def test_settings_of_data_that_there_are_not(arguments, message, tmp_path, capsys):
    polars.DataFrame({"user": [1.0, 2.0], "item": ["a", "b"]}).write_parquet(tmp_path / "floats.parquet")
    names = {"DATA": str(written(tmp_path / "d.csv")), "FLOATS": f"{tmp_path}/floats.parquet"}
    for name, path in names.items():
        arguments = [argument.replace(name, path) for argument in arguments]
    error = failure(["train", *arguments, *LITTLE, f"--out={tmp_path}/out"], capsys)
    assert message in error
    assert "expected settings of the reader" not in error


def test_files_as_they_come(tmp_path, capsys):
    """What an error names on the command line works there."""
    semicolons = written(tmp_path / "a.csv", header="customer,item", separator=";")
    train = ["train", f"--data.source={semicolons}", *LITTLE, f"--out={tmp_path}/a"]
    for _ in range(2):
        error = failure(train, capsys)
        option, value = re.search(r"(--data\.options\.\w+) ('[^']+'|\w+)", error).groups()
        train += [option, value.strip("'").replace("NAME", "customer")]
    assert main(train) == 0
    bare = written(tmp_path / "b.csv", header="")
    train = ["train", f"--data.source={bare}", *LITTLE, f"--out={tmp_path}/b"]
    assert "--data.options.columns '[user, item]'" in failure(train, capsys)
    assert main([*train, "--data.options.columns", "[user, item]"]) == 0


def test_a_renamed_file_is_the_same_data(trained, tmp_path):
    """An extraction into the same folder is found finished."""
    extract = ["extract", f"--model={trained}/m", "--k=4", "--progress=false", f"--out={tmp_path}/r"]
    written(tmp_path / "other.csv")
    for data in (trained / "mine.csv", tmp_path / "other.csv"):
        assert main([*extract, f"--data.source={data}"]) == 0
    assert Rankings.load(tmp_path / "r").k == 4


def test_lists_are_no_longer_than_the_catalogue(trained, tmp_path, capsys, caplog):
    caplog.set_level("INFO", "rankdistill")
    extract = ["extract", f"--model={trained}/m", f"--data.source={trained}/mine.csv", "--progress=false"]
    for k, told in (("5000", True), ("29", False)):
        caplog.clear()
        capsys.readouterr()
        assert main([*extract, f"--k={k}", f"--out={tmp_path}/{k}"]) == 0
        assert Rankings.load(tmp_path / k).k == 29
        assert "31 users, 29 of 29 items each" in capsys.readouterr().out
        assert ("29 items per user, all that there are, instead of 5000" in caplog.text) == told


def test_a_forgotten_data_set_is_guessed(trained, tmp_path, capsys):
    hint = "The data set is the generated one, the default: --data.source names another"
    assert hint in failure(["evaluate", f"--model={trained}/m"], capsys)
    other = written(tmp_path / "other.csv", PAIRS[:99])
    told = failure(["evaluate", f"--model={trained}/m", f"--data.source={other}"], capsys)
    assert "expected a model of this data set's users" in told
    assert hint not in told


def test_the_last_line_says_where_everything_is(trained, tmp_path, capsys):
    little = written(tmp_path / "little.csv", PAIRS[:1])
    assert main(["train", f"--data.source={little}", *LITTLE, f"--out={tmp_path}/a"]) == 0
    printed = capsys.readouterr().out
    assert "Nothing was evaluated: the data set has neither a validation nor a test part." in printed
    assert printed.splitlines()[-1] == f"Everything is in {tmp_path}/a/"
    distil = ["distill", f"--data.source={trained}/mine.csv", "--student.width=2", *LITTLE[::2]]
    distil += [f"--teacher={trained}/m", "--method.options={n_interesting: 3, n_uninteresting: 3}"]
    for more in ([], ["--seeds=[0]"], ["--method.name=bd", "--method.options={}"]):
        out = f"{tmp_path}/{len(more)}"
        assert main([*distil, *more, f"--out={out}"]) == 0
        printed = capsys.readouterr().out
        assert "recall@" in printed
        assert printed.splitlines()[-1] == f"Everything is in {out}/"


def test_metrics_say_of_which_part_they_are(trained, tmp_path, capsys):
    data, valid = f"--data.source={trained}/mine.csv", "--data.ratios=[0.9,0.1,0]"
    for more, part in (([], "test"), ([valid], "valid")):
        assert main(["train", data, *more, *LITTLE, f"--out={tmp_path}/{part}"]) == 0
        assert capsys.readouterr().out.splitlines()[0] == f"Metrics of the {part} part:"
    evaluate = ["evaluate", f"--model={tmp_path}/valid", data]
    assert main([*evaluate, valid, "--part=valid"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "Metrics of the valid part:"
    for more, cure in (
        (valid, "evaluate its valid part: --part valid"),
        ("--data.split=none", "hold some out"),
    ):
        told = failure([*evaluate, more], capsys)
        assert "evaluate: expected interactions in the test part of " in told
        assert told.endswith(f"mine.csv; got none. Split it otherwise, or {cure}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method.weight=-1"], "config: expected method.weight of 0 or more; got -1"),
        (["--also=[{name: listwise, weight: -1}]"], "config: expected method.weight of 0 or more; got -1"),
        (["--base_weight=-1"], "config: expected base_weight of 0 or more; got -1"),
        (
            ["--method.options={temperature: hot}"],
            "method rrd: expected options.temperature as a number; got 'hot'",
        ),
        (
            ["--method.options={n_interesting: 2.5}"],
            "method rrd: expected options.n_interesting as a whole number; got 2.5",
        ),
        (
            ["--method.options={n_uninteresting: true}"],
            "expected options.n_uninteresting as a whole number or null; got True",
        ),
        (["--method.name=rd", "--method.options.normalized=1"], "options.normalized as true or false; got 1"),
    ],
)
def test_settings_of_methods_that_cannot_be(arguments, message, trained, tmp_path, capsys):
    distil = ["distill", f"--data.source={trained}/mine.csv", f"--teacher={trained}/m", f"--out={tmp_path}/o"]
    assert message in failure([*distil, "--student.width=2", *LITTLE[::2], *arguments], capsys)


@pytest.mark.parametrize("below", ["", "/deeper"])
@pytest.mark.parametrize("command", ["run", "train", "bench-serving", "reproduce", "tune"])
def test_a_file_is_no_folder_to_write_to(command, below, trained, tmp_path, capsys):
    file = written(tmp_path / "file")
    more = {"bench-serving": [f"--student={trained}/m"], "reproduce": ["methods"]}.get(command, [])
    error = failure([command, *more, f"--out={file}{below}"], capsys)
    assert f"{command}: expected out as a folder; got {file}{below}, but {file} is a file" in error


def test_the_order_that_tables_without_ids_are_taken_in_is_told(trained, tmp_path, caplog):
    arguments = ["extract", f"--data.source={trained}/mine.csv", "--progress=false", "--k=3"]
    users, items = np.eye(31, 4, dtype="f4"), np.eye(29, 4, dtype="f4")
    np.save(tmp_path / "users.npy", users)
    np.save(tmp_path / "items.npy", items)
    ids = {"user_ids": [f"u{u}" for u in range(31)], "item_ids": [f"i{i}" for i in range(29)]}
    np.savez(tmp_path / "teacher.npz", users=users, items=items, **ids)
    tables = [f"--user_vectors={tmp_path}/users.npy", f"--item_vectors={tmp_path}/items.npy"]
    assert main([*arguments, *tables, f"--out={tmp_path}/a"]) == 0
    assert (
        "order, users u0, u1, u10, u11, … and items i0, i1, i10, i11, …. If theirs is another" in caplog.text
    )
    caplog.clear()
    assert main([*arguments, f"--model={tmp_path}/teacher.npz", f"--out={tmp_path}/b"]) == 0
    assert "rows without ids" not in caplog.text
