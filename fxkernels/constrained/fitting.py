"""Other sizes of a call that a kernel is made for: those with which it can be probed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sympy

from ..kernels.bound import Bound
from ..kernels.layer import KernelLayer
from ..passes.constraints import Depends, check, parse
from ..passes.constraints.expression import clauses
from .called import Called
from .nearby import nearby

Choice = Mapping[sympy.Symbol, Any]
"""Values of the symbols in a call's sizes and numbers."""


def fitting_sizes(kernel: KernelLayer, bound: Bound, inputs: Sequence[Any]) -> Callable[[Choice], Choice | None]:
    """Return a function from values of the symbols to the nearest ones that meet the kernel's constraints, None if there are none near.

    Args:
        kernel: The kernel layer.
        bound: How it is called.
        inputs: Example values of the call's inputs.
    """
    facts = Called.of(kernel, bound, inputs).facts
    answers = [check([clause], facts) for text in kernel.constraints for clause in clauses(parse(text))]
    # What does not depend on sizes was judged before, by somebody who knows the target.
    open_ones = [answer for answer in answers if isinstance(answer, Depends)]
    symbols = {symbol for answer in open_ones for read in answer.reads for symbol in answer.expression(read).free_symbols}

    def fitting(choice: Choice) -> Choice | None:
        if not open_ones:
            return choice
        own = {symbol: int(choice[symbol]) for symbol in symbols if symbol.is_integer}
        tried = ({**choice, **other} for other in (own, *nearby(own)))
        return next((other for other in tried if all(answer.holds_at(other) for answer in open_ones)), None)

    return fitting
