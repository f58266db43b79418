"""The model as a picture that a person can read: layers as blocks, equal ones drawn once, decisions in colour and in words.

An SVG without scripts. It takes its colours from the page around it, and has its own where there is no page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from urllib.parse import quote

from .blocks import Block, blocks_of, flow_of
from .model import CallReport, ReportData

Loops = dict[int, tuple[int, int]]

WIDTH = 348
_PAD, _HEADER, _LEAF, _GAP = 12, 30, 46, 18
_STACK = 4  # how far the sheets behind a repeated block stick out
_LANE = 9
_LOOP = 20
_MONO, _SANS = 7.3, 6.1  # the widest of a character, at the sizes of the style below

MARKS = {"rewritten": "✓", "missed": "✕", "unknown": "?", "not_captured": "○", "excluded": "\u2013", "covered": "↳"}
"""A sign for each status, always beside its word."""

TIMES = "\u00d7"
"""As in x32, before how many calls or modules there are."""

_STYLE = """
.pic text{font:500 11px var(--sans,system-ui,sans-serif);fill:var(--soft,#5b626d)}
.pic .name{font:600 12px var(--mono,ui-monospace,monospace);fill:var(--text,#1f2328)}
.pic .sheet,.pic .frame{fill:var(--card,#fff);stroke:var(--line-strong,#cfcac1)}
.pic .flow{fill:none;stroke:var(--faint,#8b919b);stroke-width:1.5}
.pic .loop{stroke-dasharray:4 3}
.pic .head{fill:var(--faint,#8b919b)}
.pic .call .box{fill:var(--grey-bg,#eef0f2);stroke:transparent}
.pic .call .edge,.pic .call .mark{fill:var(--grey,#555c66)}
.pic .rewritten .box{fill:var(--green-bg,#e2f3ec)}.pic .rewritten .edge,.pic .rewritten .mark{fill:var(--green,#0b6b57)}
.pic .missed .box{fill:var(--amber-bg,#fcefd9)}.pic .missed .edge,.pic .missed .mark{fill:var(--amber,#8a4b00)}
.pic .unknown .box{fill:var(--violet-bg,#ecebfb)}.pic .unknown .edge,.pic .unknown .mark{fill:var(--violet,#4a45b5)}
.pic .not_captured .box{fill:var(--red-bg,#fce9e8)}.pic .not_captured .edge,.pic .not_captured .mark{fill:var(--red,#a3262b)}
.pic a:hover rect.box,.pic a:focus-visible rect.box{stroke:var(--accent,#4b4fc4);stroke-width:2}.pic a{outline:none}
"""


def anchor_of(call: CallReport) -> str:
    """Return the id of a call's element, e.g. ``call-model.layers.3.norm-0``. Characters that an id should not have are percent-encoded.

    A link to it quotes the id once more: see `link_to`.
    """
    return f"call-{quote(call.path, safe='')}-{call.index}"


def link_to(call: CallReport) -> str:
    """Return the address of a call within its page, e.g. ``#call-model.layers.3.norm-0``."""
    return f"#{quote(anchor_of(call))}"


def render_picture(report: ReportData) -> str:
    """Return an SVG element of the report's layer calls; each block links to the first of its calls. Empty if there are no calls."""
    blocks = blocks_of(report.calls)
    return _Drawing(blocks, report.summary).svg() if blocks else ""


@dataclass(slots=True)
class _Drawing:
    blocks: Sequence[Block]
    summary: str
    out: list[str] = field(default_factory=list)
    boxes: list[tuple[float, float, float]] = field(default_factory=list)  # x, y, width of each block without parts
    loops: list[str] = field(default_factory=list)

    def svg(self) -> str:
        flow = flow_of(self.blocks)
        far = [edge for edge in flow.edges if edge[1] != edge[0] + 1]
        lanes = _lanes(far)
        left = _LANE * (max(lanes.values(), default=-1) + 1) + (4 if far else 0)
        bottom = self._column(self.blocks, left + 1, 4, WIDTH - left - 2 - _STACK * 2, flow.loops, 1)
        edges = [self._straight(source) for source, target in flow.edges if target == source + 1]
        edges += [self._around(edge, left - 2 - _LANE * lanes[edge], left) for edge in far]
        return (
            f'<svg class="pic" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 8:g}" width="{WIDTH}" role="group" '
            f'aria-labelledby="picture-title picture-desc"><title id="picture-title">The layer calls of the model</title>'
            f'<desc id="picture-desc">{escape(self._description())}</desc><style>{_STYLE}</style><defs><marker id="head" viewBox="0 0 8 8" '
            f'refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto-start-reverse"><path class="head" d="M0 .5 8 4 0 7.5z"/>'
            f"</marker></defs>{''.join(self.out)}{''.join(self.loops)}{''.join(edges)}</svg>"
        )

    def _description(self) -> str:
        return f"{self.summary}. Blocks are modules, equal ones drawn once; each call links to its details. Arrows show what flows where."

    def _column(self, blocks: Sequence[Block], x: float, y: float, width: float, loops: Loops, outer: int) -> float:
        """Draw blocks below each other and return where the last one ends. The block around them represents `outer` modules."""
        for number, block in enumerate(blocks):
            y = self._block(block, x, y + (_GAP if number else 0), width, loops, outer)
        return y

    def _block(self, block: Block, x: float, y: float, width: float, loops: Loops, outer: int) -> float:
        if not block.parts:
            self._leaf(block, x, y, width, len(block.calls) // outer)
            return y + _LEAF
        place = len(self.out)
        loop = loops.get(id(block))
        inner = width - 2 * _PAD - (_LOOP - 4 if loop else 0)
        bottom = self._column(block.parts, x + _PAD, y + _HEADER, inner, loops, outer * block.repeat) + _PAD
        sheets = [(_STACK * 2, "sheet"), (_STACK, "sheet"), (0, "frame")] if block.repeat > 1 else [(0, "frame")]
        frame = "".join(_rect(x + off, y + off, width, bottom - y, 12, name) for off, name in sheets)
        count = f"{TIMES}{block.repeat}" if block.repeat > 1 else ""
        room = int((width * 0.66 - 2 * _PAD) / _MONO)
        head = (
            f'<text class="name" x="{x + _PAD:g}" y="{y + 20:g}">{_shortened(block.label, room)}<title>{escape(block.label)}</title></text>'
        )
        head += f'<text class="name" x="{x + width - _PAD:g}" y="{y + 20:g}" text-anchor="end">{count}</text>' if count else ""
        self.out.insert(place, f"<g>{frame}{head}</g>")
        if loop:
            self.loops.append(self._loop(*loop, x + width - _PAD + 2))
        return bottom + (_STACK * 2 if block.repeat > 1 else 0)

    def _leaf(self, block: Block, x: float, y: float, width: float, times: int) -> None:
        call = block.calls[0]
        statuses = Counter(call.status for call in block.calls)
        words = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in statuses.items())
        alone = next(iter(statuses)) if len(statuses) == 1 else ""
        detail = f"{len(block.calls)} calls" if block.shortened else call.layer_name
        count = f"{TIMES}{times}" if times > 1 and not block.shortened else ""
        said = f"{block.label}: {words}" + (f", {call.kernel}" if call.kernel is not None and alone else "")
        line = f"{alone.replace('_', ' ')} · {detail}" if alone else words
        room = int((width - 32) / _MONO - len(count))
        self.boxes.append((x, y, width))
        self.out.append(
            f'<a href="{escape(link_to(call))}" aria-label="{escape(said)}"><g class="call {alone}"><title>{escape(said)}</title>'
            f"{_rect(x, y, width, _LEAF, 9, 'box')}"
            f'<rect class="edge" x="{x + 7:g}" y="{y + 10:g}" width="3" height="{_LEAF - 20}" rx="1.5"/>'
            f'<text class="name" x="{x + 18:g}" y="{y + 19:g}">{_shortened(block.label, room)}</text>'
            + (f'<text class="name" x="{x + width - 10:g}" y="{y + 19:g}" text-anchor="end">{count}</text>' if count else "")
            + f'<text x="{x + 18:g}" y="{y + 36:g}"><tspan class="mark">{MARKS.get(alone, "±")} </tspan>'
            f"{_shortened(line, int((width - 44) / _SANS), end=False)}</text></g></a>"
        )

    def _straight(self, source: int) -> str:
        (x, y, width), (x2, y2, width2) = self.boxes[source], self.boxes[source + 1]
        middle = min(x + width, x2 + width2) - 56
        return _path(f"M{middle:g} {y + _LEAF:g}V{y2 - 1:g}")

    def _around(self, edge: tuple[int, int], lane: float, left: float) -> str:
        (x, y, _), (x2, y2, _) = self.boxes[edge[0]], self.boxes[edge[1]]
        start, end = y + _LEAF - 12, y2 + 12
        turn = 5 if end > start else -5
        return _path(
            f"M{x:g} {start:g}H{lane + 5:g}Q{lane:g} {start:g} {lane:g} {start + turn:g}V{end - turn:g}"
            f"Q{lane:g} {end:g} {lane + 5:g} {end:g}H{x2 - 1:g}"
        )

    def _loop(self, last: int, first: int, lane: float) -> str:
        (x, y, width), (x2, y2, width2) = self.boxes[last], self.boxes[first]
        start, end = y + _LEAF / 2, y2 + _LEAF / 2
        return _path(
            f"M{x + width:g} {start:g}H{lane - 5:g}Q{lane:g} {start:g} {lane:g} {start - 5:g}V{end + 5:g}"
            f"Q{lane:g} {end:g} {lane - 5:g} {end:g}H{x2 + width2 + 1:g}",
            "flow loop",
        )


def _lanes(edges: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """A lane for each edge that goes around blocks, the short ones first, so that no two of one lane overlap; six at most."""
    taken: list[list[tuple[int, int]]] = [[] for _ in range(6)]
    lanes = {}
    for edge in sorted(edges, key=lambda edge: abs(edge[1] - edge[0])):
        low, high = sorted(edge)
        free = (n for n, spans in enumerate(taken) if all(high <= start or end <= low for start, end in spans))
        lanes[edge] = next(free, len(taken) - 1)
        taken[lanes[edge]].append((low, high))
    return lanes


def _shortened(text: str, room: int, *, end: bool = True) -> str:
    """The text, or as much of it as there is room for: of a path its end, which says most, and of a set of numbers its beginning."""
    if len(text) <= room:
        return escape(text)
    if text.endswith("}"):
        return escape(f"{text[: room - 2]}…}}")
    return escape(f"…{text[1 - room :]}" if end else f"{text[: room - 1]}…")


def _rect(x: float, y: float, width: float, height: float, radius: int, name: str) -> str:
    return f'<rect class="{name}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius}"/>'


def _path(steps: str, name: str = "flow") -> str:
    return f'<path class="{name}" d="{steps}" marker-end="url(#head)"/>'
