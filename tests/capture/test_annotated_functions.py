from __future__ import annotations

import operator
import sys
import types

import pytest
import torch
from torch import fx, nn

from fxkernels.annotate import use_kernel_forward_from_hub
from fxkernels.capture.annotated_functions import AnnotatedFunction
from fxkernels.capture.symbolic import trace_symbolically
from fxkernels.errors import CaptureError


@use_kernel_forward_from_hub("Rotate")
def rotate(x, angle, sign=1):
    return x * angle * sign


@use_kernel_forward_from_hub("Private")
def _private(x):
    return x + 1


elsewhere = types.SimpleNamespace()


x = torch.randn(3, 8)


def targets(module: fx.GraphModule, op: str) -> list[object]:
    return [node.target for node in module.graph.nodes if node.op == op]


def test_annotated_functions_are_found_under_private_names_in_attributes_and_in_other_modules():
    other = types.ModuleType("other_module")
    other.rotate = rotate

    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.function = rotate

        def forward(self, x):
            return _private(self.function(x, 2) + other.rotate(x, 3))

    sys.modules["other_module"] = other
    try:
        traced = trace_symbolically(Holder())
    finally:
        del sys.modules["other_module"]
    assert targets(traced, "call_function") == [rotate, rotate, operator.add, _private]


def test_annotated_functions_are_themselves_again_after_tracing():
    before, model = rotate, nn.Sequential(nn.Identity())
    attribute = model[0]
    attribute.function = rotate
    trace_symbolically(model)
    assert globals()["rotate"] is before
    assert attribute.function is before

    class Fails(nn.Module):
        def forward(self, x):
            assert globals()["rotate"] is not before
            raise RuntimeError("in the middle")

    with pytest.raises(CaptureError, match=r"the model cannot be traced: RuntimeError: in the middle"):
        trace_symbolically(Fails())
    assert globals()["rotate"] is before


def test_a_function_decorated_by_the_kernels_package_is_one_node():
    kernels = pytest.importorskip("kernels.layer")
    elsewhere.decorated = kernels.use_kernel_forward_from_hub("Rotate")(rotate_for_kernels)

    class Holder(nn.Module):
        def forward(self, x):
            return elsewhere.decorated(x, 2) + 1

    traced = trace_symbolically(Holder())
    (target, _) = targets(traced, "call_function")
    assert isinstance(target, AnnotatedFunction)
    assert target.__name__ == "rotate_for_kernels"
    assert torch.equal(traced(x), x * 2 + 1)


def rotate_for_kernels(x, angle):
    return x * angle
