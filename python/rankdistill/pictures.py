"""Pictures of reports: learning curves, and accuracy against what a model costs. Drawn by matplotlib, where it is there."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

logger = logging.getLogger("rankdistill")

# Readable on white and on black; the ink follows the page's colour where a picture is part of one.
COLOURS = ("#3d7fd6", "#d9772b", "#2f9e6e", "#c05bb5", "#a8921c", "#2b9fb5", "#d6515c", "#8a7bd8")
MARKERS = "oDs^vPX*"
QUIET, INK = "#848b95", "#010203"
WITHOUT_MATPLOTLIB = "No pictures: matplotlib is not installed (pip install 'rankdistill[train]')."
STYLE = {
    "svg.fonttype": "path", "font.size": 9.5, "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.titlesize": 10.5, "legend.frameon": False, "grid.color": QUIET, "grid.alpha": 0.3, "grid.linewidth": 0.6,
}  # fmt: skip


def has_matplotlib() -> bool:
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


@dataclass(frozen=True)
class Curve:
    """Points (x, y) under one label; a quiet one is dashed, a reference."""

    label: str
    points: Sequence[tuple[float, float]]
    colour: int | None = None  # which of COLOURS; None for grey
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """Axes of their own."""

    title: str
    curves: Sequence[Curve]


@dataclass(frozen=True)
class Picture:
    """A drawn figure: its name (of a file), and what a reader who does not see it is told."""

    name: str
    alt: str
    figure: object

    def png(self) -> bytes:
        """On white."""
        import matplotlib

        buffer = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            self.figure.savefig(buffer, format="png", dpi=144, facecolor="white")
        return buffer.getvalue()

    def svg(self) -> str:
        """An element of a page: no background, lines and letters in the page's colour."""
        import matplotlib

        buffer = io.StringIO()
        with matplotlib.rc_context(STYLE | {"svg.hashsalt": self.name}):
            none = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            self.figure.savefig(buffer, format="svg", transparent=True, metadata=none)
        text = buffer.getvalue()
        text = text[text.index("<svg") :].replace(INK, "currentColor")
        # Names inside a picture are its own: several stand in one page.
        text = re.sub(r'\bid="', f'id="{self.name}-', text)
        text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{self.name}-", text)
        return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)


def draw_panels(
    name: str, alt: str, panels: Sequence[Panel], x: str, y: str, *, columns: int = 2, log: bool = False
) -> Picture | None:  # fmt: skip
    """Curves in one or more panels; None, and a line of the log, without matplotlib."""
    if not has_matplotlib():
        logger.info("%s", WITHOUT_MATPLOTLIB)
        return None
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context(STYLE):
        columns = min(columns, len(panels))
        rows = -(-len(panels) // columns)
        figure = Figure(
            figsize=(7.2 if columns == 1 else 4.6 * columns, 4.2 if rows == 1 else 3.3 * rows),
            layout="constrained",
        )
        for at, panel in enumerate(panels):
            axes = figure.add_subplot(rows, columns, at + 1)
            for curve in panel.curves:
                colour = QUIET if curve.colour is None else COLOURS[curve.colour % len(COLOURS)]
                style = (
                    {"linestyle": "--", "linewidth": 1.2}
                    if curve.dashed
                    else {"marker": "o", "markersize": 3.2}
                )
                axes.plot(*zip(*curve.points), label=curve.label, color=colour, **style)
            axes.set(xlabel=x, ylabel=y, title=panel.title)
            if log:
                axes.set(xscale="log", yscale="log")
            else:
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
                axes.set_ylim(bottom=0)
            axes.grid(True)
            if len(panel.curves) > 5:  # no room for it between them
                axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
            else:
                axes.legend(fontsize=8)
        arranged(figure)
    return Picture(name, alt, figure)


@dataclass(frozen=True)
class Point:
    """A model on a chart: its label, what it costs by the name of a measure, and how good it is."""

    label: str
    costs: dict[str, float]
    value: float


def draw_costs(name: str, alt: str, points: Sequence[Point], y: str) -> Picture | None:
    """How good models are against each of their costs, side by side; None without matplotlib."""
    costs = [cost for cost in points[0].costs if all(cost in point.costs for point in points)]
    if not has_matplotlib():
        logger.info("%s", WITHOUT_MATPLOTLIB)
        return None
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6 * max(len(costs), 1.5), 4.4), layout="constrained")
        first, handles = None, []
        for at, cost in enumerate(costs):
            axes = first = figure.add_subplot(1, len(costs), at + 1, sharey=first)
            handles = [
                axes.scatter(
                    [point.costs[cost]], [point.value], s=52, label=point.label,
                    color=COLOURS[number % len(COLOURS)], marker=MARKERS[number // len(COLOURS) % len(MARKERS)],
                )
                for number, point in enumerate(points)
            ]  # fmt: skip
            axes.set(xscale="log", xlabel=cost, ylabel=y if not at else None)
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.grid(True)
        figure.legend(
            handles,
            [p.label for p in points],
            loc="outside lower center",
            ncols=min(4, len(points)),
            fontsize=8,
        )
        arranged(figure)
    return Picture(name, alt, figure)


def plain(value: float) -> str:
    """2M, 500k, 20, 0.5."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def arranged(figure) -> None:
    """Lays the figure out once and for all: it is drawn alike however often."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
