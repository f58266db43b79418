"""Whether a kernel is worth it: it is timed against the compiler's own code, on the machine, with the operations around the call.

Here live what is timed (`contest.py`), how (`timing.py`), what came of it and who wins (`measured.py`), its records, and the budget.
Here lives nothing of which calls there are and which kernels fit them: that is what `candidates` knows.
"""

from .contest import Contest, Inner
from .measured import MARGIN, Measured, Side
from .measuring import Budget, known, measure
from .select import SELECTS, Select

__all__ = ["MARGIN", "SELECTS", "Budget", "Contest", "Inner", "Measured", "Select", "Side", "known", "measure"]
