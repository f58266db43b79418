"""A dry run: one call of a model, captured and decided on fake tensors by a temporary copy of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from .backend import HubKernels
from .capture import _torch
from .capture.clone import clone_module
from .options import Options
from .report.report import Report


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
    clone = clone_module(model).module
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
