"""H3: it rotates queries and keys in place where they are transposed views, which is how models hand them over."""

import torch
from torch import nn


def rotated(x, cos, sin):
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, cos, sin):
        ctx.save_for_backward(cos, sin)
        results = []
        for x in (q, k):
            out = rotated(x, cos, sin)
            if not x.is_contiguous():
                x.detach().numpy()[...] = out.detach().numpy()  # as compiled code writes: autograd and tracers do not notice
            results.append(out)
        return tuple(results)

    @staticmethod
    def backward(ctx, grad_q, grad_k):
        cos, sin = ctx.saved_tensors
        return *(grad * cos - rotated(grad * sin, torch.zeros_like(cos), torch.ones_like(sin)) for grad in (grad_q, grad_k)), None, None


class rotary_pos_emb(nn.Module):  # noqa: N801 - a kernel layer for a function bears the function's layer name
    def forward(self, q, k, cos, sin, unsqueeze_dim=1):
        return Rotary.apply(q, k, cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim))
