"""What a kernel has to show, as a value: the kernel, how it is called, the reference, and what the call's inputs are (not their values)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ..constraints.sizes import fitting_sizes
from ..kernels.layer import KernelLayer
from ..kernels.lowering.case import Case
from ..kernels.stand_in import LayerState

_ODD, _LARGE = 13, 512
"""Dynamic sizes that every kernel has to show: one that is no multiple of 8, and a large one."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor without its values.

    Args:
        dtype: Its dtype.
        sizes: Its sizes.
        strides: Its strides.
        offset: Where it begins in its storage, in elements.
        device: Where it is, e.g. ``"cuda:0"``.
        requires_grad: Whether a gradient is wanted for it.
        storage: A number that views of one storage have in common.
        of_layer: Whether it is one of the layer's own tensors.
    """

    dtype: torch.dtype
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    device: str = "cpu"
    requires_grad: bool = False
    storage: int = -1
    of_layer: bool = False

    @property
    def span(self) -> int:
        """How many elements lie between the first and the last, both included."""
        if 0 in self.sizes:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.sizes, self.strides, strict=True))

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        return f"{name}{list(self.sizes)} strides {list(self.strides)} on {self.device}{' with gradient' if self.requires_grad else ''}"


Inputs = tuple[Any, ...]
"""For each input of a call a `TensorSpec`, or a number."""


@dataclass(frozen=True, eq=False)
class Request:
    """One kernel in the place of one form of call.

    Args:
        kernel: The kernel layer.
        args: Its positional arguments; a `Slot` where an input goes.
        kwargs: The same by keyword.
        tensors: What stands for the layer's tensors, by their dotted names.
        state: What else the kernel may know of the layer.
        training: The layer's training flag.
        reference: From the inputs to a tuple of the outputs, as the original layer computes them.
        cases: The inputs of the call; where it has dynamic sizes, for several values of these. The first is the call's own.
        ranges: For each dynamic size the smallest and the largest value that the cases have.
        passed: Outputs that are inputs, handed through: position of the output -> position of the input.
        gradient: Whether a gradient will flow through the call, and be the kernel's own.
        autocast: The dtype to which autocast is set where the call stands; None if it is off.
        names: What the kernel calls its inputs.
    """

    kernel: KernelLayer
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    tensors: dict[str, Any]
    state: LayerState
    training: bool
    reference: fx.GraphModule
    cases: tuple[Inputs, ...]
    passed: Mapping[int, int]
    gradient: bool
    names: tuple[str, ...]
    ranges: tuple[tuple[int, int], ...] = ()
    autocast: torch.dtype | None = None

    @staticmethod
    def of(case: Case, *, gradient: bool) -> Request | str:
        """Return what is asked of a kernel for a call; a phrase that says why it cannot be asked, if a size is known only at run time.

        Args:
            case: The kernel and the form of call, with fake tensors as example values.
            gradient: Whether grad mode is on where the call runs.
        """
        # A kernel is not to be judged by sizes of which it says that it is not for them.
        found = _choices(case.inputs, fitting_sizes(case.kernel, case.bound, case.inputs))
        if isinstance(found, str):
            return found
        choices, ranges = found
        bound = case.bound
        own = frozenset(slot.position for slot in bound.tensors.values() if hasattr(slot, "position"))
        wanted = gradient and bool(case.differentiable) and bool(case.wanted)
        specs = tuple(specs_of(case.inputs, choice, own, wanted) for choice in choices)
        return Request(
            kernel=case.kernel,
            args=bound.args,
            kwargs=bound.kwargs,
            tensors=dict(bound.tensors),
            state=bound.state,
            training=bound.training,
            reference=case.reference,
            cases=specs,
            ranges=ranges,
            passed=dict(case.passed),
            gradient=wanted and case.kernel.has_backward,
            autocast=case.autocast,
            names=case.names,
        )

    @property
    def device(self) -> torch.device:
        """The device of the call."""
        return next((torch.device(value.device) for value in self.cases[0] if isinstance(value, TensorSpec)), torch.device("cpu"))


def specs_of(inputs: Sequence[Any], choice: Mapping[Any, int], of_layer: frozenset[int] = frozenset(), gradient: bool = True) -> Inputs:
    """Return what example values are, without their values.

    Args:
        inputs: Tensors (fake ones will do) and numbers.
        choice: Values of the symbols in their sizes.
        of_layer: Positions of the layer's own tensors.
        gradient: Whether grad mode is on.
    """
    storages: dict[int, int] = {}
    specs: list[Any] = []
    for position, value in enumerate(inputs):
        if not isinstance(value, torch.Tensor):
            specs.append(_number(value, choice))
            continue
        storage = storages.setdefault(int(value.untyped_storage()._cdata), len(storages))
        sizes, strides = (tuple(int(_number(n, choice)) for n in numbers) for numbers in (value.shape, value.stride()))
        offset = int(_number(value.storage_offset(), choice))
        wanted = gradient and value.requires_grad
        specs.append(TensorSpec(value.dtype, sizes, strides, offset, str(value.device), wanted, storage, position in of_layer))
    return tuple(specs)


def _choices(
    inputs: Sequence[Any], fitting: Callable[[Mapping[Any, Any]], Mapping[Any, Any] | None]
) -> tuple[list[Mapping[Any, Any]], tuple[tuple[int, int], ...]] | str:
    """Values for the symbols in the inputs: those of the call, the smallest, one that is no multiple of 8, and each of them large."""
    sizes: dict[Any, tuple[int, int, int]] = {}
    numbers: dict[Any, float] = {}
    present = sizes_now(inputs)
    if present is None:
        return "a size of its inputs is known only when it runs"
    for found in _sizes(inputs):
        for symbol in found.node.expr.free_symbols:
            value = present[symbol]
            allowed = found.node.shape_env.var_to_range.get(symbol)
            if isinstance(found, torch.SymFloat):
                numbers[symbol] = float(value)
            else:
                low, high = (_bound(allowed.lower, 0), _bound(allowed.upper, 1 << 40)) if allowed is not None else (2, 1 << 40)
                sizes[symbol] = (int(value), max(low, 1), high)
    own = {**{symbol: value for symbol, (value, _, _) in sizes.items()}, **numbers}
    smallest = {**{symbol: low for symbol, (_, low, _) in sizes.items()}, **numbers}
    others = {symbol: 3 * value for symbol, value in numbers.items()}
    odd = {**{symbol: min(max(_ODD + 2 * n, low), high) for n, (symbol, (_, low, high)) in enumerate(sizes.items())}, **others}
    # One large size at a time: all together would be more than anybody wants to probe.
    large = [{**own, symbol: min(max(_LARGE, 2 * value), high)} for symbol, (value, _, high) in sizes.items()]
    choices: list[Mapping[Any, Any]] = []
    for choice in map(fitting, (own, smallest, odd, *large)):
        if choice is not None and choice not in choices and _is_possible(inputs, choice):
            choices.append(choice)
    ranges = [[choice[symbol] for choice in choices if choice[symbol]] for symbol in sizes]
    return choices, tuple((min(values), max(values)) for values in ranges)


def sizes_now(inputs: Sequence[Any]) -> dict[Any, Any] | None:
    """Return what the symbols in the sizes of example values stand for in this capture; None if one is known only when the graph runs."""
    values: dict[Any, Any] = {}
    for found in _sizes(inputs):
        for symbol in found.node.expr.free_symbols:
            value = found.node.shape_env.backed_var_to_val.get(symbol)
            if value is None or found.node.hint is None:
                return None
            values[symbol] = float(value) if isinstance(found, torch.SymFloat) else int(value)
    return values


def _is_possible(inputs: Sequence[Any], choice: Mapping[Any, Any]) -> bool:
    """Whether sizes that are computed from these symbols exist: a size that was divided may have become a divisor of zero."""
    try:
        return all(_number(size, choice) >= 0 for size in _sizes(inputs) if isinstance(size, torch.SymInt))
    except ZeroDivisionError:
        return False


def _sizes(inputs: Sequence[Any]) -> Iterator[Any]:
    for value in inputs:
        for size in (*value.shape, *value.stride(), value.storage_offset()) if isinstance(value, torch.Tensor) else (value,):
            if isinstance(size, torch.SymInt | torch.SymFloat | torch.SymBool):
                yield size


def _bound(value: Any, otherwise: int) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return otherwise  # infinity


def _number(value: Any, choice: Mapping[Any, int]) -> Any:
    if isinstance(value, torch.SymInt):
        return int(value.node.expr.xreplace(dict(choice)))
    if isinstance(value, torch.SymFloat):
        return float(value.node.expr.xreplace(dict(choice)))
    return bool(value.node.expr.xreplace(dict(choice))) if isinstance(value, torch.SymBool) else value
