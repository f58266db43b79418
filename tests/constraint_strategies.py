"""Random constraints, and random calls with dynamic sizes, for the property tests of `fxkernels/constraints`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from hypothesis import strategies as st
from torch._dynamo.source import ConstantSource
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from fxkernels.constraints.call_facts import CallFacts, Symbols, TensorFacts
from fxkernels.constraints.expression import (
    And,
    Arithmetic,
    Compare,
    Condition,
    Function,
    Implies,
    Literal,
    Measure,
    Member,
    Not,
    Or,
    Question,
    Reference,
    TargetFact,
    Term,
)

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

FIXED = [0, 1, 2, 8, 64, 100]


@dataclass(frozen=True)
class Call:
    """One call with dynamic sizes, and the same with numbers.

    Args:
        facts: The call as it is captured.
        concrete: The call with the sizes with which it is captured.
        other: Values for its symbols that the capture allows as well.
    """

    facts: CallFacts
    concrete: CallFacts
    other: Symbols


@dataclass
class _Sizes:
    """Dynamic sizes of one capture, of which it knows a range or a divisor.

    Args:
        random: Where everything is chosen.
    """

    random: Random
    environment: ShapeEnv = field(default_factory=ShapeEnv)
    other: dict[Any, int] = field(default_factory=dict)

    def dynamic(self, name: str) -> Any:
        """Return a size, from 2 on as Dynamo's dynamic sizes are."""
        divisor = self.random.choice([1, 1, 8])
        value, other = (divisor * self.random.randint(2, 14) for _ in range(2))
        source = ConstantSource(name)
        symbol = self.environment.create_symbol(value, source, DimDynamic.DYNAMIC)
        size = self.environment.create_symintnode(symbol, hint=value, source=source)
        self.other[symbol] = other
        low, high = min(value, other), max(value, other)
        known = [size % divisor == 0, size >= low - self.random.randint(0, 9), size <= high + self.random.randint(1, 99)]
        assert all(self.random.choice([True, bool(fact)]) for fact in known)
        return size

    def expressions(self) -> list[Any]:
        """Return sizes as captured graphs have them."""
        a, b, c = map(self.dynamic, "abc")
        return [a, b, c, 8 * a, 8 * b + 4, a * b, a + c, 2 * c + 1, b % 4, torch.sym_max(a, 5), a * (b + 1), (c + 1) * 16, c - 2, a // 2]


@st.composite
def calls(draw: st.DrawFn) -> Call:
    # One draw and then `random`: a call has so many parts that drawing each took a tenth of a second. Conditions shrink, calls do not.
    random = Random(draw(st.integers(0, 2**32)))
    choose = random.choice
    sizes = _Sizes(random)
    expressions = sizes.expressions()

    def tensor(rank: int) -> TensorFacts:
        shape = tuple(choose([*expressions, *FIXED]) for _ in range(rank))
        dense = tuple(math.prod(shape[index + 1 :]) for index in range(rank))
        return TensorFacts(choose(DTYPES), shape, choose([dense, dense, dense[::-1], shape]), "cpu", choose([True, False]))

    def known(value: Any) -> Any:
        if isinstance(value, torch.SymInt):
            return int(value.node.expr.subs(sizes.environment.backed_var_to_val))
        if isinstance(value, TensorFacts):
            return TensorFacts(value.dtype, known(value.shape), known(value.stride), value.device, value.requires_grad)
        return tuple(map(known, value)) if isinstance(value, tuple) else value

    arguments = {
        "x": tensor(2),
        "y": tensor(3),
        "bias": choose([None, object(), tensor(1), tensor(1)]),
        "pair": choose([None, (tensor(1), tensor(1))]),
        "count": choose([*expressions, 2, None]),
        "causal": choose([True, False]),
        "batch": expressions[0],
    }
    attributes = {"weight": tensor(1), "eps": 1e-5}
    fixed: dict[str, Any] = {"training": choose([True, False]), "triton": choose([None, "3.4.0", "3.4"])}
    facts = CallFacts(arguments, attributes, **fixed)
    concrete = CallFacts({k: known(v) for k, v in arguments.items()}, {k: known(v) for k, v in attributes.items()}, **fixed)
    return Call(facts, concrete, sizes.other)
