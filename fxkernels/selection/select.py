"""Who chooses between the kernels that fit a call, and the original layer."""

from __future__ import annotations

from typing import Literal

Select = Literal["first", "measured"]
"""``"first"``: the mapping's order. ``"measured"``: whatever was the fastest on this machine, the compiler's own code among them."""

SELECTS: tuple[Select, ...] = ("first", "measured")
