"""numerics(): how far each kernel is from its layer. In one run of a model each call is computed by both, on the layer's inputs."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..admission.oracle import NotWidened, run_wide, widened
from ..kernels.call import KernelCall
from ..kernels.lowering.memory import clone
from ..kernels.samples import random_like
from ..report.model import ReportData
from .deviations import CallNumerics, Deviation, Numerics
from .hooked import ModelWithOptions, hooked, run_layer
from .preserve import PreservedModel


def numerics(model: nn.Module, /, *args: Any, report: ReportData | None = None, **kwargs: Any) -> Numerics:
    """Return how far each kernel is from the layer that it replaces, on the inputs of one call of the model.

    Every kernel gets what the model without kernels has there, so errors do not add up. Neither the model nor the random numbers of the
    process are changed.

    Args:
        model: What `kernelize` returned, or `torch.compile` with our backend; any other module gets the kernels of the mapping in force.
        args: Positional arguments of the call.
        report: The report that says which calls have a kernel; those that this run does not call are in `Numerics.missing`. By default the
            report of a kernelized model, and of any other that of this run.
        kwargs: Keyword arguments of the call. An argument named `report` can be given to the model by position only.

    Raises:
        ValueError: If no call has a kernel.

    Example:
        >>> print(fxkernels.numerics(model, input_ids))
    """
    subject = ModelWithOptions.of(model, {})
    subject = replace(subject, options=replace(subject.options, fuel=None))
    rows = _Rows()
    run, backend = hooked(subject, rows.measured)
    rows.names = lambda key: _input_names(backend.report, key)
    with PreservedModel(subject.model, args, kwargs, weights=False).run() as (own_args, own_kwargs):
        run(*own_args, **own_kwargs)
    if not rows.calls:
        raise ValueError(
            f"no call of this run has a kernel, so there is nothing to compare: {backend.report.summary}\n"
            "  Give the kernelized model; or the model itself, within use_kernel_mapping(...) where its mapping is not the registered one."
        )
    expected = report if report is not None else _own_report(model) or backend.report
    return Numerics.ranked(rows.calls.values(), [call.key for call in expected.rewritten if call.key not in rows.calls])


def _own_report(model: nn.Module) -> ReportData | None:
    """The report that `kernelize` put among the model's attributes; a model may have another attribute of that name."""
    found = vars(model).get("report")
    return found if isinstance(found, ReportData) else None


class _Rows:
    """What was measured so far. Holds numbers only: each call's tensors are gone when the next one begins."""

    def __init__(self) -> None:
        self.calls: dict[str, CallNumerics] = {}
        self.names: Callable[[str], tuple[str, ...]] = lambda key: ()
        self._lock = threading.Lock()

    def measured(self, call: KernelCall, inputs: tuple[Any, ...]) -> Any:
        """Return what the layer returns, having compared the kernel with it."""
        outputs = run_layer(call, inputs)
        # Hooks around the model's call, such as a checkpoint's, must not take what is computed for the comparison only.
        with torch.autograd.graph.saved_tensors_hooks(_unchanged, _unchanged):
            row = _compared(call, inputs, _flat(outputs), self.names)
        with self._lock:
            before = self.calls.get(row.key)
            worst = row if before is None or row.rank > before.rank else before
            self.calls[row.key] = replace(worst, runs=1 if before is None else before.runs + 1)
        return outputs


def _compared(call: KernelCall, inputs: tuple[Any, ...], wanted: Sequence[Any], names: Callable[[str], tuple[str, ...]]) -> CallNumerics:
    dtype = str(next(value.dtype for value in wanted if isinstance(value, torch.Tensor))).removeprefix("torch.")
    row = CallNumerics(call.path, str(call.kernel.identity), dtype)
    copies = _copies(inputs)
    try:
        with torch.no_grad():
            found = _flat(call(*copies))
    except Exception as error:  # whatever a kernel raises
        return replace(row, problem=f"the kernel raises {_said(error)}")
    for found_, wanted_ in zip(found, wanted, strict=True):
        if found_.shape != wanted_.shape or found_.dtype is not wanted_.dtype:
            return replace(row, problem=f"the kernel returns {_kind(found_)} where the layer returns {_kind(wanted_)}")
    kernel_error, layer_error = _errors(call, inputs, found, wanted)
    row = replace(row, value=_worst(found, wanted), kernel_error=kernel_error, layer_error=layer_error)
    overwritten = [n for n, (value, copy) in enumerate(zip(inputs, copies, strict=True)) if not _is_equal(value, copy)]
    if overwritten:
        return replace(row, problem=f"the kernel overwrites {_listed(overwritten, names(call.path))}")
    return _with_gradients(row, call, inputs, wanted, names)


