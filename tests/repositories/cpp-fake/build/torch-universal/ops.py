"""The compiled ops, and what they return as far as tracing needs to know it."""

from pathlib import Path

import torch

torch.ops.load_library(str(Path(__file__).parent / "libops.so"))

ops = torch.ops.fxtest_cpp_fake


def _scale(x):
    return x.new_empty((*x.shape[:-1], 1), dtype=torch.promote_types(x.dtype, torch.float32))


@torch.library.register_fake("fxtest_cpp_fake::rms_norm")
def _rms_norm(x, weight, eps):
    return torch.empty_like(x, dtype=torch.promote_types(x.dtype, weight.dtype)), _scale(x)


@torch.library.register_fake("fxtest_cpp_fake::add_rms_norm")
def _add_rms_norm(x, residual, weight, eps):
    total = x + residual
    return torch.empty_like(total, dtype=torch.promote_types(total.dtype, weight.dtype)), total, _scale(total)


@torch.library.register_fake("fxtest_cpp_fake::rms_norm_backward")
def _rms_norm_backward(grad, x, weight, scale):
    return torch.empty_like(x), torch.empty_like(weight)
