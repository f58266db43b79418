"""From text to a constraint. Python's parser gives the syntax tree; what is not in the vocabulary is refused; nothing is ever executed."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn

import torch

from .expression import (
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
from .vocabulary import CALLABLE, DTYPES, FUNCTIONS, IMPLIES, INDEXED, MEASURES, OTHER_DTYPE_NAMES, TARGET_FACTS, TESTS, Kind, listing

MAX_LENGTH = 1000
MAX_DEPTH = 30
MAX_NUMBER = 2**63

# Everything that a constraint may be spelled with. Strings have no escapes. What Python's tokenizer warns of (`1in`, a stray backslash)
# never reaches it: switching warnings off is not safe with threads.
_TOKEN = re.compile(
    r"""[ \t\r\n]+ | [A-Za-z_][A-Za-z_0-9]* | (?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![A-Za-z_0-9.])
      | "[^"\\\r\n]*" | '[^'\\\r\n]*' | == | != | <= | >= | // | [-+*%<>()\[\]{},.]""",
    re.VERBOSE | re.ASCII,
)

_ARITHMETIC: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.FloorDiv: "//", ast.Mod: "%"}
_COMPARISONS: dict[type[ast.cmpop], str] = {ast.Lt: "<", ast.LtE: "<=", ast.Eq: "==", ast.NotEq: "!=", ast.GtE: ">=", ast.Gt: ">"}

_VERSION = re.compile(r"\d{1,9}(\.\d{1,9})*", re.ASCII)
_EQUALITY = ("==", "!=")
_INSTEAD = {"=": "== for equality", "/": "// for division", "&": "and", "|": "or", "!": "not", "^": "!="}


class ConstraintError(ValueError):
    """A text is no constraint.

    Args:
        text: The text, on one line.
        column: Where in it, from 1.
        problem: What is wrong, and what to write instead.
    """

    def __init__(self, text: str, column: int, problem: str) -> None:
        super().__init__(text, column, problem)
        self.text = text
        self.column = column
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.problem}\n  {self.text}\n  {' ' * (self.column - 1)}^ column {self.column}\n  {listing()}"


@lru_cache(maxsize=4096)
def parse(text: str) -> Condition:
    """Return the constraint that a text spells.

    Args:
        text: e.g. ``"dim(x, -1) % 8 == 0 and dtype(x) in {float16, bfloat16}"``. Comparisons chain; ``%`` and ``//`` are Python's.

    Raises:
        ConstraintError: Pointing to the column, with the nearest word and the vocabulary.
        TypeError: If `text` is no string.
    """
    if not isinstance(text, str):
        raise TypeError(f"a constraint is a string such as 'dim(x, -1) % 8 == 0', not {text!r}")
    if len(text) > MAX_LENGTH:
        problem = f"a constraint has at most {MAX_LENGTH} characters, this one has {len(text)}; split it at an `and`"
        raise ConstraintError(text[:60] + "...", 1, problem)
    line = re.sub(r"[\t\r\n]", " ", text)
    if not line.strip(" "):
        raise ConstraintError(line, 1, "the constraint is empty")
    _check_tokens(line)
    lead = len(line) - len(line.lstrip(" "))
    try:
        tree = ast.parse(line.strip(" "), mode="eval")
    except SyntaxError as error:
        column = lead + (error.offset or len(line) - lead)  # no offset at the end of the text
        raise ConstraintError(line, min(column, len(line) + 1), f"this is no expression ({error.msg})") from None
    except (ValueError, RecursionError, MemoryError) as error:  # numbers of thousands of digits, brackets in brackets in brackets
        raise ConstraintError(line, 1, f"this cannot be parsed ({error})") from None
    return _Parser(line, lead).condition(tree.body, 0)


def _check_tokens(line: str) -> None:
    position = 0
    while position < len(line):
        match = _TOKEN.match(line, position)
        if match is None:
            character = line[position]
            hint = f"; write {_INSTEAD[character]}" if character in _INSTEAD else ""
            raise ConstraintError(line, position + 1, f"constraints know no {character!r} here{hint}")
        position = match.end()


