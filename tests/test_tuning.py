"""The search: it looks at validation alone, finds what is there, and is the same wherever it was interrupted."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from rankdistill.cli import main
from rankdistill.files import AtWork
from rankdistill.losses import RelaxedRankingDistillation
from rankdistill.parallel import copies
from rankdistill.tuning import Range, best_of, ranges_of, search
from tests.process import kill_at_line

needs_optuna = pytest.mark.usefixtures("optuna")
SMALL = [
    "--data.options={n_users: 120, n_items: 150, mean_interactions: 15, min_interactions: 6, n_groups: 5}",
    "--progress=false", "--training.epochs=3", "--training.evaluate_every=1", "--training.batch_size=256",
]  # fmt: skip


@pytest.fixture(scope="module")
def optuna():
    return pytest.importorskip("optuna", reason="Optuna is not installed: nothing to search with")


def quadratic(folder, parameters) -> float:
    return -((parameters["x"] - 3) ** 2) - (parameters["kind"] != "b")


RANGES = {"x": Range(-10.0, 10.0), "kind": Range(choices=("a", "b", "c"))}


@needs_optuna
def test_a_value_that_cannot_be_tried_does_not_block_the_search(tmp_path):
    """It is told, and the next call goes on with the next trial."""
    tried = []

    def picky(folder, parameters):
        tried.append(parameters["x"])
        if len(tried) == 2:
            raise ValueError("expected another x; got this one")
        return quadratic(folder, parameters)

    with pytest.raises(ValueError, match=r"trial 1 with \{'x': .*\}: expected another x; got this one"):
        search(tmp_path, RANGES, picky, trials=4, study="picky")
    assert len(search(tmp_path, RANGES, picky, trials=4, study="picky")) == 4
    assert len(set(tried)) == len(tried) == 5


@needs_optuna
@pytest.mark.parametrize(
    "error", [RuntimeError("no memory"), KeyError("no memory"), MemoryError("no memory")]
)
def test_a_trial_that_fits_no_memory_does_not_block_the_search(tmp_path, error):
    """torch raises a RuntimeError for it."""
    tried = []

    def large(folder, parameters):
        tried.append(folder.name)
        if len(tried) == 2:
            raise error
        return quadratic(folder, parameters)

    with pytest.raises(RuntimeError, match=rf"trial 1 with {{'x': .*}}: {type(error).__name__}: '?no memory"):
        search(tmp_path, RANGES, large, trials=3, study="large")
    assert len(search(tmp_path, RANGES, large, trials=3, study="large")) == 3
    assert tried == ["trial-0", "trial-1", "trial-2", "trial-3"]


@needs_optuna
@pytest.mark.parametrize("error", [OSError("no room"), AtWork("another one at work"), KeyboardInterrupt()])
def test_a_trial_that_the_machine_stops_goes_on(tmp_path, error):
    tried = []

    def stopped(folder, parameters):
        tried.append(folder.name)
        if len(tried) == 2:
            raise error
        return quadratic(folder, parameters)

    with pytest.raises(type(error)):
        search(tmp_path, RANGES, stopped, trials=3, study="stopped")
    assert len(search(tmp_path, RANGES, stopped, trials=3, study="stopped")) == 3
    assert tried == ["trial-0", "trial-1", "trial-1", "trial-2"]


@needs_optuna
@pytest.mark.parametrize("kind", ["sqlite:///{}/study.db", "{}/study.journal"])
def test_searches_in_two_folders_divide_the_trials_of_a_storage(tmp_path, kind):
    """Each goes on with what it has begun itself."""
    options = {"trials": 4, "study": "s", "storage": kind.format(tmp_path)}
    ran = []

    def interrupted(folder, parameters):
        ran.append(str(folder.relative_to(tmp_path)))
        raise KeyboardInterrupt

    def nested(folder, parameters):
        ran.append(str(folder.relative_to(tmp_path)))
        if len(ran) == 2:
            with pytest.raises(KeyboardInterrupt):
                search(tmp_path / "b", RANGES, interrupted, **options)
        return quadratic(folder, parameters)

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "a", RANGES, interrupted, **options)
    found = search(tmp_path / "a", RANGES, nested, **options)
    (tmp_path / "b").rename(tmp_path / "c")
    assert [trial.number for trial in found] == [0, 2, 3, 4]
    again = search(tmp_path / "c", RANGES, nested, **options)
    assert [trial.number for trial in again] == [0, 1, 2, 3, 4]
    assert ran == ["a/trial-0", "a/trial-0", "b/trial-1", "a/trial-2", "a/trial-3", "a/trial-4", "c/trial-1"]


@needs_optuna
@pytest.mark.parametrize("name", ["a?mode=memory&uri=true", "a%41", "{a}", "a b#ü"])
def test_the_study_lies_in_its_folder_whatever_its_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / name
    for trials in (1, 2):
        assert len(search(out, RANGES, quadratic, trials=trials, study="s")) == trials
    assert (out / "study.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_real_settings_are_sought_among_real_numbers():
    """[0, 1] of a weight are not two weights."""
    found = ranges_of("rrd", None, {}, {"weight": [0, 1], "temperature": [1, 20], "n_interesting": [10, 80]})
    kinds = {name: type(range_.low) for name, range_ in found.items()}
    assert kinds == {"weight": float, "temperature": float, "n_interesting": int}
    assert (
        type(ranges_of("rrd", None, {}, {"training.learning_rate": [1, 2]})["training.learning_rate"].high)
        is float
    )


@needs_optuna
@pytest.mark.parametrize("storage", [None, "study.journal", "sqlite:///other.db"])
def test_it_finds_the_best_and_goes_on_as_if_never_stopped(tmp_path, monkeypatch, storage):
    monkeypatch.chdir(tmp_path)
    whole = search(tmp_path / "whole", RANGES, quadratic, trials=30, study="whole", storage=storage)
    assert len(whole) == 30
    best = best_of(whole)
    assert abs(best.parameters["x"] - 3) < 1
    assert best.parameters["kind"] == "b"
    calls = 0

    def interrupted(folder, parameters):
        nonlocal calls
        calls += 1
        if calls % 4 == 0:
            raise KeyboardInterrupt
        return quadratic(folder, parameters)

    interruptions = 0
    while True:
        try:
            parts = search(tmp_path / "parts", RANGES, interrupted, trials=30, study="parts", storage=storage)
            break
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions == 9
    assert parts == whole
    again = search(tmp_path / "parts", RANGES, pytest.fail, trials=30, study="parts", storage=storage)
    assert again == whole, "a finished search is only read"
    assert (
        search(tmp_path / "other", RANGES, quadratic, trials=3, study="o", storage=None, seed=1) != whole[:3]
    )


@needs_optuna
def test_half_a_line_of_a_journal_does_no_harm(tmp_path):
    options = {"study": "s", "storage": str(tmp_path / "s.journal")}
    search(tmp_path, RANGES, quadratic, trials=3, **options)
    whole = search(tmp_path / "whole", RANGES, quadratic, trials=6, study="s")
    with open(tmp_path / "s.journal", "a") as journal:
        journal.write('{"op_code": 5, "wor')
    assert search(tmp_path, RANGES, quadratic, trials=6, **options) == whole


@needs_optuna
def test_a_loss_that_is_not_finite_is_a_trial_without_a_value(tmp_path):
    def diverges(folder, parameters):
        if parameters["x"] > 0:
            raise FloatingPointError("Trainer: expected a finite loss; got nan in epoch 0")
        return parameters["x"]

    trials = search(tmp_path, {"x": Range(-1.0, 1.0)}, diverges, trials=12, study="s")
    assert len(trials) == 12
    assert all((trial.value is None) == (trial.parameters["x"] > 0) for trial in trials)
    assert any(trial.value is None for trial in trials)
    assert best_of(trials).value == max(
        trial.parameters["x"] for trial in trials if trial.parameters["x"] <= 0
    )
    with pytest.raises(ValueError, match="expected a trial with a finite loss; got none of 1"):
        best_of([trial for trial in trials if trial.value is None][:1])


@needs_optuna
def test_two_searches_in_one_folder_are_refused(tmp_path):
    def nested(folder, parameters):
        search(tmp_path, RANGES, quadratic, trials=1, study="s")

    with pytest.raises(ValueError, match="for this search alone; got another one at work in it"):
        search(tmp_path, RANGES, nested, trials=1, study="s")


@needs_optuna
def test_a_search_needs_a_trial_and_a_storage_that_is_one(tmp_path):
    with pytest.raises(ValueError, match="tune: expected trials of 1 or more; got 0"):
        search(tmp_path, RANGES, quadratic, trials=0, study="s")
    with pytest.raises(ValueError, match=r"expected storage as a URL such as .*; got study.txt"):
        search(tmp_path, RANGES, quadratic, trials=1, study="s", storage="study.txt")


def test_without_optuna_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"expected Optuna; got none: pip install 'rankdistill\[tune\]'"
    ):
        search(tmp_path, RANGES, quadratic, trials=1, study="s")


def test_ranges_begin_around_what_is_set():
    weight = RelaxedRankingDistillation.default_weight
    found = ranges_of("rrd", None, {}, {})
    assert found["weight"] == Range(weight / 100, weight * 100, log=True)
    assert found["temperature"].log
    assert ranges_of("rrd", 2.0, {"temperature": 3.0}, {}) == {
        "weight": Range(0.02, 200.0, log=True), "temperature": Range(0.3, 30.0, log=True)}  # fmt: skip
    assert set(ranges_of("ftd", None, {}, {})) == {"weight"}, "it has no temperature"
    given = {"weight": None, "temperature": [1, 5], "training.learning_rate": {"low": 1e-4, "high": 1, "log": True},
             "student.width": {"choices": [4, 8]}}  # fmt: skip
    assert ranges_of("rrd", None, {}, given) == {
        "temperature": Range(1, 5), "training.learning_rate": Range(1e-4, 1, log=True),
        "student.width": Range(choices=(4, 8))}  # fmt: skip


@pytest.mark.parametrize(
    "given",
    [[5, 1], [1, 1], [1], "1", 3, {"low": 0, "high": 1, "log": True}, {"low": 1}, {"choices": []}, {"low": 1, "high": 2, "step": 1},
     {"low": "a", "high": "b"}, [True, False], {"choices": [[1]]}],
)  # fmt: skip
def test_what_is_no_range_is_a_clear_error(given):
    with pytest.raises(
        ValueError, match=r"tune: expected search.weight as \[low, high\], as low, high and log .*; got"
    ):
        ranges_of("rrd", None, {}, {"weight": given})


def test_what_cannot_be_searched_is_a_clear_error():
    with pytest.raises(
        ValueError, match=r"tune: expected names in search of weight, .*temperature.*; got 'temprature'"
    ):
        ranges_of("rrd", None, {}, {"temprature": [1, 2]})
    with pytest.raises(ValueError, match="tune: expected something to search; got"):
        ranges_of("rrd", None, {}, {"weight": None, "temperature": None})


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    assert main(["train", *SMALL, f"--out={folder}", "--model.width=16"]) == 0
    return folder


def command(teacher, out, *more) -> list[str]:
    return [
        "tune",
        *SMALL,
        f"--teacher={teacher}",
        "--student.width=4",
        "--method.list_length=30",
        f"--out={out}",
        *more,
    ]


@needs_optuna
def test_the_command_looks_at_validation_alone(teacher, tmp_path, monkeypatch, capsys):
    looked_at = []
    real = copies.evaluate
    monkeypatch.setattr(
        copies,
        "evaluate",
        lambda model, truth, *rest, **options: (
            looked_at.append(truth.indices) or real(model, truth, *rest, **options)
        ),
    )
    monkeypatch.setattr("rankdistill.commands.test_metrics", pytest.fail)
    arguments = command(
        teacher, tmp_path, "--trials=3", "--search={n_interesting: [5, 20], student.width: {choices: [3, 6]}}"
    )
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert len(looked_at) == 3 * 3
    assert len({tuple(indices.tolist()) for indices in looked_at}) == 1, "one part"
    results = json.loads((tmp_path / "trials.json").read_text())
    best = results["best"]
    assert best["value"] == max(trial["value"] for trial in results["trials"])
    assert set(best["parameters"]) == {"weight", "temperature", "n_interesting", "student.width"}
    assert f"| {best['value']:.4f} " in printed
    assert printed.split("\n\nThe best")[0] in (tmp_path / "trials.md").read_text()
    monkeypatch.undo()
    assert (
        main(["distill", f"--config={tmp_path}/best.yaml", "--progress=false", f"--out={tmp_path}/best"]) == 0
    )
    records = [json.loads(line) for line in (tmp_path / "best" / "log.jsonl").open()]
    assert max(record["valid/recall@50"] for record in records) == best["value"], "the best trial again"


@needs_optuna
def test_a_trial_is_worth_what_the_model_is_that_it_ends_with(teacher, tmp_path):
    """The last weights where those of the best validation are not kept."""
    values = {}
    for kept in (True, False):
        out = tmp_path / str(kept)
        more = ("--trials=1", "--training.learning_rate=1.0", "--training.epochs=5")
        assert main(command(teacher, out, *more, f"--training.keep_best={str(kept).lower()}")) == 0
        values[kept] = json.loads((out / "trials.json").read_text())["best"]["value"]
    found = [json.loads(line)["valid/recall@50"] for line in (out / "trial-0" / "log.jsonl").open()]
    assert values == {True: max(found), False: found[-1]}
    assert found[-1] < max(found), "else they cannot be told apart"


@needs_optuna
def test_it_is_killed_and_goes_on(teacher, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(out):
        arguments = command(teacher, tmp_path / out, "--trials=4", "--training.epochs=20")
        return subprocess.Popen([sys.executable, "-m", "rankdistill", *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip

    whole = start("whole")
    assert whole.wait(300) == 0, whole.stderr.read().decode()
    kills = 0
    for number, lines in ((0, 3), (0, 12), (2, 5)):
        log = tmp_path / "killed" / f"trial-{number}" / "log.jsonl"
        kills += kill_at_line(start("killed"), log, lines)
    assert kills == 3
    last = start("killed")
    assert last.wait(300) == 0, last.stderr.read().decode()
    assert json.loads((tmp_path / "killed" / "trials.json").read_text()) == json.loads((tmp_path / "whole" / "trials.json").read_text())  # fmt: skip
    assert not list(tmp_path.glob("*/trial-*/checkpoint.safetensors")), "finished trials leave no checkpoint"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--training.evaluate_test=true"], "tune: expected training.evaluate_test of false: only validation is looked at"),
        (["--data.ratios=[0.9, 0.0, 0.1]", "--data.train=OUT/t.csv"], "tune: expected a data set with a validation part; got none"),
        (["--search={weigth: [1, 2]}"], "tune: expected names in search of weight"),
        (["--method.options={temprature: 2}"], "nearest key is temperature"),
    ],
)  # fmt: skip
def test_bad_arguments_are_one_clear_line(arguments, message, teacher, tmp_path, capsys):
    (tmp_path / "t.csv").write_text("user,item\n1,2\n1,3\n2,3\n")
    arguments = [a.replace("OUT", str(tmp_path)) for a in arguments]
    arguments = command(teacher, tmp_path / "x", "--trials=1", *arguments)
    if any("t.csv" in a for a in arguments):
        arguments = [a for a in arguments if not a.startswith("--data.options")]
    assert main(arguments) == 1
    assert message in capsys.readouterr().err


@needs_optuna
def test_other_settings_need_another_folder(teacher, tmp_path, capsys):
    assert main(command(teacher, tmp_path, "--trials=1")) == 0
    assert main(command(teacher, tmp_path, "--trials=1", "--seed=1")) == 1
    assert "tune: expected seed=0, as " in capsys.readouterr().err
