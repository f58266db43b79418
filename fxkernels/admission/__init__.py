"""A kernel is not trusted on its word: before one is used for a form of call, it is probed on random tensors like the call's.

`probe_case` is the input: a kernel and a form of call. `probe` runs its `checks`, forward and backward (`gradients`): the `runner` runs
the kernel in `guarded_memory` and watches the `process_state`; the `oracle` has the exact results, and `tolerances` how near a kernel has
to come. That happens in a child process (`worker`, reached through `wire`). The outcome is a `verdict`, kept on disk by `records`. `admit`
is the gate that all this is for.

What does not live here: how a kernel enters a graph (`kernels/lowering`), what a call is (`passes`), random tensors (`kernels/samples`).
"""

from .admit import VARIABLE, Admitted, Verify, admit, forget_verdicts, known, verification
from .probe_case import ProbeCase

__all__ = ["VARIABLE", "Admitted", "ProbeCase", "Verify", "admit", "forget_verdicts", "known", "verification"]
