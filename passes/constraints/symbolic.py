"""Arithmetic and comparison of sizes that are not known: polynomials of integer symbols, and the ranges that they can take.

The functions are our own, not sympy's ``Mod``, ``floor``, ``Min`` and ``Max``: those try simplifications that cost milliseconds, and torch
has a third set with the same names. Ours do what constraints need, on integers only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from typing import Any

import sympy

Range = tuple[int | float, int | float]
"""Smallest and largest value; a bound that is a float is infinite."""

ANYTHING: Range = (-math.inf, math.inf)


def next_pow2(value: int) -> int:
    """Return the smallest power of two that is at least `value`, and at least 1."""
    return 1 if value <= 1 else 1 << (value - 1).bit_length()


class _Integral(sympy.Function):  # type: ignore[misc]  # sympy is untyped
    is_integer = True


class Quotient(_Integral):
    """Python's ``//``. Of a sum, the terms that are divisible come out: ``(8*k + r) // 8`` is ``k + r // 8``."""

    @classmethod
    def eval(cls, dividend: Any, divisor: Any) -> Any:
        if dividend.is_Integer and divisor.is_Integer and divisor != 0:
            return sympy.Integer(int(dividend) // int(divisor))
        multiple, rest = _split(dividend, divisor)
        return multiple / divisor + cls(rest, divisor) if multiple != 0 else None


class Remainder(_Integral):
    """Python's ``%``. Of a sum, the terms that are divisible drop out."""

    @classmethod
    def eval(cls, dividend: Any, divisor: Any) -> Any:
        if dividend.is_Integer and divisor.is_Integer and divisor != 0:
            return sympy.Integer(int(dividend) % int(divisor))
        multiple, rest = _split(dividend, divisor)
        return cls(rest, divisor) if multiple != 0 else None


class NextPowerOfTwo(_Integral):
    """`next_pow2`."""

    @classmethod
    def eval(cls, value: Any) -> Any:
        return sympy.Integer(next_pow2(int(value))) if value.is_Integer else None


class Least(_Integral):
    """The smaller of two."""

    @classmethod
    def eval(cls, one: Any, other: Any) -> Any:
        return min(one, other) if one.is_Integer and other.is_Integer else one if one == other else None


class Greatest(_Integral):
    """The larger of two."""

    @classmethod
    def eval(cls, one: Any, other: Any) -> Any:
        return max(one, other) if one.is_Integer and other.is_Integer else one if one == other else None


# By class name, for they live in a private module of torch; the names are those of torch 2.11 to 2.14. What is not listed (or has another
# name one day) stays as it is, and then nothing is known of its range.
_OF_TORCH: dict[str, Callable[..., Any]] = {
    "FloorDiv": Quotient,
    "CleanDiv": Quotient,
    "Mod": Remainder,
    "PythonMod": Remainder,
    "ModularIndexing": lambda base, divisor, modulus: Remainder(Quotient(base, divisor), modulus),
    "Min": lambda *values: reduce(Least, values),
    "Max": lambda *values: reduce(Greatest, values),
    "Identity": lambda value: value,
}


@dataclass(frozen=True)
class Symbols:
    """What is known of the symbols.

    Args:
        ranges: See `Facts`.
        divisors: See `Facts`.
    """

    ranges: Mapping[sympy.Symbol, tuple[int | None, int | None]]
    divisors: Mapping[sympy.Symbol, int]

    def compare(self, operator: str, left: Any, right: Any) -> bool | None:
        """Return whether the comparison holds for all values, False if for none, None if that is not known."""
        if operator in (">", ">="):
            return self.compare({">": "<", ">=": "<="}[operator], right, left)
        if operator == "!=":
            equal = self.compare("==", left, right)
            return None if equal is None else not equal
        difference = self.polynomial(left) - self.polynomial(right)
        low, high = self.range(difference)
        if operator == "<":
            return True if high < 0 else False if low >= 0 else None
        if operator == "<=":
            return True if high <= 0 else False if low > 0 else None
        if low > 0 or high < 0 or _never_zero(difference):
            return False
        return True if low == high == 0 else None

    def nonzero(self, expression: Any) -> bool:
        """Whether the expression is never zero."""
        return self.compare("==", expression, 0) is False

    def polynomial(self, expression: Any) -> Any:
        """Return the expression in our own functions, expanded; a symbol that is a multiple of 8 is written as 8 times another one."""
        if isinstance(expression, int):
            return sympy.Integer(expression)
        ours = _ours(expression)
        return _expanded(ours.xreplace(self._multiples)) if self._multiples else ours

    def range(self, expression: Any) -> Range:
        """Return bounds of a polynomial."""
        if expression.is_Integer:
            return (int(expression), int(expression))
        if expression.is_Symbol:
            return self._range_of_symbol(expression)
        inner = [self.range(argument) for argument in expression.args]
        if expression.is_Add:
            return reduce(_sum, inner)
        if expression.is_Mul:
            return reduce(_product, inner)
        if expression.is_Pow and expression.exp.is_Integer and expression.exp > 0:
            low, high = reduce(_product, [inner[0]] * int(expression.exp))
            return (max(low, 0), high) if expression.exp % 2 == 0 else (low, high)
        bounds = _RANGES.get(expression.func)
        return bounds(*inner) if bounds is not None else ANYTHING

    def _range_of_symbol(self, symbol: sympy.Symbol) -> Range:
        whole, divisor = self._wholes.get(symbol, (symbol, 1))
        low, high = self.ranges.get(whole, (None, None))
        least = 1 if symbol.is_positive else 0 if symbol.is_nonnegative else -math.inf
        return (
            max(least, -math.inf if low is None else -(-low // divisor)),
            math.inf if high is None else high // divisor,
        )

    @cached_property
    def _wholes(self) -> dict[sympy.Symbol, tuple[sympy.Symbol, int]]:
        """For each symbol with a divisor, the symbol that stands for one `divisor`-th of it, and back."""
        return {
            sympy.Dummy(symbol.name, integer=True, **({"positive": True} if symbol.is_positive else {})): (symbol, divisor)
            for symbol, divisor in self.divisors.items()
            if divisor > 1
        }

    @cached_property
    def _multiples(self) -> dict[sympy.Symbol, Any]:
        return {symbol: divisor * part for part, (symbol, divisor) in self._wholes.items()}


@lru_cache(maxsize=4096)
def _ours(expression: Any) -> Any:
    if not expression.args:
        return expression
    arguments = [_ours(argument) for argument in expression.args]
    ours = _OF_TORCH.get(expression.func.__name__) if all(argument.is_integer for argument in arguments) else None
    return _expanded((ours or expression.func)(*arguments))


def _expanded(expression: Any) -> Any:
    """The expression as a sum of products. Most are one already, and sympy takes a tenth of a millisecond to notice."""
    products = [term for term in sympy.Add.make_args(expression) if term.is_Mul or term.is_Pow]
    factors = [factor for product in products for factor in sympy.Mul.make_args(product)]
    if any(factor.is_Add or (factor.is_Pow and factor.base.is_Add) for factor in factors):
        return sympy.expand(expression)
    return expression


def _split(dividend: Any, divisor: Any) -> tuple[Any, Any]:
    """A sum as the terms that are multiples of the divisor, and the rest. The divisor is taken not to be zero."""
    terms = sympy.Add.make_args(_expanded(dividend))
    divisible = [_divides(divisor, term) for term in terms]
    multiple = sympy.Add(*[term for term, divides in zip(terms, divisible, strict=True) if divides])
    return multiple, sympy.Add(*[term for term, divides in zip(terms, divisible, strict=True) if not divides])


def _divides(divisor: Any, term: Any) -> bool:
    """Whether the quotient is a whole number, as far as its form tells. Monomials are whole numbers."""
    if not divisor.is_Integer:
        return bool((term / divisor).is_integer)
    coefficient = term.as_coeff_Mul()[0]
    return bool(divisor != 0 and coefficient.is_Integer and coefficient % divisor == 0)


def _never_zero(polynomial: Any) -> bool:
    """Whether the constant term is no multiple of what divides all others: ``8*k + 4`` is never zero."""
    coefficients = polynomial.as_coefficients_dict()
    constant = coefficients.pop(sympy.Integer(1), sympy.Integer(0))
    if constant == 0 or not coefficients:
        return False
    if not all(factor.is_Integer and monomial.is_integer for monomial, factor in (*coefficients.items(), (sympy.Integer(1), constant))):
        return False
    return int(constant) % math.gcd(*map(int, coefficients.values())) != 0


def _plus(one: int | float, other: int | float) -> int | float:
    """Python's sum would turn the integer into a float, which not every integer fits in."""
    return one if isinstance(one, float) else other if isinstance(other, float) else one + other


def _times(one: int | float, other: int | float) -> int | float:
    """Zero times infinity is zero: a bound that is not reached."""
    if one == 0 or other == 0:
        return 0
    if isinstance(one, float) or isinstance(other, float):
        return math.inf if (one > 0) == (other > 0) else -math.inf
    return one * other


def _over(one: int | float, other: int | float) -> int | float:
    if isinstance(other, float):
        return 0 if one == 0 or (one > 0) == (other > 0) else -1
    if isinstance(one, float):
        return one if other > 0 else -one
    return one // other


def _sum(one: Range, other: Range) -> Range:
    return (_plus(one[0], other[0]), _plus(one[1], other[1]))


def _corners(combine: Callable[[int | float, int | float], int | float], one: Range, other: Range) -> Range:
    values = [combine(first, second) for first in one for second in other]
    return (min(values), max(values))


def _product(one: Range, other: Range) -> Range:
    return _corners(_times, one, other)


def _quotient(dividend: Range, divisor: Range) -> Range:
    if divisor[0] <= 0 <= divisor[1]:
        return ANYTHING
    return _corners(_over, dividend, divisor)


def _remainder(dividend: Range, divisor: Range) -> Range:
    low, high = dividend
    if divisor[0] == divisor[1] != 0 and isinstance(low, int) and isinstance(high, int):
        modulus = divisor[0]
        if low // modulus == high // modulus:
            return (min(low % modulus, high % modulus), max(low % modulus, high % modulus))
    if divisor[0] > 0:
        return (0, min(divisor[1] - 1, high) if low >= 0 else divisor[1] - 1)
    return (divisor[0] + 1, 0) if divisor[1] < 0 else ANYTHING


def _power(value: Range) -> Range:
    low, high = value
    return (1 if isinstance(low, float) else next_pow2(low), high if isinstance(high, float) else next_pow2(high))


_RANGES: dict[Any, Callable[..., Range]] = {
    Quotient: _quotient,
    Remainder: _remainder,
    NextPowerOfTwo: _power,
    Least: lambda one, other: (min(one[0], other[0]), min(one[1], other[1])),
    Greatest: lambda one, other: (max(one[0], other[0]), max(one[1], other[1])),
}
