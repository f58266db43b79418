"""The gate of constraints: does a layer call meet what a kernel demands of it, and is it of the sizes for which the kernel was probed?

Where the answer depends on dynamic sizes, it becomes a guard of the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import sympy
import torch

from ..capture import _torch
from ..kernels.binding import Binding
from ..kernels.layer import KernelLayer
from ..passes.gate import Gate
from ..passes.miss import Miss
from ..target import Target
from .call_facts import CallFacts, TensorFacts
from .evaluate import Evaluation
from .expression import Compare, Condition, Measure, Not, Reference, clauses
from .expression import Literal as Constant
from .grammar import parse
from .sizes import dynamic_reads, nearby, symbols_of
from .smallest_change import smallest_change
from .vocabulary import CALLABLE, TARGET_FACTS

_CODES = dict.fromkeys(word.code for word in (*CALLABLE.values(), *TARGET_FACTS.values()))

CONSTRAINTS = Gate("constraints", "candidate", (*_CODES, "dynamic_shape", "signature", "missing_attribute"))
"""Does the call meet what the kernel demands?"""

OnDepends = Literal["guard", "miss"]
"""What happens where a constraint depends on dynamic sizes: it is made a guard of the graph, or the kernel is not used."""


@dataclass(frozen=True, slots=True)
class ConstraintResult:
    """The gate's answer for one kernel and one call.

    Args:
        miss: Why the kernel is not for this call; None if it is.
        guard: What the answer, also a miss, depends on where sizes are dynamic. Once in force, other sizes are decided anew.
        note: What was found, for the report; empty if nothing was demanded.
    """

    miss: Miss | None = None
    guard: Guard | None = None
    note: str = ""


def check_constraints(
    kernel: KernelLayer,
    binding: Binding,
    inputs: Sequence[Any],
    target: Target,
    *,
    on_depends: OnDepends = "guard",
    triton: str | None = None,
) -> ConstraintResult:
    """Return whether the call meets the kernel's constraints. Nothing is guarded yet; `Guard.enforce` does that.

    Args:
        kernel: The kernel layer.
        binding: How it is called.
        inputs: Example values of the call's inputs.
        target: What the kernel was chosen for.
        on_depends: What happens where that depends on dynamic sizes.
        triton: Triton's version; None if it is not installed.
    """
    if not kernel.constraints:
        return ConstraintResult()
    return check_conditions(
        kernel, [parse(text) for text in kernel.constraints], CallFacts.of(kernel, binding, inputs, target, triton), on_depends
    )


def check_probed_sizes(
    kernel: KernelLayer,
    binding: Binding,
    inputs: Sequence[Any],
    ranges: Sequence[tuple[int, int]],
    *,
    on_depends: OnDepends = "guard",
) -> ConstraintResult:
    """Return whether the call's dynamic sizes are within the ranges that a probe has covered. Nothing is guarded yet.

    Args:
        kernel: The kernel layer.
        binding: How it is called.
        inputs: Example values of the call's inputs.
        ranges: Smallest and largest value of each symbol in the sizes of the inputs, in order of appearance (`Admitted.ranges`).
        on_depends: What happens where a size may leave its range.
    """
    if not ranges:
        return ConstraintResult()
    call = CallFacts.of(kernel, binding, inputs)
    conditions: list[Condition] = []
    symbols = _symbols(inputs)
    if len(symbols) != len(ranges):  # a guard has fixed one of them since
        data = {"kernel": kernel.identity, "found": f"{len(symbols)} of its sizes are dynamic, and {len(ranges)} were when it was probed"}
        return ConstraintResult(Miss("dynamic_shape", "{kernel} was not probed with such a call: {found}", data))
    for symbol, (low, high) in zip(symbols, ranges, strict=True):
        place = next(_places(symbol, call), None)
        if place is None:  # it occurs only together with others, as in the product of two
            size = call.environment.create_symintnode(symbol, hint=int(call.hints[symbol]))
            call = replace(call, arguments={**call.arguments, str(symbol): size})
            place = Reference((str(symbol),))
        conditions.append(Compare(Constant(low), (("<=", place), ("<=", Constant(high)))))
    result = check_conditions(kernel, conditions, call, on_depends)
    if result.miss is None:
        return replace(result, note=result.note.replace("guarded: ", "probed, and guarded: "))
    template = result.miss.template.replace("demands", "was probed with")
    return replace(result, miss=replace(result.miss, code="dynamic_shape", template=template))


def check_conditions(
    kernel: KernelLayer, conditions: Sequence[Condition], call: CallFacts, on_depends: OnDepends = "guard"
) -> ConstraintResult:
    """Return whether a call meets conditions; see `check_constraints`."""
    always = Evaluation(call)
    depends: list[Condition] = []
    for clause in [clause for condition in conditions for clause in clauses(condition)]:
        holds = always.holds(clause)
        if holds is False:
            return ConstraintResult(_refused(kernel, conditions, clause, call))
        if holds is None:
            depends.append(clause)
    if not depends:
        return ConstraintResult(note=", ".join(map(str, conditions)))
    if on_depends == "miss":
        return ConstraintResult(_undecided(kernel, depends, call))
    present = Evaluation(call.present)
    answers = [present.holds(clause) for clause in depends]
    if False in answers:
        failed = depends[answers.index(False)]
        return ConstraintResult(_refused(kernel, conditions, failed, call.present), _guard_of_failure(failed, call))
    if None in answers:
        return ConstraintResult(_undecided(kernel, depends, call))
    guard = Guard.of(depends, call)
    size = guard.fixes
    if size is not None:
        data = {"kernel": kernel.identity, "clause": str(guard), "found": f"{size} is marked as dynamic", "change": ""}
        why = "torch refuses a guard that takes promised values from it"
        return ConstraintResult(Miss("dynamic_shape", "{kernel} demands {clause}, and {found}: " + why, data))
    return ConstraintResult(guard=guard, note=f"guarded: {guard}")


def _guard_of_failure(clause: Condition, call: CallFacts) -> Guard | None:
    """What has to change before the clause is evaluated again. None where no guard is allowed: the layer's own forward takes all sizes."""
    opposite = clause.part if isinstance(clause, Not) else Not(clause)
    if Evaluation(call.present).holds(opposite) is not True:
        return None  # it has no value for these sizes, as a quotient by zero
    guard = Guard.of([opposite], call)
    return guard if guard.parts and guard.fixes is None else None


