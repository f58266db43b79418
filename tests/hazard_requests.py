"""Requests for the kernels of ``tests/kernels/hazards``: one call for each, in which what is wrong with it shows."""

from __future__ import annotations

import sys
from typing import Any

import torch
from kernel_repositories import repository
from probe_requests import request_for

from fxkernels.admission.request import Request
from fxkernels.kernels.layer import KernelLayer, load_kernel_layer
from fxkernels.target import Target

TARGET = Target.of_machine("cpu")
EPS = 1e-6


def hazard(layer: str, device: str = "cpu") -> KernelLayer:
    """Return a layer of the repository, which has forgotten what earlier tests did with it."""
    kernel = load_kernel_layer(repository("hazards", layer), TARGET if device == "cpu" else Target.of_machine(device))
    sys.modules[kernel.cls.__module__]._kept.clear()
    return kernel


def norm_request(layer: str, dtype: torch.dtype = torch.float32, *sizes: int, **given: Any) -> Request:
    """Return the request for a norm in training, with gradients for the input and the weight."""
    sizes = sizes or (2, 16, 64)
    device = given.pop("device", "cpu")
    x = given.pop("x", torch.empty(sizes, dtype=dtype, device=device)).requires_grad_()
    weight = torch.empty(sizes[-1], dtype=dtype, device=device).requires_grad_()

    def norm(x, weight):
        wide = x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPS)
        return weight * wide.to(dtype)

    return request_for(hazard(layer, device), norm, [x], {"weight": weight}, {"variance_epsilon": EPS}, **{"training": True, **given})


def rotary_request(layer: str, dtype: torch.dtype = torch.float32, unsqueeze_dim: int = 1, **given: Any) -> Request:
    """Return the request for a rotary embedding of queries and keys that are transposed views, as in a model."""
    q, k = (torch.empty(2, 16, heads, 8, dtype=dtype) for heads in (4, 2))
    if unsqueeze_dim == 1:
        q, k = q.transpose(1, 2), k.transpose(1, 2)
    cos, sin = (torch.empty(2, 16, 8, dtype=dtype) for _ in range(2))

    def rotate_half(x):
        return torch.cat((-x[..., 4:], x[..., :4]), -1)

    def rotary(q, k, cos, sin, unsqueeze_dim):
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin

    return request_for(hazard(layer), rotary, [q, k, cos, sin, unsqueeze_dim], **{"gradient": False, **given})
