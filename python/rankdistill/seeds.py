"""The same training under several seeds: each run once, restartable; means, deviations and paired comparisons."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from rankdistill.data import Dataset
from rankdistill.data.dataset import PARTS
from rankdistill.files import SETTINGS, expect_settings, replacing
from rankdistill.metrics import evaluate_users, expect_chosen, taken_apart
from rankdistill.models.saved import MODEL_FILE, load_teacher
from rankdistill.rankings.safetensors_files import read_header
from rankdistill.report import SHOWN, markdown
from rankdistill.significance import WITHOUT_SCIPY, Comparison, compare_paired, has_scipy

logger = logging.getLogger("rankdistill")

VALUES = "user_metrics.safetensors"
Values = dict[str, Tensor]


def seeds_of(given: str | int | Sequence[int]) -> list[int]:
    """The seeds that "0..4" (both included), "0,3,7" or a list names."""
    if isinstance(given, int):
        given = [given]
    if isinstance(given, str):
        span = re.fullmatch(r"(\d+)\.\.(\d+)", given.strip())
        parts = given.split(",")
        if span:
            given = range(int(span[1]), int(span[2]) + 1)
        elif all(part.strip().isdigit() for part in parts):
            given = [int(part) for part in parts]
    if isinstance(given, str) or not len(given) or len(set(given)) != len(given) or min(given) < 0:
        raise ValueError(f"seeds: expected 0..4, or a list of different seeds of 0 or more; got {given}")
    return list(given)


@dataclass(frozen=True)
class Protocol:
    """What runs are compared by: metrics of every user of one part of a data set."""

    dataset: Dataset
    metrics: tuple[str, ...] = SHOWN

    @classmethod
    def of(cls, dataset: Dataset, metric: str) -> Protocol:
        """The metrics of reports and the one that training chose by."""
        expect_chosen(metric)
        return cls(dataset, tuple(dict.fromkeys((metric, *SHOWN))))

    @property
    def part(self) -> str:
        if len(self.dataset.test):
            return "test"
        if len(self.dataset.valid):
            return "valid"
        raise ValueError("seeds: expected a data set with a test or validation part; got neither")

    def fingerprint(self) -> str:
        """SHA-256 of ids and parts: runs of another split are not comparable."""
        digest = hashlib.sha256(
            f"{self.dataset.users.sha256} {self.dataset.items.sha256} {self.part}".encode()
        )
        for part in PARTS:
            csr = getattr(self.dataset, part).csr()
            for tensor in (csr.indptr, csr.indices):
                digest.update(tensor.contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()

    def values(self, model) -> Values:
        """[n] of every metric: of the users with relevant items, in order."""
        names, cutoffs = taken_apart(self.metrics)
        truth = getattr(self.dataset, self.part).csr()
        _, found = evaluate_users(model, truth, self.dataset.held_out_exclude(self.part), cutoffs, names)
        return {metric: found[metric] for metric in self.metrics}


def run_seeds(
    seeds: Sequence[int],
    out: Path,
    settings: dict,
    protocol: Protocol,
    train: Callable[[int, Path], object],
) -> dict[int, Values]:
    """Runs what is not finished; seed s in out/seed-s. The same call goes on after an interruption.

    Args:
        seeds: which.
        out: the folder; it remembers `settings`, and refuses others.
        settings: JSON-able, without the seed.
        protocol: what is measured.
        train: (seed, folder) → the trained model, which it has saved in the folder; resumes by itself.
    """
    expect_settings("seeds", out / SETTINGS, settings)
    results = {}
    for seed in seeds:
        folder = out / f"seed-{seed}"
        results[seed] = kept_values(folder, protocol)
        if results[seed] is not None:
            logger.info("seed %d is finished: %s", seed, folder)
            continue
        model = train(seed, folder)
        results[seed] = protocol.values(model)
        with replacing(folder / VALUES) as temporary:
            save_file(results[seed], temporary, {"data": protocol.fingerprint(), "part": protocol.part})
    return results


def kept_values(folder: Path, protocol: Protocol) -> Values | None:
    """A finished run's values; measured again from its model where other metrics were kept. None if not finished."""
    path = folder / VALUES
    if not path.is_file():
        return None
    entries, metadata = read_header("seeds", path)
    if metadata.get("data") != protocol.fingerprint():
        raise ValueError(
            f"seeds: expected a run on this data set, split alike; got another one's in {folder}"
        )
    if not set(protocol.metrics) <= set(entries):
        return protocol.values(load_teacher(str(folder), protocol.dataset))
    return {metric: entries[metric].tensor().clone() for metric in protocol.metrics}