@dataclass(frozen=True, slots=True)
class _Parser:
    line: str
    lead: int

    def refuse(self, node: ast.expr, problem: str) -> NoReturn:
        """The tree counts columns in bytes of UTF-8, from 0."""
        before = self.line[self.lead :].encode()[: node.col_offset].decode()
        raise ConstraintError(self.line, self.lead + len(before) + 1, problem)

    def deeper(self, node: ast.expr, depth: int) -> int:
        if depth >= MAX_DEPTH:
            self.refuse(node, f"this is nested more than {MAX_DEPTH} deep; split it into several constraints")
        return depth + 1

    # --- conditions

    def condition(self, node: ast.expr, depth: int) -> Condition:
        depth = self.deeper(node, depth)
        match node:
            case ast.BoolOp(op, values):
                parts = tuple(self.condition(value, depth) for value in values)
                return And(parts) if isinstance(op, ast.And) else Or(parts)
            case ast.UnaryOp(ast.Not(), operand):
                return Not(self.condition(operand, depth))
            case ast.Compare(left, operators, comparators):
                return self.comparison(left, operators, comparators, depth)
            case ast.Call(ast.Name(word), _, _) if word == IMPLIES:
                premise, conclusion = self.arguments(node, word, 2)
                return Implies(self.condition(premise, depth), self.condition(conclusion, depth))
            case ast.Call(ast.Name(word), _, _) if word in TESTS:
                return Question(word, self.reference(self.arguments(node, word, 1)[0], depth))
        term = self.term(node, depth)
        if isinstance(term, Reference | TargetFact | Literal) and _kind_of(term) in (Kind.ANY, Kind.BOOL):
            return term
        self.refuse(node, f"{term} is {_kind_of(term).value}; a condition is wanted here, such as {term} == ...")

    def comparison(self, left: ast.expr, operators: Sequence[ast.cmpop], comparators: Sequence[ast.expr], depth: int) -> Condition:
        first = self.term(left, depth)
        if isinstance(operators[0], ast.In | ast.NotIn):
            return self.membership(first, left, operators, comparators, depth)
        rest: list[tuple[str, Term]] = []
        previous = first
        for operator, comparator in zip(operators, comparators, strict=True):
            symbol = _COMPARISONS.get(type(operator))
            if symbol is None:
                hint = "write none(a)" if isinstance(operator, ast.Is | ast.IsNot) else "`in` stands alone, join it with `and`"
                self.refuse(comparator, f"constraints have no such comparison here; {hint}")
            term = self.term(comparator, depth)
            self.comparable(comparator, previous, symbol, term)
            rest.append((symbol, term))
            previous = term
        return Compare(first, tuple(rest))

    def membership(self, term: Term, left: ast.expr, operators: Sequence[ast.cmpop], sets: Sequence[ast.expr], depth: int) -> Condition:
        if len(operators) > 1:
            self.refuse(left, "`in` stands alone; join it to other comparisons with `and`")
        match sets[0]:
            case ast.Set(elements) | ast.List(elements) | ast.Tuple(elements) if elements:
                options = tuple(self.term(element, depth) for element in elements)
            case _:
                self.refuse(sets[0], "after `in` comes a set of values, such as {float16, bfloat16}")
        for option, element in zip(options, elements, strict=True):
            self.comparable(element, term, "in", option)
        member = Member(term, options)
        return member if isinstance(operators[0], ast.In) else Not(member)

    def comparable(self, node: ast.expr, left: Term, symbol: str, right: Term) -> None:
        problem = _why_not_comparable(left, symbol, right)
        if problem is not None:
            self.refuse(node, problem)

    # --- terms

    def term(self, node: ast.expr, depth: int) -> Term:
        depth = self.deeper(node, depth)
        match node:
            case ast.Constant(value):
                return self.literal(node, value)
            case ast.UnaryOp(ast.USub(), ast.Constant(bool())):
                pass
            case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as value)):
                return self.literal(node, -value)
            case ast.BinOp(left, operator, right) if type(operator) in _ARITHMETIC:
                return Arithmetic(_ARITHMETIC[type(operator)], self.number(left, depth), self.number(right, depth))
            case ast.Call(ast.Name(word), _, _):
                return self.call(node, word, depth)
            case ast.Name(name) if name in DTYPES:
                return Literal(DTYPES[name])
            case ast.Name(name) if name in TARGET_FACTS:
                return TargetFact(name)
            case ast.Name() | ast.Attribute() | ast.Subscript():
                return self.reference(node, depth)
        self.refuse(node, f"constraints have no {_described(node)}")

    def literal(self, node: ast.expr, value: object) -> Literal:
        if value is not None and not isinstance(value, bool | int | float | str):
            self.refuse(node, f"constraints have no {_described(node)}")
        if isinstance(value, int | float) and abs(value) >= MAX_NUMBER:
            self.refuse(node, "this number is too large; numbers stay below 2**63")
        return Literal(value)

    def number(self, node: ast.expr, depth: int) -> Term:
        term = self.term(node, depth)
        if _kind_of(term) not in (Kind.NUMBER, Kind.ANY):
            self.refuse(node, f"{term} is {_kind_of(term).value}; arithmetic needs numbers")
        return term

    def call(self, node: ast.Call, word: str, depth: int) -> Term:
        if word in MEASURES:
            arguments = self.arguments(node, word, 2 if word in INDEXED else 1)
            return Measure(word, self.reference(arguments[0], depth), self.index(arguments[1]) if word in INDEXED else None)
        if word in FUNCTIONS:
            return Function(word, tuple(self.number(item, depth) for item in self.arguments(node, word, 1 if word == "next_pow2" else 2)))
        if word in CALLABLE:
            self.refuse(node, f"{word}(...) is a condition; a value is wanted here. Conditions are joined by and, or, not, implies(a, b)")
        near = difflib.get_close_matches(word, CALLABLE, 1, 0.5)
        self.refuse(node, f"constraints know no word {word!r}" + (f"; did you mean {CALLABLE[near[0]].usage}?" if near else ""))

    def arguments(self, node: ast.Call, word: str, count: int) -> list[ast.expr]:
        if node.keywords or len(node.args) != count or any(isinstance(item, ast.Starred) for item in node.args):
            self.refuse(node, f"{word} is written {CALLABLE[word].usage}")
        return node.args

    def index(self, node: ast.expr) -> int:
        match node:
            case ast.Constant(int() as value) if not isinstance(value, bool) and value < MAX_NUMBER:
                return value
            case ast.UnaryOp(ast.USub(), ast.Constant(int() as value)) if not isinstance(value, bool) and value < MAX_NUMBER:
                return -value
        self.refuse(node, "a whole number is wanted here, such as 0 or -1")

    def reference(self, node: ast.expr, depth: int) -> Reference:
        depth = self.deeper(node, depth)
        match node:
            case ast.Name(name) if name in OTHER_DTYPE_NAMES:
                self.refuse(node, f"{name!r} is no word of constraints; write {OTHER_DTYPE_NAMES[name]}")
            case ast.Name(name) if name in DTYPES or name in TARGET_FACTS or name == "self":
                self.refuse(
                    node, f"{name!r} is a word of constraints; the name of an argument or an attribute (self.{name}) is wanted here"
                )
            case ast.Name(name):
                return Reference((name,))
            case ast.Attribute(ast.Name("self"), name):
                return Reference(("self", name))
            case ast.Attribute(ast.Name("torch"), name) if name in DTYPES:
                self.refuse(node, f"write {name}, without torch.")
            case ast.Attribute(value, name):
                inner = self.reference(value, depth)
                if inner.path[0] != "self":
                    self.refuse(node, f"only self has attributes; of a tensor write {_function_for(name, str(inner))}")
                return Reference((*inner.path, name))
            case ast.Subscript(value, index):
                return Reference((*self.reference(value, depth).path, self.index(index)))
        self.refuse(node, f"the name of an argument, or self. and an attribute, is wanted here, not {_described(node)}")


