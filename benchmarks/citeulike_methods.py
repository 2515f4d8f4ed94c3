"""Every method of the command line on CiteULike, ranked against the whole catalogue, beside teacher and student.

    RANKDISTILL_DATA=… python -m benchmarks.citeulike_methods [--seeds 0] [--epochs 101] [--methods rrd ftd …]

The protocol of `benchmarks.citeulike_rrd`; every method with its published weight and settings, untuned.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch

from benchmarks.citeulike_rrd import PUBLISHED, citeulike, trained
from rankdistill import Rankings, Term
from rankdistill.files import write_text
from rankdistill.methods import METHODS, Given, make_method

LIST_LENGTH = 500
COMPARED = [
    name for name, method in METHODS.items() if method.default_base_weight
]  # those beside the base loss


def study(methods: list[str], seeds: list[int], epochs: int, out: Path) -> None:
    data = citeulike()
    found: dict[str, list[tuple[float, float]]] = {}

    def record(label: str, width: int, seed: int, terms=()):
        model, history, seconds = trained(data, width, seed, epochs, terms)
        recall = history[-1]["test/recall@50"]
        print(f"seed {seed}: {label}: recall@50 {recall:.4f}, {seconds:.2f} s an epoch", flush=True)
        found.setdefault(label, []).append((recall, seconds))
        return model

    for seed in seeds:
        teacher = record("teacher, D = 200", 200, seed)
        record("student, D = 20", 20, seed)
        vectors = [table.detach() for table in (teacher.user_vectors(), teacher.item_vectors())]
        given = Given(data, Rankings.from_vectors(*vectors, LIST_LENGTH, data.train.csr()), 20, teacher, seed)
        for name in methods:
            method = make_method(name, given, {})
            record(f"student + {name}", 20, seed, (Term(METHODS[name].default_weight, method),))
            page(found, seeds, epochs, out)


def page(found: dict, seeds: list[int], epochs: int, out: Path) -> None:
    lines = [
        "# Methods on CiteULike", "",
        (f"Recall@50 on the test items, the whole catalogue ranked, {epochs} epochs, seeds {', '.join(map(str, seeds))}; "
        f"published weights and settings, untuned. Published: teacher {PUBLISHED['teacher']}, student {PUBLISHED['student']}."),
        "", "| model | Recall@50 | std | seconds an epoch |", "| --- | ---: | ---: | ---: |",
    ]  # fmt: skip
    for label, rows in found.items():
        recalls, seconds = zip(*rows, strict=True)
        spread = f"{statistics.stdev(recalls):.4f}" if len(recalls) > 1 else "–"
        lines.append(
            f"| {label} | {statistics.mean(recalls):.4f} | {spread} | {statistics.mean(seconds):.2f} |"
        )
    write_text(out / "citeulike_methods.md", "\n".join(lines) + "\n")
    write_text(
        out / "citeulike_methods.json", json.dumps({"epochs": epochs, "seeds": seeds, "found": found}) + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=101)
    parser.add_argument("--methods", nargs="+", choices=COMPARED, default=COMPARED)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    study(options.methods, options.seeds, options.epochs, options.out)


if __name__ == "__main__":
    main()
