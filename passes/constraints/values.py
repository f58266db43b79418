"""The values that terms have: what can be compared, what can be added, and how a sentence names it."""

from __future__ import annotations

import re
from enum import Enum
from typing import Any

import sympy
import torch

from .facts import Opaque, TensorFacts
from .symbolic import Greatest, Least, NextPowerOfTwo, Quotient, Remainder, Symbols, next_pow2


class Undecided(Enum):
    """A value of which nothing is known until the call is made: it exists once, as `UNDECIDED`."""

    UNDECIDED = "undecided"


UNDECIDED = Undecided.UNDECIDED

_NUMBERS = (int, float, sympy.Expr, torch.SymInt, torch.SymFloat)


class UndefinedError(Exception):
    """A term has no value for this call, such as the size of None. No clause is met by it, nor by its opposite.

    Args:
        code: Miss code of a clause that fails because of it.
        reason: Why, as a phrase.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Release(tuple[int, ...]):
    """A version as its numbers, without zeros at the end; suffixes such as ``rc1`` and ``+cpu`` do not count."""

    @classmethod
    def of(cls, version: str) -> Release:
        numbers = [int(number) for number in re.findall(r"\d+", (re.match(r"[\d.]*", version) or [""])[0])]
        while numbers and numbers[-1] == 0:
            numbers.pop()
        return cls(numbers)


def is_number(value: Any) -> bool:
    """Whether a value can be added and ordered. Symbolic ones of torch count: a comparison becomes a guard of the graph being traced."""
    return type(value) is int or (isinstance(value, _NUMBERS) and not isinstance(value, bool))


def described(value: Any) -> str:
    """Return a value as a sentence names it."""
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, Release):
        return ".".join(map(str, value)) or "0"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return str(value) if isinstance(value, TensorFacts | Opaque | sympy.Expr) else repr(value)


def arithmetic(operator: str, left: Any, right: Any, symbols: Symbols) -> Any:
    """Return one of ``+ - * // %`` of two numbers, with Python's meaning; `UNDECIDED` where sympy would not have the same.

    Raises:
        ArithmeticError: For a division by zero.
    """
    if not _exact(left, right):
        return UNDECIDED
    match operator:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
    if isinstance(left, sympy.Expr) or isinstance(right, sympy.Expr):
        # Of a quotient by what may be zero nothing is known; sympy would take it for granted that it is not zero.
        if not (right != 0 if isinstance(right, int) else symbols.nonzero(right)):
            return UNDECIDED
        return (Quotient if operator == "//" else Remainder)(sympy.sympify(left), sympy.sympify(right))
    return left // right if operator == "//" else left % right


def function(word: str, *values: Any) -> Any:
    """Return ``next_pow2``, ``min`` or ``max`` of numbers.

    Raises:
        UndefinedError: If the numbers have to be whole and are not.
    """
    if not _exact(*values):
        return UNDECIDED
    symbolic = any(isinstance(value, sympy.Expr) for value in values)
    if word == "next_pow2":
        return NextPowerOfTwo(*values) if symbolic else _next_pow2(*values)
    if symbolic:
        return (Least if word == "min" else Greatest)(*map(sympy.sympify, values))
    return min(values) if word == "min" else max(values)


def _exact(*values: Any) -> bool:
    """Whether sympy's result is Python's: not with floats, which it adds in another order."""
    if all(type(value) is int for value in values):  # the common case, at each call of a guarded kernel
        return True
    if UNDECIDED in values:
        return False
    return not any(isinstance(value, sympy.Expr) for value in values) or not any(isinstance(value, float) for value in values)


def _next_pow2(value: Any) -> int:
    if isinstance(value, float):
        raise UndefinedError("condition_false", f"next_pow2 of {value!r}, which is no whole number")
    if isinstance(value, int):
        return next_pow2(value)
    power = 1  # a torch.SymInt has no bit_length; each comparison is a guard
    while power < value:
        power *= 2
    return power