def _function_for(name: str, of: str) -> str:
    """The word for what is an attribute in Python: ``x.shape``, ``x.is_contiguous()``."""
    word = {"shape": "dim", "size": "dim", "is_contiguous": "contiguous", "element_size": "itemsize", "dim": "ndim"}.get(name, name)
    if word not in MEASURES and word not in TESTS:
        return f"dtype({of}), dim({of}, i), stride({of}, i)"
    return f"{word}({of}, i)" if word in INDEXED else f"{word}({of})"


def _described(node: ast.expr) -> str:
    match node:
        case ast.BinOp(_, ast.Div(), _):
            return "/; write //"
        case ast.BinOp(_, ast.Pow(), _):
            return "**; write the product or the number"
        case ast.Constant(value):
            return f"{type(value).__name__} such as {value!r}"
        case ast.Compare() | ast.BoolOp() | ast.UnaryOp(ast.Not(), _):
            return "condition instead of a value"
        case ast.Call():
            return "call of anything but a word"
    return f"{type(node).__name__} expression"


# --- what can be compared with what, as far as the text tells


def _kind_of(term: Term) -> Kind:
    """Return the kind of value that a term has."""
    match term:
        case Measure(word):
            return MEASURES[word].kind
        case TargetFact(word):
            return TARGET_FACTS[word].kind
        case Literal(bool()):
            return Kind.BOOL
        case Literal(str()):
            return Kind.TEXT
        case Literal(torch.dtype()):
            return Kind.DTYPE
        case Literal(None):
            return Kind.NONE
        case Reference():
            return Kind.ANY
    return Kind.NUMBER


def _why_not_comparable(left: Term, symbol: str, right: Term) -> str | None:
    """Return why a comparison can have no meaning for any call, or None."""
    if symbol in _EQUALITY and Literal(None) in (left, right):
        return f"write none({right if left == Literal(None) else left})"
    kinds = {_kind_of(left), _kind_of(right)}
    if kinds == {Kind.VERSION, Kind.TEXT}:
        texts = [term.value for term in (left, right) if isinstance(term, Literal)]
        if not texts or not _VERSION.fullmatch(str(texts[0])):
            return 'a version is compared with numbers and dots in a string, such as "3.3"'
        return None
    if symbol in (*_EQUALITY, "in"):
        meaningful = Kind.VERSION not in kinds and len(kinds - {Kind.ANY}) <= 1
    else:
        meaningful = kinds <= {Kind.NUMBER, Kind.ANY}
    if meaningful:
        return None
    if len(kinds) == 1:
        return f"{left} and {right} are each {_kind_of(left).value}; {symbol} has no meaning between them"
    return f"{left} is {_kind_of(left).value} and {right} is {_kind_of(right).value}; {symbol} has no meaning between them"
