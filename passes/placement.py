"""Where a kernel goes in the graph, and whether there is such a place.

A kernel reads all inputs of its call at once and gives all outputs at once. Where other operations stand between those of the region, that
is possible only if none of them leads from an output back into the region, and none of them changes what the region reads.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from .effects import draws_random_numbers, is_known, written_by
from .example_values import storages_of
from .layer_call import LayerCall
from .miss import Miss


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a kernel goes.

    Args:
        after: The input behind which it goes; None if it takes the region's own place, and nothing has to move.
        moved: The operations that stand before that input and use an output. They go behind the kernel, in this order.
    """

    after: fx.Node | None = None
    moved: tuple[fx.Node, ...] = ()


IN_PLACE = Placement()


def placement_of(call: LayerCall) -> Placement:
    """Return where the kernel of a call goes whose region is convex.

    The only output becomes the kernel, where it stands; of several outputs the kernel goes before the first operation. If an input is
    computed later than that, the kernel goes behind the last input, and what uses an output before goes behind the kernel.
    """
    if not call.between:
        return IN_PLACE
    last = max((*call.marked_inputs, *call.outside_values), default=None)
    own = call.outputs[0] if len(call.outputs) == 1 else call.first
    if last is None or last < own:
        return IN_PLACE
    return Placement(last, tuple(node for node in _dependent(call) if node < last))


def is_convex(call: LayerCall) -> Miss | None:
    """No path may leave the region and come back."""
    if not call.between:
        return None
    dependent = _dependent(call)
    for node in (*call.outside_values, *call.marked_inputs):
        if node in dependent or call.last < node:
            return Miss("escape", "{node} is computed outside from a value of the call, and the call reads it", {"node": node.name})
    return None


def stays_the_same_in_one_place(call: LayerCall) -> Miss | None:
    """Computing all of the region in one place must not change what it reads, or what the operations in between read."""
    if not call.between:
        return None
    seen_outside = {storage for node in call.outputs for storage in storages_of(node)}
    for node in call.region:
        if not all(_is_its_own(target, call, seen_outside) for target in written_by(node)):
            return Miss("mutation", "{node} writes into memory, and other operations stand between those of the call", {"node": node.name})
    seen = {storage for node in (*call.region, *call.marked_inputs, *call.outside_values) for storage in storages_of(node)}
    moved = placement_of(call).moved
    for node in call.between:
        if (miss := _disturbs(node, seen, bool(moved))) is not None:
            return miss
    for node in moved:
        if draws_random_numbers(node):
            return Miss("random", "{node} draws random numbers and would have to wait for the call's last input", {"node": node.name})
    return None


def _is_its_own(target: fx.Node, call: LayerCall, seen_outside: set[int]) -> bool:
    """Whether what is written into is memory of the region that no operation outside sees. Only outputs are seen there."""
    storages = set(storages_of(target))
    return target in call.inside and bool(storages) and seen_outside.isdisjoint(storages)


def _disturbs(node: fx.Node, seen: set[int], others_move: bool) -> Miss | None:
    """Whether a node between those of the region does more than compute: a kernel comes before or after it, the region was around it."""
    if not is_known(node):
        return Miss("mutation", "{node} stands between the operations of the call, and may do more than compute", {"node": node.name})
    for target in written_by(node):
        storages = set(storages_of(target))
        if others_move or not storages or not seen.isdisjoint(storages):
            message = "{node} stands between the operations of the call and writes into {target}"
            return Miss("mutation", message, {"node": node.name, "target": target.name})
    return None


def _dependent(call: LayerCall) -> dict[fx.Node, None]:
    """The nodes between those of the region that are computed from it, in order."""
    found: dict[fx.Node, None] = {}
    inside = call.inside
    for node in call.between:
        if any(value in inside or value in found for value in node.all_input_nodes):
            found[node] = None
    return found
