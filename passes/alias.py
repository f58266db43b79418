"""Who else sees the memory of a graph value: may a kernel that writes into its input do so, or does it need a copy?

Two values share memory exactly if their example values share a storage: capture ran every operation on fake tensors, which become views
where real ones do. That is the whole truth for operations of torch. An operation of unknown kind (a function of somebody's module, a
higher-order operator with a graph inside) may return, keep or save whatever it is given, so its inputs and outputs count as one memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from .effects import is_known, name_of, written_by
from .example_values import example, has_plain_storage, storage_of, storages_of, tensors_in
from .layer_call import LayerCall

_METADATA = frozenset("size stride dim numel storage_offset element_size is_contiguous sym_size sym_stride sym_numel".split())


@dataclass(frozen=True, slots=True)
class Witness:
    """Somebody who would notice that a kernel overwrites a value.

    Args:
        value: Name of the value.
        sees: Who sees it and how, as what follows the value's name in a sentence: "is read later by add_3".
    """

    value: str
    sees: str

    def __str__(self) -> str:
        return f"{self.value} {self.sees}"


class Memory:
    """What shares memory with what in one graph. It is read off once and stays true until the graph is edited.

    Args:
        graph: A captured graph, before any rewrite.
        calls: The layer calls in it. What goes into one may be read by its kernel even where its region does not read it.

    Example:
        >>> memory = Memory(call.graph, calls)
        >>> print(memory.witness(q, call))
        q is read later by add_3
    """

    def __init__(self, graph: fx.Graph, calls: Iterable[LayerCall]) -> None:
        self._positions: dict[fx.Node, int] = {}
        self._same: dict[int, int] = {}
        for position, node in enumerate(graph.nodes):
            self._positions[node] = position
            if not is_known(node):
                self._unite([storage for value in (node, *node.all_input_nodes) for storage in storages_of(value)])
        self._holders: defaultdict[int, dict[fx.Node, None]] = defaultdict(dict)
        for node in graph.nodes:
            for memory in self._memories(node):
                self._holders[memory][node] = None
        self._taken_by: defaultdict[fx.Node, list[LayerCall]] = defaultdict(list)
        for call in calls:
            for node in call.marked_inputs if call.region else ():
                self._taken_by[node].append(call)

    def witness(self, value: fx.Node, call: LayerCall) -> Witness | None:
        """Return who would notice if a kernel in the place of the call overwrote this input of it, or None if nobody would.

        None means: the memory was made in this graph by an operation that returns new memory, neither it nor any view of it is read after
        the call or returned from the graph, no other argument of the call shares it, no gradient needs it, and its elements do not overlap.

        Args:
            value: A tensor among the call's marked inputs.
            call: A call of this graph that also ends in it.
        """
        found = self._why(value, call)
        return None if found is None else Witness(value.name, found)

    def _why(self, value: fx.Node, call: LayerCall) -> str | None:
        tensor = example(value)
        if not isinstance(tensor, torch.Tensor) or not has_plain_storage(tensor):
            return "is no plain tensor"
        if _overlaps(tensor):
            return "has elements that share their memory"
        memory = self._memory(storage_of(tensor))
        return self._outside(value, memory) or self._another_argument(value, memory, call) or self._reader(value, memory, call)

    def _outside(self, value: fx.Node, memory: int) -> str | None:
        """Who had the memory before this graph made it, or may have kept it."""
        for node in self._holders[memory]:
            if node.op in ("placeholder", "get_attr"):
                what = "an input of the graph" if node.op == "placeholder" else "a constant of the graph"
                return f"is {what}" if node is value else f"shares its memory with {node.name}, {what}"
            if not is_known(node):
                return f"comes from {node.name}, which may keep it" if node is value else f"may share its memory with {node.name}"
            if _needs_gradient(node):
                return "carries a gradient, which may need it"
        return None

    def _another_argument(self, value: fx.Node, memory: int, call: LayerCall) -> str | None:
        given: list[fx.Node] = []
        fx.node.map_arg((call.args, call.kwargs, call.tensors), given.append)
        given.remove(value)
        for other in given:
            if memory in self._memories(other):
                who = "is" if other is value else f"shares its memory with {other.name}, which is"
                return f"{who} another argument of the call"
        return None

    def _reader(self, value: fx.Node, memory: int, call: LayerCall) -> str | None:
        """Who reads the memory after the call, or has saved it for a gradient."""
        if any(map(_needs_gradient, call.outputs)):
            return "may be needed for the gradient of the call"
        begin = self._positions[call.first]
        for holder in self._holders[memory]:
            what = "is" if holder is value else f"shares its memory with {holder.name}, which is"
            if any(self._may_come_later(other, call) for other in self._taken_by[holder]):
                return f"{what} an argument of a later layer call"
            for user in holder.users:
                if user in call.inside:
                    continue
                if self._positions[user] > begin and (reading := self._reading(user, memory)) is not None:
                    return f"{what} {reading}"
                if _needs_gradient(user):
                    return f"{what} read by {user.name}, whose gradient may need it"
        return None

    def _may_come_later(self, other: LayerCall, call: LayerCall) -> bool:
        """Whether a kernel of the other call may run after one of this call. One of the two inside the other has no kernel beside it."""
        apart = other is not call and other.first not in call.inside and call.first not in other.inside
        return apart and self._positions[other.last] > self._positions[call.first]

    def _reading(self, user: fx.Node, memory: int) -> str | None:
        """How a node after the call sees the memory, or None if it only makes a view, whose own readers count, or asks for sizes."""
        if user.op == "output":
            return "returned from the graph"
        makes_views = set(self._memories(user)) == {memory}
        if is_known(user) and not written_by(user) and (makes_views or name_of(user) in _METADATA):
            return None
        return f"read later by {user.name}"

    def _memories(self, node: fx.Node) -> Iterator[int]:
        return map(self._memory, storages_of(node))

    def _memory(self, storage: int) -> int:
        """The one storage that stands for all those that may be one memory."""
        while (other := self._same.get(storage)) is not None:
            storage = other
        return storage

    def _unite(self, storages: list[int]) -> None:
        for storage in storages[1:]:
            first, second = self._memory(storages[0]), self._memory(storage)
            if first != second:
                self._same[second] = first


def _needs_gradient(node: fx.Node) -> bool:
    return any(tensor.requires_grad for tensor in tensors_in(example(node)))


def _overlaps(tensor: torch.Tensor) -> bool:
    """Whether two elements may be one in memory, as in an expanded tensor. Dynamic sizes count by the numbers that they had in capture."""
    strides, sizes = map(_number, tensor.stride()), map(_number, tensor.shape)
    dimensions = sorted((stride, size) for stride, size in zip(strides, sizes, strict=True) if size != 1)
    reach = 0
    for stride, size in dimensions:
        if stride <= reach:
            return True
        reach += stride * (size - 1)
    return False


def _number(size: Any) -> int:
    """A dynamic size as it was in capture; 0 if nobody knows, a stride with which every dimension overlaps."""
    return int((size.node.hint or 0) if isinstance(size, torch.SymInt) else size)
