"""The end of a run: a table that compares models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SHOWN = ("recall@50", "ndcg@50", "recall@10", "ndcg@10")
BYTES_PER_PARAMETER = 4


@dataclass(frozen=True)
class Row:
    """One model: its name, number of parameters, test metrics and seconds of training."""

    model: str
    parameters: int
    metrics: dict[str, float]
    seconds: float


def compared(rows: Sequence[Row]) -> list[list[str]]:
    """A table's lines: size, metrics, gain over the undistilled student, share of the teacher kept, seconds.

    Args:
        rows: the teacher, the undistilled student, and the others. Gain and share are those of the first metric shown.
    """
    shown = [name for name in SHOWN if all(name in row.metrics for row in rows)]
    table = [["model", "parameters", "size", *shown, "gain", "of teacher", "seconds"]]
    for row in rows:
        gain = share = "–"
        if shown:
            value, base, best = (r.metrics[shown[0]] for r in (row, rows[1], rows[0]))
            gain = f"{value / base - 1:+.1%}" if base > 0 else "–"
            share = f"{value / best:.1%}" if best > 0 else "–"
        size = f"{row.parameters * BYTES_PER_PARAMETER / 2**20:.2f} MiB"
        metrics = [f"{row.metrics[name]:.4f}" for name in shown]
        table.append([row.model, f"{row.parameters:,}", size, *metrics, gain, share, f"{row.seconds:.1f}"])
    return table


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns aligned in the text too; the first line is the header."""
    header, *lines = table
    table = [header, ["---", *["---:"] * (len(header) - 1)], *lines]
    widths = [max(len(line[column]) for line in table) for column in range(len(header))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths)) + " |" for line in table
    )
