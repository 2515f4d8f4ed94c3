"""What the reports of several studies have in common: tables of all models, comparisons, costs on one chart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import mean

import torch

from rankdistill import __version__, serving
from rankdistill.document import Document
from rankdistill.files import json_in, write_text
from rankdistill.machine import processor_name
from rankdistill.models.teachers import as_teacher
from rankdistill.pictures import WITHOUT_MATPLOTLIB, Point, draw_costs, has_matplotlib
from rankdistill.seeds import Spread
from rankdistill.significance import WITHOUT_SCIPY, compare_paired, has_scipy
from rankdistill.studies.runner import Results, Runner

LATENCIES = "latencies.json"
JUDGED = ("model", "ours", "published", "difference", "target", "met")
SIZE, LATENCY = "parameters", "ms for one user's list"
QUERIES, WARMUP, LISTED = 200, 0.5, 50


def begun(title: str, what: Sequence[str], results: Results, chosen: Sequence[int]) -> Document:
    """A report's beginning: what was run on what, and what is still missing."""
    page = Document(title)
    for sentence in what:
        page.text(sentence)
    done = sum(len(found) for found in results.outcomes.values())
    wanted = len(results.plan.entries) * len(chosen)
    sizes = results.plan.dataset
    page.text(
        f"{sizes.name}: {sizes.n_users:,} users, {sizes.n_items:,} items, {len(sizes.train):,} train interactions. "
        f"Seeds {', '.join(map(str, chosen))}; {done} of {wanted} models are trained. "
        f"{processor_name()}, threads: {torch.get_num_threads()}, rankdistill {__version__}, torch {torch.__version__}. "
        "Seconds are those of a machine that may have done other work too."
    )
    on_gpus: dict[str, list[str]] = {}
    for entry in results.finished:
        for gpu in sorted({outcome.gpu for outcome in results.outcomes[entry.name].values()} - {""}):
            on_gpus.setdefault(gpu, []).append(entry.label)
    for gpu, labels in on_gpus.items():
        page.text(
            f"Trained on {gpu}, whose seconds and memory, methods' tables counted, are given: {'; '.join(labels)}."
        )
    if not has_matplotlib():
        page.text(WITHOUT_MATPLOTLIB)
    return page


def overview(results: Results, metrics: Sequence[str], base: str | None = None) -> list[list[str]]:
    """A line per model: size, test metrics (mean ± std over seeds), gain over the base, what training cost."""
    lines = [["model", "parameters", *metrics, "gain", "epochs", "best epoch", "s / epoch", "peak memory"]]
    for entry in results.finished:
        outcomes = list(results.outcomes[entry.name].values())
        spreads = [Spread.of(results.values[entry.name], metric) for metric in metrics]
        gain = "–"
        if base in results.values and entry.name != base:
            reference = Spread.of(results.values[base], metrics[0]).mean
            gain = f"{spreads[0].mean / reference - 1:+.1%}" if reference > 0 else "–"
        peaks = [o.peak_bytes for o in outcomes if o.peak_bytes is not None]
        lines.append([
            entry.label, f"{outcomes[0].parameters:,}", *map(str, spreads), gain, f"{mean(o.epochs for o in outcomes):.0f}",
            f"{mean(o.best_epoch for o in outcomes):.0f}", f"{mean(o.seconds_per_epoch for o in outcomes):.3f}",
            f"{max(peaks) / 2**20:,.0f} MiB" if peaks else "–",
        ])  # fmt: skip
    return lines


def comparisons(results: Results, base: str, metrics: Sequence[str]) -> list[list[str]]:
    """Every later model of the base's size against it: paired over users (a user's mean over seeds) and over seeds."""
    lines = [
        ["model", "metric", "difference", "95 % of it", "p users (t)", "p users (Wilcoxon)", "p seeds (t)"]
    ]
    p = lambda value: "–" if value is None else f"{value:.2g}"
    reference = results.values[base]
    for entry in results.finished:
        runs = results.values[entry.name]
        shared = [seed for seed in runs if seed in reference]
        if entry.name == base or not entry.methods or not shared:
            continue
        for metric in metrics:
            sides = [torch.stack([side[seed][metric] for seed in shared]) for side in (runs, reference)]
            users = compare_paired(*(side.mean(0) for side in sides))
            seeds = compare_paired(*(side.mean(1) for side in sides)).t_test if len(shared) > 1 else None
            lines.append([
                entry.label, metric, f"{users.difference:+.4f}", f"{users.low:+.4f} to {users.high:+.4f}",
                p(users.t_test), p(users.wilcoxon), p(seeds),
            ])  # fmt: skip
    return lines


