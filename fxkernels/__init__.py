"""Compute kernels from the Hugging Face Hub for PyTorch models, put in by rewriting their graph.

Importing this package imports torch and nothing heavier: no network, no device, no registration. What needs Dynamo is loaded at its first
use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .annotate import replace_kernel_forward_from_hub, use_kernel_forward_from_hub, use_kernelized_func
from .errors import (
    CaptureError,
    ContractError,
    DroppedOutputError,
    FxKernelsError,
    KernelizeFallback,
    KernelRuntimeError,
    NoKernelError,
    RepositoryError,
)
from .hub import LayerRepository, LocalLayerRepository, LockedLayerRepository, get_kernel_dep
from .mapping import register_kernel_mapping, use_kernel_mapping
from .mode import Mode
from .target import CUDAProperties, Device, ROCMProperties, Target

if TYPE_CHECKING:
    from .backend import hubkernels
    from .builtin import builtin_mapping
    from .debug.bisection import bisect
    from .debug.numerics import numerics
    from .explaining import explain
    from .fusion import ANY, Fusion, Layer, alternative, one_of, register_fusion, use_fusions
    from .report.publish import last_report
    from .report.report import Report
    from .transform import kernelize, original

__version__ = "0.1.0"

_LAZY = {
    "ANY": "fusion",
    "Fusion": "fusion",
    "Layer": "fusion",
    "Report": "report.report",
    "alternative": "fusion",
    "bisect": "debug.bisection",
    "builtin_mapping": "builtin",
    "explain": "explaining",
    "hubkernels": "backend",
    "kernelize": "transform",
    "last_report": "report.publish",
    "numerics": "debug.numerics",
    "one_of": "fusion",
    "original": "transform",
    "register_fusion": "fusion",
    "use_fusions": "fusion",
}

__all__ = [
    "ANY",
    "CUDAProperties",
    "CaptureError",
    "ContractError",
    "Device",
    "DroppedOutputError",
    "Fusion",
    "FxKernelsError",
    "KernelRuntimeError",
    "KernelizeFallback",
    "Layer",
    "LayerRepository",
    "LocalLayerRepository",
    "LockedLayerRepository",
    "Mode",
    "NoKernelError",
    "ROCMProperties",
    "Report",
    "RepositoryError",
    "Target",
    "alternative",
    "bisect",
    "builtin_mapping",
    "explain",
    "get_kernel_dep",
    "hubkernels",
    "kernelize",
    "last_report",
    "numerics",
    "one_of",
    "original",
    "register_fusion",
    "register_kernel_mapping",
    "replace_kernel_forward_from_hub",
    "use_fusions",
    "use_kernel_forward_from_hub",
    "use_kernel_mapping",
    "use_kernelized_func",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value
