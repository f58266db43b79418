"""What is a constraint, and what people are told who wrote something else."""

from __future__ import annotations

import pickle

import pytest

from fxkernels.constraints import ConstraintError, parse
from fxkernels.constraints.expression import And, Compare, Reference, clauses, references
from fxkernels.constraints.grammar import MAX_LENGTH


@pytest.mark.parametrize(
    "text",
    [
        "dim(x, -1) % 8 == 0",
        "dtype(x) in {float16, bfloat16}",
        "not dtype(x) in {float32}",
        "stride(x, -1) == 1 and contiguous(weight)",
        "ndim(x) == 3 or ndim(x) == 4",
        "none(bias)",
        "unsqueeze_dim == 1",
        "self.eps > 0",
        "self.act.name == 'silu'",
        "next_pow2(dim(x, -1)) <= 65536",
        "implies(not none(bias), dtype(bias) == dtype(x))",
        "2 <= dim(weight, 0) <= 4",
        "dtype(position_embeddings[0]) == dtype(q)",
        "capability >= 90 and triton >= '3.3' and torch >= '2.11'",
        "not ('3.4' <= triton <= '3.7.0')",
        "not training",
        "requires_grad(x)",
        "device(x) == 'cuda'",
        "activation in {None, 'silu', 'swish'}",
        "dim(x, -1) * itemsize(x) % 16 == 0",
        "(dim(x, 0) + 1) * 2 - (3 - numel(x)) // min(4, ndim(x)) > -1",
        "causal and (training or none(mask))",
        "dtype == float32",
    ],
)
def test_sentence_of_the_vocabulary_is_parsed_and_printed(text: str) -> None:
    printed = text.replace("not ('3.4' <= triton <= '3.7.0')", "not '3.4' <= triton <= '3.7.0'")
    assert str(parse(text)) == printed


@pytest.mark.parametrize(
    ("text", "column", "told"),
    [
        ("dims(x, -1) == 4", 1, "did you mean dim(x, i)"),
        ("dtype(x) == bfloat(x)", 13, "no word 'bfloat'"),
        ("dim(x, -1) % 8 = 0", 16, "write == for equality"),
        ("dim(x, -1) / 8 == 0", 12, "write // for division"),
        ("training & none(x)", 10, "write and"),
        ("dim(x) == 3", 1, "dim is written dim(x, i)"),
        ("dim(*x) == 3", 1, "dim is written dim(x, i)"),
        ("dim(x, y) == 3", 8, "a whole number is wanted"),
        ("dim(3, 0) == 3", 5, "the name of an argument"),
        ("ndim(x)", 1, "a condition is wanted here, such as ndim(x) == ..."),
        ("none(x) == none(y)", 1, "is a condition; a value is wanted"),
        ("x.shape[-1] == 3", 1, "write dim(x, i)"),
        ("x.dtype == float16", 1, "write dtype(x)"),
        ("x.is_contiguous() == 1", 1, "call of anything but a word"),
        ("bias is None", 9, "write none(a)"),
        ("bias == None", 9, "write none(bias)"),
        ("bias != None", 9, "write none(bias)"),
        ("dtype(x) == torch.float16", 13, "write float16, without torch."),
        ("dtype(x) in {half}", 14, "write float16"),
        ("dtype(x) in float16", 13, "comes a set of values"),
        ("dtype(x) in {float16} == 1", 1, "`in` stands alone"),
        ("dtype(x) == 16", 13, "dtype(x) is a dtype and 16 is a number"),
        ("dtype(x) < dtype(y)", 12, "dtype(x) and dtype(y) are each a dtype"),
        ("'é' == x and dim(x, 0) < 'a'", 26, "dim(x, 0) is a number and 'a' is a string"),
        ("dtype(x) + 1 == 2", 1, "arithmetic needs numbers"),
        ("triton >= 3.3", 11, "a version and 3.3 is a number"),
        ("triton >= 'three'", 11, 'such as "3.3"'),
        ("capability >= '90'", 15, "capability is a number and '90' is a string"),
        ("dim(x, 0) == 9999999999999999999", 14, "below 2**63"),
        ("dim(self, 0) == 1", 5, "'self' is a word"),
        ("dim(x, 0) == 1 and", 18, "no expression"),
        ("dim(x, 0", 4, "no expression"),
        ("", 1, "empty"),
        ("  \n ", 1, "empty"),
        ("not " * 40 + "training", 121, "nested more than"),
        ("x == 'a\\n'", 6, 'no "\'" here'),
    ],
)
def test_error_points_to_the_place_and_says_what_to_write(text: str, column: int, told: str) -> None:
    with pytest.raises(ConstraintError) as caught:
        parse(text)
    assert told in caught.value.problem
    assert caught.value.column == column


def test_error_shows_the_text_with_a_mark_under_the_place_and_lists_the_vocabulary() -> None:
    with pytest.raises(ConstraintError) as caught:
        parse("ndim(x) == 3 and strid(x, -1) == 1")
    first, text, mark, *vocabulary = str(caught.value).splitlines()
    assert first == "constraints know no word 'strid'; did you mean stride(x, i)?"
    assert text == "  ndim(x) == 3 and strid(x, -1) == 1"
    assert mark.index("^") == text.index("strid")
    assert "next_pow2(n)" in vocabulary[0]
    assert "bfloat16" in vocabulary[1]


def test_constraint_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="no word 'shape'"):
        parse("shape(x) == 3")


def test_constraint_error_survives_pickling() -> None:
    error = ConstraintError("x ==", 4, "no expression")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_text_of_more_than_the_longest_length_is_refused_by_its_length() -> None:
    with pytest.raises(ConstraintError, match=f"at most {MAX_LENGTH} characters, this one has {MAX_LENGTH + 8}"):
        parse(" " * MAX_LENGTH + "training")


def test_what_is_no_string_is_a_type_error_that_shows_one() -> None:
    with pytest.raises(TypeError, match="'dim\\(x, -1\\) % 8 == 0', not 8"):
        parse(8)  # type: ignore[arg-type]


def test_constraint_may_span_lines() -> None:
    assert parse("dim(x, 0) == 1\n  and dim(x, 1) == 2") == parse("dim(x, 0) == 1 and dim(x, 1) == 2")


def test_conjunction_is_taken_apart_however_it_is_bracketed() -> None:
    condition = parse("training and (none(x) and (none(y) or none(z)))")
    assert isinstance(condition, And)
    assert list(map(str, clauses(condition))) == ["training", "none(x)", "none(y) or none(z)"]


def test_arithmetic_binds_and_associates_as_in_python() -> None:
    assert parse("a - (b - c) * d == 0") != parse("a - b - c * d == 0")
    assert parse("(a - b) - c == 0") == parse("a - b - c == 0")


def test_references_are_the_arguments_and_attributes_that_are_spoken_of() -> None:
    named = references(parse("dim(x, 0) == n and implies(none(bias), self.eps > 0) and dtype(pair[1]) == float16"))
    assert named == {Reference(path) for path in [("x",), ("n",), ("bias",), ("self", "eps"), ("pair", 1)]}


def test_one_text_is_parsed_once() -> None:
    assert parse("dim(x, 3) == 5") is parse("dim(x, 3) == 5")
    assert isinstance(parse("dim(x, 3) == 5"), Compare)
