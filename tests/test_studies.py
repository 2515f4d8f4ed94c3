"""Published studies, run again on a small data set: every one to its report, through a kill, and beside what was published."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rankdistill.data import generate
from rankdistill.files import alone_in
from rankdistill.methods import settings_of
from rankdistill.seeds import VALUES
from rankdistill.studies import accounts, heterogeneous, methods, ranking, runner, scaling, topology
from tests.process import kill_at_line
from tests.test_house import files

FOLDERS = ("citeulike/loo_full_ranking", "citeulike/loo", "ml-1m", "gowalla")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Every folder that studies read, all with the same 60 users of one validation and one test item."""
    base = tmp_path_factory.mktemp("data")
    made = generate(
        60, 80, mean_interactions=14, min_interactions=8, n_groups=4, groups_per_user=1, ratios=(1, 0, 0)
    )
    users, items = made.train.users.tolist(), made.train.items.tolist()
    parts = {"train": [], "valid": [], "test": []}
    for at, pair in enumerate(zip(users, items)):
        first = at == 0 or users[at - 1] != users[at]
        second = not first and (at == 1 or users[at - 2] != users[at])
        parts["valid" if first else "test" if second else "train"].append(pair)
    for folder in FOLDERS:
        (base / folder).mkdir(parents=True)
        for part, pairs in parts.items():
            text = "user,item\n" + "".join(f"{user},{item}\n" for user, item in pairs)
            (base / folder / f"{part}.csv").write_text(text)
    return base


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Little is timed, and teachers are small."""
    monkeypatch.setattr(accounts, "WARMUP", 0.0)
    for study in (topology, ranking, methods):
        monkeypatch.setattr(study, "TEACHER_WIDTH", 16)
    monkeypatch.setattr(ranking, "CANDIDATES", 30)
    small = {
        name: (type(model)(model.name, 8), training)
        for name, (model, training) in heterogeneous.TEACHERS.items()
    }
    monkeypatch.setattr(heterogeneous, "TEACHERS", small)


def main(arguments: list[str]) -> int:
    from rankdistill.cli import main as command_line  # its parser is a package that studies do without

    return command_line(arguments)


def reproduce(data, out, *arguments) -> str:
    command = ["reproduce", *arguments, f"--data={data}", f"--out={out}", "--progress=false", "--threads=1"]
    assert main(command) == 0
    for name in ("report.md", "report.html"):
        assert (out / name).is_file()
    return (out / "report.md").read_text()


def outcome(out, name, seed=0) -> runner.Outcome:
    return runner.Outcome(**json.loads((out / name / f"seed-{seed}" / runner.OUTCOME).read_text()))


def line_of(text: str, *cells: str) -> list[str]:
    """The first line of a table that begins so."""
    found = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return next(line for line in found if line[: len(cells)] == list(cells))


def test_topology_beside_the_published_curves(data, tmp_path, capsys):
    text = reproduce(data, tmp_path, "topology", "--epochs=12", "--widths=[4,20]", "--methods=[base,ftd,rrd]")
    ours = outcome(tmp_path, "ftd-20").curve("test/recall@50")
    assert [epoch for epoch, _ in ours] == [0, 10, 11]
    assert line_of(text, "ftd, D = 20", "ours")[2:] == [f"{value:.4f}" for _, value in ours]
    assert line_of(text, "ftd, D = 20", "published")[2:5] == ["0.1295", "0.1774", "–"]
    final = line_of(text, "base, D = 20")
    assert final[2:] == ["0.2276", f"{ours_of(tmp_path, 'base-20') - 0.2276:+.4f}", "–", "–"], (
        "a trial has no target"
    )
    assert line_of(text, "rrd, D = 4")[2:] == ["–"] * 4, "not published"
    assert "A trial of 12 epochs: not comparable" in text
    assert "60 users, 80 items" in text
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 2
    assert text == capsys.readouterr().out.partition("The same as a page")[0].rstrip("\n") + "\n"


def ours_of(out, name) -> float:
    return outcome(out, name).curve("test/recall@50")[-1][1]


def test_what_is_finished_is_not_run_again(data, tmp_path, monkeypatch):
    arguments = ("topology", "--epochs=2", "--widths=[4]")
    text = reproduce(data, tmp_path, *arguments, "--methods=[base]")
    with monkeypatch.context() as during:
        during.setattr(runner, "fit", lambda *a, **k: pytest.fail("trained again"))
        assert reproduce(data, tmp_path, *arguments, "--methods=[base]") == text
    trained = []
    monkeypatch.setattr(
        runner, "fit", lambda *a, fit=runner.fit, **k: trained.append(a[4].parent.name) or fit(*a, **k)
    )
    reproduce(data, tmp_path, *arguments, "--methods=[base,ftd]", "--seeds=0..1")
    assert trained == ["ftd-4", "teacher", "base-4", "ftd-4"], "what is missing, seed by seed"


@pytest.mark.parametrize(
    ("study", "methods", "missing"),
    [
        ("topology", "base,ftd,rrd", "ftd-20"),
        ("ranking", "student,rrd,ir-rrd", "student"),
        ("heterogeneous", "student,rrd-cml,hetcomp", "rrd-cml"),
        ("methods", "rrd,cd", "citeulike/rrd"),
    ],
)
def test_what_is_finished_is_reported_before_anything_is_trained(
    study, methods, missing, data, tmp_path, monkeypatch
):
    arguments = (study, "--epochs=2", "--seeds=[0]", f"--methods=[{methods}]")
    arguments += {"topology": ("--widths=[20]",), "methods": ("--datasets=[citeulike]",)}.get(study, ())
    text = reproduce(data, tmp_path, *arguments)
    whole = int(re.search(r"(\d+) of \1 models are trained", text)[1])
    shutil.rmtree(tmp_path / missing)
    for page in ("report.md", "report.html"):
        (tmp_path / page).unlink()

    def stopped(*args, **kwargs):
        raise ValueError("stopped")

    monkeypatch.setattr(runner, "fit", stopped)
    command = ["reproduce", *arguments, f"--data={data}", f"--out={tmp_path}", "--progress=false"]
    assert main(command) == 1
    text = (tmp_path / "report.md").read_text()
    assert f"{whole - 1} of {whole} models are trained" in text
    assert (tmp_path / "report.html").is_file()


def test_other_settings_need_another_folder(data, tmp_path, capsys):
    reproduce(data, tmp_path, "topology", "--epochs=2", "--widths=[4]", "--methods=[base]")
    command = ["reproduce", "topology", "--epochs=3", "--widths=[4]", f"--data={data}", f"--out={tmp_path}"]
    assert main(command) == 1
    assert "expected training.epochs=2" in capsys.readouterr().err


def topology_command(data, out) -> list[str]:
    """Of a process of its own: teacher, student and FTD, a second or so each."""
    code = "import rankdistill.studies.topology as t; t.TEACHER_WIDTH = 16; from rankdistill.cli import main; main()"
    arguments = [
        "reproduce",
        "topology",
        "--epochs=40",
        "--widths=[4]",
        "--methods=[base,ftd]",
        f"--data={data}",
    ]
    return [sys.executable, "-c", code, *arguments, f"--out={out}", "--progress=false", "--threads=1"]


def test_it_is_killed_and_goes_on_to_the_same_result(data, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    quiet = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "env": os.environ | {"OMP_NUM_THREADS": "1"},
    }
    assert subprocess.run(topology_command(data, whole), **quiet).returncode == 0
    assert kill_at_line(
        subprocess.Popen(topology_command(data, broken), **quiet),
        broken / "ftd-4" / "seed-0" / "log.jsonl",
        5,
    )
    assert not (broken / "ftd-4" / "seed-0" / VALUES).exists(), "killed in the midst of a model"
    teacher = (broken / "teacher" / "seed-0" / runner.OUTCOME).stat().st_mtime_ns
    assert subprocess.run(topology_command(data, broken), **quiet).returncode == 0
    assert (broken / "teacher" / "seed-0" / runner.OUTCOME).stat().st_mtime_ns == teacher
    for name in ("teacher", "base-4", "ftd-4"):
        values = [load_file(out / name / "seed-0" / VALUES) for out in (whole, broken)]
        assert set(values[0]) == set(values[1])
        assert all(torch.equal(values[0][metric], values[1][metric]) for metric in values[0])
        first, second = (outcome(out, name).curve("test/recall@50") for out in (whole, broken))
        assert first == second


def test_ranking_among_sampled_items(data, tmp_path):
    text = reproduce(
        data, tmp_path, "ranking", "--epochs=4", "--seeds=0..1", "--methods=[student,rrd,de,de+rrd]"
    )
    assert "Seeds 0, 1; 10 of 10 models are trained" in text
    found = [outcome(tmp_path, "rrd", seed) for seed in (0, 1)]
    best = [max((r for r in o.history), key=lambda r: r["valid/hit_rate@10"])["test/ndcg@10"] for o in found]
    mean, std = torch.tensor(best).mean(), torch.tensor(best).std()
    assert line_of(text, "rrd, D = 20", "ours")[6] == f"{mean:.4f} ± {std:.4f}", (
        "at the best epoch of its own cut-off"
    )
    assert line_of(text, "rrd, D = 20", "published")[2:] == [
        *(f"{v:.4f}" for v in ranking.PUBLISHED["rrd"][:-1]),
        "365",
    ]
    assert line_of(text, "de+rrd, D = 20", "hit_rate@5")[5] != "–", "paired over users and seeds"
    hits = {
        name: torch.stack(
            [load_file(tmp_path / name / f"seed-{seed}" / VALUES)["hit_rate@5"] for seed in (0, 1)]
        )
        for name in ("rrd", "de", "de+rrd")
    }
    for base, other in (("rrd", "de"), ("de", "de+rrd")):
        gap = line_of(text.partition(f"## Against {base}, D = 20")[2], f"{other}, D = 20", "hit_rate@5")
        assert gap[2] == f"{hits[other].mean() - hits[base].mean():+.4f}"
    assert "of its own validation hit rate" in text


def test_candidates_are_unseen_and_the_same_for_all(data):
    dataset, _ = ranking.CITEULIKE_CANDIDATES.open(str(data))
    first, second = (ranking.CandidateProtocol(dataset, ranking.SHOWN, n_candidates=20) for _ in range(2))
    assert torch.equal(first.candidates, second.candidates)
    for part in (dataset.train, dataset.valid, dataset.test):
        users = first.users.repeat_interleave(20)
        assert not part.csr().contains(users, first.candidates.flatten()).any()
    assert all(len(row.unique()) == 20 for row in first.candidates)
    other = ranking.CandidateProtocol(dataset, ranking.SHOWN, n_candidates=20, seed=1)
    assert other.fingerprint() != first.fingerprint() == second.fingerprint()


def test_it_waits_for_any_of_the_watched_metrics(data, tmp_path):
    """As released: an evaluation counts as none where neither hit rate at 5, 10 or 20 is better."""
    dataset, _ = ranking.CITEULIKE_CANDIDATES.open(str(data))
    from rankdistill import MatrixFactorization, Trainer
    from rankdistill.config import TrainingConfig

    numbers = iter([(0.5, 0.1), (0.4, 0.2), (0.4, 0.2), (0.6, 0.2), (0.1, 0.2), (0.6, 0.1), (0.9, 0.9)])

    def evaluation(model):
        first, second = next(numbers)
        return {"valid/hit_rate@5": first, "valid/hit_rate@10": second}

    config = TrainingConfig(epochs=9, evaluate_every=1, patience=2, metric="hit_rate@5")
    trainer = Trainer(
        MatrixFactorization(60, 80, 2),
        dataset,
        config,
        evaluation=evaluation,
        watched=("hit_rate@5", "hit_rate@10"),
    )
    assert len(trainer.fit()) == 6
    assert trainer.best_epoch == 3


def test_one_student_of_six_teachers(data, tmp_path):
    text = reproduce(data, tmp_path, "heterogeneous", "--epochs=8", "--methods=[student,rrd-cml,hetcomp]")
    kept = re.search(
        r"HetComp's student keeps ([\d.]+)% of the ensemble's Recall@50 \((0\.\d+)\) at ([\d.]+)% of", text
    )
    student = float(line_of(text, "HetComp of all, D = 20")[1])
    assert float(kept[1]) == pytest.approx(100 * student / float(kept[2]), abs=0.1)
    assert ("is reached" in text) == (float(kept[1]) >= 90 and float(kept[3]) < 10)
    parameters = sum(outcome(tmp_path, name).parameters for name in heterogeneous.TEACHERS)
    assert line_of(text, "ensemble of six")[3] == f"{parameters:,}"
    first = (tmp_path / heterogeneous.LATENCY_FILE).read_bytes()
    assert (
        reproduce(data, tmp_path, "heterogeneous", "--epochs=8", "--methods=[student,rrd-cml,hetcomp]")
        == text
    )
    assert (tmp_path / heterogeneous.LATENCY_FILE).read_bytes() == first, "measured once"


def test_the_ensembles_numbers_are_those_of_its_lists(data, tmp_path):
    """Against a plain loop over users: sums of exp(−position/10), without train and validation items."""
    import math

    from rankdistill.config import ReproduceConfig
    from rankdistill.models.trajectory import KeptTrajectory

    config = ReproduceConfig("heterogeneous", data=str(data), epochs=8, methods=["student"], progress=False)
    results = heterogeneous.reproduce(config, tmp_path)
    carried = runner.Runner(results.plan, tmp_path, False)
    found = heterogeneous.ensemble_values(results, carried, 0)["recall@10"]
    dataset, hits = results.plan.dataset, []
    teachers = [
        KeptTrajectory.load(carried.folder(name, 0) / "trajectory", dataset, least=0).checkpoints[-1].indices
        for name in heterogeneous.TEACHERS
    ]
    valid = dict(zip(dataset.valid.users.tolist(), dataset.valid.items.tolist()))
    for user, item in zip(dataset.test.users.tolist(), dataset.test.items.tolist()):
        sums: dict[int, float] = {}
        for lists in teachers:
            ranked = [listed for listed in lists[user].tolist() if listed >= 0 and listed != valid[user]]
            for position, listed in enumerate(ranked):
                sums[listed] = sums.get(listed, 0.0) + math.exp(-position / 10)
        hits.append(float(item in sorted(sums, key=sums.get, reverse=True)[:10]))
    assert found.tolist() == hits


def test_every_method_on_two_data_sets(data, tmp_path):
    text = reproduce(
        data, tmp_path, "methods", "--epochs=4", "--seeds=[0]", "--methods=[rrd,de,phr,concf,hetcomp,bd]"
    )
    assert text.count("8 of 8 models are trained") == 2
    for name in ("citeulike", "ml-1m"):
        settings = json.loads((tmp_path / name / "de" / "settings.json").read_text())
        options = settings["methods"][0]["options"]
        assert options["n_experts"] == 5
        assert {"seed", *options} == set(settings_of("de"))
        assert outcome(tmp_path / name, "phr").method_parameters == 16 * 256 + 256 + 256 * 16 * 20 + 16 * 20
        settings = json.loads((tmp_path / name / "concf" / "settings.json").read_text())
        assert (settings["model"]["width"], settings["training"]["learning_rate"]) == (80, 0.01)
        settings = json.loads((tmp_path / name / "hetcomp" / "settings.json").read_text())
        assert settings["training"]["batch_size"] == {"citeulike": 1024, "ml-1m": 8192}[name]
        assert settings["methods"][0]["options"]["period"] == {"citeulike": 10, "ml-1m": 5}[name]
    assert "Adam 0.001 (teacher 0.001), decay 0.001, batches of 1024, 4 epochs at most" in text
    assert "Adam 0.004 (teacher 0.002), decay 0.003, batches of 8192, 4 epochs at most" in text
    assert text.count("Shortened as the training is: bd period 5; concf period 5; hetcomp period 5.") == 1
    assert "DE has 5 experts, fewer than published; PHR has a hidden width of 256" in text
    assert "PCKD" not in text
    assert (tmp_path / "curves-ml-1m.png").is_file()


def test_a_student_as_wide_as_its_teacher_is_another_model(data, tmp_path):
    reproduce(
        data,
        tmp_path,
        "methods",
        "--epochs=3",
        "--seeds=0..1",
        "--methods=[rrd]",
        "--widths=[16]",
        "--datasets=[citeulike]",
    )
    tables = [
        load_file(tmp_path / "citeulike" / name / f"seed-{seed}" / "model.safetensors")["model/user_table"]
        for name in ("teacher", "student")
        for seed in (0, 1)
    ]
    correlations = torch.corrcoef(torch.stack([table.flatten() for table in tables]))
    assert float((correlations - torch.eye(4)).abs().max()) < 0.5


def test_methods_on_interactions_of_ones_own(data, tmp_path):
    """A folder of three parts, and one file that is split."""
    one, out = tmp_path / "mine 2.csv", tmp_path / "out"
    one.write_text((data / FOLDERS[0] / "train.csv").read_text())
    command = ["methods", "--epochs=2", "--seeds=[0]", "--methods=[rrd]"]
    text = reproduce(data, out, *command, f"--datasets=[{data / FOLDERS[0]},{one}]")
    names = [Path(FOLDERS[0]).name, "mine 2"]
    assert text.startswith(f"# Every method on {names[0]} and {names[1]}\n")
    assert text.count("3 of 3 models are trained") == 2
    for name in names:
        assert outcome(out / name, "rrd").epochs == 2
    assert f"Data: {one}." in text
    pictures = [f"{kind}-{name}.png" for name in (names[0], "mine-2") for kind in ("curves", "costs")]
    assert re.findall(r"\]\((.*?)\)", text) == pictures
    assert all((out / picture).is_file() for picture in pictures)


def test_the_cost_of_steps_as_catalogues_grow(data, tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "STEPS", 2)
    text = reproduce(data, tmp_path, "scaling", "--sizes=[200,400]")
    assert line_of(text, "items")[1:] == ["200", "400", "80"]
    kept = json.loads((tmp_path / "costs-400.json").read_text())
    assert {cost["step"].split(",")[0].split(":")[0] for cost in kept["costs"]} == {
        "extraction (once)", "sampling", "loss and gradients", "optimiser"
    }  # fmt: skip
    assert all(cost["seconds"] > 0 for cost in kept["costs"])
    monkeypatch.setattr(scaling, "measured", lambda *a: pytest.fail("measured again"))
    assert reproduce(data, tmp_path, "scaling", "--sizes=[200,400]") == text


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["reproduce", "topologies"], 2, "topology"),
        (["reproduce"], 2, "study"),
        (["reproduce", "topology", "--epochs=0"], 1, "expected epochs of 1 or more; got 0"),
        (["reproduce", "topology", "--widths=[0]"], 1, "expected widths of 1 or more"),
        (["reproduce", "scaling", "--sizes=[7]"], 1, "expected sizes of 100 or more"),
        (["reproduce", "topology", "--data=DATA", "--methods=[fdt]"], 1, "expected methods of base, ftd, htd"),
        (["reproduce", "ranking", "--data=DATA", "--seeds=3..1"], 1, "expected 0..4, or a list of different seeds"),
        (["reproduce", "topology", "--datasets=[ml-1m]"], 1, "expected no datasets for topology; got ['ml-1m']"),
        (["reproduce", "methods", "--datasets=[ml-2m]"], 1, "a file or a folder; got 'ml-2m'"),
        (["reproduce", "methods", "--data=DATA", "--datasets=[ml-1m,DATA/ml-1m]"], 1, "got two of the name ml-1m"),
        (["reproduce", "methods", "--data=DATA/ml-1m"], 1, "name it as --datasets=[DATA/ml-1m]"),
        (["reproduce", "topology", "--data=/nowhere"], 1, "expected a folder with citeulike/loo_full_ranking/train."),
    ],
)  # fmt: skip
def test_bad_arguments_are_one_clear_line(arguments, status, message, data, tmp_path, capsys):
    arguments = [a.replace("DATA", str(data)) for a in arguments] + [f"--out={tmp_path}"]
    if status == 2:
        with pytest.raises(SystemExit):
            main(arguments)
    else:
        assert main(arguments) == 1
    error = capsys.readouterr().err.strip().replace(str(data), "DATA")
    assert message in error.splitlines()[-1]


def test_a_data_set_that_is_not_downloaded_says_where_it_must_be(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("RANKDISTILL_DATA", raising=False)
    monkeypatch.setattr(scaling, "STEPS", 1)
    assert main(["reproduce", "scaling", "--sizes=[100]", f"--out={tmp_path}", "--progress=false"]) == 0
    assert (
        "Gowalla is not measured: reproduce: expected a folder with gowalla/train." in capsys.readouterr().out
    )
    assert main(["reproduce", "scaling", "--sizes=[]", f"--out={tmp_path}", "--progress=false"]) == 1
    assert "expected sizes of generated catalogues, or Gowalla's data; got neither" in capsys.readouterr().err


def test_data_sets_whose_pictures_had_one_name_are_refused(tmp_path, capsys):
    paths = [tmp_path / "a b.csv", tmp_path / "a-b.csv"]
    for path in paths:
        path.write_text("user,item\n" + "".join(f"{user},{item}\n" for user in range(9) for item in range(9)))
    listed = ",".join(map(str, paths))
    assert main(["reproduce", "methods", f"--datasets=[{listed}]", f"--out={tmp_path / 'out'}"]) == 1
    assert "expected datasets of different names; got two of the name a-b" in capsys.readouterr().err


def test_methods_need_held_out_interactions(tmp_path, capsys):
    (tmp_path / "train.csv").write_text("user,item\n1,1\n1,2\n2,3\n")
    assert main(["reproduce", "methods", f"--datasets=[{tmp_path}]", f"--out={tmp_path / 'out'}"]) == 1
    assert f"expected validation and test interactions in {tmp_path}" in capsys.readouterr().err
    assert not (tmp_path / "out" / "report.md").exists()


def test_two_held_out_items_do_not_fit_the_sampled_protocol(tmp_path, capsys):
    for part, pairs in {"train": "1,1\n1,2\n2,3", "valid": "1,4\n1,5", "test": "1,6"}.items():
        (tmp_path / f"{part}.csv").write_text(f"user,item\n{pairs}\n")
    assert main(["reproduce", "ranking", f"--data={tmp_path}", f"--out={tmp_path}/out"]) == 1
    assert "expected one valid item of a user at most, and some; got up to 2" in capsys.readouterr().err


def test_processes_share_the_models_of_a_study(data, tmp_path):
    """One is trained elsewhere at first: the others are not kept waiting, and it is trained once that ends."""
    told, waits = [tmp_path / "told-0", tmp_path / "told-1"], "another process trains it"
    given = {"stdout": subprocess.DEVNULL, "env": os.environ | {"OMP_NUM_THREADS": "1"}}
    held = tmp_path / "base-4" / "seed-0"
    held.mkdir(parents=True)
    with alone_in(held, "test", "model"):
        running = []
        for path in told:
            with path.open("w") as stderr:
                running.append(subprocess.Popen(topology_command(data, tmp_path), stderr=stderr, **given))
        deadline = time.monotonic() + 120
        both_wait = lambda: all(f"base, D = 4, seed 0: {waits}" in path.read_text() for path in told)
        while (
            not (both_wait() and (tmp_path / "ftd-4" / "seed-0" / VALUES).is_file())
            and time.monotonic() < deadline
        ):
            time.sleep(0.05)
        assert not (held / runner.OUTCOME).exists()
    ended = [process.wait(timeout=120) for process in running]
    texts = [path.read_text() for path in told]
    assert ended == [0, 0], texts
    trained = re.findall(r"model \d of 3: (\w+)", "".join(texts))
    assert sorted(trained) == ["base", "ftd", "teacher"], "each by one of them"
    assert waits in texts[0]
    assert waits in texts[1]
    assert "3 of 3 models are trained" in (tmp_path / "report.md").read_text()


def test_published_numbers_stand_in_their_study_alone():
    """Each has its source, every row is whole, and no other file says them again."""
    assert all(len(row) == 11 for row in topology.PUBLISHED.values())
    assert {key for key in topology.PUBLISHED if key[1] != "teacher"} == {
        (width, method) for width in topology.WIDTHS for method in topology.METHODS
    }
    assert all(len(row) == len(ranking.SHOWN) + 1 for row in ranking.PUBLISHED.values())
    for study in (topology, ranking, heterogeneous):
        assert re.search(r"\b(CIKM|KDD|WWW) 20\d\d\b", study.SOURCE)
    sources = [p for p in files("python", "benchmarks", suffixes={".py"}) if p.parent.name != "studies"]
    for study in (topology, ranking):
        for row in study.PUBLISHED.values():
            number = f"{row[-1] if study is topology else row[0]:.4f}"
            assert not [p.name for p in sources if number in p.read_text()], number


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ("scaling", "expected device=cpu for scaling; got cuda"),
        ("ranking", "expected a GPU of number 0 for device=cuda; got 0 GPUs"),
    ],
)
def test_a_gpu_that_is_not_there_is_one_clear_line(study, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert main(["reproduce", study, "--device=cuda", f"--out={tmp_path / 'out'}"]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("study", "name"), [("ranking", "de"), ("methods", "hetcomp"), ("topology", "htd")])
def test_a_study_on_a_gpu_goes_on_with_models_of_the_processor(study, name, data, tmp_path):
    from rankdistill.config import ReproduceConfig

    study = importlib.import_module(f"rankdistill.studies.{study}")

    def reproduced(device: str) -> None:
        config = ReproduceConfig(
            study.__name__.rpartition(".")[2], data=str(data), epochs=4, seeds=[0], methods=[name],
            device=device, progress=False,
        )  # fmt: skip
        study.reproduce(config, tmp_path / device)

    reproduced("cpu")
    for entry in ("teacher", "student"):
        for folder in (tmp_path / "cpu").rglob(entry):
            shutil.copytree(folder, tmp_path / "cuda" / folder.relative_to(tmp_path / "cpu"))
    reproduced("cuda")
    assert f"Trained on {torch.cuda.get_device_name()}" in (tmp_path / "cuda" / "report.md").read_text()
    found = [
        json.loads(next((tmp_path / device).rglob(f"{name}*/seed-0/{runner.OUTCOME}")).read_text())
        for device in ("cpu", "cuda")
    ]
    assert [bool(outcome["gpu"]) for outcome in found] == [False, True]
    losses = [[record["loss"] for record in outcome["history"]] for outcome in found]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
