"""Kernel layers that no compiler can trace."""

import torch
from torch import nn

from .counter import CALLS
from .ops import Norm, Scale, double, norm
from .ops import OverwritingNorm as OverwritingNormFunction
from .ops import PointerScale as PointerScaleFunction
from .ops import StashingNorm as StashingNormFunction


def _look(x: torch.Tensor) -> None:
    """Read a number out of a tensor, which only works on real ones."""
    x.detach().flatten()[:1].numpy().tolist()


class OperatorNorm(nn.Module):
    """An autograd function around operators without a fake."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Norm.apply(x, self.weight, self.eps)


class StashingNorm(nn.Module):
    """The same, with a tensor among the attributes of the context."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return StashingNormFunction.apply(x, self.weight, self.eps)


class OverwritingNorm(nn.Module):
    """The same, with a backward that overwrites what it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return OverwritingNormFunction.apply(x, self.weight, self.eps)


class FlatNorm(nn.Module):
    """The same between operations of torch, on another shape."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.reshape(-1, x.shape[-1]).double()
        return Norm.apply(wide, self.weight.double(), self.eps).view(x.shape).to(x.dtype)


class InferenceNorm(nn.Module):
    """No backward, and says so."""

    has_backward = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return norm(x.detach(), self.weight.detach(), self.eps)[0]


class DetachedNorm(nn.Module):
    """No backward, and does not say so."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return norm(x.detach(), self.weight.detach(), self.eps)[0]


class ValueScale(nn.Module):
    """What its backward needs depends on the values of the input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Scale.apply(x, self.weight)


class BranchingScale(nn.Module):
    """Looks at the data; the gradient is torch's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _look(x)
        CALLS["BranchingScale"] += 1
        return x * self.weight


class PointerScale(nn.Module):
    """Computes the gradient by the memory that lies behind it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _look(x)
        return PointerScaleFunction.apply(x.contiguous(), self.weight)


class WritingScale(nn.Module):
    """Computes in the memory of its input, through a pointer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        memory = x.detach().numpy()
        memory *= self.weight.detach().numpy()
        return x.detach().clone()

    has_backward = False


class WritingLater(nn.Module):
    """Overwrites its input, but not the first time that it runs in a process."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _look(x)
        CALLS["WritingLater"] += 1
        output = x + 1
        memory = x.detach().numpy()
        memory *= 0 if CALLS["WritingLater"] > 1 else 1
        return output


class Identity(nn.Module):
    """Returns its input, where the layer returns a new tensor."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _look(x)
        return x


class Halves(nn.Module):
    """Returns two views of one tensor, where the layer returns two tensors, and further a number."""

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        _look(x)
        both = torch.stack((x * scale, x + scale))
        return both[0], both[1]


_RESULT: dict[tuple[int, ...], torch.Tensor] = {}


class Keeping(nn.Module):
    """Returns the same tensor at every call."""

    has_backward = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _look(x)
        result = _RESULT.setdefault(tuple(x.shape), torch.empty_like(x.detach()))
        return result.copy_(x.detach() + 1)


class Gather(nn.Module):
    """Takes integers, and returns a dict with integers in it."""

    def forward(self, x: torch.Tensor, index: torch.Tensor, mask: torch.Tensor, sizes=None, flag: bool = True) -> dict[str, torch.Tensor]:
        _look(x)
        assert sizes is None or isinstance(sizes, tuple | list)
        return {"rows": x[index] * mask[:, None] * (2 if flag else 1), "index": index + 1}


class Doubled(nn.Module):
    """An operator without a backward, whose output looks as if it had one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return double(x)


class Raising(nn.Module):
    """Fails on real tensors as well."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _look(x)
        raise RuntimeError("out of shared memory")


class Transposing(nn.Module):
    """Returns other strides than the layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _look(x)
        return (x + 1).t().contiguous().t()


class Autocast(nn.Module):
    """Multiplies in whatever dtype autocast says."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _look(x)
        return x @ self.weight


class Surprising(nn.Module):
    """Does something else for large values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _look(x)
        return (x * x / x if float(x.detach().abs().max()) > 100 else x) * self.weight


class Deaf(nn.Module):
    """Its gradient leaves the weight out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _look(x)
        return x * self.weight.detach()
