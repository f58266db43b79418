"""Probe cases for the kernels under ``tests/repositories/hazard*``: one call for each, in which what is wrong with it shows."""

from __future__ import annotations

import sys
from typing import Any

import torch
from kernel_repositories import repository
from probe_cases import probe_case_for

from fxkernels.admission.probe_case import ProbeCase
from fxkernels.kernels.layer import KernelLayer, load_kernel_layer
from fxkernels.target import Target

TARGET = Target.of_machine("cpu")
EPS = 1e-6


def hazard(name: str, device: str = "cpu") -> KernelLayer:
    """Return a kernel layer, which has forgotten what earlier tests did with it.

    Args:
        name: ``"layer"`` of the repository ``hazards``, or ``"repository:layer"``.
        device: The device type to load it for.
    """
    folder, _, layer = name.rpartition(":")
    kernel = load_kernel_layer(repository(folder or "hazards", layer), TARGET if device == "cpu" else Target.of_machine(device))
    package = kernel.cls.__module__.partition(".")[0]
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] == package and hasattr(module, "_kept"):
            module._kept.clear()
    return kernel


def norm_probe_case(
    layer: str,
    dtype: torch.dtype = torch.float32,
    *sizes: int,
    weight_dtype: torch.dtype | None = None,
    centred: bool = False,
    **given: Any,
) -> ProbeCase:
    """Return the case for a norm in training, with gradients for the input and the weight.

    Args:
        layer: See `hazard`.
        dtype: The input's dtype.
        sizes: The input's sizes.
        weight_dtype: The weight's dtype, if another.
        centred: Whether the layer subtracts the mean.
        given: ``x`` for the input, ``device``, and what `probe_case_for` takes.
    """
    sizes = sizes or (2, 16, 64)
    device = given.pop("device", "cpu")
    x = given.pop("x", None)
    x = (torch.empty(sizes, dtype=dtype, device=device) if x is None else x.detach()).requires_grad_()
    weight = torch.empty(x.shape[-1], dtype=weight_dtype or dtype, device=device).requires_grad_()

    def norm(x, weight):
        wide = x.to(torch.float32)
        wide = wide - wide.mean(-1, keepdim=True) if centred else wide
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPS)
        return weight * wide.to(dtype)

    return probe_case_for(hazard(layer, device), norm, [x], {"weight": weight}, {"variance_epsilon": EPS}, **{"training": True, **given})


def rotary_probe_case(layer: str, unsqueeze_dim: int = 1, heads: tuple[int, int] = (4, 2), **given: Any) -> ProbeCase:
    """Return the case for a rotary embedding of queries and keys that are transposed views, as in a model."""
    q, k = (torch.empty(2, 16, count, 8) for count in heads)
    if unsqueeze_dim == 1:
        q, k = q.transpose(1, 2), k.transpose(1, 2)
    q, k = (x.requires_grad_(given.get("gradient", False)) for x in (q, k))
    cos, sin = (torch.empty(2, 16, 8) for _ in range(2))

    def rotate_half(x):
        return torch.cat((-x[..., 4:], x[..., :4]), -1)

    def rotary(q, k, cos, sin, unsqueeze_dim):
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin

    return probe_case_for(hazard(layer), rotary, [q, k, cos, sin, unsqueeze_dim], **{"gradient": False, **given})
