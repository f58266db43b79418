"""The gate of constraints: whether a layer call meets what a kernel demands of it, and how that is seen to where sizes are dynamic.

`called` turns what the kernel would be handed into facts, `judge` checks them, `guard` makes what depends on dynamic sizes a guard of the
graph, and `ranges` does the same for the sizes for which a kernel was probed. What constraints are, and when they hold, is known by
`passes.constraints`; where they are declared, by `hub`.
"""

from .called import Called
from .guard import Guard
from .judge import OnDepends, judge
from .judged import Judged
from .ranges import judge_ranges

__all__ = ["Called", "Guard", "Judged", "OnDepends", "judge", "judge_ranges"]
