"""The value that says how a kernel enters a compiled graph, for reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .repairs import Repairs

LoweringName = Literal["traced", "triton", "opaque"]
Backward = Literal["fallback", "recompute"]
BACKWARDS: tuple[Backward, ...] = ("fallback", "recompute")


@dataclass(frozen=True, slots=True)
class Lowering:
    """How a kernel enters a compiled graph.

    Args:
        name: ``traced``, ``triton`` or ``opaque``.
        reason: Why this one, as a sentence without a full stop.
        repairs: What makes the kernel right.
        inputs: What the kernel calls its inputs.
        repeats_forward: Why the kernel's own backward runs its forward again, as a phrase; None if it does not.
        unseen: Why it is not known which inputs the kernel overwrites, as a phrase; then all are copied.

    Raises:
        ValueError: If an input that is copied has no name.
    """

    name: LoweringName
    reason: str
    repairs: Repairs = Repairs()
    inputs: tuple[str, ...] = ()
    repeats_forward: str | None = None
    unseen: str | None = None

    def __post_init__(self) -> None:
        if not {*self.repairs.copied_inputs} <= {*range(len(self.inputs))}:
            raise ValueError(f"inputs {self.repairs.copied_inputs} are copied, and the kernel's inputs are {self.inputs}")

    @property
    def clones(self) -> tuple[str, ...]:
        """The inputs that are copied first because the kernel overwrites them; none where that is not known."""
        return tuple([self.inputs[position] for position in self.repairs.copied_inputs]) if self.unseen is None else ()

    @property
    def relaid(self) -> tuple[int, ...]:
        """Positions of the outputs that are copied into the layer's strides."""
        return tuple([position for position, _ in self.repairs.reordered_outputs])

    @property
    def recomputes(self) -> str | None:
        """What runs again in the backward, and why; None if nothing does."""
        if self.repeats_forward is not None:
            return f"its forward in the backward: {self.repeats_forward}"
        return f"the original layer in the backward: {self.repairs.recompute}" if self.repairs.recompute is not None else None

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a user has to know of it, the main thing first; nothing for a kernel that is just traced."""
        name = () if self.name == "traced" else (self.name,)
        recomputes = (f"recomputes {self.recomputes}",) if self.recomputes is not None else ()
        them = "it" if len(self.clones) == 1 else "them"
        clones = (f"clones {', '.join(self.clones)}: the kernel overwrites {them}",) if self.clones else ()
        unseen = (f"clones all inputs: it could not be rehearsed, {self.unseen}",) if self.unseen is not None else ()
        outputs = f"output{'' if len(self.relaid) == 1 else 's'} {', '.join(map(str, self.relaid))}"
        relaid = (f"copies {outputs} into the layer's memory layout",) if self.relaid else ()
        return (*name, *recomputes, *clones, *unseen, *relaid)
