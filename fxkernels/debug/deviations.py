"""How far each kernel is from the layer that it replaces, on the inputs of a real call: the numbers, ranked, as text and as a plot."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch

_SHOWN = 20
_COLUMNS = ("difference", "largest", "gradient", "kernel", "layer")
_WIDTH = 10


@dataclass(frozen=True, slots=True)
class Deviation:
    """Two results beside each other. Where either is infinite or not a number, they are compared by that only.

    Args:
        relative: The 2-norm of their difference, in parts of the 2-norm of the second.
        largest: The largest difference between two elements.
        unlike: How many elements are infinite or not a number in one of them, and not the same in the other.
    """

    relative: float
    largest: float
    unlike: int = 0

    @staticmethod
    def between(found: torch.Tensor, wanted: torch.Tensor) -> Deviation:
        """Return how far `found` is from `wanted`, a tensor of the same shape."""
        found, wanted = _wide(found), _wide(wanted)
        if found.numel() == 0:
            return Deviation(0.0, 0.0)
        finite = torch.isfinite(found) & torch.isfinite(wanted)
        alike = finite | (found == wanted) | (torch.isnan(found) & torch.isnan(wanted))
        difference, of = torch.where(finite, found - wanted, 0), torch.where(finite, wanted, 0)
        size, norm = float(difference.norm()), float(of.norm())
        return Deviation(size / norm if norm else (math.inf if size else 0.0), float(difference.abs().max()), int((~alike).sum()))

    @property
    def rank(self) -> tuple[float, ...]:
        """What differences are sorted by: the larger, the worse."""
        return (float(self.unlike > 0), self.relative, self.largest)

    def __str__(self) -> str:
        return f"{self.unlike} unlike" if self.unlike else _short(self.relative)


@dataclass(frozen=True, slots=True)
class CallNumerics:
    """One layer call: the kernel beside the layer, on the same inputs.

    Args:
        key: The call, e.g. ``model.layers.3.norm#0``.
        kernel: The kernel, as reports name it.
        dtype: Of the layer's first output, e.g. ``bfloat16``.
        value: How far the kernel's outputs are from the layer's; the worst one of several outputs or runs. None if there is a problem.
        gradient: The same for the gradients of the inputs, for random incoming ones; None where no gradient flows, or there is a problem.
        kernel_error: How far the kernel's outputs are from the layer's in float64, relative; None if it cannot be run in float64.
        layer_error: How far the layer's own outputs are from those.
        runs: How often the call happened.
        problem: What went wrong instead of a number, as a sentence; else empty.
    """

    key: str
    kernel: str
    dtype: str
    value: Deviation | None = None
    gradient: Deviation | None = None
    kernel_error: float | None = None
    layer_error: float | None = None
    runs: int = 1
    problem: str = ""

    @property
    def rank(self) -> tuple[float, ...]:
        """What calls are sorted by, the worst first: problems, then numbers that are none, then differences of values or gradients."""
        ranks = [found.rank for found in (self.value, self.gradient) if found is not None]
        return (float(bool(self.problem)), *max(ranks, default=(0.0, 0.0, 0.0)))

    @property
    def relative(self) -> float:
        """The larger one of the relative differences of values and gradients."""
        return max((found.relative for found in (self.value, self.gradient) if found is not None), default=0.0)

    @property
    def is_unlike(self) -> bool:
        """Whether there is a problem, or something is infinite or not a number in one of the two only."""
        return bool(self.problem) or any(found is not None and found.unlike for found in (self.value, self.gradient))


@dataclass(frozen=True, slots=True)
class Numerics:
    """All calls with a kernel in one run of a model, the worst first.

    Args:
        calls: What was measured.
        missing: Keys of calls that have a kernel by the report, and were not called in this run.
    """

    calls: tuple[CallNumerics, ...]
    missing: tuple[str, ...] = ()

    @staticmethod
    def ranked(calls: Iterable[CallNumerics], missing: Iterable[str] = ()) -> Numerics:
        """Return the calls sorted, the worst first; those that are equally bad stay in order."""
        return Numerics(tuple(sorted(calls, key=lambda call: call.rank, reverse=True)), tuple(missing))

    @property
    def worst(self) -> CallNumerics:
        """The first call."""
        return self.calls[0]

    def to_dict(self) -> dict[str, Any]:
        """Return it as values that JSON has; infinite numbers are the string ``"inf"``."""
        found: dict[str, Any] = _sayable(asdict(self))
        return found

    def plot(self, path: str | Path) -> Path:
        """Write it as a picture and return where.

        Args:
            path: A file that ends in ``.svg``, which every browser shows.

        Raises:
            ValueError: If it has another ending.
        """
        path = Path(path)
        if path.suffix.lower() != ".svg":
            raise ValueError(f"the plot is drawn as SVG, so the file ends in .svg, not {path.suffix or path.name!r}")
        path.write_text(self._repr_svg_(), encoding="utf-8")
        return path

    def _repr_svg_(self) -> str:
        return _plot(self)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{len(self.calls)} calls with a kernel, the worst first"
        yield "".join(column.ljust(_WIDTH + 1) for column in _COLUMNS) + "call"
        for call in self.calls[:_SHOWN]:
            yield "".join(text.ljust(_WIDTH + 1) for text in _cells(call)) + f"{call.key}  {call.kernel}"
            if call.problem:
                yield f"  {call.problem}"
        rest = self.calls[_SHOWN:]
        if rest:
            yield f"and {len(rest)} more, none above {_short(max(call.relative for call in rest))}; .calls has all"
        if self.missing:
            yield f"not called in this run: {', '.join(self.missing)}"
        yield "difference, gradient: from the layer, in parts of its 2-norm; largest: of a single element;"
        yield "kernel, layer: how far either is from the layer in float64"


def _cells(call: CallNumerics) -> tuple[str, ...]:
    value, gradient = call.value, call.gradient
    errors = [_short(error) for error in (call.kernel_error, call.layer_error)]
    return (str(value or "-"), _short(value.largest if value is not None else None), str(gradient or "-"), *errors)


def _short(number: float | None) -> str:
    return "-" if number is None else f"{number:.1e}" if number else "0"


def _sayable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sayable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_sayable(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    wide = tensor.detach()
    if wide.device.type == "mps":  # has no float64
        wide = wide.cpu()
    return wide.to(torch.complex128 if wide.is_complex() else torch.float64)


# --- plot -------------------------------------------------------------------------------------------------------------------------------

_ROWS = 60
_ROW, _TOP, _BOTTOM = 18, 56, 34
_LABELS, _BARS, _RIGHT = 330, 440, 30
_LABEL_LETTERS = 46

_LEGEND = "bar: from kernel to layer, in parts of the 2-norm; dot and circle: from kernel and from layer to float64"

_STYLE = """
  .fxkernels text { font: 11px system-ui, sans-serif; fill: #1f2328 }
  .fxkernels .title { font-size: 14px; font-weight: 600 }
  .fxkernels .dim { fill: #59636e }
  .fxkernels .paper { fill: #ffffff }
  .fxkernels .line { stroke: #d1d9e0 }
  .fxkernels .bar { fill: #4f8fd8 }
  .fxkernels .bad { fill: #cf222e }
  .fxkernels .kernel { fill: #1f2328 }
  .fxkernels .layer { fill: none; stroke: #1f2328; stroke-width: 1.5 }
  @media (prefers-color-scheme: dark) {
    .fxkernels text { fill: #e6edf3 }
    .fxkernels .dim { fill: #9198a1 }
    .fxkernels .paper { fill: #0d1117 }
    .fxkernels .line { stroke: #3d444d }
    .fxkernels .kernel { fill: #e6edf3 }
    .fxkernels .layer { stroke: #e6edf3 }
  }
"""


def _plot(numerics: Numerics) -> str:
    """Return the plot as the text of an SVG file.

    A bar is as long as the kernel is far from the layer; a dot is the kernel's distance from the layer in float64, a circle the layer's
    own. What is no number is a full bar in red that says so.
    """
    calls = numerics.calls[:_ROWS]
    axis = _Axis.of(calls)
    width, height = _LABELS + _BARS + _RIGHT, _TOP + _ROW * len(calls) + _BOTTOM
    more = len(numerics.calls) - len(calls)
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"',
            'class="fxkernels" role="img">',
            f"<title>{_summary(numerics)}</title>",
            f"<style>{_STYLE}</style>",
            f'<rect class="paper" width="{width}" height="{height}"/>',
            f'<text class="title" x="12" y="22">{_summary(numerics)}</text>',
            f'<text class="dim" x="12" y="40">{_LEGEND}</text>',
            *_ruled(axis, height),
            *(line for row, call in enumerate(calls) for line in _row(call, _TOP + row * _ROW, axis)),
            *((f'<text class="dim" x="12" y="{height - 10}">and {more} more with smaller differences</text>',) if more else ()),
            "</svg>\n",
        )
    )


class _Axis:
    """From a relative difference to a place, by its logarithm.

    Args:
        low: The decade at the left end.
        high: The decade at the right end.
    """

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    @staticmethod
    def of(calls: tuple[CallNumerics, ...]) -> _Axis:
        """Return the axis on which all numbers of these calls have a place."""
        found = [number for call in calls for number in (call.relative, call.kernel_error, call.layer_error) if number]
        logarithms = [math.log10(number) for number in found if math.isfinite(number)]
        if not logarithms:
            return _Axis(-8, 0)
        low, high = math.floor(min(logarithms)), math.ceil(max(logarithms))
        return _Axis(low, max(high, low + 1))

    def place(self, number: float) -> float:
        """Return how far right it is, in pixels; nothing is left of the axis or right of its end."""
        if number <= 0:
            return 0.0
        part = (math.log10(number) - self.low) / (self.high - self.low) if math.isfinite(number) else 1.0
        return round(_BARS * min(max(part, 0.0), 1.0), 1)


def _summary(numerics: Numerics) -> str:
    return f"{len(numerics.calls)} calls with a kernel, the worst first"


def _ruled(axis: _Axis, height: int) -> Iterator[str]:
    step = max(1, math.ceil((axis.high - axis.low) / 8))
    for decade in range(axis.low, axis.high + 1, step):
        x = _LABELS + axis.place(10.0**decade)
        yield f'<line class="line" x1="{x}" y1="{_TOP - 6}" x2="{x}" y2="{height - _BOTTOM}"/>'
        yield f'<text class="dim" x="{x}" y="{height - _BOTTOM + 14}" text-anchor="middle">1e{decade}</text>'


def _row(call: CallNumerics, top: int, axis: _Axis) -> Iterator[str]:
    label = call.key if len(call.key) <= _LABEL_LETTERS else f"…{call.key[1 - _LABEL_LETTERS :]}"
    middle = top + _ROW / 2
    yield f"<g><title>{escape(_said(call))}</title>"
    yield f'<text x="{_LABELS - 8}" y="{middle + 4}" text-anchor="end">{escape(label)}</text>'
    if call.is_unlike:
        said = "problem" if call.problem else "not a number"
        yield f'<rect class="bad" x="{_LABELS}" y="{top + 3}" width="{_BARS}" height="{_ROW - 6}"/>'
        yield f'<text x="{_LABELS + 6}" y="{middle + 4}" style="fill: #ffffff">{said}</text>'
    else:
        yield f'<rect class="bar" x="{_LABELS}" y="{top + 3}" width="{axis.place(call.relative)}" height="{_ROW - 6}"/>'
    if call.layer_error is not None:
        yield f'<circle class="layer" cx="{_LABELS + axis.place(call.layer_error)}" cy="{middle}" r="4"/>'
    if call.kernel_error is not None:
        yield f'<circle class="kernel" cx="{_LABELS + axis.place(call.kernel_error)}" cy="{middle}" r="2.5"/>'
    yield "</g>"


def _said(call: CallNumerics) -> str:
    """The row in words, for a pointer that rests on it."""
    parts = [f"{call.key}: {call.kernel}, {call.dtype}"]
    if call.problem:
        parts.append(call.problem)
    for name, found in (("values", call.value), ("gradients", call.gradient)):
        if found is not None:
            parts.append(f"{name} {found}, at most {found.largest:.1e}")
    for name, error in (("kernel", call.kernel_error), ("layer", call.layer_error)):
        if error is not None:
            parts.append(f"{name} from float64 {error:.1e}")
    return "; ".join(parts)
