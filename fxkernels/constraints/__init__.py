"""Constraints: what a kernel demands of a call, as text in a small vocabulary, and the gate that holds a call to it.

``dim(x, -1) % 8 == 0 and dtype(x) in {float16, bfloat16}`` is parsed (`grammar`) into frozen values (`expression`) made of known words
(`vocabulary`). `evaluate` says whether they hold for what is known of a call (`call_facts`); where sizes are dynamic, that is what torch's
shape environment knows. `gate` turns this into a miss that names the clause and what would help (`smallest_change`), or into a `guard` of
the graph. `sizes` finds those with which a kernel can be probed.

Text is never executed. Where constraints are declared is known by `hub`.
"""

from .grammar import ConstraintError, parse

__all__ = ["ConstraintError", "parse"]
