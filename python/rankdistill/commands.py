"""What the command line does, one function per command, each on its settings from `rankdistill.config`."""

from __future__ import annotations

import csv
import dataclasses
import importlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import torch
from torch import nn

from rankdistill import collect_env, seeds, serving, tuning
from rankdistill.citations import bibtex
from rankdistill.config import (
    BenchServingConfig,
    DistillConfig,
    DoctorConfig,
    EvaluateConfig,
    ExportConfig,
    ExtractConfig,
    MethodsConfig,
    ModelConfig,
    RecommendConfig,
    ReproduceConfig,
    RunConfig,
    TrainConfig,
    TrainingConfig,
    TuneConfig,
)
from rankdistill.data import CSR, Dataset
from rankdistill.files import SETTINGS, alone_in, expect_settings, remove_partial, replacing, write_text
from rankdistill.fitting import (
    bar,
    fit,
    is_first_process,
    keep_model,
    make_terms,
    open_dataset,
    trained_teachers,
    trajectory_for,
)
from rankdistill.methods import METHODS, Given, base_weight, described, given_for, remembered
from rankdistill.metrics import SCORES
from rankdistill.metrics import evaluate as evaluate_model
from rankdistill.models import (
    Factors,
    ScoreTeacher,
    as_teacher,
    export_factors,
    export_program,
    load_factors,
)
from rankdistill.models.factors import warn_of_order
from rankdistill.models.ranked import rankings_metadata, unseen_rankings
from rankdistill.models.saved import MODEL_FILE, load_teacher, name_of
from rankdistill.models.trajectory import KeptTrajectory
from rankdistill.pages import write_pages
from rankdistill.parallel import torchrun_processes
from rankdistill.parallel.agreement import facts_of
from rankdistill.parallel.processes import choose_gpu
from rankdistill.rankings import Rankings, extract_rankings
from rankdistill.rankings.distributed import Processes
from rankdistill.rankings.shards import remove_folder
from rankdistill.rankings.tables import Table
from rankdistill.report import Row, compared, markdown
from rankdistill.run_report import run_report
from rankdistill.sampling import role_seed
from rankdistill.trainer import CHECKPOINT, Trainer, held_by

logger = logging.getLogger("rankdistill")

TEACHER_FILE = "teacher.safetensors"  # a teacher that trained along
LINES = 1 << 16  # of recommendations that are Python objects at once


def run(config: RunConfig) -> None:
    expect_one_process("run")
    choose_gpu(config.device)
    with alone(Path(config.out), "run"):
        run_alone(config)


