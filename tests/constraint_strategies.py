"""Random constraints, and random calls of which all or only a part is known, for the property tests of `passes/constraints`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Any

import sympy
import torch
from hypothesis import strategies as st

from fxkernels.passes.constraints import Condition, Facts, Opaque, TensorFacts
from fxkernels.passes.constraints.expression import (
    And,
    Arithmetic,
    Compare,
    Function,
    Implies,
    Literal,
    Measure,
    Member,
    Not,
    Or,
    Reference,
    TargetFact,
    Term,
)
from fxkernels.passes.constraints.expression import Test as Question

DTYPES = [torch.float16, torch.bfloat16, torch.float32]
RANKS = {Reference(("x",)): 2, Reference(("y",)): 3, Reference(("weight",)): 1, Reference(("bias",)): 1, Reference(("pair", 0)): 1}
"""The tensors of a call. `bias` and `pair` may be None."""

# --- constraints -------------------------------------------------------------------------------------------------------------------------

tensors = st.sampled_from([*RANKS, Reference(("x",)), Reference(("y",))])
indices = [(of, index) for of, rank in RANKS.items() for index in range(-rank, rank)] + [(Reference(("x",)), 2)]
sizes = st.builds(lambda word, place: Measure(word, *place), st.sampled_from(["dim", "dim", "stride"]), st.sampled_from(indices))
measures = st.builds(Measure, st.sampled_from(["ndim", "numel", "itemsize"]), tensors)
integers = st.sampled_from([0, 1, 2, 3, 4, 7, 8, 16, 64, 100, -1, -8]).map(Literal)
floats = st.sampled_from([0.5, 2.0, 1e-6]).map(Literal)
scalars = st.sampled_from([Reference(("count",)), Reference(("self", "eps"))])


def _deeper(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.builds(Arithmetic, st.sampled_from(["+", "-", "*", "//", "%"]), numbers, numbers | integers)
        | st.builds(Function, st.just("next_pow2"), st.tuples(numbers))
        | st.builds(Function, st.sampled_from(["min", "max"]), st.tuples(numbers, numbers))
    )


numbers: st.SearchStrategy[Term] = st.recursive(sizes | sizes | measures | integers | scalars | floats, _deeper, max_leaves=4)
orders = st.sampled_from(["<", "<=", "==", "!=", ">=", ">"])
chains = st.builds(Compare, numbers, st.lists(st.tuples(orders, numbers), min_size=1, max_size=2).map(tuple))
divisors = st.sampled_from([2, 3, 8, 16]).map(Literal)
divisible = st.builds(lambda size, divisor: Compare(Arithmetic("%", size, divisor), (("==", Literal(0)),)), sizes, divisors)
dtype_sets = st.lists(st.sampled_from(DTYPES).map(Literal), min_size=1, max_size=3).map(tuple)
dtypes = st.builds(Member, tensors.map(lambda of: Measure("dtype", of)), dtype_sets)
members = st.builds(Member, numbers, st.lists(integers, min_size=1, max_size=3).map(tuple))
questions = st.builds(Question, st.sampled_from(["contiguous", "contiguous", "none", "requires_grad"]), tensors)
words = st.sampled_from([Reference(("causal",)), TargetFact("training"), Literal(True), Literal(False)])
targets = st.builds(lambda version: Compare(TargetFact("triton"), ((">=", Literal(version)),)), st.sampled_from(["3.3", "3.4", "3.4.1"]))
atoms: st.SearchStrategy[Condition] = st.one_of(chains, chains, divisible, divisible, members, questions, dtypes, words, targets)


def _joined(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(parts, min_size=2, max_size=3).map(tuple)
    return several.map(And) | several.map(Or) | parts.map(Not) | st.builds(Implies, parts, parts)


conditions: st.SearchStrategy[Condition] = st.recursive(atoms, _joined, max_leaves=5)

# --- calls -------------------------------------------------------------------------------------------------------------------------------

_A = sympy.Symbol("a", integer=True, positive=True)
_B = sympy.Symbol("b", integer=True, nonnegative=True)
_C = sympy.Symbol("c", integer=True)
SYMBOLS = (_A, _B, _C)
EXPRESSIONS = [*SYMBOLS, 8 * _A, 8 * _B + 4, _A * _B, _A + _C, 2 * _C + 1, sympy.Mod(_B, 4), sympy.Max(_A, 5), _A * (_B + 1), (_C + 1) * 16]
FIXED = [0, 1, 2, 8, 64, 100]


@dataclass(frozen=True)
class Call:
    """One call twice: with expressions where its sizes are dynamic, and with the values that they have."""

    facts: Facts
    values: dict[sympy.Symbol, int]
    concrete: Facts


@st.composite
def calls(draw: st.DrawFn) -> Call:
    # One draw and then `random`: a call has so many parts that drawing each took a tenth of a second. Conditions shrink, calls do not.
    random = Random(draw(st.integers(0, 2**32)))
    choose = random.choice
    values, ranges, multiples = {}, {}, {}
    for symbol in SYMBOLS:
        divisor = choose([1, 1, 8])
        value = values[symbol] = divisor * random.randint(symbol is _A, 12)
        ranges[symbol] = (choose([None, max(value - random.randint(0, 99), 0)]), choose([None, value + random.randint(0, 99)]))
        if divisor > 1:
            multiples[symbol] = divisor

    def tensor(rank: int) -> TensorFacts:
        shape = tuple(choose([*EXPRESSIONS, *FIXED]) for _ in range(rank))
        dense = tuple(math.prod(shape[index + 1 :]) for index in range(rank))
        return TensorFacts(choose(DTYPES), shape, choose([dense, dense, dense[::-1], shape]), "cpu", choose([True, False]))

    def known(value: Any) -> Any:
        if isinstance(value, sympy.Expr):
            return int(value.subs(values))
        if isinstance(value, TensorFacts):
            return TensorFacts(value.dtype, known(value.shape), known(value.stride), value.device, value.requires_grad)
        return tuple(map(known, value)) if isinstance(value, tuple) else value

    arguments = {
        "x": tensor(2),
        "y": tensor(3),
        "bias": choose([None, Opaque("Cache"), tensor(1), tensor(1)]),
        "pair": choose([None, (tensor(1), tensor(1))]),
        "count": choose([*EXPRESSIONS, 2, None]),
        "causal": choose([True, False]),
    }
    attributes = {"weight": tensor(1), "eps": 1e-5}
    fixed: dict[str, Any] = {"training": choose([True, False]), "triton": choose([None, "3.4.0", "3.4"])}
    facts = Facts(arguments, attributes, ranges=ranges, divisors=multiples, **fixed)
    concrete = Facts({k: known(v) for k, v in arguments.items()}, {k: known(v) for k, v in attributes.items()}, **fixed)
    return Call(facts, values, concrete)
