"""Which lowering a kernel gets for a call, and why."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...passes.gate import Gate
from ...passes.miss import Miss
from .kernel_case import KernelCase, Tools
from .lowering import Lowering
from .opaque import Entry, Opaque
from .output_order import Order, metadata, order_instead, order_of
from .rehearsal import Rehearsal, rehearse, shown
from .repairs import Repairs
from .trial import Trial, try_on_fakes

_log = logging.getLogger("fxkernels")

LOWERING = Gate("lowering", "candidate", ("not_compilable", "output_metadata", "crash"))
"""Can the kernel enter the graph?"""


@dataclass(frozen=True, eq=False)
class Chosen:
    """A lowering, and what a call needs for it.

    Args:
        lowering: The lowering; None where the kernel's Python runs as it is.
        repairs: What makes the kernel right. Operators copy inputs and outputs themselves.
        opaque: The operators of an opaque kernel.
    """

    lowering: Lowering | None
    repairs: Repairs
    opaque: Opaque | None = None


def choose(
    case: KernelCase, *, compiled: bool, opaque: bool, tools: Tools, rehearses: bool = True, known: Repairs | None = None
) -> Chosen | Miss | str:
    """Return how the kernel is called in the graph, or why it cannot be; a sentence where only a rehearsal could tell.

    Args:
        case: The kernel and the form of call.
        compiled: Whether a compiler gets the graph.
        opaque: Whether the kernel may be an operator of its own.
        tools: The private torch APIs.
        rehearses: Whether a kernel may be run on random tensors.
        known: What a probe has found out.
    """
    known = known or Repairs()
    gradient = bool(case.differentiable) and bool(case.wanted) and case.kernel.has_backward
    trial = try_on_fakes(case, gradient, tools)
    orders = _of_layer(case, known) if trial.outputs is None else _compared(case, trial.outputs)
    if isinstance(orders, Miss):
        return orders
    if trial.repairs.recompute is not None:
        _warn(case, trial.repairs.recompute)
    # What the probe saw on real tensors, a trial on fakes may not have seen: what C++ and Triton write, a gradient that is cut.
    found = replace(trial.repairs | known, reordered_outputs=orders)
    if not compiled:
        return Chosen(None, _with_reason(case, found))
    if trial.outputs is not None:
        return _traced(case, trial, gradient, found)
    if not opaque:
        return Miss("not_compilable", "{kernel} {problem}", {"kernel": case.kernel.identity, "problem": trial.problem})
    if not rehearses:
        return f"it would be an operator of its own, since it {trial.problem}, and has to be run to see what it overwrites"
    return _opaque(case, trial, gradient, tools, found)


def _traced(case: KernelCase, trial: Trial, gradient: bool, found: Repairs) -> Chosen:
    operators = f", with the operators {', '.join(trial.foreign)}" if trial.foreign else ""
    launches = f"; it launches {', '.join(trial.launches)}" if trial.launches else ""
    reason = f"a compiler can follow its Python{' forward and backward' if gradient else ''}{operators}{launches}"
    repairs = _with_reason(case, found)
    return Chosen(Lowering("triton" if trial.launches else "traced", reason, repairs, case.names), repairs)


def _opaque(case: KernelCase, trial: Trial, gradient: bool, tools: Tools, known: Repairs) -> Chosen | Miss:
    found = rehearse(case, gradient, tools, replace(known, recompute=None))
    if isinstance(found, Miss):
        return found
    unseen = None
    if isinstance(found, str) and _is_empty(case):
        lowering = Lowering("opaque", f"it {trial.problem}", inputs=case.names)
        return Chosen(lowering, Repairs(), Opaque(Entry(case.light, may_be_empty=True), case))
    if isinstance(found, str):
        unseen, tensors = found, tuple([n for n, value in enumerate(case.inputs) if isinstance(value, torch.Tensor)])
        found = Rehearsal(Repairs(tensors, known.reordered_outputs, found if gradient else None))
    elif found.repairs.recompute is not None:
        _warn(case, found.repairs.recompute)
    # A gradient that the probe has found to be wrong is not used, whatever the rehearsal, which sees no values, has found.
    own = found.own if known.recompute is None else None
    repairs = _with_reason(case, found.repairs | Repairs(recompute=known.recompute))
    entry = Entry(case.light, replace(found.repairs, recompute=None), found.kept, own, _may_be_empty(case))
    lowering = Lowering("opaque", f"it {trial.problem}", repairs, case.names, found.again if own is not None else None, unseen)
    return Chosen(lowering, repairs, Opaque(entry, case))


def _with_reason(case: KernelCase, repairs: Repairs) -> Repairs:
    """The repairs with the reason why the gradient is recomputed, for a call that has a gradient."""
    if not case.differentiable:
        return replace(repairs, recompute=None)
    return repairs if case.kernel.has_backward else repairs | Repairs(recompute="the kernel has no backward")


def _warn(case: KernelCase, problem: str) -> None:
    _log.warning("%s at %s: %s; its gradient is the original layer's, recomputed", case.kernel.identity, case.path, problem)


def _is_empty(case: KernelCase) -> bool:
    """Whether an input has no elements; no dynamic size is zero, unless it is not known."""
    return any(
        0 in [size for size in value.shape if not isinstance(size, torch.SymInt)]
        for value in case.inputs
        if isinstance(value, torch.Tensor)
    )


def _may_be_empty(case: KernelCase) -> bool:
    """Whether an input has no elements, or may have none when it runs."""
    sizes = [size for value in case.inputs if isinstance(value, torch.Tensor) for size in value.shape]
    return any(size.node.hint is None if isinstance(size, torch.SymInt) else size == 0 for size in sizes)


def _compared(case: KernelCase, outputs: tuple[Any, ...]) -> tuple[tuple[int, Order], ...] | Miss:
    """The outputs whose strides are not the layer's, with the layer's order; a miss if they differ in more than that."""
    orders: list[tuple[int, Order]] = []
    for position, result in zip(case.computed, outputs, strict=True):
        wanted = case.outputs[position]
        if metadata(result) == metadata(wanted):
            continue
        order = order_instead(result, wanted)
        if order is None:
            data = {"kernel": case.kernel.identity, "position": position, "got": _shown(result), "wanted": _shown(wanted)}
            return Miss("output_metadata", "output {position} of {kernel} is {got}, the layer's is {wanted}", data)
        orders.append((position, order))
    return tuple(orders)


def _of_layer(case: KernelCase, known: Repairs) -> tuple[tuple[int, Order], ...]:
    """The known outputs with the order that the layer's have here: a probe knows the order for its own sizes only."""
    found = [(position, order_of(case.outputs[position])) for position, _ in known.reordered_outputs]
    return tuple([(position, order) for position, order in found if order is not None])


def _shown(value: Any) -> str:
    return shown(value.dtype, list(value.shape), list(value.stride()), value.device) if isinstance(value, torch.Tensor) else repr(value)
