"""How often each layer has run on real tensors."""

from collections import Counter

import torch

CALLS: Counter[str] = Counter()


def count(layer: str, tensor: torch.Tensor) -> None:
    """Count one execution. Tracing is none: not by Dynamo, and not with fake or functional tensors."""
    if not torch.compiler.is_dynamo_compiling() and type(tensor) in (torch.Tensor, torch.nn.Parameter):
        CALLS[layer] += 1
