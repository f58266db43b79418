"""How much a kernel has to show, and who says so."""

from __future__ import annotations

import os
from typing import Literal, get_args

Verify = Literal["off", "probe", "strict"]
"""``"off"``: nothing; reports then say `unverified`. ``"probe"``: what can be probed. ``"strict"``: what cannot be probed is not used."""

VARIABLE = "FXKERNELS_VERIFY"
"""The environment variable that says it where no argument does."""


def verification(argument: str | None = None) -> Verify:
    """Return what applies: the argument, else the environment variable, else ``"probe"``.

    Args:
        argument: What the caller was given as ``verify=``.

    Raises:
        ValueError: If it is none of `Verify`.
    """
    said = argument if argument is not None else os.environ.get(VARIABLE) or "probe"
    for mode in get_args(Verify):
        if said == mode:
            return mode  # type: ignore[no-any-return] # get_args forgets the type
    source = "verify=" if argument is not None else f"the environment variable {VARIABLE}="
    raise ValueError(f"{source}{said!r} is not one of {', '.join(map(repr, get_args(Verify)))}")