def run_alone(config: RunConfig) -> None:
    dataset = open_dataset(config.data)
    out = Path(config.out)
    print(f"{dataset}\n")
    rows, curves, models = [], {}, {}

    def finish(label: str, folder: str, model, history: list[dict], trainer: Trainer, name: str) -> None:
        keep_model(out / folder / MODEL_FILE, model, name, dataset)
        metrics = test_metrics(model, dataset)
        rows.append(Row(label, sum(p.numel() for p in model.parameters()), metrics, trainer.seconds))
        models[label] = model
        if history:
            curves[label] = [
                (r["epoch"], r[key]) for r in history if (key := f"valid/{config.training.metric}") in r
            ]

    def learn(label: str, folder: str, model: ModelConfig, training: TrainingConfig, terms=(), **more):
        made, trainer, history = fit(
            dataset, model, training, terms, out / folder, folder, config.progress, device=config.device, **more,
        )  # fmt: skip
        finish(f"{label} ({model.name}, {model.width})", folder, made, history, trainer, model.name)
        return made, trainer

    training = config.teacher_training or config.training
    chosen = [config.method, *config.also]
    kept = config.trajectory
    if not kept.every and any("checkpoints" in METHODS[m.name].needs for m in chosen):
        kept = dataclasses.replace(kept, every=max(1, training.epochs // 4))
    trajectory = trajectory_for(kept, out / "teacher", dataset)
    teacher, _ = learn("teacher", "teacher", config.teacher, training, trajectory=trajectory)

    started = time.perf_counter()
    k = min(max(m.list_length for m in chosen), dataset.n_items)
    rankings = unseen_rankings(teacher, dataset, k, bar("rankings", config.progress), device=config.device)
    remove_partial(out / "rankings.safetensors")
    rankings.save(out / "rankings.safetensors")
    extraction = time.perf_counter() - started

    trajectories = [KeptTrajectory.load(trajectory.folder, dataset)] if trajectory else []
    given = Given(dataset, rankings, config.student.width, teacher, config.training.seed, trajectories)
    learning = config.training
    if config.student == config.teacher:  # with the same seed the student would be the teacher again
        learning = dataclasses.replace(learning, seed=role_seed(learning.seed, "student"))
    names = " + ".join(m.name for m in chosen)
    terms, weight = make_terms(chosen, given), base_weight(chosen, config.base_weight)
    learn("student", "student", config.student, learning)
    label = f"student + {names}"
    _, trainer = learn(label, "distilled", config.student, learning, terms, base_weight=weight)
    for model in trained_teachers(terms):
        label = f"teacher + {names} ({config.teacher.name}, {config.teacher.width})"
        finish(label, "distilled_teacher", model, [], trainer, config.teacher.name)

    lists = f"Rankings: {rankings.k} items per user, {extraction:.1f} s."
    times = run_report(dataset, rows, models, curves, config.training.metric, lists, out)
    part = reported_part(dataset)
    results = {
        "part": part,
        "rows": [dataclasses.asdict(row) for row in rows],
        "extraction_seconds": extraction,
        "curves": curves,
        "latency_ms": times,
    }
    write_text(out / "results.json", json.dumps(results, indent=2) + "\n")
    write_text(out / "config.json", json.dumps(dataclasses.asdict(config), indent=2) + "\n")
    whose = f"Metrics of the {part} part. " if part else ""
    print(f"{markdown(compared(rows))}\n\n{whose}{lists} Everything is in {out}/")


@contextmanager
def alone(out: Path, command: str) -> Iterator[None]:
    """No other command writes into the folder meanwhile; of processes that train together, the first one sees to it."""
    expect_folder(command, out)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with alone_in(out, command, "run") if is_first_process() else nullcontext():
            yield
    finally:
        with suppress(OSError):  # of a folder that holds something
            out.rmdir()


def expect_folder(command: str, out: Path) -> None:
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"{command}: expected out as a folder; got {out}, but {there} is a file")


def train(config: TrainConfig) -> None:
    with torchrun_processes(config.device, config.timeout):
        train_together(config)


def train_together(config: TrainConfig) -> None:
    dataset = open_dataset(config.data)
    if config.seeds is not None and config.trajectory.folder is not None:
        raise ValueError(
            f"config: expected each seed's own trajectory folder; got trajectory.folder={config.trajectory.folder}"
        )

    def train_one(seed: int, folder: Path):
        training = dataclasses.replace(config.training, seed=seed)
        trajectory = trajectory_for(config.trajectory, folder, dataset)
        model, _, _ = fit(
            dataset, config.model, training, (), folder, folder.name, config.progress, trajectory,
            device=config.device,
        )  # fmt: skip
        keep_model(folder / MODEL_FILE, model, config.model.name, dataset)
        return model

    once_or_by_seed(config, dataset, train_one)


def extract(config: ExtractConfig) -> None:
    dataset = open_dataset(config.data)
    given = [n for n in ("model", "user_vectors", "item_vectors") if getattr(config, n) is not None]
    if given not in (["model"], ["user_vectors", "item_vectors"]):
        found = " and ".join(given) or "none of them"
        raise ValueError(f"extract: expected either model, or user_vectors and item_vectors; got {found}")
    if config.k > dataset.n_items:
        logger.info(
            "extract: %d items per user, all that there are, instead of %d", dataset.n_items, config.k
        )
        config = dataclasses.replace(config, k=dataset.n_items)
    if config.model is not None:
        if config.item_bias is not None:
            raise ValueError(
                f"extract: expected item_bias beside item_vectors; got {config.item_bias} beside a model"
            )
        model = load_teacher(config.model, dataset)
        teacher = as_teacher(model)
        if isinstance(teacher, ScoreTeacher) or teacher.user_bias is not None:
            return extract_in_memory(model, dataset, config)
        tables, item_bias = (teacher.users, teacher.items), teacher.item_bias
    else:
        item_bias = config.item_bias
        tables = tuple(
            Table.of("extract", f"{side}_vectors", getattr(config, f"{side}_vectors"))
            for side in ("user", "item")
        )
        for table, count in zip(tables, (dataset.n_users, dataset.n_items)):
            if len(table) != count:
                raise ValueError(
                    f"extract: expected {table.name} of {count} rows, as the data set; got {list(table.shape)}"
                )
        warn_of_order("extract", dataset, cure="give a file of users, items, user_ids and item_ids as model")
    as_file = config.out.endswith(".safetensors")
    folder = config.out + ".parts" * as_file
    with torchrun_processes(config.device) as rank:
        rankings = extract_rankings(
            *tables, config.k, dataset.train.csr(), out=folder, item_bias=item_bias,
            memory_limit=config.memory_limit, shard_size=config.shard_size, divide=config.divide,
            device=config.device, resume=config.resume, progress=bar("rankings", config.progress),
            metadata=rankings_metadata(dataset), user_ids=dataset.users.ids, item_ids=dataset.items.ids,
        )  # fmt: skip
        if rank:
            return
        if as_file:
            with alone_in(Path(folder), "extract", "extraction"):
                remove_partial(config.out)
                rankings.save(config.out)
            remove_folder(folder)
    print_rankings(rankings, config.out)


def extract_in_memory(model, dataset: Dataset, config: ExtractConfig) -> None:
    if not config.out.endswith(".safetensors"):
        expected = "out as a .safetensors file for a teacher with a score function or user biases"
        raise ValueError(f"extract: expected {expected}; got {config.out}")
    with torchrun_processes(config.device) as process:
        if not process:
            shown = bar("rankings", config.progress)
            rankings = unseen_rankings(model, dataset, config.k, shown, device=config.device)
            rankings.save(config.out)
            print_rankings(rankings, config.out)


def distill(config: DistillConfig) -> None:
    with torchrun_processes(config.device, config.timeout):
        distill_together(config)


def distill_together(config: DistillConfig) -> None:
    dataset = open_dataset(config.data)
    chosen, trained = [config.method, *config.also], []
    given = given_for(config, dataset, bar("rankings", config.progress))

    def train_one(seed: int, folder: Path):
        terms = make_terms(chosen, given.under(seed, config.new_teacher))
        training = dataclasses.replace(config.training, seed=seed)
        model, _, _ = fit(
            dataset, config.student, training, terms, folder, folder.name, config.progress,
            base_weight=base_weight(chosen, config.base_weight), device=config.device,
        )  # fmt: skip
        trained.extend((folder / TEACHER_FILE, teacher) for teacher in trained_teachers(terms))
        keep_model(folder / MODEL_FILE, model, config.student.name, dataset)
        for teacher in trained_teachers(terms):
            keep_model(folder / TEACHER_FILE, teacher, name_of(teacher), dataset)
        return model

    once_or_by_seed(config, dataset, train_one, given, trained)


def once_or_by_seed(
    config: TrainConfig | DistillConfig, dataset: Dataset, train_one, given: Given | None = None, trained=()
) -> None:
    """`train_one` (seed, folder) gives a trained model, which it has saved; `trained` then has teachers, by their files."""
    with alone(Path(config.out), "distill" if isinstance(config, DistillConfig) else "train"):
        once_or_by_seed_alone(config, dataset, train_one, given)
    for path, teacher in trained:
        metrics = test_metrics(teacher, dataset)
        if is_first_process():
            print(f"\nteacher: {path}")
            print_metrics(metrics, reported_part(dataset))
    if is_first_process():
        print(f"\nEverything is in {config.out}/")


def once_or_by_seed_alone(
    config: TrainConfig | DistillConfig, dataset: Dataset, train_one, given: Given | None
) -> None:
    out = Path(config.out)
    if config.seeds is None:
        if config.compare is not None:
            raise ValueError(f"config: expected seeds beside compare={config.compare}; got none")
        metrics = test_metrics(train_one(config.training.seed, out), dataset)
        if is_first_process():
            print_metrics(metrics, reported_part(dataset))
            if not metrics:
                print("Nothing was evaluated: the data set has neither a validation nor a test part.")
        return
    expect_one_process("seeds")
    protocol = seeds.Protocol.of(dataset, config.training.metric)
    other = None if config.compare is None else seeds.values_of(Path(config.compare), protocol)
    settings = remembered(config, given)
    for name in ("out", "seeds", "compare", "device", "timeout", "progress"):
        del settings[name]
    del settings["training"]["seed"]
    runs = seeds.run_seeds(seeds.seeds_of(config.seeds), out, settings, protocol, train_one)
    result = seeds.summary(runs, protocol, other)
    text = seeds.as_text(result, config.compare)
    write_text(out / "seeds.json", json.dumps(result | {"compared_with": config.compare}, indent=2) + "\n")
    write_text(out / "seeds.md", f"# {len(runs)} seeds on {dataset.name}\n\n{text}\n")
    print(text)


def export(config: ExportConfig) -> None:
    factors = factors_of("export", config.model, config.data and open_dataset(config.data))
    if config.out.endswith(".pt2"):
        export_program(factors, config.out, config.k, exclude=config.exclude)
    else:
        export_factors(factors, config.out)
    print(f"{factors}: {config.out}")


def tune(config: TuneConfig) -> None:
    expect_one_process("tune")
    choose_gpu(config.device)
    expect_folder("tune", Path(config.out))
    dataset, out, key = open_dataset(config.data), Path(config.out), f"valid/{config.training.metric}"
    if not len(dataset.valid):
        raise ValueError("tune: expected a data set with a validation part; got none")
    if config.training.evaluate_test:
        raise ValueError(
            "tune: expected training.evaluate_test of false: only validation is looked at; got true"
        )
    ranges = tuning.ranges_of(config.method.name, config.method.weight, config.method.options, config.search)
    at_hand = given_for(config, dataset, bar("rankings", config.progress))
    settings = remembered(config, at_hand) | facts_of(dataset, "data")
    for name in ("out", "trials", "storage", "device", "progress"):
        del settings[name]
    expect_settings("tune", out / SETTINGS, settings)

    def run_trial(folder: Path, parameters: dict) -> float:
        method, training, student = tuning.applied(parameters, config.method, config.training, config.student)
        chosen = [method, *config.also]
        given = dataclasses.replace(at_hand, student_width=student.width)
        terms = make_terms(chosen, given.under(training.seed, config.new_teacher))
        _, _, history = fit(
            dataset, student, training, terms, folder, folder.name, config.progress,
            base_weight=base_weight(chosen, config.base_weight), device=config.device,
        )  # fmt: skip
        (folder / CHECKPOINT).unlink()
        found = [record[key] for record in history if key in record]
        return max(found) if training.keep_best else found[-1]  # of the weights that the training ends with

    trials = tuning.search(
        out, ranges, run_trial, trials=config.trials, study=tuning.study_name(settings), seed=config.seed,
        storage=config.storage,
    )  # fmt: skip
    best = tuning.best_of(trials)
    chosen = tuning.applied(best.parameters, config.method, config.training, config.student)
    names = ("rankings", "teacher", "data", "also", "base_weight", "new_teacher", "trajectories")
    to_distil = {name: settings[name] for name in names} | dict(
        zip(("method", "training", "student"), map(dataclasses.asdict, chosen))
    )
    text = tuning.as_text(trials, config.training.metric)
    results = {"best": dataclasses.asdict(best), "trials": [dataclasses.asdict(trial) for trial in trials]}
    write_text(out / "trials.json", json.dumps(results, indent=2) + "\n")
    write_text(out / "trials.md", f"# {config.method.name} on {dataset.name}\n\n{text}\n")
    write_text(out / "best.yaml", json.dumps(to_distil, indent=2) + "\n")  # JSON is YAML
    print(f"{text}\n\nThe best one: rankdistill distill --config {out}/best.yaml --out …")


def factors_of(op: str, source: str, dataset: Dataset | None) -> Factors:
    """Of a model; with a data set its rows are that one's, and have its ids."""
    if dataset is None:
        return load_factors(source)
    factors = as_teacher(load_teacher(source, dataset))
    if isinstance(factors, ScoreTeacher):
        raise TypeError(f"{op}: expected a model with vectors; got a function of scores in {source}")
    return dataclasses.replace(factors, user_ids=dataset.users.ids, item_ids=dataset.items.ids)


def bench_serving(config: BenchServingConfig) -> None:
    expect_folder("bench-serving", Path(config.out))
    dataset = config.data and open_dataset(config.data)
    choose_gpu(config.device)
    device = torch.device(config.device)
    sources = {"student": config.student} | ({"teacher": config.teacher} if config.teacher else {})
    models = {
        name: factors_of("bench-serving", source, dataset).to(device) for name, source in sources.items()
    }
    exclude = dataset and dataset.train.csr().to(device)
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads or before)
    try:
        rows = serving.measure(
            models, config.k, config.batch_sizes, queries=config.queries, exclude=exclude,
            prepares=config.prepared, warmup=config.warmup, seed=config.seed,
        )  # fmt: skip
        facts = serving.conditions(device, config.k, exclude, config.prepared)
    finally:
        torch.set_num_threads(before)
    text = serving.as_text(rows, facts)
    results = facts | {"models": sources, "rows": [dataclasses.asdict(row) for row in rows]}
    write_text(Path(config.out) / "serving.json", json.dumps(results, indent=2) + "\n")
    write_text(Path(config.out) / "serving.md", f"# Serving\n\n{text}\n")
    print(f"{text}\n\nEverything is in {config.out}/")


