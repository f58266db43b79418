"""No kernel is trusted on its word: before one is used for a form of call, it is probed on random tensors of the call's own kind.

`request` is what has to be shown. `probe` shows it: `rounds` and `gradients` run the kernel (`running`) on `samples`, beside the exact
results (`truth`, by `wide`), as near as `tolerances` say. That happens in a child process (`worker`, `child`, reached through `wire`), and
what came of it is an `evidence.Verdict`, kept on disk by `records` under a `key`. `admit` is the gate that all this is for.

What does not live here: how a kernel enters a graph (`kernels/lowering`), and what a call is (`passes`).
"""

from .admit import Admitted, admit, forget_verdicts, known
from .request import Request
from .verify import VARIABLE, Verify, verification

__all__ = ["VARIABLE", "Admitted", "Request", "Verify", "admit", "forget_verdicts", "known", "verification"]
