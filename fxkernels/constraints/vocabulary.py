"""The words of constraints, what each is called with, what it gives, and the miss code of a clause that fails because of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch


class Kind(Enum):
    """What a value can be compared with. The value of an argument is `ANY`: only the call tells."""

    NUMBER = "a number"
    DTYPE = "a dtype"
    TEXT = "a string"
    VERSION = "a version"
    BOOL = "True or False"
    NONE = "None"
    ANY = "a value of the call"


@dataclass(frozen=True, slots=True)
class Word:
    """One word.

    Args:
        usage: How it is written.
        kind: What it gives.
        code: The miss code of a clause that fails because of it, one of the codes of the gate.
    """

    usage: str
    kind: Kind
    code: str


MEASURES: dict[str, Word] = {
    "dim": Word("dim(x, i)", Kind.NUMBER, "shape"),
    "stride": Word("stride(x, i)", Kind.NUMBER, "layout"),
    "ndim": Word("ndim(x)", Kind.NUMBER, "rank"),
    "numel": Word("numel(x)", Kind.NUMBER, "shape"),
    "itemsize": Word("itemsize(x)", Kind.NUMBER, "dtype"),
    "dtype": Word("dtype(x)", Kind.DTYPE, "dtype"),
    "device": Word("device(x)", Kind.TEXT, "no_device"),
}
"""What is read off one tensor."""

INDEXED = frozenset({"dim", "stride"})
"""Measures that take a dimension."""

TESTS: dict[str, Word] = {
    "contiguous": Word("contiguous(x)", Kind.BOOL, "layout"),
    "requires_grad": Word("requires_grad(x)", Kind.BOOL, "condition_false"),
    "none": Word("none(a)", Kind.BOOL, "condition_false"),
}
"""Questions about one argument or attribute."""

TARGET_FACTS: dict[str, Word] = {
    "capability": Word("capability", Kind.NUMBER, "capability"),
    "torch": Word('torch >= "2.11"', Kind.VERSION, "capability"),
    "triton": Word('triton >= "3.3"', Kind.VERSION, "capability"),
    "training": Word("training", Kind.BOOL, "no_mode"),
}
"""What holds for the whole call. An argument of such a name cannot be spoken of."""

FUNCTIONS: dict[str, Word] = {
    "next_pow2": Word("next_pow2(n)", Kind.NUMBER, "shape"),
    "min": Word("min(m, n)", Kind.NUMBER, "shape"),
    "max": Word("max(m, n)", Kind.NUMBER, "shape"),
}
"""From numbers to a number."""

IMPLIES = "implies"

DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name)
    for name in (
        "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz "
        "int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool complex64 complex128"
    ).split()
}

OTHER_DTYPE_NAMES: dict[str, str] = {
    "half": "float16",
    "float": "float32",
    "double": "float64",
    "fp16": "float16",
    "bf16": "bfloat16",
    "fp32": "float32",
    "fp64": "float64",
    "int": "int32",
    "long": "int64",
}
"""Names that people use for dtypes. They are refused with the right one, so that each dtype has one name."""

CALLABLE: dict[str, Word] = {**MEASURES, **TESTS, **FUNCTIONS, IMPLIES: Word("implies(a, b)", Kind.BOOL, "condition_false")}
"""All words that are followed by parentheses."""


def listing() -> str:
    """Return the whole vocabulary in a few lines, for errors."""
    return (
        f"Words: {', '.join(word.usage for word in (*CALLABLE.values(), *TARGET_FACTS.values()))}; "
        "the call's arguments (x, x[0]) and the layer's attributes (self.eps); numbers, strings, True, False, None;\n"
        f"  the dtypes {', '.join(DTYPES)};\n"
        "  + - * // %, < <= == != >= >, in {...}, not in {...}, and, or, not, parentheses."
    )
