"""The command line as its user meets it."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch

from rankdistill.citations import CITED, PAPERS
from rankdistill.cli import main
from rankdistill.config import MethodConfig
from rankdistill.methods import METHODS

SMALL = [
    "--data.options={n_users: 150, n_items: 120, mean_interactions: 15, min_interactions: 6, n_groups: 5}",
    "--progress=false",
]
TRAINING = ["--training.epochs=3", "--training.evaluate_every=1", "--training.batch_size=256"]
DATA = SMALL[:1]


def test_help_is_fast_and_without_torch():
    probe = "import sys; sys.argv = ['rankdistill', 'run', '--help']\ntry:\n    from rankdistill.cli import main; main()\n"
    probe += "except SystemExit: pass\nassert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", probe], check=True, stdout=subprocess.DEVNULL)
    times = []
    for _ in range(5):
        before = os.times()
        result = subprocess.run(
            [sys.executable, "-m", "rankdistill", "--help"], capture_output=True, text=True
        )
        after = os.times()  # what it took of a processor, whatever else ran
        taken = after.children_user + after.children_system - before.children_user - before.children_system
        times.append(taken)
        assert result.returncode == 0
        assert all(
            command in result.stdout
            for command in (
                "run",
                "train",
                "extract",
                "distill",
                "evaluate",
                "recommend",
                "export",
                "bench-serving",
                "tune",
                "methods",
                "reproduce",
                "doctor",
            )
        )
    assert min(times) < 0.5


@pytest.mark.parametrize(
    "command", ["run", "train", "distill", "extract", "evaluate", "recommend", "export", "reproduce"]
)
def test_help_says_what_the_options_are(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    options = re.findall(
        r"^  (--[\w.]+) (.*?)(?=^  -|^\S|\Z)", capsys.readouterr().out, re.MULTILINE | re.DOTALL
    )
    told = {name: " ".join(text.partition("(")[0].split()[1:]) for name, text in options}
    assert len(told) > 5
    # Beside the value's name there is more than the type; "CONFIG" are groups, described by their own options.
    assert not [
        name for name, text in told.items() if not text and not re.search(rf"{name} CONFIG", str(options))
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["train", "--data.source=a.csv", "--data.test=b.csv"],
            "expected data.train beside data.valid and data.test",
        ),
        (["train", "--data.source=a.csv", "--data.train=b.csv"], "expected either data.source or data.train"),
        (
            ["extract", "--model=m", "--item_bias=b.npy", "--k=5", *DATA],
            "expected item_bias beside item_vectors",
        ),
        (["reproduce", "methods", "--widths=[4,8]", "--data=none"], "expected one of widths for methods"),
        (["bench-serving", "--student=s", "--threads=-2"], "expected threads of 1 or more"),
        (["recommend", "--model=none", "--data.options={n_users: 40.5}"], "expected"),
    ],
)
def test_what_would_have_no_effect_is_refused(arguments, told, tmp_path, capsys):
    out = [] if arguments[0] in ("bench-serving", "recommend") else [f"--out={tmp_path}/out"]
    try:
        assert main([*arguments, *out]) == 1
    except SystemExit as exit:
        assert exit.code == 2
    assert told in capsys.readouterr().err


def test_ids_are_taken_as_they_are_written(tmp_path, capsys):
    """007 is neither 7 nor octal."""
    path = tmp_path / "d.csv"
    pairs = [(user, item) for user in ("007", "7", "a b") for item in "abcdefgh"]
    path.write_text("user,item\n" + "\n".join(f"{u},{i}" for u, i in pairs[:-3]) + "\n")
    data = [f"--data.source={path}", "--data.split=none"]
    assert (
        main(
            [
                "train",
                *data,
                "--model.width=4",
                "--training.epochs=1",
                f"--out={tmp_path}/m",
                "--progress=false",
            ]
        )
        == 0
    )
    capsys.readouterr()
    for users, wanted in (('["007"]', "007"), ('["7"]', "7"), ("[7]", "7"), ('["a b"]', "a b")):
        assert main(["recommend", f"--model={tmp_path}/m", *data, f"--users={users}", "--k=1"]) == 0
        assert {line.split(",")[0] for line in capsys.readouterr().out.splitlines()[1:]} <= {wanted}


def test_another_split_is_told(tmp_path, caplog):
    """Its test items may have been learned; lists that were made by another one, too."""
    path = tmp_path / "d.csv"
    path.write_text(
        "user,item\n" + "".join(f"u{u},i{(u * k) % 29}\n" for u in range(40) for k in range(1, 13))
    )
    data, out = [f"--data.source={path}", "--progress=false"], f"{tmp_path}/m"
    assert main(["train", *data, *TRAINING, "--model.width=4", f"--out={out}"]) == 0
    assert main(["extract", *data, f"--model={out}", "--k=9", f"--out={tmp_path}/r.safetensors"]) == 0
    distill = [
        "distill",
        *data,
        *TRAINING,
        f"--rankings={tmp_path}/r.safetensors",
        "--method.options={n_interesting: 3, n_uninteresting: 3}",
    ]
    for seed, told in ((0, False), (1, True)):
        for command in (["evaluate", f"--model={out}", data[0]], [*distill, f"--out={tmp_path}/s{seed}"]):
            caplog.clear()
            assert main([*command, f"--data.seed={seed}"]) == 0
            assert ("comes from another train part of these users and items" in caplog.text) == told


def test_methods_are_described_and_can_all_be_chosen(capsys):
    assert main(["methods"]) == 0
    printed = capsys.readouterr().out
    assert set(METHODS) == set(get_args(get_type_hints(MethodConfig)["name"]))
    for name, method in METHODS.items():
        assert f"{name}: " in printed
        assert f"weight: {method.default_weight:g}" in printed
    assert printed.count("source: ") == printed.count("options: ") == len(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_distils(tmp_path, name, capsys):
    options = {"listwise": "{n_listed: 20}", "pckd": "{list_length: 30}", "rce_kd": "{n_ranked: 60}",
               "concf": "{n_listed: 20, period: 1, n_states: 1}", "hetcomp": "{n_listed: 20, n_compared: 10}"}  # fmt: skip
    more = [f"--method.options={options[name]}"] if name in options else []
    more += ["--student.name=multi_head"] if name == "concf" else []
    more += (
        ["--training.keep_best=false"] if name == "hetcomp" else []
    )  # or its trajectory might end with its first
    arguments = ["run", *SMALL, *TRAINING, f"--out={tmp_path}", "--teacher.width=8", "--student.width=4",
                 "--method.list_length=30", f"--method.name={name}", "--method.weight=1", *more]  # fmt: skip
    assert main(arguments) == 0
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert rows[1]["metrics"] != rows[2]["metrics"], "the student learned something else"
    model = "multi_head" if name == "concf" else "mf"
    assert f"student + {name} ({model}, 4)" in capsys.readouterr().out


def test_the_default_weight_is_that_of_the_embedded_data_set(tmp_path):
    found = {}
    for weight in (None, 0.01, 1.0):
        out = tmp_path / str(weight)
        arguments = ["run", *SMALL, *TRAINING, f"--out={out}", "--teacher.width=8", "--student.width=4",
                     "--method.list_length=30", *([] if weight is None else [f"--method.weight={weight}"])]  # fmt: skip
        assert main(arguments) == 0
        rows = json.loads((out / "results.json").read_text())["rows"]
        found[weight] = rows[2]["metrics"]
    assert found[None] == found[0.01] != found[1.0]


def test_methods_can_be_combined(tmp_path, capsys):
    arguments = ["run", *SMALL, *TRAINING, f"--out={tmp_path}", "--teacher.width=8", "--student.width=4",
                 "--method.list_length=20", "--also=[{name: listwise, weight: 0.5, list_length: 30, options: {n_listed: 25}}]"]  # fmt: skip
    assert main(arguments) == 0
    assert "student + rrd + listwise (mf, 4)" in capsys.readouterr().out
    assert json.loads((tmp_path / "config.json").read_text())["also"][0]["options"] == {"n_listed": 25}


def test_run_compares_teacher_student_and_distilled(tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["run", *SMALL, *TRAINING, f"--out={out}", "--teacher.width=16", "--student.width=4",
                 "--method.list_length=30", "--method.options={n_interesting: 8, n_uninteresting: 8}"]  # fmt: skip
    out.mkdir()
    (out / ".rankings.safetensors.abcd1234.partial").write_text("of a killed run")
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    for label in (
        "teacher (mf, 16)",
        "student (mf, 4)",
        "student + rrd (mf, 4)",
        "of teacher",
        "gain",
        "seconds",
    ):
        assert label in printed
    results = json.loads((out / "results.json").read_text())
    assert [row["parameters"] for row in results["rows"]] == [270 * 16, 270 * 4, 270 * 4]
    assert "| teacher (mf, 16)" in (out / "results.md").read_text()
    for picture in ("curves.png", "costs.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    page = (out / "results.html").read_text()
    assert page.count("<svg") == 2
    assert "student + rrd (mf, 4)" in page
    assert {p.name for p in out.iterdir()} == {
        "config.json", "costs.png", "curves.png", "distilled", "rankings.safetensors", "results.html", "results.json",
        "results.md", "student", "teacher",
    }  # fmt: skip
    assert main(arguments) == 0, "a finished run is read again"
    assert json.loads((out / "results.json").read_text())["rows"] == results["rows"]


def test_run_without_a_test_part_says_whose_numbers_they_are(tmp_path, capsys):
    """And a student as large as its teacher is not the teacher again."""
    out = tmp_path / "out"
    arguments = ["run", *SMALL, *TRAINING, f"--out={out}", "--teacher.width=4", "--student.width=4",
                 "--data.ratios=[0.8,0.2,0.0]", "--method.list_length=500"]  # fmt: skip
    assert main(arguments) == 0
    text = (out / "results.md").read_text()
    assert "There is no test part" in text
    assert "Validation recall@" in text
    assert "Test recall@" not in text
    assert "Rankings: 120 items per user" in text
    assert "Metrics of the valid part. Rankings: 120 items per user" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert results["part"] == "valid"
    assert results["rows"][0]["metrics"] != results["rows"][1]["metrics"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    assert main(["train", *SMALL, *TRAINING, f"--out={folder}", "--model.width=16"]) == 0
    return folder


def test_a_teachers_vectors_are_learned_where_it_is_named(tmp_path, teacher, capsys):
    rankings = tmp_path / "rankings.safetensors"
    assert main(["extract", *SMALL, f"--model={teacher}", f"--out={rankings}", "--k=30"]) == 0
    command = [
        "distill",
        *SMALL,
        *TRAINING,
        f"--rankings={rankings}",
        f"--out={tmp_path}/s",
        "--method.name=de",
    ]
    assert main(command) == 1
    message = (
        "method de: expected a teacher with user and item vectors, as a model's folder, a file of factors"
    )
    assert message in capsys.readouterr().err
    assert main([*command, f"--teacher={teacher}"]) == 0
    assert (tmp_path / "s" / "model.safetensors").is_file()


def test_the_steps_one_by_one(tmp_path, teacher, capsys):
    rankings, student = tmp_path / "rankings.safetensors", tmp_path / "student"
    assert main(["extract", *SMALL, f"--model={teacher}", f"--out={rankings}", "--k=30"]) == 0
    assert (
        main(
            ["distill", *SMALL, *TRAINING, f"--rankings={rankings}", f"--out={student}", "--student.width=4"]
        )
        == 0
    )
    capsys.readouterr()
    assert main(["evaluate", *DATA, f"--model={student}", f"--out={tmp_path}/m.json", "--cutoffs=[5]"]) == 0
    assert "recall@5" in capsys.readouterr().out
    assert 0 <= json.loads((tmp_path / "m.json").read_text())["recall@5"] <= 1
    assert main(["recommend", *DATA, f"--model={student}", "--users=[3, 7]", "--k=4"]) == 0
    rows = list(csv.reader(capsys.readouterr().out.splitlines()))
    assert rows[0] == ["user", "position", "item", "score"]
    assert [row[:2] for row in rows[1:]] == [[user, str(p)] for user in ("3", "7") for p in (1, 2, 3, 4)]
    assert main(["recommend", *DATA, f"--model={student}", f"--out={tmp_path}/all.csv"]) == 0
    assert sum(1 for _ in (tmp_path / "all.csv").open()) == 1 + 150 * 10


def test_what_killed_commands_left_of_their_files_is_removed(tmp_path):
    """Of the files that they write themselves; others may be at work on theirs."""

    def leave(*paths):
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.abcd1234.partial").write_bytes(bytes(1000))

    left = lambda: sorted(path.name for path in tmp_path.rglob("*.partial"))
    short = [*SMALL, "--training.epochs=1", "--progress=false"]
    leave(tmp_path / "t" / "model.safetensors", tmp_path / "t" / "other.csv", tmp_path / "r.safetensors")
    assert main(["train", *short, f"--out={tmp_path}/t", "--model.width=4"]) == 0
    assert main(["extract", *SMALL, f"--model={tmp_path}/t", f"--out={tmp_path}/r.safetensors", "--k=7"]) == 0
    assert not (tmp_path / "r.safetensors.parts").exists()
    leave(tmp_path / "d" / "model.safetensors", tmp_path / "d" / "teacher.safetensors")
    method = ["--method.name=bd", f"--teacher={tmp_path}/t", "--student.width=3"]
    assert main(["distill", *short, *method, f"--out={tmp_path}/d"]) == 0
    assert (tmp_path / "d" / "teacher.safetensors").is_file()
    assert left() == [".other.csv.abcd1234.partial"]


def test_rankings_from_embedding_files(tmp_path, teacher):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "users.npy", rng.normal(size=(150, 5)).astype(np.float32))
    np.savez(tmp_path / "items.npz", vectors=rng.normal(size=(120, 5)).astype(np.float32))
    files = [f"--user_vectors={tmp_path}/users.npy", f"--item_vectors={tmp_path}/items.npz"]
    assert main(["extract", *SMALL, *files, f"--out={tmp_path}/r", "--k=7"]) == 0


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["run", "--training.epoch=3"], 2, "nearest key is training.epochs"),
        (["run", "--teecher.width=3"], 2, "nearest key is teacher.width"),
        (["run", "--training.epochs=many"], 2, "training.epochs"),
        (["run", "--training.epochs=0"], 1, "expected training.epochs of 1 or more; got 0"),
        (["run", "--data.source=genrated"], 1, "did you mean 'generated'"),
        (
            ["run", *SMALL, "--out=OUT/a", "--method.options={temprature: 3}", *TRAINING],
            1,
            "nearest key is temperature",
        ),
        (
            ["train", *SMALL, *TRAINING, "--out=OUT/b", "--training.metric=recal@50"],
            1,
            "expected training.metric of recall",
        ),
        (
            ["evaluate", *DATA, "--model=OUT/absent"],
            1,
            "expected a model's folder or file, or a file of factors; got",
        ),
        (["evaluate", "--model=TEACHER"], 1, "expected a model of this data set's users"),
        (["evaluate", *DATA, "--model=TEACHER", "--cutoffs=[]"], 1, "expected cutoffs above 0; got none"),
        (["recommend", *DATA, "--model=TEACHER", "--users=[nobody]"], 1, "nobody"),
        (
            ["extract", *DATA, "--out=OUT/c"],
            1,
            "either model, or user_vectors and item_vectors; got none of them",
        ),
        (["extract", *DATA, "--out=OUT/c", "--user_vectors=x.npy"], 1, "item_vectors; got user_vectors"),
        (
            ["extract", *DATA, "--out=OUT/c", "--model=m", "--user_vectors=x.npy"],
            1,
            "got model and user_vectors",
        ),
        (
            ["extract", *DATA, "--out=OUT/d", "--user_vectors=x.txt", "--item_vectors=y.txt"],
            1,
            "extract: expected user_vectors as .npy, .npz, .pt or .safetensors; got x.txt",
        ),
        (
            ["distill", *DATA, "--out=OUT/e", "--rankings=TEACHER/model.safetensors"],
            1,
            "expected a rankings file",
        ),
        (["distil"], 2, "distil"),
    ],
)
def test_bad_command_lines_are_one_clear_line(arguments, status, message, tmp_path, teacher, capsys):
    arguments = [a.replace("OUT", str(tmp_path)).replace("TEACHER", str(teacher)) for a in arguments]
    try:
        found = main(arguments)
    except SystemExit as exit:
        found = exit.code
    error = capsys.readouterr().err
    assert found == status
    assert message in error
    assert "Traceback" not in error


def test_a_config_file_and_its_overrides(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text("training:\n  epochs: 2\n  seed: 5\nmodel:\n  width: 3\nprogress: false\n")
    assert main(["train", f"--config={path}", *DATA, f"--out={tmp_path}/a", "--model.width=4"]) == 0
    assert sum(1 for _ in (tmp_path / "a" / "log.jsonl").open()) == 2
    path.write_text("training:\n  epoch: 2\n")
    with pytest.raises(SystemExit):
        main(["train", f"--config={path}", f"--out={tmp_path}/b"])
    assert "nearest key is training.epochs" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize(
    "command",
    [
        "run --out=out",
        "train --out=out",
        "extract --out=out --model=m",
        "tune --out=out",
        "evaluate --model=m",
    ],
)
def test_a_gpu_that_is_not_there_is_an_error(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *SMALL, "--training.epochs=1", "--out=m"]) == 0
    assert main([*command.split(), *DATA, "--device", "cuda"]) == 1
    assert "expected a GPU of number 0 for device=cuda; got 0 GPUs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_reader_that_has_enough_ends_the_command_silently(teacher):
    """As `| head` does, after the command has begun to write."""
    command = [sys.executable, "-m", "rankdistill", "recommend", *DATA, f"--model={teacher}", "--k=100"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout.readline().startswith("user,position,item,score")
    running.stdout.close()
    assert "error" not in running.stderr.read().lower()
    assert running.wait() == 128 + signal.SIGPIPE


def test_doctor_says_what_is_in_use(capsys):
    assert main(["doctor"]) == 0
    assert "\nbackends:\n" in capsys.readouterr().out


def test_every_method_is_cited(capsys):
    assert main(["methods", "--bibtex=true"]) == 0
    entries = capsys.readouterr().out.strip().split("\n\n")
    assert len(entries) == len(set(entries)) == len(PAPERS)
    assert {m for entry in entries for m in entry.splitlines()[0].removeprefix("% ").split(", ")} == set(
        METHODS
    )
    for entry in entries:
        assert re.fullmatch(r"% .+\n@\w+\{\w+,\n(  \w+ = \{.+\},?\n)+\}", entry)
        assert {"author", "title", "year"} <= set(re.findall(r"^  (\w+) = ", entry, re.MULTILINE))
    for name, keys in CITED.items():  # as the methods' own docstrings have them
        source = " ".join(METHODS[name].__doc__.split("Source:")[1].split())
        for _, fields in map(PAPERS.get, keys):
            assert fields["author"].split(" and ")[0].split()[-1] in source
            assert fields["year"] in source
            assert name == "listwise" or fields["title"].replace("{", "").replace("}", "") in source