def evaluate(config: EvaluateConfig) -> None:
    choose_gpu(config.device)
    dataset = open_dataset(config.data)
    model = load_teacher(config.model, dataset)
    part = getattr(dataset, config.part)
    if not len(part):
        other = "valid" if config.part == "test" else "test"
        cure = (
            f"evaluate its {other} part: --part {other}" if len(getattr(dataset, other)) else "hold some out"
        )
        raise ValueError(
            f"evaluate: expected interactions in the {config.part} part of {dataset.name}; got none. Split it otherwise, or {cure}"
        )
    if isinstance(model, (nn.Module, Factors)):
        model = model.to(config.device)
    metrics = evaluate_model(model, part.csr(), dataset.held_out_exclude(config.part), config.cutoffs)
    print_metrics(metrics, config.part)
    if config.out is not None:
        write_text(config.out, json.dumps(metrics, indent=2) + "\n")


def methods(config: MethodsConfig) -> None:
    if config.bibtex:
        print(bibtex(METHODS))
    elif config.pages is None:
        print("\n\n".join(described(name) for name in METHODS))
    else:
        print(f"{len(write_pages(config.pages))} pages: {config.pages}/")


def doctor(config: DoctorConfig) -> None:
    if status := collect_env.main():
        raise SystemExit(status)


