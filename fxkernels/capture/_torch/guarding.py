"""Are these tensors, and the state of the thread, as they were? Asked in C++, because it is asked before every call of a small layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._C._dynamo.guards import GlobalStateGuard, TensorGuards


def tensor_guard(tensors: Sequence[torch.Tensor]) -> Callable[..., bool]:
    """Return a function that says whether as many tensors have the types, dtypes, devices, sizes, strides and requirements of a gradient
    that these have. It is False for tensors of which one is passed twice.
    """
    # torch's stubs describe another call
    sizes: Any = [list(tensor.shape) for tensor in tensors]
    strides: Any = [list(tensor.stride()) for tensor in tensors]
    check: Callable[..., bool] = TensorGuards(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides).check
    return check


def state_guard() -> Callable[[], bool]:
    """Return a function that says whether grad mode, autocast and what else torch keeps for the process or thread are as they are now."""
    check: Callable[[], bool] = GlobalStateGuard().check
    return check
