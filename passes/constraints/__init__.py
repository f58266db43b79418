"""Constraints: what a kernel demands of a call, as text in a small vocabulary, and whether a call meets it.

``dim(x, -1) % 8 == 0 and dtype(x) in {float16, bfloat16}`` is parsed (`grammar`) into frozen values (`expression`) made of known words
(`vocabulary`), and judged (`lookup`, `evaluate`) by what is known of a call (`facts`), where sizes may be sympy expressions (`symbolic`).
The answer (`check`) is proven, refuted with the clause and its values, or a residual that is checked when the sizes are known.

Text is never executed. Here lives nothing that knows where constraints are declared or what becomes of an answer.
"""

from .check import Answer, Depends, Proven, Refuted, check
from .expression import Condition, references
from .facts import Facts, Opaque, TensorFacts, tensor_facts
from .grammar import ConstraintError, parse

__all__ = [
    "Answer",
    "Condition",
    "ConstraintError",
    "Depends",
    "Facts",
    "Opaque",
    "Proven",
    "Refuted",
    "TensorFacts",
    "check",
    "parse",
    "references",
    "tensor_facts",
]
