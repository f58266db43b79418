"""Polynomials of sizes, their ranges, and what can be said of two of them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import sympy

from fxkernels.passes.constraints.symbolic import Greatest, Least, NextPowerOfTwo, Quotient, Remainder, Symbols, next_pow2

A, B = (sympy.Symbol(name, integer=True) for name in "ab")
NUMBERS = range(-9, 10)


@pytest.mark.parametrize(("value", "power"), [(-3, 1), (0, 1), (1, 1), (2, 2), (3, 4), (64, 64), (65, 128), (2**40 + 1, 2**41)])
def test_next_power_of_two(value: int, power: int) -> None:
    assert next_pow2(value) == power
    assert NextPowerOfTwo(sympy.Integer(value)) == power


def test_quotient_and_remainder_of_numbers_are_pythons() -> None:
    for dividend, divisor in itertools.product(NUMBERS, NUMBERS):
        if divisor:
            assert Quotient(sympy.Integer(dividend), sympy.Integer(divisor)) == dividend // divisor
            assert Remainder(sympy.Integer(dividend), sympy.Integer(divisor)) == dividend % divisor


@pytest.mark.parametrize(
    ("function", "dividend", "divisor", "result"),
    [
        (Quotient, 8 * A, 8, A),
        (Quotient, 8 * A + 3, 8, A),
        (Quotient, 8 * A * B + 4 * B, 8, A * B + Quotient(4 * B, sympy.Integer(8))),
        (Quotient, -8 * A - 1, 8, -A - 1),
        (Quotient, 8 * A, -4, -2 * A),
        (Remainder, 8 * A + 3, 8, 3),
        (Remainder, 16 * A + B, 8, Remainder(B, sympy.Integer(8))),
        (Remainder, 8 * A - 3, 8, 5),
    ],
)
def test_terms_that_are_divisible_come_out(function: Any, dividend: Any, divisor: int, result: Any) -> None:
    assert function(dividend, sympy.Integer(divisor)) == result


EXPRESSIONS = [
    A + B,
    A * B - 3,
    A**2 - B,
    A**3,
    -A * B,
    2 * A * B + A - 5,
    Quotient(A, sympy.Integer(3)),
    Quotient(A, sympy.Integer(-3)),
    Quotient(A, B**2 + 1),
    Remainder(A, sympy.Integer(4)),
    Remainder(A, sympy.Integer(-4)),
    Remainder(A, B**2 + 1),
    Remainder(A, -(B**2) - 1),
    NextPowerOfTwo(A),
    Least(A, B),
    Greatest(A, B),
]


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=str)
@pytest.mark.parametrize("bounds", [((-3, 4), (1, 2)), ((5, 6), (-4, -1)), ((0, 0), (0, 5)), ((2, 7), (-2, 2))])
def test_range_holds_every_value_that_the_expression_takes(expression: Any, bounds: tuple[tuple[int, int], tuple[int, int]]) -> None:
    low, high = Symbols(dict(zip((A, B), bounds, strict=True)), {}).range(expression)
    taken = [expression.subs({A: a, B: b}) for a in range(bounds[0][0], bounds[0][1] + 1) for b in range(bounds[1][0], bounds[1][1] + 1)]
    assert all(low <= int(value) <= high for value in taken)


def test_range_without_bounds_is_open() -> None:
    nothing = Symbols({}, {})
    assert nothing.range(A) == (-math.inf, math.inf)
    assert nothing.range(sympy.Symbol("p", integer=True, positive=True)) == (1, math.inf)
    assert nothing.range(Remainder(A, sympy.Integer(8))) == (0, 7)
    assert nothing.range(sympy.Function("f")(A)) == (-math.inf, math.inf)


def test_remainder_in_one_stretch_keeps_its_range() -> None:
    assert Symbols({A: (9, 14)}, {}).range(Remainder(A, sympy.Integer(8))) == (1, 6)


def test_sizes_beyond_what_a_float_holds_are_compared_exactly() -> None:
    assert Symbols({A: (1, None)}, {}).compare("<", 10**400, A + 10**400) is True


@pytest.mark.parametrize(("sign", "answers"), [("<", 3), ("<=", 3), ("==", 2), ("!=", 2), (">=", 3), (">", 3)])
def test_comparison_is_true_or_false_only_if_it_is_for_all_values(sign: str, answers: int) -> None:
    """Of an even number from 10 to 20 and each of several numbers: all answers occur that can, and each is right."""
    python = {"<": int.__lt__, "<=": int.__le__, "==": int.__eq__, "!=": int.__ne__, ">=": int.__ge__, ">": int.__gt__}[sign]
    symbols, seen = Symbols({A: (5, 10)}, {}), set()
    for number in (9, 10, 15, 20, 21):
        answer = symbols.compare(sign, 2 * A, number)
        truths = {python(2 * value, number) for value in range(5, 11)}
        assert answer is (None if len(truths) == 2 else truths.pop())
        seen.add(answer)
    assert len(seen) == answers


def test_functions_of_torch_are_read_as_ours() -> None:
    """As they look to us: classes of these names. `tests/passes/constraints/test_facts.py` has the real ones."""
    symbols = Symbols({A: (0, None)}, {})
    assert symbols.polynomial(sympy.Mod(A, 8)) == Remainder(A, sympy.Integer(8))
    assert symbols.polynomial(sympy.Max(A, B, 3)).func is Greatest
