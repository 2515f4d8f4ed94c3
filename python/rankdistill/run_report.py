"""The page of `rankdistill run`: its models beside each other, how they learnt, and what they cost."""

from __future__ import annotations

from pathlib import Path

from rankdistill import serving
from rankdistill.data import Dataset
from rankdistill.document import Document
from rankdistill.models import as_teacher
from rankdistill.pictures import (
    WITHOUT_MATPLOTLIB,
    Curve,
    Panel,
    Point,
    draw_costs,
    draw_panels,
    has_matplotlib,
)
from rankdistill.report import SHOWN, Row, compared

LISTED = 50  # items of the lists whose latency is reported


def run_report(
    dataset: Dataset, rows: list[Row], models: dict, curves: dict, metric: str, lists: str, out: Path
) -> dict[str, float]:
    """results.md and results.html; gives the milliseconds of one user's list, by model."""
    k, exclude = min(LISTED, dataset.n_items), dataset.train.csr()
    part = "test" if len(dataset.test) else "validation"
    served = serving.measure(
        {label: as_teacher(model) for label, model in models.items()}, k, (1,), queries=serving.LEAST_QUERIES,
        exclude=exclude, warmup=0.05,
    )  # fmt: skip
    times = {row.model: row.p50_ms for row in served}
    page = Document(f"Distillation on {dataset.name}")
    page.table(compared(rows))
    page.text(lists)
    if part != "test":
        page.text(
            "There is no test part: the numbers are of the validation part, which chose the weights too."
        )
    if not has_matplotlib():
        page.text(WITHOUT_MATPLOTLIB)
    drawn = [
        Curve(label, points, None if not at else at - 1)
        for at, (label, points) in enumerate(curves.items())
        if points
    ]
    if drawn:
        alt = f"Validation {metric} by epoch. " + " ".join(
            f"{curve.label}: {curve.points[-1][1]:.4f} after epoch {curve.points[-1][0]}." for curve in drawn
        )
        panel = Panel(dataset.name, drawn)
        page.picture(draw_panels("curves", alt, [panel], "epoch", f"validation {metric}", columns=1))
    found = next((name for name in (metric, *SHOWN) if all(name in row.metrics for row in rows)), None)
    if found is not None:
        cost = "ms for one user's list"
        points = [
            Point(r.model, {"parameters": r.parameters, cost: times[r.model]}, r.metrics[found]) for r in rows
        ]
        alt = f"{part.capitalize()} {found} of every model against parameters and latency. " + " ".join(
            f"{p.label}: {p.value:.4f}, {p.costs['parameters']:,} parameters, {p.costs[cost]:.3f} ms."
            for p in points
        )
        page.picture(draw_costs("costs", alt, points, f"{part} {found}"))
        page.text(
            f"Latency: median of {serving.LEAST_QUERIES} queries of the exact top {k}, train items left out."
        )
    page.write(out, "results")
    return times
