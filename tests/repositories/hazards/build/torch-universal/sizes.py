"""Right for most calls: wrong for some sizes, layouts and numbers of dimensions."""

import torch

from .norm import Norm, applied, dense_like, layer, norm_backward, plain, wide


def _where(name, is_wrong, doc):
    """Right where `is_wrong(x)` is false, and the layer's last rows missing where it is not."""

    def function(self, x):
        out = plain(self, x)
        return out * torch.linspace(1, 0.5, x.shape[-1], dtype=x.dtype, device=x.device) if is_wrong(x) else out

    function.__name__, function.__doc__, function.__module__ = name, doc, __name__
    return layer(function)


OddSizes = _where("OddSizes", lambda x: x.shape[-1] % 8, "Wrong unless the size is a multiple of 8.")
LargeSizes = _where("LargeSizes", lambda x: x.shape[-1] > 4096, "Wrong beyond 4096.")
ManyRows = _where("ManyRows", lambda x: x.numel() // x.shape[-1] > 8192, "Wrong beyond 8192 rows.")
FourDimensions = _where("FourDimensions", lambda x: x.dim() == 4, "Wrong for inputs of four dimensions.")
OneRow = _where("OneRow", lambda x: x.shape[-2] == 1, "Wrong for a sequence of length 1.")
Strided = _where("Strided", lambda x: not x.is_contiguous(), "Wrong unless the input is contiguous.")
Offset = _where("Offset", lambda x: x.storage_offset() != 0, "Wrong where the input does not begin where its storage does.")
HalfPrecision = _where("HalfPrecision", lambda x: x.dtype is not torch.float32, "Wrong in half precision.")
UnderGrad = _where("UnderGrad", lambda x: torch.is_grad_enabled(), "Wrong where gradients are wanted.")
WithoutGrad = _where("WithoutGrad", lambda x: not torch.is_grad_enabled(), "Wrong where no gradients are wanted.")


@layer
def ReadsStorageFromItsBegin(self, x):
    """Forgets that a tensor may begin anywhere in its storage."""
    return plain(self, x.as_strided(x.shape, x.stride(), 0))


@layer
def ReadsDense(self, x):
    """Reads whatever it gets as if it were contiguous."""
    return plain(self, x if x.is_contiguous() else dense_like(x))


@layer
def ReadsRowsDense(self, x):
    """Asks for the last stride only."""
    return plain(self, dense_like(x) if x.stride(-1) == 1 and not x.is_contiguous() else x)


@layer
def ExpandedAsOne(self, x):
    """Takes an input whose rows are one row for a single row."""
    return plain(self, x * 0.5 if 0 in x.stride() else x)


@layer
def LastBlockMissing(self, x):
    """Has no partial block of rows."""
    out = plain(self, x).flatten(0, -2)
    whole = len(out) // 8 * 8
    return torch.cat((out[:whole], torch.zeros_like(out[whole:]))).view(x.shape) if whole else out.view(x.shape)


class _BackwardOfManyRows(Norm):
    @staticmethod
    def backward(ctx, grad):
        x, weight, scale = ctx.saved_tensors
        grad_x, grad_weight = norm_backward(grad, x, weight, scale)
        rows = (wide(grad) * wide(x) * scale).flatten(0, -2)
        return grad_x, rows[:8192].sum(0).to(weight.dtype) if len(rows) > 8192 else grad_weight, None


BackwardOfManyRows = applied("BackwardOfManyRows", _BackwardOfManyRows, "Sums the weight's gradient over 8192 rows at most.")
