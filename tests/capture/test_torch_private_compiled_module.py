"""Canary: what `torch.compile` makes of a module can be taken apart."""

from __future__ import annotations

import torch
from torch import nn

from fxkernels.capture import _torch


def test_compiled_module_is_the_one_that_was_compiled():
    def backend(gm, example_inputs):
        return gm.forward

    module = nn.Linear(2, 2)
    found = _torch.compiled_module(torch.compile(module, backend=backend))
    assert found is not None
    assert found[0] is module
    assert _torch.unwrapped_backend(found[1])[0] is backend
    assert _torch.compiled_module(module) is None
