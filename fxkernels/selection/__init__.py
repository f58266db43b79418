"""Whether a kernel is worth it: it is timed against the compiler's own code, on the machine, with the operations around the call.

Here live contests (`benchmark.py`), how calls are timed (`timing.py`), the times and which kernel wins (`results.py`), and tuned plans.
Which calls there are and which kernels fit them is known by `candidates`.
"""

from .benchmark import SELECTS, Budget, Contest, Inner, Select, known, measure
from .results import MARGIN, Results, Times

__all__ = ["MARGIN", "SELECTS", "Budget", "Contest", "Inner", "Results", "Select", "Times", "known", "measure"]
