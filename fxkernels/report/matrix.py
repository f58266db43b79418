"""Which kernels a model would get on which target: layer names by targets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..kernels.layer import KernelIdentity
from ..target import Target
from .model import CallReport
from .report import Report
from .terminal import columns, wrapped

_GAP = 2
_PERHAPS = "?: a kernel may run there; only running it would tell"


@dataclass(frozen=True, slots=True)
class Matrix(Mapping[Target, Report]):
    """The reports of one call of a model for several targets: a mapping from target to report, and a table when it is printed.

    Args:
        reports: For each target its report.

    Example:
        >>> matrix = explain(model, x, target=["cuda:sm90", "cpu"])
        >>> print(matrix)
        >>> matrix["cpu"].why("model.norm")
    """

    reports: Mapping[Target, Report]

    @classmethod
    def of(cls, reports: Mapping[Target, Report]) -> Matrix:
        """Return the matrix of these reports.

        Raises:
            ValueError: If there is none.
        """
        if not reports:
            raise ValueError("a matrix needs at least one target")
        return cls(MappingProxyType(dict(reports)))

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The layer names that the model calls, in the order of their first calls."""
        return tuple(dict.fromkeys(call.layer_name for report in self.values() for call in report.calls))

    def cell(self, layer_name: str, target: str | Target) -> Counter[KernelIdentity | str]:
        """Return the outcomes of the calls of a layer name on a target: how many get which kernel, and how many get none for which reason.

        Args:
            layer_name: One of `layer_names`.
            target: One of the targets.

        Raises:
            KeyError: If there is no such target.
        """
        calls = (call for call in self[target].calls if call.layer_name == layer_name)
        return Counter(_outcome(call) for call in calls)

    def __getitem__(self, target: str | Target) -> Report:
        if isinstance(target, Target):
            return self.reports[target]
        found = [known for known in self.reports if _is_called(known, target)]
        if len(found) != 1:
            which = "several targets are" if found else "no target is"
            raise KeyError(f"{which} {target!r} among {', '.join(map(str, self.reports))}")
        return self.reports[found[0]]

    def __iter__(self) -> Iterator[Target]:
        return iter(self.reports)

    def __len__(self) -> int:
        return len(self.reports)

    def __str__(self) -> str:
        return render_matrix(self)

    def __reduce__(self) -> tuple[object, ...]:
        return Matrix.of, (dict(self.reports),)  # a mapping proxy cannot be pickled


def render_matrix(matrix: Matrix, width: int | None = None) -> str:
    """Return the matrix as text: a table where the targets fit beside each other, else one paragraph for each layer name.

    Args:
        matrix: The matrix.
        width: Columns; by default those of the terminal, 80 where there is none.
    """
    width = columns(width)
    heads = _short_names(tuple(matrix))
    rows = {_row_name(matrix, name): [_cell(matrix, name, target) for target in matrix] for name in matrix.layer_names}
    lines = list(_table(heads, rows))
    if max((len(line) for line in lines), default=0) > width:
        lines = list(_paragraphs(heads, rows, width))
    if any("?" in text for cells in rows.values() for cell in cells for text in cell):
        lines.append(_PERHAPS)
    for head, report in zip(heads, matrix.values(), strict=True):
        lines += wrapped(f"{head}: {report.summary}", width, then="  ")
    return "\n".join(lines)


def _table(heads: tuple[str, ...], rows: Mapping[str, list[list[str]]]) -> Iterator[str]:
    if not rows:
        return
    grid = [["", *rows], *([head, *(text for cells in rows.values() for text in cells[n])] for n, head in enumerate(heads))]
    widths = [max(map(len, column)) + _GAP for column in grid]
    yield "".join(text.ljust(size) for text, size in zip(("", *heads), widths, strict=True)).rstrip()
    for name, cells in rows.items():
        for number in range(max(map(len, cells))):
            texts = (name if number == 0 else "", *(cell[number] if number < len(cell) else "" for cell in cells))
            yield "".join(text.ljust(size) for text, size in zip(texts, widths, strict=True)).rstrip()


def _paragraphs(heads: tuple[str, ...], rows: Mapping[str, list[list[str]]], width: int) -> Iterator[str]:
    column = max(map(len, heads)) + _GAP
    for name, cells in rows.items():
        yield name
        for head, cell in zip(heads, cells, strict=True):
            start = f"  {head:<{column}}"
            yield from wrapped(", ".join(cell), width, first=start, then=" " * len(start))


def _row_name(matrix: Matrix, layer_name: str) -> str:
    return layer_name + _times(max(matrix.cell(layer_name, target).total() for target in matrix))


def _cell(matrix: Matrix, layer_name: str, target: Target) -> list[str]:
    """The lines of a cell, the most frequent first; a kernel that is not sure to run has a question mark."""
    calls = [call for call in matrix[target].calls if call.layer_name == layer_name]
    sure = {call.kernel for call in calls if call.status == "rewritten"}
    texts: Counter[str] = Counter()
    for outcome, count in matrix.cell(layer_name, target).items():
        text = _short_kernel(outcome, layer_name) if isinstance(outcome, KernelIdentity) else outcome.replace(f":{layer_name}?", "?")
        unsure = isinstance(outcome, KernelIdentity) and outcome not in sure
        texts[f"{text}?" if unsure else text] += count
    total = texts.total()
    return [text + ("" if count == total else _times(count)) for text, count in texts.most_common()] or ["not called"]


def _outcome(call: CallReport) -> KernelIdentity | str:
    if call.kernel is not None:
        return call.kernel
    if call.status == "unknown":
        candidates = call.decisions[-1].candidates
        return f"{candidates[-1].name}?" if candidates else "?"
    return call.miss.code if call.status == "missed" and call.miss is not None else call.status


def _short_kernel(kernel: KernelIdentity, layer_name: str) -> str:
    name = kernel.repository if kernel.override is None else f"{kernel.repository} (local)"
    return name if kernel.layer == layer_name else f"{name}:{kernel.layer}"


def _short_names(targets: tuple[Target, ...]) -> tuple[str, ...]:
    """The targets without the parts that all of them share."""
    parts = [str(target).split() for target in targets]
    shared = set.intersection(*map(set, parts)) if len(targets) > 1 else set()
    names = tuple(" ".join([each[0], *(part for part in each[1:] if part not in shared)]) for each in parts)
    return names if len(set(names)) == len(names) else tuple(map(str, targets))


def _is_called(target: Target, text: str) -> bool:
    """Whether the text names the device of the target, and of its other parts no wrong one."""
    device, *others = text.split() or [""]
    parts = str(target).split()
    return device in (parts[0], target.device) and set(others) <= set(parts[1:])


def _times(count: int) -> str:
    return f" x{count}" if count > 1 else ""
