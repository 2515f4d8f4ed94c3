"""The end of a run: a table that compares models, and a picture of how they learnt."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

from rankdistill.files import replacing

logger = logging.getLogger("rankdistill")

SHOWN = ("recall@50", "ndcg@50", "recall@10", "ndcg@10")
BYTES_PER_PARAMETER = 4


@dataclass(frozen=True)
class Row:
    """One model: its name, number of parameters, test metrics and seconds of training."""

    model: str
    parameters: int
    metrics: dict[str, float]
    seconds: float


def as_table(rows: Sequence[Row], teacher: int, undistilled: int, shown: Sequence[str] = SHOWN) -> str:
    """A Markdown table: size, metrics, gain over the undistilled student, share of the teacher kept, seconds.

    Args:
        rows: the models.
        teacher, undistilled: which rows those two are.
        shown: metrics that get a column; gain and share are those of the first.
    """
    shown = [name for name in shown if all(name in row.metrics for row in rows)]
    table = [["model", "parameters", "size", *shown, "gain", "of teacher", "seconds"]]
    for row in rows:
        gain = share = "–"
        if shown:
            value, base, best = (r.metrics[shown[0]] for r in (row, rows[undistilled], rows[teacher]))
            gain = f"{value / base - 1:+.1%}" if base > 0 else "–"
            share = f"{value / best:.1%}" if best > 0 else "–"
        size = f"{row.parameters * BYTES_PER_PARAMETER / 2**20:.2f} MiB"
        metrics = [f"{row.metrics[name]:.4f}" for name in shown]
        table.append([row.model, f"{row.parameters:,}", size, *metrics, gain, share, f"{row.seconds:.1f}"])
    return markdown(table)


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns aligned in the text too; the first line is the header."""
    header, *lines = table
    table = [header, ["---", *["---:"] * (len(header) - 1)], *lines]
    widths = [max(len(line[column]) for line in table) for column in range(len(header))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths)) + " |" for line in table
    )


def draw_curves(path: str | os.PathLike, curves: dict[str, list[tuple[int, float]]], metric: str) -> bool:
    """Writes a PNG of each model's validation metric by epoch; False, and a log line, without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        logger.info(
            "no picture of the learning curves: matplotlib is not installed (pip install 'rankdistill[train]')"
        )
        return False
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for index, (label, points) in enumerate(curves.items()):
        style = {"linestyle": "--", "color": "0.45"} if index == 0 else {"marker": "o", "markersize": 3.5}
        axes.plot([epoch for epoch, _ in points], [value for _, value in points], label=label, **style)
    axes.set(xlabel="epoch", ylabel=f"validation {metric}")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=144)
    return True
