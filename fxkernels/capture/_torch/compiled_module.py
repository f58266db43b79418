"""What `torch.compile` has made of a module, taken apart again."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch._dynamo.eval_frame import OptimizedModule


def compiled_module(module: nn.Module) -> tuple[nn.Module, Any] | None:
    """Return the module that was given to `torch.compile`, and the compiler as Dynamo will call it; None for any other module."""
    if not isinstance(module, OptimizedModule):
        return None
    original: nn.Module = module._orig_mod
    return original, module.dynamo_ctx.callback