def _refused(kernel: KernelLayer, conditions: Sequence[Condition], clause: Condition, call: CallFacts) -> Miss:
    evaluation = Evaluation(call)
    change = smallest_change(conditions, call, clause)
    data = {"kernel": kernel.identity, "clause": str(clause), "found": evaluation.found(clause), "change": change}
    template = "{kernel} demands {clause}, and {found}" + ("; it would match {change}" if change else "")
    return Miss(evaluation.code(clause), template, data)


def _undecided(kernel: KernelLayer, depends: Sequence[Condition], call: CallFacts) -> Miss:
    reads = {read: size for clause in depends for read, size in dynamic_reads(clause, call).items()}
    known = all(symbol in call.hints for size in reads.values() for symbol in symbols_of(size))
    when = "changes from call to call" if known else "is known only when it runs"
    found = f"{', '.join(map(str, reads))} {when}"
    data = {"kernel": kernel.identity, "clause": " and ".join(map(str, depends)), "found": found, "change": ""}
    return Miss("dynamic_shape", "{kernel} demands {clause}, and {found}", data)


def _symbols(inputs: Sequence[Any]) -> tuple[sympy.Symbol, ...]:
    """The symbols in sizes, strides and numbers, in order of appearance."""
    found: dict[sympy.Symbol, None] = {}
    for value in inputs:
        for size in (*value.shape, *value.stride(), value.storage_offset()) if isinstance(value, torch.Tensor) else (value,):
            if isinstance(size, torch.SymInt | torch.SymBool):
                found |= dict.fromkeys(size.node.expr.free_symbols)
    return tuple(found)


def _places(symbol: sympy.Symbol, call: CallFacts) -> Iterator[Measure | Reference]:
    """Where the symbol can be read: dimensions of the kernel's arguments and of the layer's tensors, and numbers."""
    for name in call.arguments:
        yield from _within(Reference((name,)), call, symbol)
    for name in call.attributes:
        yield from _within(Reference(("self", *name.split("."))), call, symbol)


def _within(reference: Reference, call: CallFacts, symbol: sympy.Symbol) -> Iterator[Measure | Reference]:
    value = call.value(reference)
    if isinstance(value, TensorFacts):
        yield from (Measure("dim", reference, index) for index, size in enumerate(value.shape) if _is(size, symbol))
    elif isinstance(value, tuple | list):
        for index in range(len(value)):
            yield from _within(Reference((*reference.path, index)), call, symbol)
    elif _is(value, symbol):
        yield reference


def _is(size: Any, symbol: sympy.Symbol) -> bool:
    return isinstance(size, torch.SymInt | torch.SymFloat) and bool(size.node.expr == symbol)


@dataclass(frozen=True, eq=False)
class Guard:
    """Conditions on dynamic sizes, all of which hold for the sizes that a graph is captured with.

    It refers to the capture, so it is put in force or dropped before the graph goes to the inner compiler.

    Args:
        parts: The conditions.
        call: The call whose sizes they speak of.
    """

    parts: tuple[Condition, ...]
    call: CallFacts

    @staticmethod
    def of(conditions: Iterable[Condition], call: CallFacts) -> Guard:
        """Return what makes conditions hold for the call's present sizes, as little as suffices.

        Args:
            conditions: Conditions that hold by `call.present`.
            call: The call.
        """
        present, always = Evaluation(call.present), Evaluation(call)
        atoms = dict.fromkeys(atom for condition in conditions for atom in present.support(condition))
        return Guard(tuple([atom for atom in atoms if always.holds(atom) is not True]), call)

    def enforce(self) -> None:
        """Make it a guard of the graph that is being captured: called with other sizes, the graph is captured and decided anew."""
        for part in self.parts:
            if Evaluation(self.call, guarding=True).holds(part) is not True:
                raise AssertionError(f"{part} holds for the sizes of the capture, and then it does not")

    @property
    def fixes(self) -> str | None:
        """A size that the user has marked as dynamic and that this would fix or restrict more than was promised; None if there is none."""
        reads = {read: symbols_of(size) for part in self.parts for read, size in dynamic_reads(part, self.call).items()}
        symbols = set().union(*reads.values())
        promised = _torch.sizes_marked_dynamic(self.call.environment) if symbols else {}
        for symbol, is_strict in promised.items():
            if symbol in symbols and (is_strict or not self._leaves_a_choice(symbol, symbols)):
                return next(str(read) for read, own in reads.items() if symbol in own)
        return None

    def _leaves_a_choice(self, symbol: Any, symbols: set[Any]) -> bool:
        """Whether it holds for a second value of the symbol, the others staying as they are or going along with it."""
        sizes = {each: int(self.call.hints[each]) for each in symbols}
        others = (Evaluation(self.call.at(other)) for other in nearby(sizes) if other[symbol] != sizes[symbol])
        return any(all(other.holds(part) for part in self.parts) for other in others)

    def __str__(self) -> str:
        return " and ".join(map(str, self.parts))