def reproduce(config: ReproduceConfig) -> None:
    study = importlib.import_module(f"rankdistill.studies.{config.study}")
    out = Path(config.out or f"runs/{config.study}")
    expect_folder("reproduce", out)
    choose_gpu(config.device)
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads or before)
    try:
        study.reproduce(config, out)
    finally:
        torch.set_num_threads(before)
    print(f"{(out / 'report.md').read_text(encoding='utf-8')}\nThe same as a page: {out}/report.html")


def recommend(config: RecommendConfig) -> None:
    dataset = open_dataset(config.data)
    model = as_teacher(load_teacher(config.model, dataset))
    users = users_named(config.users, dataset)
    had = dataset.train.csr()
    if config.exclude == "all":
        had = had.union(dataset.valid.csr()).union(dataset.test.csr())
    lines = recommended(model, dataset, users, config.k, had)
    if config.out is None:
        csv.writer(sys.stdout, lineterminator="\n").writerows(lines)
        return
    with replacing(config.out) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


def recommended(
    model: Factors | ScoreTeacher, dataset: Dataset, users: torch.Tensor, k: int, had: CSR
) -> Iterator[tuple]:
    """A header, once the first lists are there, and a line for every item of a list; few of them exist at a time."""
    rows = 8192 if isinstance(model, Factors) else max(1, SCORES // dataset.n_items)
    for start in range(0, len(users), rows):
        ids = users[start : start + rows]
        best = model.topk(ids, k, had.rows(ids))
        if not start:
            yield "user", "position", "item", "score"
        places = torch.arange(k)
        for part in torch.arange(len(ids)).split(max(1, LINES // max(1, k))):
            row, place = (places < best.lengths[part, None]).nonzero(as_tuple=True)
            row = part[row]
            yield from zip(
                dataset.users.decode(ids[row]).tolist(),
                (place + 1).tolist(),
                dataset.items.decode(best.indices[row, place]).tolist(),
                (f"{score:.6g}" for score in best.scores[row, place].tolist()),
            )


def users_named(ids: list[str | int], dataset: Dataset) -> torch.Tensor:
    """The rows of external ids, or of all users where none is named."""
    if not ids:
        return torch.arange(dataset.n_users)
    try:
        return dataset.users.encode(ids)
    except KeyError as error:
        joined = next((each for each in ids if "," in str(each)), None)
        hint = f". Several ids are a list: --users '[{joined}]'" if joined else ""
        raise KeyError(f"{error.args[0]}{hint}") from None


def expect_one_process(command: str) -> None:
    n = int(os.environ.get("WORLD_SIZE", "1"))
    if n > 1:
        raise ValueError(
            f"{command}: expected one process; got {n} of torchrun. train, extract and distill work on several"
        )


def reported_part(dataset: Dataset) -> str | None:
    """Whose metrics are told: those of the test part, or of the validation part where there is no test part."""
    return next((part for part in ("test", "valid") if len(getattr(dataset, part))), None)


def test_metrics(model, dataset: Dataset) -> dict[str, float]:
    """Of the reported part, by all processes together."""
    part = reported_part(dataset)
    if part is None:
        return {}
    with Processes.on_cpu("evaluate") as processes:
        held = held_by(model, processes)
        return held.evaluate(processes, getattr(dataset, part).csr(), dataset.held_out_exclude(part))


def print_rankings(rankings: Rankings, out: str) -> None:
    print(f"{rankings.n_users} users, {rankings.k} of {rankings.n_items} items each: {out}")


def print_metrics(metrics: dict[str, float], part: str | None) -> None:
    if metrics:
        print(f"Metrics of the {part} part:")
    for name, value in metrics.items():
        print(f"{name:16s}{value:.4f}")