def values_of(folder: Path, protocol: Protocol) -> dict[int | None, Values]:
    """Of a folder of seeds, by seed; or of one model, as None."""
    found = {}
    for path in sorted(folder.glob("seed-*")):
        values = kept_values(path, protocol)
        if values is not None:
            found[int(path.name.removeprefix("seed-"))] = values
    if found:
        return found
    if folder.is_dir() and not (folder / MODEL_FILE).is_file():
        raise FileNotFoundError(
            f"seeds: expected finished seeds or a model to compare with; got {folder}, which has neither"
        )
    return {None: protocol.values(load_teacher(str(folder), protocol.dataset))}


@dataclass(frozen=True)
class Spread:
    """A metric's mean over users, by seed: its mean and (n − 1) standard deviation; None of one seed."""

    values: list[float]
    mean: float
    std: float | None

    @classmethod
    def of(cls, runs: dict[int | None, Values], metric: str) -> Spread:
        return cls.of_values([float(run[metric].mean()) for run in runs.values()])

    @classmethod
    def of_values(cls, found: Sequence[float]) -> Spread:
        values = torch.tensor(found, dtype=torch.float64)
        return cls(values.tolist(), float(values.mean()), float(values.std()) if len(values) > 1 else None)

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if self.std is None else f" ± {self.std:.4f}")


def summary(
    runs: dict[int, Values], protocol: Protocol, other: dict[int | None, Values] | None = None
) -> dict:
    """Everything that the report says, JSON-able: spreads and, against another run, comparisons over users (each
    one's mean over a run's seeds) and over the seeds that both have."""
    result: dict = {"seeds": list(runs), "part": protocol.part, "metrics": {}}
    for metric in protocol.metrics:
        entry = {"this": asdict(Spread.of(runs, metric))}
        if other is not None:
            entry["other"] = asdict(Spread.of(other, metric))
            users = [torch.stack([run[metric] for run in side.values()]).mean(0) for side in (runs, other)]
            entry["over_users"] = asdict(compare_paired(*users))
            shared = [seed for seed in runs if seed in other]
            if len(shared) > 1:
                seeds = [torch.stack([side[s][metric].mean() for s in shared]) for side in (runs, other)]
                entry["over_seeds"] = asdict(compare_paired(*seeds))
        result["metrics"][metric] = entry
    return result


def as_text(result: dict, compared_with: str | None) -> str:
    """The summary as Markdown."""
    p = lambda value: "–" if value is None else f"{value:.2g}"
    header = ["metric", "mean ± std"]
    if compared_with is not None:
        header += ["other", "difference", "95 % of it", "p users (t)", "p users (Wilcoxon)", "p seeds (t)"]
    table = [header]
    for metric, entry in result["metrics"].items():
        line = [metric, str(Spread(**entry["this"]))]
        if compared_with is not None:
            users = Comparison(**entry["over_users"])
            seeds = entry.get("over_seeds")
            line += [
                str(Spread(**entry["other"])), f"{users.difference:+.4f}", f"{users.low:+.4f} to {users.high:+.4f}",
                p(users.t_test), p(users.wilcoxon), p(seeds and seeds["t_test"]),
            ]  # fmt: skip
        table.append(line)
    seeds = ", ".join(map(str, result["seeds"]))
    text = f"{markdown(table)}\n\nSeeds {seeds}; the {result['part']} part, the whole catalogue ranked."
    if compared_with is None:
        return text
    first = next(iter(result["metrics"].values()))
    n = first["over_seeds"]["n"] if "over_seeds" in first else 0
    text += (
        f" Against {compared_with}: paired tests, two-sided, over {first['over_users']['n']} users (a user's mean over "
        f"seeds) and over {n} common seeds; the interval is a percentile bootstrap over users."
    )
    return text if has_scipy() else f"{text} {WITHOUT_SCIPY}."
