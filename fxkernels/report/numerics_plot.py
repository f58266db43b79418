"""The plot of `Numerics`: one bar a call on a logarithmic axis, drawn as SVG, light or dark as the reader's screen is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

from .numerics import CallNumerics, Numerics

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


def draw(numerics: Numerics) -> str:
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
