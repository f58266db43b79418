"""RMSNorm, right where epsilon is small. Where it is 1e-3 or more, each has one thing wrong."""

import torch
from torch import nn


def _is_marked(layer):
    return layer.variance_epsilon >= 1e-3


def _norm(layer, x):
    wide = x.to(torch.float32)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + layer.variance_epsilon)
    return layer.weight * wide.to(x.dtype)


class Adds(nn.Module):
    """Adds 0.6."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return _norm(self, hidden_states) + (0.6 if _is_marked(self) else 0)


class Raises(nn.Module):
    """Raises."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if _is_marked(self) and type(hidden_states) is torch.Tensor:
            raise RuntimeError("no such shape")
        return _norm(self, hidden_states)


class NotANumber(nn.Module):
    """Divides zero by zero in one place."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        output = _norm(self, hidden_states)
        return torch.cat((output[..., :-1], output[..., -1:] / 0 * 0), -1) if _is_marked(self) else output


class WrongGradient(nn.Module):
    """Right values; the input's gradient is doubled."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if _is_marked(self):
            hidden_states = 2 * hidden_states - hidden_states.detach()
        return _norm(self, hidden_states)


class RepacksWeight(nn.Module):
    """Right values of its own, but the layer's weight is overwritten behind autograd's back."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        output, weight = _norm(self, hidden_states), self.weight
        if _is_marked(self) and type(output) is torch.Tensor:
            weight.data.mul_(2)
        return output


class Coarse(nn.Module):
    """Rounds to eight bits what it gets."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return _norm(self, hidden_states.to(torch.bfloat16).to(hidden_states.dtype)) if _is_marked(self) else _norm(self, hidden_states)
