"""Write the tables of README.md from the JSON lines in `results/`: ``python benchmarks/render.py``.

The table of `results/<name>.jsonl` replaces what stands between ``<!-- <name> -->`` and ``<!-- end -->``. Figures stand in the README
beside this file; what the tests of ``tests/hazards`` have found stands in the project's, and what `matrix.py` has found in CONTRIBUTING.md.
"""

from __future__ import annotations

import json
import re
from itertools import groupby
from pathlib import Path
from typing import Any

from whole_models.table import command_of_each, whole_models

HERE = Path(__file__).parent
PROJECT = HERE.parent
FIGURES = HERE / "README.md"
PLACES = {
    "hazards": PROJECT / "docs/trust.md",
    "false_verdicts": PROJECT / "docs/trust.md",
    "matrix": PROJECT / "CONTRIBUTING.md",
    "fusions": PROJECT / "docs/add-a-fusion.md",
}
"""Where results stand that are not figures."""
VERDICTS = {"caught": "caught", "repaired": "caught, repaired by copies"}
"""What a table calls what became of a wrong kernel; another word is an error."""


def duration(seconds: float) -> str:
    """Seconds as a person reads them.

    Example:
        >>> duration(0.00123)
        '1.23 ms'
    """
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def tables(rows: list[dict[str, Any]]) -> str:
    """The Markdown of one results file: what it was measured with, and a table per pair of sides."""
    if not rows:
        return "Not measured yet."
    if "workload" in rows[0]:
        return f"{origin(command_of_each(rows))}\n\n{whole_models(rows)}"
    if "hazard" in rows[0]:
        return hazards(rows)
    if "architecture" in rows[0]:
        return matches(rows)
    if "row" in rows[0]:
        return versions(rows)
    if any("bandwidth" in row for row in rows):
        return kernels(rows)
    if "false" in rows[0]:
        return verdicts(rows)
    return "\n\n".join([origin(rows), *(table(list(group)) for _, group in groupby(rows, key=lambda row: list(row["sides"])))])


def origin(rows: list[dict[str, Any]]) -> str:
    """Machine, versions and commands of the rows, each once."""
    machines = dict.fromkeys(row["machine"] for row in rows)
    versions = dict.fromkeys(f"{name} {number}" for row in rows for name, number in row["versions"].items())
    commands = dict.fromkeys(f"`{row['command']}`" for row in rows)
    return f"{'; '.join(machines)}. {', '.join(versions)}. {', '.join(commands)}"


def table(rows: list[dict[str, Any]]) -> str:
    """The Markdown table of rows with the same two sides."""
    names = list(rows[0]["sides"])
    lines = [f"| question | {names[0]} | {names[1]} | {names[0]} / {names[1]} | spread | runs |", "|---|---|---|---|---|---|"]
    for row in rows:
        medians = " | ".join(duration(row["sides"][name]) for name in names)
        low, high = row["spread"]
        lines.append(f"| {row['question']} | {medians} | **{row['ratio']:.2f}** | {low:.2f} to {high:.2f} | {row['runs']} |")
    if all("peak GiB" in row for row in rows):
        lines = [f"{line} {peaks} |" for line, peaks in zip(lines, [*("peak GiB", "---"), *map(peaks_of, rows)], strict=True)]
    return "\n".join(lines)


def peaks_of(row: dict[str, Any]) -> str:
    """The most memory that each side has held."""
    return " and ".join(f"{gib:.1f}" for gib in row["peak GiB"].values())


def verdicts(rows: list[dict[str, Any]]) -> str:
    """The Markdown table of how many kernels admission has judged wrongly."""
    lines = ["| kernels | tried | refused | repaired | admitted | false verdicts |", "|---|---|---|---|---|---|"]
    for row in rows:
        counts = " | ".join(str(row.get(name, 0)) for name in ("refused", "repaired", "admitted"))
        lines.append(f"| {row['kernels']} | {row['tried']} | {counts} | **{row['false']}** |")
    return "\n".join(lines)


def kernels(rows: list[dict[str, Any]]) -> str:
    """The Markdown table of single kernels against the compiler's code and what their bytes take."""
    lines = ["| kernel | eager | Inductor | kernel | Inductor / kernel | floor | of the copy bandwidth |", "|---|---|---|---|---|---|---|"]
    for row in (row for row in rows if "bandwidth" in row):
        sides = " | ".join(f"{row['microseconds'][name]:.4g} us" for name in ("eager", "inductor", "kernel"))
        floor = f"{row['microseconds']['floor']:.4g} us | {row['bandwidth']:.0%}"
        lines.append(f"| {row['question']} | {sides} | **{row['ratio']:.2f}** | {floor} |")
    for row in (row for row in rows if "peak GiB" in row):
        figures = ", ".join(
            f"{name} {row['milliseconds'][name]:.3g} ms and {row['peak GiB'][name]:.2f} GiB" for name in row["milliseconds"]
        )
        lines.append(f"\n{row['question']}: {figures}.")
    machine = ", ".join(dict.fromkeys(f"{row['machine']}, torch {row['torch']}" for row in rows))
    return "\n".join([f"{machine}.", "", *lines])


