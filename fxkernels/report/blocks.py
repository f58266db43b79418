"""What a picture of the model shows: its modules as blocks in blocks, equal ones as one, and what flows from call to call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from .fold import number_set
from .model import CallReport

MOST_BLOCKS = 80
"""Of the blocks without parts: what a person can take in, and what fits on a few screens."""


@dataclass(frozen=True, slots=True)
class Block:
    """A module with its parts, or the calls of one layer.

    Args:
        label: Its name below the block around it, e.g. ``layers.{0..31}`` or ``self_attn.rotary_pos_emb``.
        depth: How many names of its calls' module paths lead to it.
        repeat: How many equal modules it represents.
        calls: Its calls, those of its parts among them. Calls inside a rewritten one are not drawn.
        parts: The blocks in it, in the order of their first calls; none for the calls of one layer.
        shortened: Whether it has parts that are not shown.
    """

    label: str
    depth: int
    repeat: int
    calls: tuple[CallReport, ...]
    parts: tuple[Block, ...] = ()
    shortened: bool = False

    def leaves(self) -> Iterator[Block]:
        """The blocks without parts, in order."""
        if not self.parts:
            yield self
        for part in self.parts:
            yield from part.leaves()


def blocks_of(calls: Iterable[CallReport], most: int = MOST_BLOCKS) -> tuple[Block, ...]:
    """Return the blocks of a model. Modules that differ in their number only, and in whose calls the same happens, are one block.

    Args:
        calls: The calls of a report.
        most: How many blocks without parts there may be; above that, the innermost ones are drawn as one with what is around them.
    """
    root = _Module("")
    for call in calls:
        if call.status != "covered":
            module = root
            for name in call.path.split(".") if call.path else ():
                module = module.children.setdefault(name, _Module(name))
            module.calls.append(call)
    _sign(root, {})
    blocks = (*_call_blocks(root, "(the model)", 0), *_children(root, 0))
    depth = max((_height(block) for block in blocks), default=0)
    while depth > 0 and sum(1 for block in blocks for _ in block.leaves()) > most:
        blocks = tuple(_without_parts_below(block, depth) for block in blocks)
        depth -= 1
    if len(blocks) <= most:
        return blocks
    rest = tuple(call for block in blocks[most:] for call in block.calls)
    return (*blocks[:most], Block(f"{len(blocks) - most} more", 0, 1, rest, shortened=True))


@dataclass(slots=True)
class _Module:
    """A module on the way to annotated layers; after `_merged`, several equal ones. Equal signatures mean equal in all but numbers."""

    name: str
    calls: list[CallReport] = field(default_factory=list)
    children: dict[str, _Module] = field(default_factory=dict)
    signature: int = 0


def _sign(module: _Module, known: dict[object, int]) -> int:
    inside = tuple((name, _sign(child, known)) for name, child in module.children.items())
    module.signature = known.setdefault((tuple(map(_outcome, module.calls)), inside), len(known))
    return module.signature


def _outcome(call: CallReport) -> tuple[object, ...]:
    return (call.layer_name, call.status, call.kernel, call.miss.code if call.miss is not None else "", call.index)


def _merged(modules: Sequence[_Module]) -> _Module:
    first = modules[0]
    children = {name: _merged([module.children[name] for module in modules]) for name in first.children}
    return _Module(first.name, [call for module in modules for call in module.calls], children, first.signature)


def _children(module: _Module, depth: int) -> tuple[Block, ...]:
    """The blocks of a module's children; numbered ones that are equal become one."""
    groups: dict[tuple[str, int], list[_Module]] = {}
    for name, child in module.children.items():
        groups.setdefault(("" if name.isdecimal() else name, child.signature), []).append(child)
    blocks: list[Block] = []
    for group in groups.values():
        label = number_set(int(child.name) for child in group) if group[0].name.isdecimal() else group[0].name
        blocks += _blocks(_merged(group), label, depth + 1, len(group))
    return tuple(blocks)