def judged_line(label: str, ours: Spread, published: float, allowance: float | None) -> list[str]:
    """A line of `JUDGED`; the target is met at `allowance` below the published number, None where there is no target."""
    line = [label, str(ours), f"{published:.4f}", f"{ours.mean - published:+.4f}"]
    if allowance is None:
        return [*line, "–", "–"]
    target = published - allowance
    return [*line, f"{target:.4f}", "yes" if ours.mean >= target else "no"]


def compare(page: Document, results: Results, base: str, metrics: Sequence[str]) -> None:
    """The table of `comparisons`, once there is something to compare."""
    if base not in results.values:
        return
    lines = comparisons(results, base, metrics)
    if len(lines) > 1:
        label = next(entry.label for entry in results.plan.entries if entry.name == base)
        page.heading(f"Against {label}")
        page.table(lines, "Paired tests, two-sided; the interval is a percentile bootstrap over users")
        if not has_scipy():
            page.text(f"{WITHOUT_SCIPY}.")


def latencies(results: Results, runner: Runner) -> dict[str, float]:
    """Milliseconds of one user's top 50 (median) of every finished model, by entry; measured once per shape and kept."""
    path = runner.out / LATENCIES
    kept = json_in("reproduce", path) if path.is_file() else {}
    shape = lambda entry: (
        f"{entry.model.name}, {entry.model.width}, {json.dumps(entry.model.options, sort_keys=True)}"
    )
    missing = {shape(entry): entry for entry in results.finished if shape(entry) not in kept}
    if missing:
        models = {
            key: as_teacher(runner.model(entry.name, next(iter(results.outcomes[entry.name]))))
            for key, entry in missing.items()
        }
        exclude, k = results.plan.dataset.train.csr(), min(LISTED, results.plan.dataset.n_items)
        served = serving.measure(models, k, (1,), queries=QUERIES, exclude=exclude, warmup=WARMUP)
        kept |= {row.model: row.p50_ms for row in served}
        write_text(path, json.dumps(kept, indent=1) + "\n")
    return {entry.name: kept[shape(entry)] for entry in results.finished}


def costs(page: Document, results: Results, runner: Runner, metric: str, picture: str = "costs") -> None:
    """Accuracy against parameters and against latency, teacher and students on one chart of that name."""
    if not results.finished:
        return
    times = latencies(results, runner)
    points = [
        Point(
            entry.label,
            {
                SIZE: next(iter(results.outcomes[entry.name].values())).parameters,
                LATENCY: times[entry.name],
            },
            Spread.of(results.values[entry.name], metric).mean,
        )
        for entry in results.finished
    ]
    page.heading("Accuracy and cost")
    smallest, best = min(points, key=lambda p: p.costs[SIZE]), max(points, key=lambda p: p.value)
    alt = (
        f"{metric} of {len(points)} models against parameters and against milliseconds for one user's list. The best, "
        f"{best.label}, has {best.value:.4f}; the smallest, {smallest.label}, has {smallest.value:.4f} with "
        f"{smallest.costs[SIZE]:,} parameters."
    )
    page.picture(draw_costs(picture, alt, points, metric))
    lines = [["model", metric, SIZE, LATENCY]]
    lines += [[p.label, f"{p.value:.4f}", f"{p.costs[SIZE]:,}", f"{p.costs[LATENCY]:.3f}"] for p in points]
    page.table(
        lines,
        f"Median of {QUERIES} queries, one at a time: from the user to the exact top {LISTED}, train items out",
    )
