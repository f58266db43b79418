"""Each layer is a norm or a rotary embedding with one thing wrong; `Correct...` are the same with nothing wrong."""

import os
import time

import torch
from torch import nn

from .norm import ExpectsDenseGradient, ForgetsWeight, Identity, KeepsInGlobal, Norm, OverwritesGradient, OverwritesSaved, SumsInHalf, norm

_kept = {}


def _layer(function):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return function(self, hidden_states)

    return type(function.__name__, (nn.Module,), {"forward": forward, "__module__": __name__, "__doc__": function.__doc__})


def _applied(name, function):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return function.apply(hidden_states, self.weight, self.variance_epsilon)

    return type(name, (nn.Module,), {"forward": forward, "__module__": __name__})


CorrectNorm = _applied("CorrectNorm", Norm)
H1OverwritesGradient = _applied("H1OverwritesGradient", OverwritesGradient)
H2OverwritesSaved = _applied("H2OverwritesSaved", OverwritesSaved)
H5Identity = _applied("H5Identity", Identity)
H8SumsInHalf = _applied("H8SumsInHalf", SumsInHalf)
StridedGradient = _applied("StridedGradient", ExpectsDenseGradient)
GlobalState = _applied("GlobalState", KeepsInGlobal)
NoWeightGradient = _applied("NoWeightGradient", ForgetsWeight)


def _plain(self, x):
    return norm(x, self.weight, self.variance_epsilon)[0]


@_layer
def H5Detached(self, x):
    return _plain(self, x).detach()


@_layer
def H6ReadsDense(self, x):
    storage = x.untyped_storage().nbytes() // x.element_size() - x.storage_offset()
    dense = x.as_strided(x.shape, torch.empty(x.shape).stride()) if x.numel() <= storage else x
    return _plain(self, dense)


@_layer
def H7RepacksParameters(self, x):
    self.weight.data.copy_(self.weight.data.flip(0))
    return norm(x, self.weight.flip(0), self.variance_epsilon)[0]


@_layer
def H9MultipliesBySigmoid(self, x):
    return _plain(self, x) * torch.sigmoid(x)


@_layer
def H9ZeroCentred(self, x):
    return norm(x, 1 + self.weight, self.variance_epsilon)[0]


@_layer
def H10Float32(self, x):
    return norm(x.float(), self.weight.float(), self.variance_epsilon)[0]


@_layer
def CachesByShape(self, x):
    key = (x.shape, x.dtype)
    if key not in _kept:
        _kept[key] = _plain(self, x)
    return _kept[key] * 1


@_layer
def CachesByAddress(self, x):
    key = ("address", x.data_ptr(), self.weight.data_ptr())
    if key not in _kept:
        _kept[key] = _plain(self, x).detach()
    return _kept[key] + 0 * _plain(self, x)


@_layer
def ReusesBuffer(self, x):
    out = _plain(self, x)
    buffer = _kept.setdefault(("buffer", x.shape, x.dtype), torch.empty_like(out))
    return buffer.data.copy_(out.data) if not out.requires_grad else _Into.apply(out, buffer)


class _Into(torch.autograd.Function):
    @staticmethod
    def forward(ctx, out, buffer):
        buffer.copy_(out)
        return buffer.view_as(buffer).detach()

    @staticmethod
    def backward(ctx, grad):
        return grad, None


@_layer
def RightOnce(self, x):
    _kept["calls"] = _kept.get("calls", 0) + 1
    return _plain(self, x) * (1 if _kept["calls"] == 1 else 1.5)


@_layer
def DrawsRandomNumbers(self, x):
    torch.rand(1)
    return _plain(self, x)


@_layer
def SetsDefaultDtype(self, x):
    torch.set_default_dtype(torch.float64)
    return _plain(self, x)


@_layer
def SetsThreads(self, x):
    torch.set_num_threads(torch.get_num_threads() + 1)
    return _plain(self, x)


@_layer
def WrongForLarge(self, x):
    return _plain(self, x.clamp(-20, 20))


@_layer
def IgnoresEpsilon(self, x):
    return norm(x, self.weight, 1e-5)[0]


@_layer
def WritesSelf(self, x):
    self.last = x.shape
    return _plain(self, x)


@_layer
def ReturnsInput(self, x):
    return x.mul_(0).add_(_plain(self, x.clone()))


@_layer
def WrongInOnePlace(self, x):
    out = _plain(self, x).clone()
    return torch.cat((out[..., :-1], out[..., -1:] * 1.5), -1)


@_layer
def Exits(self, x):
    os._exit(3)


@_layer
def SystemExits(self, x):
    raise SystemExit(1)


@_layer
def Aborts(self, x):
    print("before the end")
    os.abort()


@_layer
def Segfaults(self, x):
    import ctypes

    return ctypes.string_at(0)


@_layer
def Hangs(self, x):
    time.sleep(10_000)


@_layer
def Raises(self, x):
    raise RuntimeError("no such shape")


@_layer
def AllocatesTooMuch(self, x):
    return torch.empty(1 << 50) + x


def _rotated(x, cos, sin):
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class CorrectRotary(nn.Module):
    def forward(self, q, k, cos, sin, unsqueeze_dim=1):
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return _rotated(q, cos, sin), _rotated(k, cos, sin)


class H3OverwritesQueries(nn.Module):
    has_backward = False

    def forward(self, q, k, cos, sin, unsqueeze_dim=1):
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        for x in (q, k):
            x.copy_(_rotated(x, cos, sin)) if not x.is_contiguous() else None
        return (q, k) if not q.is_contiguous() else (_rotated(q, cos, sin), _rotated(k, cos, sin))


class H4IgnoresArgument(nn.Module):
    def forward(self, q, k, cos, sin, unsqueeze_dim=1):
        return _rotated(q, cos.unsqueeze(1), sin.unsqueeze(1)), _rotated(k, cos.unsqueeze(1), sin.unsqueeze(1))


class H9Interleaved(nn.Module):
    def forward(self, q, k, cos, sin, unsqueeze_dim=1):
        def rotated(x, cos, sin):
            return x * cos + torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2) * sin

        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return rotated(q, cos, sin), rotated(k, cos, sin)


@_layer
def CallsHelper(self, x):
    """Right; it needs a method of the layer that it stands in for."""
    return _plain(self, x) * self.helper()


@_layer
def FailsOnDevice(self, x):
    """On a GPU, an index out of range fails after the call, and the whole context with it."""
    out = _plain(self, x)
    return out + out.flatten()[torch.full((1,), 1 << 30, device=x.device)]
