"""Figures as PNG files, small enough to stand in a repository."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import shown
from benchmarks.results import Figure

OURS: Final = "#c8102e"
OTHERS: Final = ("#5b7c99", "#a9bccb", "#2f4858", "#8e9aaf", "#b08968", "#6b9080", "#cbc0d3")
STRONG: Final = ("#2f4858", "#4a90c2", "#b07d2b", "#3f8f6b")
COLUMNS: Final = 3
_DPI: Final = 80


def _is_ours(name: str) -> bool:
    return name.startswith("millpond")


def draw(figure: Figure, file: Path, subtitle: str) -> None:
    """Write one figure.

    Args:
        figure: what it shows.
        file: where it goes.
        subtitle: which interpreter, loop and machine.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from PIL import Image

    pyplot.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    drawn = {"bars": _bars, "facets": _facets, "lines": _lines}[figure.kind](figure, pyplot)
    drawn.suptitle(f"{figure.title}\n{subtitle}", fontsize=10)
    picture = BytesIO()
    drawn.savefig(picture, dpi=_DPI, bbox_inches="tight")
    pyplot.close(drawn)
    # A palette makes the file a third as large, and nobody sees it.
    Image.open(picture).convert("RGB").quantize(128).save(file, optimize=True)


def _horizontal(axes: Any, figure: Figure) -> None:
    if figure.is_log:
        axes.set_xscale("log")
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.margins(x=0.14, y=0.01)


def _bars(figure: Figure, pyplot: Any) -> Any:
    """Groups of horizontal bars, one group for each label; ours in its own colour."""
    count = len(figure.series)
    thick = 0.8 / count
    drawn, axes = pyplot.subplots(
        figsize=(8, 1.2 + 0.2 * len(figure.labels) * max(2, count)), layout="constrained"
    )
    for place, (name, values) in enumerate(figure.series.items()):
        colours = [OTHERS[place % len(OTHERS)]] * len(values)
        at = [row + (place - (count - 1) / 2) * thick for row in range(len(values))]
        bars = axes.barh(at, values, thick * 0.9, color=colours, label=name)
        axes.bar_label(bars, [shown(value) for value in values], padding=2, fontsize=7)
    axes.set_yticks(range(len(figure.labels)), figure.labels)
    for tick in axes.get_yticklabels():
        if _is_ours(tick.get_text()):
            tick.set_color(OURS)
            tick.set_fontweight("bold")
    _horizontal(axes, figure)
    axes.set_xlabel(figure.unit)
    if count > 1:
        drawn.legend(frameon=False, loc="outside lower center", ncols=count)
    return drawn


def _facets(figure: Figure, pyplot: Any) -> Any:
    """A small plot for each label, three beside each other, with a bar for each name."""
    names = list(figure.series)
    rows = -(-len(figure.labels) // COLUMNS)
    drawn, grid = pyplot.subplots(
        rows,
        COLUMNS,
        figsize=(12, 0.7 + rows * (0.7 + 0.2 * len(names))),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for place, axes in enumerate(grid.flat):
        if place >= len(figure.labels):
            axes.set_visible(False)
            continue
        values = [figure.series[name][place] for name in names]
        colours = [OURS if _is_ours(name) else OTHERS[0] for name in names]
        bars = axes.barh(range(len(names)), values, 0.75, color=colours)
        axes.bar_label(bars, [shown(value) for value in values], padding=2, fontsize=7)
        axes.set_yticks(range(len(names)), names)
        axes.set_title(figure.labels[place], fontsize=9)
        if figure.is_log:
            axes.set_xscale("log")
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.margins(x=0.18)
    grid[0][0].invert_yaxis()
    drawn.supxlabel(figure.unit, fontsize=9)
    return drawn


def _lines(figure: Figure, pyplot: Any) -> Any:
    """One line for each name; `labels` are the two axes' names."""
    drawn, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    others = iter([(colour, style) for style in ("-", "--", ":") for colour in STRONG])
    for name, points in figure.series.items():
        is_ours = _is_ours(name)
        colour, style = (OURS, "-") if is_ours else next(others)
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            color=colour,
            linestyle=style,
            linewidth=2.2 if is_ours else 1.3,
            zorder=3 if is_ours else 2,
            label=name,
        )
    for text, x in figure.marks.items():
        axes.axvline(x, color="#888888", linestyle=":", linewidth=1)
        axes.annotate(text, (x, 1.0), xycoords=("data", "axes fraction"), fontsize=7, ha="left", va="top")
    if figure.is_log:
        axes.set_xscale("log")
    axes.set_xlabel(figure.labels[0])
    axes.set_ylabel(figure.labels[1])
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    drawn.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=2)
    return drawn
