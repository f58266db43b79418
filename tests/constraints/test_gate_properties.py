"""What holds for every constraint and every call."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from constraint_calls import kernel
from constraint_strategies import Call, calls, conditions
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fxkernels.constraints import ConstraintError, parse
from fxkernels.constraints.call_facts import CallFacts, TensorFacts
from fxkernels.constraints.evaluate import Evaluation
from fxkernels.constraints.expression import Arithmetic, Condition, Reference, leaves
from fxkernels.constraints.gate import Guard, check_conditions

pytestmark = pytest.mark.slow

many = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


@many
@given(conditions)
def test_what_is_printed_is_parsed_to_the_same(condition: Condition) -> None:
    assert parse(str(condition)) == condition


WORDS = """
dim stride dtype x y self .eps eps ( ) [ ] { } , 0 -1 8 1e-6 0.5 == != <= % // / + - * < > in not and or implies none contiguous float16
bfloat16 half torch triton "3.3" 'a' training True None lambda if else for is : = := ** ; # \\ @ ~ __class__ é f"{x}" 0x1F 1_0
""".split()


@many
@given(st.text(max_size=60) | st.lists(st.sampled_from(WORDS), max_size=20).map(" ".join) | st.lists(st.sampled_from(WORDS)).map("".join))
def test_any_text_is_a_constraint_that_prints_as_itself_or_an_error_that_points_into_it(text: str) -> None:
    try:
        condition = parse(text)
    except ConstraintError as raised:
        error = raised
    else:
        assert parse(str(condition)) == condition
        return
    assert 1 <= error.column <= len(text) + 1
    assert "^ column" in str(error)


@many
@given(conditions, calls())
def test_answer_for_all_sizes_is_the_answer_for_each(condition: Condition, call: Call) -> None:
    always, present = Evaluation(call.facts).holds(condition), Evaluation(call.concrete).holds(condition)
    assert present is not None
    assert Evaluation(call.facts.present).holds(condition) is present
    if always is not None:
        assert always is present
        assert Evaluation(call.facts.at(call.other)).holds(condition) is always


@many
@given(conditions, calls())
def test_what_is_guarded_holds_now_and_carries_the_condition_over_to_all_sizes_that_pass_the_guard(
    condition: Condition, call: Call
) -> None:
    assume(Evaluation(call.concrete).holds(condition))
    guard = Guard.of([condition], call.facts)
    other = Evaluation(call.facts.at(call.other))
    if all(other.holds(part) for part in guard.parts):
        assert other.holds(condition)
    guard.enforce()


def divides_floats(part: Any) -> bool:
    """Whether a `//` or `%` in a condition has a float in it: Python's answer to that is undefined here."""
    if isinstance(part, Arithmetic) and part.operator in ("//", "%"):
        return any(leaf == Reference(("self", "eps")) or isinstance(getattr(leaf, "value", None), float) for leaf in leaves(part))
    inner = (
        [value for field in dataclasses.fields(part) for value in (getattr(part, field.name),)] if dataclasses.is_dataclass(part) else part
    )
    return isinstance(inner, list | tuple) and any(map(divides_floats, inner))


@many
@given(conditions, calls())
def test_answer_is_what_python_computes_wherever_python_can(condition: Condition, call: Call) -> None:
    assume(not divides_floats(condition))
    try:
        expected = python_evaluates(str(condition), call.concrete)
    except (UndefinedInPythonError, ArithmeticError, TypeError, AttributeError, IndexError):
        assume(False)
    assert Evaluation(call.concrete).holds(condition) is bool(expected)


@many
@given(conditions, calls())
def test_neither_a_condition_nor_its_opposite_holds_of_what_is_undefined_and_else_exactly_one(condition: Condition, call: Call) -> None:
    evaluation = Evaluation(call.concrete)
    assert not (evaluation.holds(condition) and evaluation.holds(parse(f"not ({condition})")))


@many
@given(conditions, calls())
def test_every_call_is_let_pass_or_gets_a_miss_with_a_message(condition: Condition, call: Call) -> None:
    for facts in (call.facts, call.concrete):
        result = check_conditions(kernel(), [condition], facts)
        assert result.note if result.miss is None else result.miss.message


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "(lambda: 1)()",
        "[x for x in y]",
        "x.__class__.__bases__ == 1",
        "self.__class__.__init__.__globals__ == self(1)",
        "open('/etc/passwd') == 1",
        "dim(x, 10**10**10) == 1",
        "9" * 900 + " == 1",
        "(" * 400 + ")" * 400,
        "not " * 200 + "training",
        "-" * 500 + "1 == 1",
        "x" + "[0]" * 300 + " == 1",
        "self" + ".a" * 400 + " == 1",
        "1 + " * 200 + "1 == 1",
        "x := 1",
        "await x == 1",
        "(yield) == 1",
        "f'{training}' == 'a'",
        "\0 == 1",
        "x == 1\nimport os",
        "ﬁ(x) == 1",
    ],
)
def test_what_is_no_constraint_is_refused_and_never_executed(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("executed")

    for name in ("eval", "exec", "open", "__import__"):
        monkeypatch.setattr(f"builtins.{name}", forbidden)
    with pytest.raises(ConstraintError):
        parse(text)


# --- Python's own answer -------------------------------------------------------------------------------------------------------------


class UndefinedInPythonError(Exception):
    pass


def python_evaluates(text: str, facts: CallFacts) -> bool:
    """Let Python run the text, with functions for the words. (In a test, of texts that the test has made.)"""

    class Layer:
        weight = facts.attributes["weight"]
        eps = facts.attributes["eps"]

    def tensor(value: Any) -> TensorFacts:
        if not isinstance(value, TensorFacts):
            raise UndefinedInPythonError
        return value

    class Version(tuple[int, ...]):
        def __ge__(self, other: Any) -> bool:
            return tuple(self) >= tuple(map(int, other.split(".")))

    class NoTriton:
        def __ge__(self, other: Any) -> bool:
            raise UndefinedInPythonError

    def real(value: TensorFacts) -> torch.Tensor:
        return torch.empty_strided(tensor(value).shape, value.stride or (), device="meta")

    words = {
        "dim": lambda x, i: tensor(x).shape[i],
        "stride": lambda x, i: tensor(x).stride[i],  # type: ignore[index]
        "ndim": lambda x: len(tensor(x).shape),
        "numel": lambda x: real(x).numel(),
        "itemsize": lambda x: tensor(x).dtype.itemsize,
        "dtype": lambda x: tensor(x).dtype,
        "contiguous": lambda x: real(x).is_contiguous(),
        "requires_grad": lambda x: tensor(x).requires_grad,
        "none": lambda a: a is None,
        "implies": lambda a, b: not a or b,
        "min": min,
        "max": max,
        "next_pow2": lambda n: next(2**k for k in range(n.bit_length() + 1) if 2**k >= n),
        "float16": torch.float16,
        "bfloat16": torch.bfloat16,
        "float32": torch.float32,
        "training": facts.training,
        "triton": NoTriton() if facts.triton is None else Version(map(int, [*facts.triton.split("."), 0][:3])),
        "weight": Layer.weight,
        "self": Layer,
        **facts.arguments,
    }
    return bool(eval(text, {"__builtins__": {}}, words))
