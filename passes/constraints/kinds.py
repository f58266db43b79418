"""What can be compared with what, as far as the text tells."""

from __future__ import annotations

import re

import torch

from .expression import Literal, Measure, Reference, TargetFact, Term
from .vocabulary import MEASURES, TARGET_FACTS, Kind

_VERSION = re.compile(r"\d{1,9}(\.\d{1,9})*", re.ASCII)
_EQUALITY = ("==", "!=")


def kind_of(term: Term) -> Kind:
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


def why_not_comparable(left: Term, symbol: str, right: Term) -> str | None:
    """Return why a comparison can have no meaning for any call, or None."""
    if symbol in _EQUALITY and Literal(None) in (left, right):
        return f"write none({right if left == Literal(None) else left})"
    kinds = {kind_of(left), kind_of(right)}
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
        return f"{left} and {right} are each {kind_of(left).value}; {symbol} has no meaning between them"
    return f"{left} is {kind_of(left).value} and {right} is {kind_of(right).value}; {symbol} has no meaning between them"
