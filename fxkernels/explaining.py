"""explain(): what kernels would do to a model, on this machine or another, without running anything.

A dry run is one call of a model, captured and decided on fake tensors by a temporary copy of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, overload

from torch import nn

from .backend import HubKernels
from .capture import _torch
from .capture.clone import clone_module
from .errors import KernelizeFallback
from .mapping import current_mapping
from .mode import Mode
from .options import Options
from .report.matrix import Matrix
from .report.report import Report
from .target import Target


def dry_run(model: nn.Module, options: Sequence[Options], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Report, ...]:
    """Return the reports of one call of a model, one for each of `options`. It is captured once, with the first of them.

    Args:
        model: The model. Its weights are neither read nor copied.
        options: The options of each report; all with the same mapping.
        args: Positional arguments of the call.
        kwargs: Its keyword arguments.

    Raises:
        Exception: The errors of the model, and those of a backend (see `HubKernels`).
    """
    clone = clone_module(model)
    first, *others = [HubKernels(each) for each in options]
    first.session.also = tuple(others)
    for path, module in clone.named_modules():
        for backend in (first, *others):
            backend.paths.put(module, path)
    try:
        _torch.call_on_fakes(clone, first, args, kwargs)
    except Exception as error:
        cause = _torch.cause_of(error)
        if cause is error:
            raise
        raise cause from cause.__cause__
    return tuple(backend.report for backend in (first, *others))


@overload
def explain(model: nn.Module, *args: Any, target: str | Target | None = None, mode: Mode | None = None, **kwargs: Any) -> Report: ...


@overload
def explain(model: nn.Module, *args: Any, target: Sequence[str | Target], mode: Mode | None = None, **kwargs: Any) -> Matrix: ...


def explain(
    model: nn.Module,
    *args: Any,
    target: str | Target | Sequence[str | Target] | None = None,
    mode: Mode | None = None,
    **kwargs: Any,
) -> Report | Matrix:
    """Return the report of what kernels would do to a call of the model, without running or changing it.

    The model is captured on fake tensors, with the mapping in force; nothing is rewritten, nothing is fetched and no kernel is run. What
    only that could tell is ``unknown`` in the report: a kernel that is not in the cache, one of which there is no record of a probe.

    Args:
        model: Any module. Its weights are not read; they may be on the meta device.
        args: Positional arguments of the call.
        target: What kernels are chosen for, as `Target.parse` reads it, e.g. ``"cuda:sm90 torch2.11"``; by default this machine. It need
            not have that device. For a list of targets the model is captured once, and a matrix of layer names by targets returned.
        mode: Consult the mapping for this mode instead of each layer's training flag. With ``Mode.TORCH_COMPILE`` in it, the answer is
            that of ``torch.compile(backend="hubkernels")``.
        kwargs: Keyword arguments of the call. Arguments named `target` and `mode` can be given to the model by position only.

    Raises:
        TypeError: If the model is no module.
        ValueError: For a target or mode that makes no sense.

    Example:
        >>> print(explain(model, input_ids))
        >>> print(explain(model, input_ids, target=["cuda:sm90", "cuda:sm80", "cpu"]))
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"a model is a torch.nn.Module, not {type(model).__name__}")
    options = _options(mode)
    if target is None or isinstance(target, str | Target):
        return dry_run(model, [replace(options, target=_elsewhere(target))], args, kwargs)[0]
    targets = [each if isinstance(each, Target) else Target.parse(each) for each in target]
    if not targets:
        raise ValueError("target=[] names no target; leave it out for this machine")
    reports = dry_run(model, [replace(options, target=_elsewhere(each)) for each in targets], args, kwargs)
    return Matrix.of(dict(zip(targets, reports, strict=True)))


def _options(mode: Mode | None) -> Options:
    compiled = mode is not None and Mode.TORCH_COMPILE in mode
    return Options.of(
        inner="inductor" if compiled else "eager",
        opaque=compiled,
        mapping=current_mapping(),
        kernel_mode=mode & ~Mode.TORCH_COMPILE if mode is not None else None,
        use_fallback=KernelizeFallback.ALL,
        edit=False,
    )


def _elsewhere(target: str | Target | None) -> Target | None:
    """The target, unless it is this machine: then each call's own device counts, and kernels can be imported."""
    if target is None:
        return None
    wanted = target if isinstance(target, Target) else Target.parse(target)
    return wanted if wanted != Target.of_machine(wanted.device) else None
