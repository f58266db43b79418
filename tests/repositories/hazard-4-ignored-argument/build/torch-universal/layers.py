"""H4: it takes `unsqueeze_dim` and does not look at it. With as many heads as positions not even the shapes tell."""

import torch
from torch import nn


def rotated(x, cos, sin):
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class rotary_pos_emb(nn.Module):  # noqa: N801 - a kernel layer for a function bears the function's layer name
    def forward(self, q, k, cos, sin, unsqueeze_dim=1):
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        return rotated(q, cos, sin), rotated(k, cos, sin)