def _errors(call: KernelCall, inputs: tuple[Any, ...], found: Sequence[Any], wanted: Sequence[Any]) -> tuple[float | None, float | None]:
    """How far kernel and layer are from the layer in float64."""
    reference = call.reference
    if not isinstance(reference, torch.fx.GraphModule):
        return None, None
    try:
        with torch.no_grad():
            exact = run_wide(reference, [widened(value) for value in inputs])
    except NotWidened:
        return None, None
    return _error(_worst(found, exact)), _error(_worst(wanted, exact))


def _error(difference: Deviation) -> float:
    return math.inf if difference.unlike else difference.relative


def _with_gradients(
    row: CallNumerics, call: KernelCall, inputs: tuple[Any, ...], wanted: Sequence[Any], names: Callable[[str], tuple[str, ...]]
) -> CallNumerics:
    """Compare the gradients of the inputs, for random gradients that come in."""
    needed = [n for n, value in enumerate(inputs) if isinstance(value, torch.Tensor) and value.requires_grad]
    differentiable = [n for n, value in enumerate(wanted) if isinstance(value, torch.Tensor) and value.requires_grad]
    if not torch.is_grad_enabled() or not needed or not differentiable:
        return row
    incoming = [random_like(wanted[n], seed=n) for n in differentiable]

    def gradients(function: Callable[..., Any]) -> list[torch.Tensor | None]:
        leaves = _copies(inputs)
        for n in needed:
            leaves[n].requires_grad_()
        # A layer may write to a copy of its input, so what it gets is no leaf.
        outputs = _flat(function(*[value.view_as(value) if n in needed else value for n, value in enumerate(leaves)]))
        pairs = [(outputs[n], gradient.clone()) for n, gradient in zip(differentiable, incoming, strict=True) if outputs[n].requires_grad]
        if not pairs:
            return [None] * len(needed)
        of, given = zip(*pairs, strict=True)
        return list(torch.autograd.grad(of, [leaves[n] for n in needed], given, allow_unused=True))

    try:
        found = gradients(call)
    except Exception as error:  # whatever a kernel raises
        return replace(row, problem=f"the kernel's backward raises {_said(error)}")
    expected = gradients(call.reference)
    missing = [n for n, a, b in zip(needed, found, expected, strict=True) if a is None and b is not None and bool(b.any())]
    if missing:
        return replace(row, problem=f"the kernel gives no gradient to {_listed(missing, names(call.path))}")
    pairs = [(a, b) for a, b in zip(found, expected, strict=True) if a is not None and b is not None]
    return replace(row, gradient=_worst(*zip(*pairs, strict=True)) if pairs else None)


def _worst(found: Sequence[Any], wanted: Sequence[Any]) -> Deviation:
    differences = [Deviation.between(a, b) for a, b in zip(found, wanted, strict=True) if isinstance(b, torch.Tensor)]
    return max(differences, key=lambda difference: difference.rank)


def _flat(outputs: Any) -> tuple[Any, ...]:
    return (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)


def _copies(inputs: tuple[Any, ...]) -> list[Any]:
    """The inputs with memory of their own, the same tensor once."""
    copies: dict[int, Any] = {}
    for value in inputs:
        if id(value) not in copies:
            copies[id(value)] = _copy(value) if isinstance(value, torch.Tensor) else value
    return [copies[id(value)] for value in inputs]


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    try:
        return clone(tensor)
    except RuntimeError:  # its elements share memory, so a copy with its strides cannot be filled
        return tensor.detach().clone()


def _is_equal(value: Any, copy: Any) -> bool:
    if not isinstance(value, torch.Tensor):
        return True
    return bool(torch.equal(value, copy)) or bool(((value == copy) | ((value != value) & (copy != copy))).all())


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}[{', '.join(map(str, tensor.shape))}]"


def _listed(numbers: Sequence[int], names: Sequence[str]) -> str:
    return ", ".join(names[number] if number < len(names) else f"input {number}" for number in numbers)


def _input_names(report: ReportData, key: str) -> tuple[str, ...]:
    """What the layer calls its inputs."""
    found = next((call for call in report.calls if call.key == key), None)
    return tuple(text.partition(":")[0] for text in found.decisions[-1].inputs) if found is not None else ()


def _said(error: Exception) -> str:
    """A kernel's own error, in one line."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {next(iter(str(cause).strip().splitlines()), '')}"


def _unchanged(tensor: torch.Tensor) -> torch.Tensor:
    return tensor
