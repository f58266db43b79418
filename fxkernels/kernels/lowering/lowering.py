"""The value that says how a kernel enters a compiled graph, for reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LoweringName = Literal["traced", "triton", "opaque"]
Backward = Literal["fallback", "recompute"]
BACKWARDS: tuple[Backward, ...] = ("fallback", "recompute")


@dataclass(frozen=True, slots=True)
class Lowering:
    """How a kernel enters a compiled graph.

    Args:
        name: ``traced``, ``triton`` or ``opaque``.
        reason: Why this one, as a sentence without a full stop.
        recomputes: What runs again in the backward, and why; None if nothing does.
        clones: The inputs that are copied first because the kernel overwrites them.
        unseen: Why nobody could see what it overwrites; then all inputs are copied.
        relaid: Positions of the outputs that are copied, because the kernel lays them out in memory in another way than the layer.
    """

    name: LoweringName
    reason: str
    recomputes: str | None = None
    clones: tuple[str, ...] = ()
    unseen: str | None = None
    relaid: tuple[int, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a user has to know of it, the main thing first; nothing for a kernel that is just traced."""
        name = () if self.name == "traced" else (self.name,)
        recomputes = (f"recomputes {self.recomputes}",) if self.recomputes is not None else ()
        clones = (
            (f"clones {', '.join(self.clones)}: the kernel overwrites {'it' if len(self.clones) == 1 else 'them'}",) if self.clones else ()
        )
        unseen = (f"clones all inputs: it could not be rehearsed, {self.unseen}",) if self.unseen is not None else ()
        outputs = f"output{'' if len(self.relaid) == 1 else 's'} {', '.join(map(str, self.relaid))}"
        relaid = (f"copies {outputs} into the layer's memory layout",) if self.relaid else ()
        return (*name, *recomputes, *clones, *unseen, *relaid)
