"""Under which name a verdict is kept: everything on which it may depend, as one hash that is the same in every process."""

from __future__ import annotations

import functools
import importlib.metadata

import torch

from ..kernels.lowering.names import hash_of, state_of, text_of_graph, text_of_state, text_of_value
from .request import Request

FORMAT = 4
"""Raised when a probe shows something else than before, so that older verdicts are not taken for it."""


def parts_of(request: Request) -> dict[str, object]:
    """Return what a verdict depends on, by name; values are JSON."""
    kernel, reference = request.kernel, request.reference
    identity, source = kernel.identity, kernel.source
    return {
        "format": FORMAT,
        "repository": [identity.repository, state_of(kernel), identity.layer, identity.variant],
        "target": str(source[1]) if source is not None else _device(str(request.device)),
        "device": _device(str(request.device)),
        "torch": torch.__version__,
        "triton": _version("triton") or _version("pytorch-triton"),
        "region": text_of_graph(reference),
        "arguments": text_of_value((request.args, request.kwargs, request.tensors)),
        "layer": text_of_state(request.state),
        "inputs": [[f"{value!r}" for value in case] for case in request.cases],
        "passed": sorted(request.passed.items()),
        "training": request.training,
        "gradient": request.gradient,
        "autocast": str(request.autocast),
        "precision": torch.get_float32_matmul_precision(),
    }


def key_of(request: Request) -> str | None:
    """Return the key; None for a request that no other process could make again."""
    return hash_of(parts_of(request))


@functools.cache
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _device(name: str) -> str:
    device = torch.device(name)
    if device.type != "cuda" or not torch.cuda.is_available():
        return device.type
    major, minor = torch.cuda.get_device_capability(device)
    return f"{device.type} {major}.{minor}"
