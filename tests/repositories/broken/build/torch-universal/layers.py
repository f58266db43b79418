"""One layer for each way to break the contract of a kernel layer."""

import torch
from torch import nn


class OwnInit(nn.Module):
    """Has a constructor, which is never run."""

    can_torch_compile = True

    def __init__(self) -> None:
        super().__init__()
        self.scale = 2.0

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states * self.weight


class ExtraState(nn.Module):
    """Keeps a constant in the class, which the replaced layer does not have."""

    can_torch_compile = True
    block_size = 128

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states * self.weight


class HelperMethod(nn.Module):
    """Calls a method of its own, which the replaced layer does not have."""

    can_torch_compile = True

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.scaled(hidden_states)

    def scaled(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


class WritesSelf(nn.Module):
    """Leaves something behind in the layer."""

    can_torch_compile = True

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        self.last_shape = hidden_states.shape
        return hidden_states * self.weight


class MoreParameters(nn.Module):
    """A norm that also wants the residual."""

    can_torch_compile = True

    def forward(self, hidden_states: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return (hidden_states + residual) * self.weight


class FewerParameters(nn.Module):
    """Rotary position embedding without unsqueeze_dim."""

    can_torch_compile = True

    def forward(self, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return q * cos, k * sin


class SwappedNames(nn.Module):
    """Rotary position embedding that takes sin before cos."""

    can_torch_compile = True

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, sin: torch.Tensor, cos: torch.Tensor, unsqueeze_dim: int = 1
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return q * cos, k * sin


class OtherDefault(nn.Module):
    """Rotary position embedding whose unsqueeze_dim is another by default."""

    can_torch_compile = True

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, unsqueeze_dim: int = 2
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return q * cos, k * sin


class NoModule:
    """Is not derived from nn.Module."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states


def a_function(hidden_states: torch.Tensor) -> torch.Tensor:
    """Stands where a class is expected."""
    return hidden_states
