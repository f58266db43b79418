"""Other sizes of a call: those near the present ones, and those of them that a kernel is made for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sympy
import torch

from ..kernels.binding import Binding
from ..kernels.layer import KernelLayer
from .call_facts import CallFacts, UndefinedError
from .evaluate import Evaluation
from .expression import Condition, Measure, Question, Reference, clauses, leaves
from .grammar import parse

_NEAR = 64
_FACTORS = (2, 3, 4)

Choice = Mapping[sympy.Symbol, Any]
"""Values of the symbols in a call's sizes and numbers."""


def fitting_sizes(kernel: KernelLayer, binding: Binding, inputs: Sequence[Any]) -> Callable[[Choice], Choice | None]:
    """Return a function from values of the symbols to the nearest ones that meet the kernel's constraints, None if there are none near.

    Args:
        kernel: The kernel layer.
        binding: How it is called.
        inputs: Example values of the call's inputs.
    """
    call = CallFacts.of(kernel, binding, inputs)
    reads = {clause: dynamic_reads(clause, call) for text in kernel.constraints for clause in clauses(parse(text))}
    # Those that read no sizes, or hold for none, were checked before, with the target, which is not known here. Those that hold for all
    # sizes of the capture may do so by a guard, of which a choice of sizes knows nothing.
    dynamic = [clause for clause, sizes in reads.items() if sizes and Evaluation(call).holds(clause) is not False]
    symbols = {symbol for clause in dynamic for size in reads[clause].values() for symbol in symbols_of(size)}

    def fitting(choice: Choice) -> Choice | None:
        own = {symbol: int(choice[symbol]) for symbol in symbols if symbol.is_integer}
        for other in ({**choice, **sizes} for sizes in (own, *nearby(own))):
            evaluation = Evaluation(call.at(other))
            if all(evaluation.holds(clause) for clause in dynamic):
                return other
        return None

    return fitting


def nearby(sizes: Mapping[Any, int]) -> Iterator[dict[Any, int]]:
    """Yield other sizes: larger ones, one or all of them changed by the same number; multiples; then smaller ones.

    Args:
        sizes: The sizes, by whatever names them.
    """
    for step in range(1, _NEAR + 1):
        yield {each: size + step for each, size in sizes.items()}
        for each, size in sizes.items():
            yield {**sizes, each: size + step}
    for each, size in sizes.items():
        yield from ({**sizes, each: size * factor} for factor in _FACTORS)
        yield from ({**sizes, each: smaller} for smaller in range(size - 1, max(size - _NEAR, 1), -1))


def dynamic_reads(condition: Condition, call: CallFacts) -> dict[Measure | Reference, Any]:
    """Return the dynamic sizes, strides and numbers that a condition reads; dimensions are counted from the front."""
    return dict(_dynamic_reads(condition, call))


def symbols_of(size: Any) -> set[Any]:
    """Return the symbols of a dynamic size or number."""
    return set(size.node.expr.free_symbols)


def _dynamic_reads(condition: Condition, call: CallFacts) -> Iterator[tuple[Measure | Reference, Any]]:
    for leaf in leaves(condition):
        try:
            match leaf:
                case Measure("dim" | "stride"):
                    places = [call.from_front(leaf)]
                case Measure("numel", of) | Question("contiguous", of):
                    words = ("dim",) if isinstance(leaf, Measure) else ("dim", "stride")
                    places = [Measure(word, of, index) for word in words for index in range(len(call.tensor(of).shape))]
                case Reference():
                    places = []
                    if isinstance(value := call.value(leaf), torch.SymInt | torch.SymFloat):
                        yield leaf, value
                case _:
                    continue
            yield from ((place, size) for place in places if isinstance(size := call.size(place), torch.SymInt))
        except UndefinedError:  # it is undefined for good, whatever the sizes are
            continue