def matches(rows: list[dict[str, Any]]) -> str:
    """A Markdown table for each version of transformers, as `matches_of_version` makes it."""
    versions = sorted({row["transformers"] for row in rows})
    return "\n\n".join(matches_of_version(version, [row for row in rows if row["transformers"] == version]) for version in versions)


def matches_of_version(version: str, rows: list[dict[str, Any]]) -> str:
    """The table of how many calls each fusion has in an architecture: in eval mode, and in training where that differs."""
    names = sorted({name for row in rows for mode in ("eval", "training") for name in row.get(mode, {})}, key=str.lower)
    lines = [f"| architecture | attention | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}"]
    for row in rows:
        if "error" in row:
            continue  # an implementation of attention that the architecture lacks
        counts = [[row[mode].get(name, 0) for mode in ("eval", "training")] for name in names]
        cells = ["" if one == other == 0 else str(one) if one == other else f"{one}, {other}" for one, other in counts]
        lines.append(f"| {row['architecture']} | {row['attention']} | {' | '.join(cells)} |")
    return "\n".join([f"transformers {version}.", "", *lines])


def hazards(rows: list[dict[str, Any]]) -> str:
    """The Markdown table of what was found about kernels that are known to be wrong, a row per hazard."""
    lines = ["| | hazard | what it would do | what the report says | verdict |", "|---|---|---|---|---|"]
    for number, group in groupby(rows, key=lambda row: row["#"]):
        cases = list(group)
        # How far a result may be off stands in the record; how far it is off will do here.
        said = "<br>".join(f"{case['kernel'].partition(':')[2]}: {re.sub(r' [(](mean|largest).*', '', case['report'])}" for case in cases)
        verdicts = ", ".join(dict.fromkeys(VERDICTS[case["verdict"]] for case in cases))
        lines.append(f"| {number} | {cases[0]['hazard']} | {cases[0]['harm']} | {said} | **{verdicts}** |")
    return "\n".join(lines)


def versions(rows: list[dict[str, Any]]) -> str:
    """The Markdown table of the tests that were run with several versions of the libraries, a column per environment."""
    lines = ["| | " + " | ".join(row["row"] for row in rows) + " |", "|---|" + "---|" * len(rows)]
    for library in dict.fromkeys(library for row in rows for library in row["versions"]):
        lines.append(f"| {library} | " + " | ".join(row["versions"].get(library, "-") for row in rows) + " |")
    demos = {True: "passed", False: "**failed**", None: "-"}
    lines.append("| `fxkernels demo` | " + " | ".join(demos[row.get("demo")] for row in rows) + " |")
    for group in dict.fromkeys(group for row in rows for group in row["tests"]):
        lines.append(f"| {group} | " + " | ".join(_counted(row["tests"].get(group)) for row in rows) + " |")
    return "\n".join(lines)


def _counted(counts: dict[str, int] | None) -> str:
    if counts is None:
        return "-"
    failed = [f"**{counts['failed']} failed**"] if counts["failed"] else []
    return ", ".join([*failed, *(f"{counts[how]} {how}" for how in ("passed", "skipped") if counts[how])])


def picture(name: str) -> str:
    """The Markdown that shows what `plots.py` has drawn of a results file; empty where it has drawn nothing."""
    return f"\n\n![The same as bars](plots/{name}.svg)" if (HERE / "plots" / f"{name}.svg").exists() else ""


def render(readme: str, results: dict[str, list[dict[str, Any]]]) -> str:
    """`readme` with the table of each results file between its markers.

    Raises:
        ValueError: If a results file has no markers.
    """
    for name, rows in results.items():
        pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(readme):
            raise ValueError(f"there are no markers for results/{name}.jsonl: add '<!-- {name} -->' and '<!-- end -->'")
        # Backslashes of the text are no group references.
        text = (tables(rows) + picture(name)).replace("\\", r"\\")
        readme = pattern.sub(rf"\1\n{text}\n\n\2", readme)
    return readme


def main() -> None:
    """Read `results/*.jsonl`, rewrite the documents."""
    results = {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in sorted(HERE.glob("results/*.jsonl"))}
    for document in (FIGURES, *dict.fromkeys(PLACES.values())):
        mine = {name: rows for name, rows in results.items() if PLACES.get(name, FIGURES) == document}
        document.write_text(render(document.read_text(), mine))


if __name__ == "__main__":
    main()
