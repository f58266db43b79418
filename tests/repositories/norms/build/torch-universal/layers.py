"""RMSNorm with the body of Llama's, as good kernels and bad ones implement it."""

import torch
import torch.nn.functional as F
from torch import nn

from .counter import count
from .ops import counted_rms_norm, raising_rms_norm
from .through_numpy import NumpyRMSNorm


def _normalized(x: torch.Tensor, eps: float) -> torch.Tensor:
    return F.rms_norm(x.to(torch.float32), x.shape[-1:], None, eps).to(x.dtype)


class RMSNorm(nn.Module):
    """Plain torch, forward and backward."""

    has_backward = True
    can_torch_compile = True
    weight: torch.Tensor
    variance_epsilon: float

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        count("RMSNorm", hidden_states)
        input_dtype = hidden_states.dtype
        hidden_states = hidden_states.to(torch.float32)
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
        return self.weight * hidden_states.to(input_dtype)


class CountedRMSNorm(nn.Module):
    """One opaque op, whose executions are counted under any inner compiler; "CountedRMSNorm.backward" counts its backward."""

    has_backward = True
    can_torch_compile = True

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return counted_rms_norm(hidden_states, self.weight, self.variance_epsilon)


class InferenceRMSNorm(nn.Module):
    """No backward, and says so: the output is detached."""

    has_backward = False
    can_torch_compile = True

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        count("InferenceRMSNorm", hidden_states)
        return self.weight.detach() * _normalized(hidden_states.detach(), self.variance_epsilon)


class DetachedRMSNorm(nn.Module):
    """Claims a backward, but its output is detached."""

    has_backward = True
    can_torch_compile = True

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        count("DetachedRMSNorm", hidden_states)
        return self.weight.detach() * _normalized(hidden_states.detach(), self.variance_epsilon)


class EpsRMSNorm(nn.Module):
    """Reads an epsilon by another name than Llama's layer has."""

    has_backward = True
    can_torch_compile = True

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        count("EpsRMSNorm", hidden_states)
        return self.weight * _normalized(hidden_states, self.eps)


class UntraceableRMSNorm(nn.Module):
    """Runs in numpy, so it fails on fake tensors; correct forward and backward in eager execution."""

    has_backward = True
    can_torch_compile = False

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        count("UntraceableRMSNorm", hidden_states)
        return NumpyRMSNorm.apply(hidden_states, self.weight, self.variance_epsilon)


class RaisingRMSNorm(nn.Module):
    """Traces well, and raises whenever it is run on real tensors, under any inner compiler."""

    has_backward = True
    can_torch_compile = True

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return raising_rms_norm(hidden_states, self.weight, self.variance_epsilon)


class Float32RMSNorm(nn.Module):
    """Returns float32 whatever the input's dtype is."""

    has_backward = True
    can_torch_compile = True

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        count("Float32RMSNorm", hidden_states)
        return self.weight.to(torch.float32) * _normalized(hidden_states.to(torch.float32), self.variance_epsilon)
