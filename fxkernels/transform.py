"""kernelize(): a copy of a model whose annotated layers run kernels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from torch import nn

from .admission import Verify
from .annotate import layer_name_of
from .backend import HubKernels
from .capture.clone import clone_module
from .capture.dynamo import KERNELIZED
from .capture.symbolic import trace_exactly
from .constraints.gate import OnDepends
from .errors import CaptureError, KernelizeFallback
from .explaining import dry_run
from .fusions import current_fusions
from .kernelized import Kernelized
from .kernels.lowering.lowering import Backward
from .mapping import KernelMapping, MappingLike, current_mapping
from .mode import Mode
from .options import Options

Capture = Literal["auto", "dynamo", "symbolic"]


def kernelize(
    model: nn.Module,
    *,
    device: str | None = None,
    mode: Mode | None = None,
    needs_torch_compile: bool = False,
    use_fallback: bool | KernelizeFallback = True,
    mapping: MappingLike | KernelMapping | None = None,
    capture: Capture = "auto",
    opaque: bool = False,
    backward: Backward = "fallback",
    verify: Verify | None = None,
    on_depends: OnDepends = "guard",
    example_args: Sequence[Any] | None = None,
    example_kwargs: Mapping[str, Any] | None = None,
    lockfile: str | Path | None = None,
    counters: bool = False,
    drop_outputs: str | Iterable[str] = (),
) -> nn.Module:
    """Return a copy of `model` whose annotated layers run Hub kernels; `model` itself is untouched.

    The copy shares the model's parameters and buffers. Which kernel a layer gets is decided per call, and follows the layer's training
    flag whenever it changes: a kernel without a backward gives way to the original in training mode. A model that `torch.fx` traces exactly
    becomes a graph module that shows its layers; any other keeps its class and methods. Dynamo captures either when it is called, and
    `.report` of the result says what was rewritten and why not.

    Args:
        model: Any module.
        device: Device type whose kernels are considered, e.g. ``"cuda"``. By default that of each call's tensors.
        mode: Consult the mapping for this mode instead of each layer's training flag. ``Mode.TORCH_COMPILE`` in it is the same as
            `needs_torch_compile`.
        needs_torch_compile: Take only kernels that say that torch.compile can trace them, for ``torch.compile(kernelize(model, ...))``.
        use_fallback: In which cases a call may keep its original layer: True for `KernelizeFallback.DEFAULT`, False for none.
        mapping: The mapping to use instead of the one in force.
        capture: ``"symbolic"`` demands a graph module, ``"dynamo"`` the model's own class, ``"auto"`` chooses; the report names the
            reason.
        opaque: With `needs_torch_compile`, whether a kernel that does not say so may be used all the same, as an operator of its own where
            it cannot be traced.
        backward: What a kernel without a backward means for a layer in training mode: ``"fallback"`` keeps the original layer,
            ``"recompute"`` runs the kernel, and the original layer once more in the backward, for its gradient.
        verify: Whether a kernel is probed before it is used: ``"probe"``, ``"strict"`` or ``"off"``, see `hubkernels`.
        on_depends: What happens where a kernel's constraints depend on dynamic sizes, see `hubkernels`.
        example_args: Positional arguments of a call. With them (or `example_kwargs`) the model is captured at once, on fake tensors, and
            the report is complete; without them it is pending until the first call, and warnings and errors come from that call.
        example_kwargs: Keyword arguments of that call.
        lockfile: An ``fxkernels.lock``, which is read now. Every repository of the mapping is loaded as it says, at the locked commit and
            with the locked files; one that it does not have is refused. What ships with this library need not be in it.
        counters: Whether to count how often each call runs its kernel or the original layer, in ``.report.ran``.
        drop_outputs: Layer names of fusions whose inner values the model returns and nothing reads, see `hubkernels`.

    Raises:
        ValueError: If no device is given and the model has no parameters that tell it, or for an unknown device, mode or capture.
        TypeError: If the model is no module, or an argument has the wrong type.
        CaptureError: With ``capture="symbolic"``, if the model cannot be traced exactly; the message says where and why.
        NoKernelError: If a call has no kernel and `use_fallback` does not permit that, naming every such call and its first miss.
        RepositoryError: If a repository cannot be loaded and `use_fallback` does not permit that, or the lock file cannot be read.

    Example:
        >>> model = kernelize(model.eval())
        >>> print(model.report)
    """
    _check_model(model)
    if capture not in ("auto", "dynamo", "symbolic"):
        raise ValueError(f"capture is 'auto', 'dynamo' or 'symbolic', not {capture!r}")
    options = Options.of(
        inner="eager",
        mapping=current_mapping() if mapping is None else mapping,
        fusions=current_fusions(),
        kernel_mode=mode & ~Mode.TORCH_COMPILE if mode is not None else None,
        declared=needs_torch_compile or (mode is not None and Mode.TORCH_COMPILE in mode),
        use_fallback=use_fallback,
        device=device,
        lockfile=lockfile,
        opaque=opaque,
        backward=backward,
        verify=verify,
        on_depends=on_depends,
        counters=counters,
        drop_outputs=drop_outputs,
    )
    if options.device is None:
        _check_device(model)
    graph, reason = _graph_of(model, capture)
    options = replace(options, capture="dynamo" if graph is None else "symbolic")
    result = graph if graph is not None else clone_module(model)
    backend = HubKernels(options)
    _install(backend, result, model)
    if reason is not None:
        backend.session.recorder.note(f"captured by Dynamo, because symbolic tracing is not exact: {reason}")
    if example_args is not None or example_kwargs is not None:
        (report,) = dry_run(model, [options], tuple(example_args or ()), dict(example_kwargs or {}))
        backend.session.recorder.adopt(report)
    return result


def original(model: nn.Module) -> nn.Module:
    """Return the model that a kernelized model came from. For a copy or an unpickled one, that is a module without kernels over the
    copy's own weights.

    Raises:
        ValueError: If the model is not what `kernelize` returned.
    """
    kernelized: Kernelized | None = vars(model).get(KERNELIZED)
    if kernelized is None:
        raise ValueError(f"this {type(model).__name__} is not the result of kernelize()")
    return kernelized.original if kernelized.original is not None else _without_kernels(model)


def _graph_of(model: nn.Module, capture: Capture) -> tuple[nn.Module | None, str | None]:
    """The model as a graph module, or why it is none."""
    if capture == "dynamo":
        return None, None
    try:
        return trace_exactly(model), None
    except CaptureError as error:
        if capture == "auto":
            return None, str(error)
        raise CaptureError(
            f"{type(model).__name__} cannot be captured symbolically: {error}\n  capture='auto' takes the Dynamo way instead"
        ) from error


def _install(backend: HubKernels, root: nn.Module, model: nn.Module) -> None:
    """Have a clone of the model compile itself in place, and so its children when they are called on their own."""
    for path, module in root.named_modules():
        # torch's own layers have nothing to rewrite
        if module is root or layer_name_of(module) is not None or not type(module).__module__.startswith("torch."):
            Kernelized(module, backend, path, model if module is root else None)
        # The `kernels` package keeps decorated functions here, for its own kernelize; they are local classes, which nobody can pickle.
        vars(module).pop("_kernel_funcs", None)


def _without_kernels(model: nn.Module) -> nn.Module:
    plain = clone_module(model)
    for module in plain.modules():
        vars(module).pop(KERNELIZED, None)
    vars(plain).pop("report", None)
    return plain


def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"a model is a torch.nn.Module, not {type(model).__name__}")


def _check_device(model: nn.Module) -> None:
    if next(chain(model.parameters(), model.buffers()), None) is None:
        raise ValueError(
            f"{type(model).__name__} has no parameters that tell its device; give device=, e.g. kernelize(model, device='cpu')"
        )
