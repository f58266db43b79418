"""Which lowering a kernel gets for a call, and why."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ...passes.miss import Miss
from .case import Case, Tools
from .lowering import Lowering
from .opaque import Entry, Opaque
from .output_order import Order, metadata, order_instead, order_of
from .rehearsal import Rehearsal, rehearse, shown
from .trial import Trial, try_on_fakes

_log = logging.getLogger("fxkernels")


@dataclass(frozen=True, eq=False)
class Chosen:
    """A lowering, and what a call needs for it.

    Args:
        lowering: The lowering; None where the kernel's Python runs as it is.
        opaque: The operators of an opaque kernel.
        recompute: Whether the gradient is the reference's.
        written: Positions of the inputs that the kernel overwrites, unless its operator copies them.
        orders: Positions of the outputs that are copied into the layer's memory layout, unless its operator does that, with the order of
            the layer's dimensions.
    """

    lowering: Lowering | None
    opaque: Opaque | None = None
    recompute: bool = False
    written: frozenset[int] = frozenset()
    orders: Mapping[int, Order] = field(default_factory=dict)


def choose(
    case: Case,
    *,
    compiled: bool,
    opaque: bool,
    tools: Tools,
    rehearses: bool = True,
    written: frozenset[int] = frozenset(),
    relaid: Iterable[int] = (),
) -> Chosen | Miss | str:
    """Return how the kernel is called in the graph, or why it cannot be; a sentence where only a rehearsal could tell.

    Args:
        case: The kernel and the form of call.
        compiled: Whether a compiler gets the graph.
        opaque: Whether the kernel may be an operator of its own.
        tools: The private torch APIs.
        rehearses: Whether a kernel may be run on random tensors.
        written: Positions of the inputs that it was seen to overwrite before.
        relaid: Positions of the outputs that it was seen to lay out in another way than the layer before.
    """
    has_backward = case.kernel.has_backward
    gradient = bool(case.differentiable) and bool(case.wanted) and has_backward
    trial = try_on_fakes(case, gradient, tools)
    orders: Mapping[int, Order] | Miss = _orders(case, relaid) if trial.outputs is None else _compared(case, trial.outputs)
    if isinstance(orders, Miss):
        return orders
    if trial.without is not None:
        _warn(case, trial.without)
    if not compiled:
        return Chosen(None, None, not has_backward or trial.without is not None, trial.written, orders)
    if trial.outputs is not None:
        return _traced(case, trial, gradient, orders)
    if not opaque:
        return Miss("not_compilable", "{kernel} {problem}", {"kernel": case.kernel.identity, "problem": trial.problem})
    if not rehearses:
        return f"it would be an operator of its own, since it {trial.problem}, and has to be run to see what it overwrites"
    return _opaque(case, trial, gradient, tools, written, orders)


def _traced(case: Case, trial: Trial, gradient: bool, orders: Mapping[int, Order]) -> Chosen:
    operators = f", with the operators {', '.join(trial.foreign)}" if trial.foreign else ""
    launches = f"; it launches {', '.join(trial.launches)}" if trial.launches else ""
    reason = f"a compiler can follow its Python{' forward and backward' if gradient else ''}{operators}{launches}"
    recompute = not case.kernel.has_backward or trial.without is not None
    lowering = Lowering(
        "triton" if trial.launches else "traced", reason, _recomputes_layer(case, trial.without), relaid=tuple(sorted(orders))
    )
    return Chosen(lowering, None, recompute, trial.written, orders)


def _opaque(case: Case, trial: Trial, gradient: bool, tools: Tools, written: frozenset[int], orders: Mapping[int, Order]) -> Chosen | Miss:
    found = rehearse(case, gradient, tools, written, orders)
    if isinstance(found, Miss):
        return found
    unseen = None
    if isinstance(found, str) and _is_empty(case):
        return Chosen(Lowering("opaque", f"it {trial.problem}"), Opaque(Entry(case.light, may_be_empty=True), case), recompute=True)
    if isinstance(found, str):
        unseen, found = found, Rehearsal(_tensors(case), without=found if gradient else None, orders=orders)
    elif found.without is not None:
        _warn(case, found.without)
    entry = Entry(case.light, found.written, found.orders, found.kept, found.own, _may_be_empty(case))
    recomputes = _recomputes_layer(case, found.without)
    if found.again is not None:
        recomputes = f"its forward in the backward: {found.again}"
    clones = tuple(case.names[position] for position in sorted(found.written)) if unseen is None else ()
    lowering = Lowering("opaque", f"it {trial.problem}", recomputes, clones, unseen, tuple(sorted(found.orders)))
    return Chosen(lowering, Opaque(entry, case), found.own is None)


def _recomputes_layer(case: Case, without: str | None) -> str | None:
    if not case.differentiable or (case.kernel.has_backward and without is None):
        return None
    return f"the original layer in the backward: {without or 'the kernel has no backward'}"


def _warn(case: Case, problem: str) -> None:
    _log.warning("%s at %s: %s; its gradient is the original layer's, recomputed", case.kernel.identity, case.path, problem)


def _tensors(case: Case) -> frozenset[int]:
    """Whoever could not be rehearsed may overwrite any tensor that is not a parameter's."""
    return frozenset(n for n, value in enumerate(case.inputs) if isinstance(value, torch.Tensor))


def _is_empty(case: Case) -> bool:
    """Whether an input has no elements; no dynamic size is zero, unless nobody knows it."""
    return any(
        0 in [size for size in value.shape if not isinstance(size, torch.SymInt)]
        for value in case.inputs
        if isinstance(value, torch.Tensor)
    )


def _may_be_empty(case: Case) -> bool:
    """Whether an input has no elements, or may have none when it runs."""
    sizes = [size for value in case.inputs if isinstance(value, torch.Tensor) for size in value.shape]
    return any(size.node.hint is None if isinstance(size, torch.SymInt) else size == 0 for size in sizes)


def _compared(case: Case, outputs: tuple[Any, ...]) -> Mapping[int, Order] | Miss:
    """The outputs that have to be laid out anew, if they are what the layer's are but for that."""
    orders: dict[int, Order] = {}
    for position, result in zip(case.computed, outputs, strict=True):
        wanted = case.outputs[position]
        if metadata(result) == metadata(wanted):
            continue
        order = order_instead(result, wanted)
        if order is None:
            data = {"kernel": case.kernel.identity, "position": position, "got": _shown(result), "wanted": _shown(wanted)}
            return Miss("output_metadata", "output {position} of {kernel} is {got}, the layer's is {wanted}", data)
        orders[position] = order
    return orders


def _orders(case: Case, relaid: Iterable[int]) -> Mapping[int, Order]:
    """How the layer lays these outputs out."""
    found = {position: order_of(case.outputs[position]) for position in relaid}
    return {position: order for position, order in found.items() if order is not None}


def _shown(value: Any) -> str:
    return shown(value.dtype, list(value.shape), list(value.stride()), value.device) if isinstance(value, torch.Tensor) else repr(value)
