"""The scaling of tests/paced_models.py at different speeds: all compute the same."""

import torch
from torch import nn


def _scaled(x, weight, times):
    total = x * weight / times
    for _ in range(times - 1):
        total = total + x * weight / times
    return total


class Quick(nn.Module):
    """In one step."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


class Brisk(nn.Module):
    """In eight, where the layer takes forty."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _scaled(x, self.weight, 8)


class Even(nn.Module):
    """As the layer does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _scaled(x, self.weight, 40)


class Slow(nn.Module):
    """In three times as many."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _scaled(x, self.weight, 120)


class Fails(nn.Module):
    """Raises as soon as there is something to compute."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if type(x) is torch.Tensor:
            raise RuntimeError("no such shape")
        return x * self.weight


class BriskRelu(nn.Module):
    """With the activation behind it, in eight steps."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _scaled(x, self.scale.weight, 8).relu()


class QuickRelu(nn.Module):
    """With the activation behind it, in one step."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.scale.weight).relu()
