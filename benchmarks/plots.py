"""The figures of whole models as pictures: ``python benchmarks/plots.py`` draws `plots/<name>.svg` from each `results/models*.jsonl`.

A row for each workload; in it a bar for each side: time of a step, peak memory, seconds of the first call. Needs matplotlib.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from whole_models.table import LABELS, OURS, by_workload

HERE = Path(__file__).parent
FIGURES = {"milliseconds": "ms per step", "peak GiB": "peak GiB", "first call": "s of the first call"}
COLOURS = {True: "#c2410c", False: "#94a3b8"}
"""Ours, and the peers'."""


def draw(rows: list[dict[str, Any]]) -> Figure:
    """All workloads of a results file, with the figures that any side has."""
    workloads = by_workload(rows)
    figures = [name for name in FIGURES if any(name in row for row in rows)]
    sides = {name: [side for side in LABELS if "milliseconds" in cells.get(side, {})] for name, cells in workloads.items()}
    picture = Figure(figsize=(4 + 3.2 * len(figures), sum(1 + 0.26 * len(names) for names in sides.values())), layout="constrained")
    axes = picture.subplots(len(workloads), len(figures), squeeze=False, height_ratios=[1 + 0.26 * len(names) for names in sides.values()])
    for line, (name, cells) in zip(axes, workloads.items(), strict=True):
        line[0].set_title(next(iter(cells.values()))["title"], loc="left", fontsize=10, fontweight="bold")
        for axis, figure in zip(line, figures, strict=True):
            bars(axis, [cells[side] for side in sides[name]], figure, names=axis is line[0])
    return picture


def bars(axis: Axes, rows: list[dict[str, Any]], figure: str, names: bool) -> None:
    """One figure of the sides of a workload, the first on top."""
    values = [row.get(figure, 0.0) for row in rows]
    drawn = axis.barh(range(len(rows)), values, color=[COLOURS[row["side"] in OURS] for row in rows], height=0.72)
    axis.bar_label(drawn, labels=[f"{value:.3g}" if value else "" for value in values], padding=3, fontsize=8)
    axis.set_yticks(range(len(rows)), [LABELS[row["side"]] for row in rows] if names else [""] * len(rows), fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel(FIGURES[figure], fontsize=8)
    axis.tick_params(axis="x", labelsize=7)
    axis.tick_params(axis="y", length=0)
    axis.margins(x=0.15)
    axis.spines[["top", "right", "left"]].set_visible(False)


@click.command(help=__doc__)
@click.argument("results", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option("--into", type=click.Path(path_type=Path, file_okay=False), default=HERE / "plots", help="Folder of the pictures.")
def main(results: tuple[Path, ...], into: Path) -> None:
    # The same rows give the same bytes: text stays text, and no date is written.
    mpl.rcParams.update({"svg.hashsalt": "fxkernels", "svg.fonttype": "none", "font.family": "sans-serif"})
    into.mkdir(exist_ok=True)
    for file in results or sorted(HERE.glob("results/models*.jsonl")):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        if rows:
            draw(rows).savefig(into / f"{file.stem}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
