"""The sizes for which a kernel was probed, as conditions on a call: with other ones it is the layer's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import sympy
import torch

from ..kernels.bound import Bound
from ..kernels.layer import KernelLayer
from ..passes.constraints import TensorFacts
from ..passes.constraints.expression import Compare, Condition, Literal, Measure, Reference
from ..passes.miss import Miss
from ..target import Target
from .called import Called
from .judge import OnDepends, judge_conditions
from .judged import Judged


def judge_ranges(
    kernel: KernelLayer,
    bound: Bound,
    inputs: Sequence[Any],
    target: Target,
    ranges: Sequence[tuple[int, int]],
    *,
    on_depends: OnDepends = "guard",
) -> Judged:
    """Return whether the call's dynamic sizes are within the ranges that a probe has covered. Nothing is guarded yet.

    Args:
        kernel: The kernel layer.
        bound: How it is called.
        inputs: Example values of the call's inputs.
        target: What the kernel was chosen for.
        ranges: Smallest and largest value of each symbol in the sizes of the inputs, in order of appearance (`Admitted.ranges`).
        on_depends: What happens where a size may leave its range.
    """
    if not ranges:
        return Judged()
    called = Called.of(kernel, bound, inputs, target)
    conditions: list[Condition] = []
    symbols = _symbols(inputs)
    if len(symbols) != len(ranges):  # a guard has fixed one of them since
        data = {"kernel": kernel.identity, "found": f"{len(symbols)} of its sizes are dynamic, and {len(ranges)} were when it was probed"}
        return Judged(Miss("dynamic_shape", "{kernel} was not probed with such a call: {found}", data))
    for symbol, (low, high) in zip(symbols, ranges, strict=True):
        place = next(_places(symbol, called), None)
        if place is None:  # it occurs only together with others, as in the product of two
            size = called.environment.create_symintnode(symbol, hint=int(called.sizes[symbol]))
            called = replace(called, arguments={**called.arguments, str(symbol): size})
            place = Reference((str(symbol),))
        conditions.append(Compare(Literal(low), (("<=", place), ("<=", Literal(high)))))
    judged = judge_conditions(kernel, conditions, called, on_depends)
    if judged.miss is None:
        return replace(judged, note=judged.note.replace("guarded: ", "probed, and guarded: "))
    template = judged.miss.template.replace("demands", "was probed with")
    return replace(judged, miss=replace(judged.miss, code="dynamic_shape", template=template))


def _symbols(inputs: Sequence[Any]) -> tuple[sympy.Symbol, ...]:
    """The symbols in sizes, strides and numbers, in order of appearance."""
    found: dict[sympy.Symbol, None] = {}
    for value in inputs:
        for size in (*value.shape, *value.stride(), value.storage_offset()) if isinstance(value, torch.Tensor) else (value,):
            if isinstance(size, torch.SymInt | torch.SymBool):
                found |= dict.fromkeys(size.node.expr.free_symbols)
    return tuple(found)


def _places(symbol: sympy.Symbol, called: Called) -> Iterator[Measure | Reference]:
    """Where the symbol can be read: dimensions of the kernel's arguments and of the layer's tensors, and numbers."""
    facts = called.facts
    for name in facts.arguments:
        yield from _within(Reference((name,)), facts.arguments[name], symbol)
    for name in facts.attributes:
        yield from _within(Reference(("self", *name.split("."))), facts.attributes[name], symbol)


def _within(reference: Reference, value: Any, symbol: sympy.Symbol) -> Iterator[Measure | Reference]:
    if isinstance(value, TensorFacts):
        yield from (Measure("dim", reference, index) for index, size in enumerate(value.shape) if size == symbol)
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _within(Reference((*reference.path, index)), item, symbol)
    elif isinstance(value, sympy.Expr) and value == symbol:
        yield reference
