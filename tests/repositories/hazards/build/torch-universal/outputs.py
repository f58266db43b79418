"""The right numbers in the wrong place or form."""

import torch
from torch import nn

from .norm import layer, norm, plain


@layer
def AlwaysFloat32(self, x):
    return norm(x.float(), self.weight.float(), self.variance_epsilon)[0]


@layer
def InputsDtype(self, x):
    """Returns the input's dtype, where a wider weight makes the layer return the weight's."""
    return plain(self, x).to(x.dtype)


@layer
def Flattens(self, x):
    return plain(self, x).flatten(0, -2)


@layer
def AddsDimension(self, x):
    return plain(self, x)[None]


@layer
def ReturnsTuple(self, x):
    return plain(self, x), x


@layer
def ReturnsNothing(self, x):
    return None


@layer
def ReturnsParameter(self, x):
    """Its output is a leaf: no gradient flows, though it says that it wants one."""
    return nn.Parameter(plain(self, x).detach())


@layer
def ReturnsSparse(self, x):
    return plain(self, x).to_sparse()


@layer
def Detached(self, x):
    return plain(self, x).detach()


@layer
def DetachedForLarge(self, x):
    """Gives the gradient up where it would be large."""
    out = plain(self, x)
    return out.detach() if bool((x.abs() < 1e-2).all()) else out


class TakesQueriesForKeys(nn.Module):
    def forward(self, q, k, cos, sin, unsqueeze_dim=1):
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return rotated(k, cos, sin), rotated(q, cos, sin)


def rotated(x, cos, sin):
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class RotatesBackwards(nn.Module):
    def forward(self, q, k, cos, sin, unsqueeze_dim=1):
        cos, sin = cos.unsqueeze(unsqueeze_dim), -sin.unsqueeze(unsqueeze_dim)
        return rotated(q, cos, sin), rotated(k, cos, sin)


class RotatesQueriesOnly(nn.Module):
    def forward(self, q, k, cos, sin, unsqueeze_dim=1):
        return rotated(q, cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)), k.clone()


class OneCosineForAll(nn.Module):
    """Takes the first row's angles for all rows of the batch."""

    def forward(self, q, k, cos, sin, unsqueeze_dim=1):
        cos, sin = cos[:1].unsqueeze(unsqueeze_dim), sin[:1].unsqueeze(unsqueeze_dim)
        return rotated(q, cos, sin), rotated(k, cos, sin)


class HalfTheCosine(nn.Module):
    """Reads the first half of the angles and takes the second for the same."""

    def forward(self, q, k, cos, sin, unsqueeze_dim=1):
        half = cos.shape[-1] // 2
        cos, sin = (torch.cat((t[..., :half], t[..., :half]), -1).unsqueeze(unsqueeze_dim) for t in (cos, sin))
        return rotated(q, cos, sin), rotated(k, cos, sin)


class Interleaved(nn.Module):
    def forward(self, q, k, cos, sin, unsqueeze_dim=1):
        def turned(x, cos, sin):
            return x * cos + torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2) * sin

        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return turned(q, cos, sin), turned(k, cos, sin)


class WritesTransposed(nn.Module):
    """Writes over what is not contiguous, and returns that."""

    has_backward = False

    def forward(self, q, k, cos, sin, unsqueeze_dim=1):
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return tuple(rotated(x, cos, sin) if x.is_contiguous() else x.copy_(rotated(x, cos, sin)) for x in (q, k))


class OneBuffer(nn.Module):
    """Its two outputs overlap."""

    def forward(self, q, k, cos, sin, unsqueeze_dim=1):
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        q = rotated(q, cos, sin)
        return q, q[:, :2].copy_(rotated(k, cos, sin)) if q.shape[1] > 2 and unsqueeze_dim == 1 else rotated(k, cos, sin)


class QueriesDetached(nn.Module):
    def forward(self, q, k, cos, sin, unsqueeze_dim=1):
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return rotated(q, cos, sin).detach(), rotated(k, cos, sin)


class IgnoresTheMask(nn.Module):
    """Takes the mask for causal, whatever it says."""

    def forward(self, x, mask=None):
        scores = x @ x.mT
        causal = torch.ones_like(scores, dtype=torch.bool).tril()
        return torch.softmax(scores.masked_fill(~causal, -1e4).float(), -1).to(x.dtype) @ x


class TakesPositionsInOrder(nn.Module):
    """Takes position ids for 0, 1, 2 ..., as they are until somebody pads or packs."""

    def forward(self, positions):
        return self.weight[torch.arange(positions.shape[-1])].expand(*positions.shape, -1).contiguous()


class LetsGradientThrough(nn.Module):
    """The layer stops the gradient at its first output, and this does not."""

    def forward(self, x):
        return x * 2, x * 3


class GradientForFrozen(nn.Module):
    """The layer stops the gradient of its weight, and this does not."""

    def forward(self, x):
        return x * self.weight


class SwapsHalves(nn.Module):
    """Gates the other half."""

    def forward(self, x):
        gate, up = x.chunk(2, -1)
        return gate * nn.functional.silu(up)


class TanhGelu(nn.Module):
    def forward(self, x):
        return nn.functional.gelu(x, approximate="tanh")
