"""The gate of constraints: does a layer call meet what a kernel demands of it?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from ..kernels.bound import Bound
from ..kernels.layer import KernelLayer
from ..passes.constraints import Depends, Proven, Refuted, check
from ..passes.constraints.change import smallest_change
from ..passes.constraints.evaluate import Judge
from ..passes.constraints.expression import Condition
from ..passes.constraints.facts import Facts
from ..passes.constraints.lookup import Lookup
from ..passes.miss import Miss
from ..target import Target
from .called import Called
from .guard import Guard, opposite
from .judged import Judged

OnDepends = Literal["guard", "miss"]
"""What happens where a constraint depends on dynamic sizes: it is made a guard of the graph, or the kernel is not used."""


def judge(
    kernel: KernelLayer,
    bound: Bound,
    inputs: Sequence[Any],
    target: Target,
    *,
    on_depends: OnDepends = "guard",
    triton: str | None = None,
) -> Judged:
    """Return whether the call meets the kernel's constraints. Nothing is guarded yet; `Guard.enforce` does that.

    Args:
        kernel: The kernel layer.
        bound: How it is called.
        inputs: Example values of the call's inputs.
        target: What the kernel was chosen for.
        on_depends: What happens where that depends on dynamic sizes.
        triton: Triton's version; None if it is not installed.
    """
    if not kernel.constraints:
        return Judged()
    return judge_conditions(kernel, kernel.constraints, Called.of(kernel, bound, inputs, target, triton), on_depends)


def judge_conditions(kernel: KernelLayer, conditions: Sequence[str | Condition], called: Called, on_depends: OnDepends) -> Judged:
    """Return whether a call meets conditions; see `judge`."""
    answer = check(conditions, called.facts)
    if isinstance(answer, Proven):
        return Judged(note=", ".join(map(str, conditions)))
    if isinstance(answer, Refuted):
        return Judged(_refused(kernel, conditions, answer, called.facts))
    now = check(conditions, called.example)
    if on_depends == "miss" or isinstance(now, Depends):
        return Judged(_undecided(kernel, answer, called))
    if isinstance(now, Refuted):
        return Judged(_refused(kernel, conditions, now, called.example), _guard_of_failure(now.clause, called))
    guard = Guard.of(answer.residual, called)
    size = guard.fixes
    if size is not None:
        data = {"kernel": kernel.identity, "clause": str(guard), "found": f"{size} is marked as dynamic", "change": ""}
        why = "torch refuses a guard that takes promised values from it"
        return Judged(Miss("dynamic_shape", "{kernel} demands {clause}, and {found}: " + why, data))
    return Judged(guard=guard, note=f"guarded: {guard}")


def _guard_of_failure(clause: Condition, called: Called) -> Guard | None:
    """What has to change before the clause is asked again. None where that may be no guard: the layer's own forward takes all sizes."""
    answer = check([clause], called.facts)
    if not isinstance(answer, Depends):
        return None
    condition = opposite(answer.residual)
    if Judge(Lookup(called.example)).verdict(condition) is not True:
        return None  # it has no value for these sizes, as a quotient by zero
    guard = Guard.of(condition, called)
    return guard if guard.parts and guard.fixes is None else None


def _refused(kernel: KernelLayer, conditions: Sequence[str | Condition], answer: Refuted, facts: Facts) -> Miss:
    change = smallest_change(conditions, facts, answer.clause)
    data = {"kernel": kernel.identity, "clause": str(answer.clause), "found": answer.values, "change": change}
    return Miss(answer.code, "{kernel} demands {clause}, and {found}" + ("; it would match {change}" if change else ""), data)


def _undecided(kernel: KernelLayer, answer: Depends, called: Called) -> Miss:
    known = all(symbol in called.sizes for read in answer.reads for symbol in answer.expression(read).free_symbols)
    when = "changes from call to call" if known else "is known only when it runs"
    reads = ", ".join(map(str, answer.reads))
    data = {"kernel": kernel.identity, "clause": str(answer.residual), "found": f"{reads} {when}", "change": ""}
    return Miss("dynamic_shape", "{kernel} demands {clause}, and {found}", data)