def _blocks(module: _Module, label: str, depth: int, repeat: int) -> Iterator[Block]:
    """The blocks of one module: itself, or what is in it if it would be a frame around a single thing or around a numbered list."""
    own = _call_blocks(module, label, depth, repeat)
    parts = _children(module, depth)
    if not parts:
        yield from own
    elif not own and (len(parts) == 1 or all(name.isdecimal() for name in module.children)):
        yield from (replace(part, label=f"{label}.{part.label}", repeat=part.repeat * repeat) for part in parts)
    else:
        parts = (*own, *parts)
        yield Block(label, depth, repeat, tuple(call for part in parts for call in part.calls), parts)


def _call_blocks(module: _Module, label: str, depth: int, repeat: int = 1) -> tuple[Block, ...]:
    groups: dict[object, list[CallReport]] = {}
    for call in module.calls:
        groups.setdefault(_outcome(call)[:-1], []).append(call)
    again = any(call.index > 0 for call in module.calls)
    return tuple(
        Block(f"{label}#{number_set(call.index for call in calls)}" if again else label, depth, repeat, tuple(calls))
        for calls in groups.values()
    )


def _height(block: Block) -> int:
    return 1 + max(map(_height, block.parts)) if block.parts else 0


def _without_parts_below(block: Block, depth: int) -> Block:
    if depth <= 1 and block.parts:
        return replace(block, parts=(), shortened=True)
    return replace(block, parts=tuple(_without_parts_below(part, depth - 1) for part in block.parts))


# --- what flows -------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Flow:
    """What flows between the blocks without parts, which are numbered in their order.

    Args:
        edges: From block to block. One that follows from others (a to c, where there are a to b and b to c) is left out.
        loops: For the id of a block that is repeated: the blocks from which, and to which, something flows on to the next repetition.
    """

    edges: tuple[tuple[int, int], ...]
    loops: dict[int, tuple[int, int]]


def flow_of(blocks: Sequence[Block]) -> Flow:
    """Return what flows between the calls of the blocks, by the newest decision of each call."""
    leaves: list[Block] = []
    around: list[tuple[Block, ...]] = []
    for block in blocks:
        for leaf, outer in _with_outer(block, ()):
            leaves.append(leaf)
            around.append(outer)
    place = {call.key: (number, call.path.split(".")) for number, leaf in enumerate(leaves) for call in leaf.calls}
    sources: dict[int, set[int]] = {}
    backward: set[tuple[int, int]] = set()
    loops: dict[int, tuple[int, int]] = {}
    for target, leaf in enumerate(leaves):
        for call in leaf.calls:
            for key in call.decisions[-1].reads:
                if key not in place or key == call.key:
                    continue
                source, path = place[key]
                loop = _repeated(around[source], around[target], path, place[call.key][1])
                if loop is not None:
                    last, first = loops.get(id(loop), (source, target))
                    loops[id(loop)] = (max(last, source), min(first, target))
                elif source < target:
                    sources.setdefault(target, set()).add(source)
                elif source > target:
                    backward.add((source, target))
    return Flow((*_reduced(sources), *sorted(backward)), loops)


def _with_outer(block: Block, outer: tuple[Block, ...]) -> Iterator[tuple[Block, tuple[Block, ...]]]:
    if not block.parts:
        yield block, outer
    for part in block.parts:
        yield from _with_outer(part, (*outer, block))


def _repeated(around_source: Sequence[Block], around_target: Sequence[Block], source: list[str], target: list[str]) -> Block | None:
    """The outermost block that has both calls, but in different ones of the modules that it represents."""
    for one, other in zip(around_source, around_target, strict=False):
        if one is not other:
            return None
        if source[: one.depth] != target[: one.depth]:
            return one
    return None


def _reduced(sources: dict[int, set[int]]) -> Iterator[tuple[int, int]]:
    """The edges without those that follow from others. All edges go up in number; sets of blocks are bits of an integer."""
    before: dict[int, int] = {}
    for target in sorted(sources):
        reached = 0
        for source in sorted(sources[target], reverse=True):
            if not reached >> source & 1:
                yield source, target
            reached |= 1 << source | before.get(source, 0)
        before[target] = reached
