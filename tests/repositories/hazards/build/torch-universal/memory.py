"""Right numbers, for once: what they write that is not theirs, and what they hand out that is not the caller's alone."""

import threading

import torch

from .norm import layer, norm, plain

_kept = {}


def _write(x, values):
    """As a compiled kernel writes: autograd does not notice."""
    x.detach().data.copy_(values)


@layer
def WritesItsInput(self, x):
    """Puts the result where the input is, and returns a copy."""
    out = plain(self, x.clone())
    _write(x, out)
    return out


@layer
def WritesStrided(self, x):
    """Makes its input contiguous in place if it is not."""
    out = plain(self, x.clone())
    if not x.is_contiguous():
        _write(x, x.float().mul(0.5))
    return out


@layer
def WritesUnderGradOnly(self, x):
    """Saves memory in training."""
    out = plain(self, x.clone())
    if torch.is_grad_enabled() and x.requires_grad:
        _write(x, out)
    return out


@layer
def WritesWithoutGradOnly(self, x):
    """Saves memory where nobody can want a gradient; that is also where the gradient is computed again, or an operator runs."""
    out = plain(self, x.clone())
    if not torch.is_grad_enabled():
        _write(x, out)
    return out


@layer
def WritesOnSecondCall(self, x):
    """Warms up first."""
    _kept["calls"] = _kept.get("calls", 0) + 1
    out = plain(self, x.clone())
    if _kept["calls"] > 1:
        _write(x, out)
    return out


@layer
def WritesLarge(self, x):
    """Cleans its input up, where it finds something to clean."""
    if bool((x.abs() > 50).any()):
        _write(x, x.clamp(-50, 50))
    return plain(self, x)


@layer
def WritesBetweenRows(self, x):
    """Rounds its rows up to what lies between them."""
    out = plain(self, x)
    room = x.untyped_storage().nbytes() // x.element_size()
    if x.stride(-2) > x.shape[-1] and room >= x.storage_offset() + x.stride(-2):
        x.detach().as_strided((x.stride(-2) - x.shape[-1],), (1,), x.storage_offset() + x.shape[-1]).zero_()
    return out


@layer
def RepacksWeight(self, x):
    """Stores the weight in another order once, and reads it so."""
    self.weight.data.copy_(self.weight.data.flip(0))
    return norm(x, self.weight.flip(0), self.variance_epsilon)[0]


@layer
def MovesWeight(self, x):
    """Gives the weight other memory, of the same values: optimizers and views keep the old one."""
    self.weight.data = torch.stack((self.weight.data, self.weight.data), -1)[:, 0]
    return plain(self, x)


@layer
def WidensWeight(self, x):
    """Turns the weight into float64 for good."""
    self.weight.data = self.weight.data.double()
    return norm(x, self.weight.to(x.dtype), self.variance_epsilon)[0]


@layer
def FreezesWeight(self, x):
    """Switches the weight's gradient off."""
    out = plain(self, x)
    if self.weight.is_leaf:
        self.weight.requires_grad_(False)
    return out


@layer
def ReshapesInput(self, x):
    """Adds a dimension to the caller's tensor."""
    out = plain(self, x)
    x.data = x.detach().clone()[None]
    return out


@layer
def ReturnsItsInput(self, x):
    """Overwrites its input and returns it."""
    return x.mul_(0).add_(plain(self, x.clone()))


class _Into(torch.autograd.Function):
    @staticmethod
    def forward(ctx, out, buffer):
        buffer.copy_(out)
        return buffer.view_as(buffer).detach()

    @staticmethod
    def backward(ctx, grad):
        return grad, None


@layer
def ReusesBuffer(self, x):
    """Returns a workspace, which its next call overwrites."""
    out = plain(self, x)
    buffer = _kept.setdefault(("buffer", x.shape, x.dtype), torch.empty_like(out))
    return buffer.data.copy_(out.data) if not out.requires_grad else _Into.apply(out, buffer)


@layer
def TwoBuffers(self, x):
    """Has two workspaces, and takes turns."""
    out = plain(self, x)
    turn = _kept["turn"] = 1 - _kept.get("turn", 0)
    buffer = _kept.setdefault(("buffer", turn, x.shape, x.dtype), torch.empty_like(out))
    return buffer.data.copy_(out.data) if not out.requires_grad else _Into.apply(out, buffer)


@layer
def ScratchInLastInput(self, x):
    """Computes in the memory of the input of its last call."""
    last, _kept["last"] = _kept.get("last"), x.detach()
    if last is not None and last.shape == x.shape and last.data_ptr() != x.data_ptr():
        _write(last, x)
    return plain(self, x)


@layer
def LeavesTheTail(self, x):
    """Writes whole blocks of 16 columns, into memory that nobody has cleared."""
    out = torch.empty_like(x)
    whole = x.shape[-1] // 16 * 16
    out[..., :whole] = plain(self, x)[..., :whole]
    if not whole:
        out.copy_(plain(self, x))
    return out


@layer
def AddsIntoUncleared(self, x):
    """Adds up in memory that it takes for zero."""
    total = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
    total += x.float().square().mean(-1)
    return self.weight * (x.float() * torch.rsqrt(total[..., None] + self.variance_epsilon)).to(x.dtype)


@layer
def ReadsPastTheEnd(self, x):
    """Reads a block of 16 where fewer are left, and takes what lies behind for zero."""
    import ctypes

    out = plain(self, x)
    behind = (ctypes.c_float * 4).from_address(x.data_ptr() + x.numel() * x.element_size())
    return out + torch.tensor(sum(behind), dtype=x.dtype).nan_to_num(1.0)


@layer
def WritesPastTheEnd(self, x):
    """Writes a block of 16 where fewer are left."""
    import ctypes

    (ctypes.c_float * 4).from_address(x.data_ptr() + x.numel() * x.element_size())[:] = [0.0] * 4
    return plain(self, x)


@layer
def WritesLater(self, x):
    """Returns before its thread is done."""
    out = plain(self, x)
    values = out.detach().clone()
    out.detach().data.zero_()
    threading.Timer(0.05, lambda: out.detach().data.copy_(values)).start()
    return out


@layer
def GapsInOutput(self, x):
    """Pads the rows of its output."""
    out = plain(self, x)
    return torch.nn.functional.pad(out, (0, 8))[..., : out.shape[-1]]


@layer
def NeedsGradient(self, x):
    """Its output wants a gradient where nobody does."""
    with torch.enable_grad():
        return plain(self, x.detach().requires_grad_())
