"""The rows of whole models as tables: a line for each workload and a column for each side, and what fxkernels did to the layer calls."""

from __future__ import annotations

import re
from statistics import median
from typing import Any

Row = dict[str, Any]

LABELS = {
    "eager": "eager",
    "inductor": "Inductor",
    "reduce-overhead": "Inductor (reduce-overhead)",
    "kernels": "kernels",
    "kernels+inductor": "kernels + Inductor",
    "liger": "Liger",
    "liger+inductor": "Liger + Inductor",
    "kernelize": "kernelize",
    "hubkernels": "hubkernels",
    "hubkernels+reduce-overhead": "hubkernels (reduce-overhead)",
}
"""What a column is called. The last three are ours."""
OURS = ("kernelize", "hubkernels", "hubkernels+reduce-overhead")
NOT_OURS = tuple(side for side in LABELS if side not in OURS)
SAME_COMPILER = {"inductor": "hubkernels", "reduce-overhead": "hubkernels+reduce-overhead"}
"""A compiler by itself -> the same with kernels before it, whose times differ by what was selected and by nothing else."""
NOTHING = "-"


def whole_models(rows: list[Row]) -> str:
    """The Markdown of a results file: the matrix, what is not in it and why, and what became of the layer calls."""
    workloads = by_workload(rows)
    return "\n\n".join(part for part in (matrix(workloads), notes(workloads), layer_calls(workloads)) if part)


def command_of_each(rows: list[Row]) -> list[Row]:
    """The rows with one command for all workloads, where each of them was given one of its own."""
    return [row | {"command": re.sub(rf"models\.py {row['workload']}(?= -|$)", "models.py WORKLOAD", row["command"])} for row in rows]


def by_workload(rows: list[Row]) -> dict[str, dict[str, Row]]:
    """Rows by workload and side. Of two rows of one cell the later one counts, as where a run was continued."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row["workload"], {})[row["side"]] = row
    return found


def matrix(workloads: dict[str, dict[str, Row]]) -> str:
    """Milliseconds, peak memory and seconds of the first call of each side that was run, and what ours are faster than."""
    sides = [side for side in LABELS if any("left out" not in cells.get(side, {"left out": ""}) for cells in workloads.values())]
    lines = [
        f"| workload | {' | '.join(LABELS[side] for side in sides)} | without / with hubkernels | best peer / fxkernels |",
        "|---" * (len(sides) + 3) + "|",
    ]
    for cells in workloads.values():
        title = next(iter(cells.values()))["title"]
        lines.append(f"| {title} | {' | '.join(cell(cells.get(side)) for side in sides)} | {selected(cells)} | {advantage(cells)} |")
    return "\n".join(lines)


def cell(row: Row | None) -> str:
    """What a side has measured, one figure a line; a first call that compiles nothing is none."""
    if row is None or "left out" in row:
        return NOTHING
    if "error" in row:
        return "no time" if "TimeoutError" in row["error"] else "failed"
    figures = [f"{row['milliseconds']:.3g} ms"]
    if "peak GiB" in row:
        figures.append(f"{row['peak GiB']:.3g} GiB")
    if row["first call"] >= 0.1:
        figures.append(f"{row['first call']:.2g} s{'' if row['cold'] else ' (warm)'}")
    return "<br>".join(figures)


def selected(cells: dict[str, Row]) -> str:
    """What selection has made of each compiler: a line each."""
    pairs = [(cells.get(alone, {}), cells.get(ours, {})) for alone, ours in SAME_COMPILER.items()]
    lines = [f"{ratio(alone, ours)}<br>{LABELS[alone['side']]}" for alone, ours in pairs if "rounds" in alone and "rounds" in ours]
    return "<br>".join(lines) or NOTHING


def advantage(cells: dict[str, Row]) -> str:
    """How many times as fast the fastest of ours is as the fastest peer."""
    peer, own = fastest(cells, NOT_OURS), fastest(cells, OURS)
    if peer is None or own is None:
        return NOTHING
    return f"{ratio(peer, own)}<br>{LABELS[peer['side']]} / {LABELS[own['side']]}"


def ratio(peer: Row, own: Row) -> str:
    """How many times as fast ours is: the median over the rounds, and the smallest and largest."""
    # The two stood side by side in each round; a slow moment of the machine hits both.
    ratios = [theirs / ours for theirs, ours in zip(peer["rounds"], own["rounds"], strict=False)]
    return f"**{median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"


def fastest(cells: dict[str, Row], sides: tuple[str, ...]) -> Row | None:
    """The row with the smallest median; None if none of the sides was timed."""
    timed = [cells[side] for side in sides if "milliseconds" in cells.get(side, {})]
    return min(timed, key=lambda row: float(row["milliseconds"]), default=None)


def notes(workloads: dict[str, dict[str, Row]]) -> str:
    """Which cells have no figures, and why: a line for each reason, and for sides that have it in the same workloads."""
    where: dict[tuple[str, str], list[str]] = {}
    for name, cells in workloads.items():
        for side in LABELS:
            for what in ("left out", "error"):
                if what in cells.get(side, {}):
                    where.setdefault((f"{'failed' if what == 'error' else what}: {cells[side][what]}", LABELS[side]), []).append(name)
    lines: dict[tuple[str, str], list[str]] = {}
    for (reason, side), names in where.items():
        lines.setdefault((reason, ", ".join(names)), []).append(side)
    return "\n".join(f"- {', '.join(sides)}, in {names}: {reason}" for (reason, names), sides in lines.items())


def layer_calls(workloads: dict[str, dict[str, Row]]) -> str:
    """What became of the layer calls, by layer name; sides that did the same share a line."""
    lines = ["| workload | by | rewritten | not profitable | by layer name |", "|---|---|---|---|---|"]
    for cells in workloads.values():
        alike: dict[str, list[str]] = {}
        for side in OURS:
            row = cells.get(side, {})
            if "layers" in row:
                counts = f"{row['calls'].get('rewritten', 0)} | {row['calls'].get('not_profitable', 0)}"
                alike.setdefault(f"{counts} | {'; '.join(by_name(row['layers']))}", []).append(LABELS[side])
        title = next(iter(cells.values()))["title"]
        lines += [f"| {title} | {', '.join(sides)} | {what} |" for what, sides in alike.items()]
    return "\n".join(lines) if len(lines) > 2 else ""


def by_name(layers: dict[str, dict[str, int]]) -> list[str]:
    """Layer names with what became of their calls, those with a kernel first."""
    order = sorted(layers, key=lambda name: ("no_mapping" in layers[name] or "no_device" in layers[name], name))
    return [f"{name}: {', '.join(f'{count} {what}' for what, count in layers[name].items())}" for name in order]
