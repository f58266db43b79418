"""The value that bisect() returns."""

from __future__ import annotations

from dataclasses import dataclass

from ..kernels.layer import KernelIdentity
from ..report.model import Evidence

_SHOWN_CALLS = 3
_SHOWN_LINES = 6


@dataclass(frozen=True, slots=True)
class Culprit:
    """A call whose kernel makes a check fail. As text it says what to do next.

    Args:
        key: The call, e.g. ``model.layers.3.norm#0``.
        path: Its module path.
        layer_name: The annotation's name.
        layer: The annotated class or function.
        location: ``file:line`` of the layer's definition, if known.
        kernel: The kernel that runs there.
        failure: What the check, or the kernel, said.
        alone: Whether the check fails with this kernel alone. If not, it takes kernels of earlier calls as well.
        earlier: The calls with kernels before this one, with all of which the check passes, in order.
        calls: How many calls have kernels.
        runs: How often the model was run.
        evidence: Why the kernel was trusted with the call.
    """

    key: str
    path: str
    layer_name: str
    layer: str
    location: str | None
    kernel: KernelIdentity
    failure: str
    alone: bool
    earlier: tuple[str, ...]
    calls: int
    runs: int
    evidence: Evidence | None = None

    def __str__(self) -> str:
        where = f" ({self.location})" if self.location else ""
        said = [line for line in self.failure.splitlines() if line.strip()][:_SHOWN_LINES] or ["failed"]
        before = len(self.earlier)
        return "\n".join(
            (
                f"{self.key}: its kernel makes the check fail",
                f"  layer   {self.layer_name}, {self.layer}{where}",
                f"  kernel  {self.kernel}{f' ({self.evidence.how})' if self.evidence is not None else ''}",
                f"  check   {said[0]}",
                *(f"          {line}" for line in said[1:]),
                f"  found   in {self.runs} runs, among {self.calls} calls with kernels",
                f"  alone   {self._alone}",
                "What next:",
                "  measure it    print(fxkernels.numerics(kernelized, *args))",
                f'  leave it out  hubkernels(exclude="{self.path}")',
                *self._ways_to_keep_it_out,
                f"  by hand       FXKERNELS_FUEL={before} still passes, FXKERNELS_FUEL={before + 1} fails",
            )
        )

    @property
    def _ways_to_keep_it_out(self) -> tuple[str, ...]:
        """How the probe can help: not at all if the kernel has passed it."""
        how = self.evidence.how if self.evidence is not None else "unverified"
        if how == "unverified":
            return ('  keep it out   verify="probe" refuses kernels that compute something else',)
        if how == "unprobed":
            return ('  keep it out   verify="strict" refuses kernels that cannot be probed, as this one',)
        return ()

    @property
    def _alone(self) -> str:
        if self.alone:
            return "the check fails with this kernel and no other, too"
        shown = ", ".join(self.earlier[-_SHOWN_CALLS:])
        more = f" and {len(self.earlier) - _SHOWN_CALLS} more" if len(self.earlier) > _SHOWN_CALLS else ""
        return f"the check passes: it takes kernels of earlier calls as well, among {shown}{more}"
