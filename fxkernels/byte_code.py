"""What Python's byte code says of a function whose source is not at hand, or does not matter."""

from __future__ import annotations

import dis

_LOADS = ("LOAD_FAST", "LOAD_DEREF", "STORE_FAST_LOAD_FAST")


def loaded_variable(step: dis.Instruction) -> str | None:
    """Return the local variable that is on top of the stack after an instruction, because the instruction has loaded it; else None.

    Python 3.13 does two steps in one instruction, which then names two variables: the second one is loaded last (seen up to 3.14).
    """
    if not step.opname.startswith(_LOADS):
        return None
    names = step.argval
    return str(names[-1] if isinstance(names, tuple) else names)
