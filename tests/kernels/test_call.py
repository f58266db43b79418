"""The callable of a rewritten call."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from graphs import GraphBuilder, only_call
from kernel_repositories import executions, repository, reset_executions
from layers import Norm
from torch import fx, nn

from fxkernels.errors import KernelRuntimeError
from fxkernels.kernels.binding import Binding
from fxkernels.kernels.call import KernelCall, Slot, flatten_tensors
from fxkernels.kernels.layer import KernelIdentity, KernelLayer
from fxkernels.kernels.lowering.repairs import Repairs
from fxkernels.kernels.origin import LayerOrigin
from fxkernels.kernels.signature import forward_signature
from fxkernels.kernels.stand_in import LayerState, stand_in
from fxkernels.target import Target

CPU = Target("cpu", None, "2.13", None, "linux", "x86_64")
STATE = LayerState(Norm, ("weight",), {"variance_epsilon": 1e-6})


def reference(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (weight * nn.functional.rms_norm(x, (8,), None, 1e-6),)


def norm_call(layer: str, *, recompute: bool = False, differentiable: bool = True) -> KernelCall:
    """A call of a norm of the test repository, from x and the weight."""
    build = stand_in(STATE, training=False)
    return KernelCall(
        repository("norms", layer).load_for(CPU),
        "layers.0.norm#0",
        build_self=lambda inputs: build([inputs[1]]),
        args=(Slot(0),),
        kwargs={},
        reference=reference,
        outputs=1,
        differentiable=differentiable,
        repairs=Repairs(recompute="it was asked for") if recompute else Repairs(),
    )


def kernel_call(forward: Callable[..., Any], args: tuple[Any, ...] = (Slot(0),), outputs: int = 1, **kwargs: Any) -> KernelCall:
    """A call of this forward, without a layer state."""
    cls = type("Kernel", (nn.Module,), {"forward": forward})
    return KernelCall(
        KernelLayer(cls, KernelIdentity("acme/kernels", "9a31f0c5" * 5, "Kernel", None)),
        "layers.0#0",
        build_self=lambda inputs: None,
        args=args,
        kwargs=kwargs,
        reference=lambda *inputs: inputs,
        outputs=outputs,
        differentiable=False,
    )


def inputs(*, requires_grad: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(4, 8).requires_grad_(requires_grad), torch.rand(8).requires_grad_(requires_grad)


def test_call_runs_the_kernel_on_graph_values() -> None:
    reset_executions("norms")
    x, weight = inputs()
    torch.testing.assert_close(norm_call("RMSNorm")(x, weight), *reference(x, weight))
    assert executions("norms")["RMSNorm"] == 1


def test_gradient_of_a_kernel_with_a_backward_is_its_own() -> None:
    reset_executions("norms")
    norm_call("CountedRMSNorm")(*inputs(requires_grad=True)).sum().backward()
    assert executions("norms") == {"CountedRMSNorm": 1, "CountedRMSNorm.backward": 1}


def gradients(function: Callable[..., torch.Tensor], values: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(function(*values).sin().sum(), values)


def test_gradient_of_a_kernel_without_a_backward_is_the_references() -> None:
    values = inputs(requires_grad=True)
    expected = gradients(lambda *values: reference(*values)[0], values)
    torch.testing.assert_close(gradients(norm_call("InferenceRMSNorm", recompute=True), values), expected)


def test_gradient_of_a_kernel_that_detaches_without_saying_so_is_the_references() -> None:
    values = inputs(requires_grad=True)
    expected = gradients(lambda *values: reference(*values)[0], values)
    torch.testing.assert_close(gradients(norm_call("DetachedRMSNorm"), values), expected)


def test_kernel_that_detaches_is_warned_of_once_per_call(caplog: pytest.LogCaptureFixture) -> None:
    call, values = norm_call("DetachedRMSNorm"), inputs(requires_grad=True)
    with caplog.at_level(logging.WARNING, "fxkernels"):
        call(*values)
        call(*values)
    (record,) = caplog.records
    assert record.getMessage() == (
        "norms:DetachedRMSNorm at layers.0.norm#0 returns a detached output; its gradient is the original layer's, recomputed"
    )


@pytest.mark.parametrize("reason", ["grad mode is off", "no input needs a gradient", "the layer's output has none"])
def test_detached_output_is_right_where_no_gradient_is_needed(reason: str, caplog: pytest.LogCaptureFixture) -> None:
    call = norm_call("DetachedRMSNorm", differentiable=reason != "the layer's output has none")
    with torch.set_grad_enabled(reason != "grad mode is off"), caplog.at_level(logging.WARNING, "fxkernels"):
        output = call(*inputs(requires_grad=reason != "no input needs a gradient"))
    assert (output.requires_grad, caplog.records) == (False, [])


def test_error_of_a_kernel_names_path_and_kernel_and_keeps_its_cause() -> None:
    with pytest.raises(KernelRuntimeError, match=r"norms:RaisingRMSNorm failed at layers\.0\.norm#0") as caught:
        norm_call("RaisingRMSNorm")(*inputs())
    assert str(caught.value.__cause__) == "out of shared memory"


def test_kernel_that_returns_another_number_of_tensors_is_an_error() -> None:
    with pytest.raises(KernelRuntimeError, match="it returned 2 tensors where the layer returns 1"):
        kernel_call(lambda self, x: (x, x))(torch.ones(2))


def test_several_tensors_are_returned_flat() -> None:
    x = torch.ones(2)
    assert kernel_call(lambda self, x: (x, {"y": [x]}), outputs=2)(x) == (x, x)


def test_graph_values_and_constants_go_where_the_arguments_have_them() -> None:
    seen: list[Any] = []

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append((args, kwargs))
        return args[0]

    x, y = torch.ones(2), torch.zeros(2)
    kernel_call(forward, (Slot(1), [Slot(0), 1], (None, Slot(0)), slice(0, Slot(2))), scale=2.0, masks={"a": Slot(0)})(x, y, 3)
    assert seen == [((y, [x, 1], (None, x), slice(0, 3)), {"scale": 2.0, "masks": {"a": x}})]


def test_kernel_cannot_change_the_arguments_of_the_next_call() -> None:
    def forward(self: Any, x: torch.Tensor, sizes: list[int]) -> torch.Tensor:
        sizes.append(1)
        return x * len(sizes)

    call = kernel_call(forward, (Slot(0), [Slot(0)]))
    assert [call(torch.ones(())).item(), call(torch.ones(())).item()] == [2, 2]


def test_node_is_named_after_the_kernel() -> None:
    graph = fx.Graph()
    assert graph.call_function(norm_call("RMSNorm"), ()).name.startswith("kernel_rms")


def test_call_says_what_it_runs_and_where() -> None:
    assert repr(norm_call("RMSNorm")) == "KernelCall(norms:RMSNorm at layers.0.norm#0)"


def test_copy_of_a_graph_shares_the_call() -> None:
    call = norm_call("RMSNorm")
    assert copy.deepcopy(call) is call


@dataclass
class Output:
    hidden: torch.Tensor
    attention: Any = None


X, Y, Z = torch.ones(1), torch.ones(2), torch.ones(3)


@pytest.mark.parametrize(
    ("output", "tensors"),
    [
        (X, [X]),
        ((X, 1, Y), [X, Y]),
        ([X, (Y, [Z])], [X, Y, Z]),
        ({"b": X, "a": Y}, [X, Y]),
        (Output(X, (Y, None)), [X, Y]),
        (None, []),
        (Output, []),
    ],
    ids=["tensor", "tuple", "nested", "dict", "dataclass", "nothing", "a class"],
)
def test_tensors_of_an_output_are_found_in_order(output: Any, tensors: list[torch.Tensor]) -> None:
    found = flatten_tensors(output)
    assert [id(tensor) for tensor in found] == [id(tensor) for tensor in tensors]


# --- binding ----------------------------------------------------------------------------------------------------------------------------


def test_bound_call_computes_what_the_layer_does() -> None:
    build = GraphBuilder()
    weight, x = build.tensor("weight", 8), build.tensor("x", 4, 8)
    origin = LayerOrigin(Norm, forward_signature(Norm), is_function=False, state=STATE)
    with build.layer("norm", x, tensors={"weight": weight}, origin=origin) as norm:
        norm.returns(build(torch.mul, x, weight))
    kernel = repository("norms", "RMSNorm").load_for(CPU)
    bound = Binding.of(kernel, only_call(build.finish(norm.output)))
    assert (bound.args, bound.kwargs) == ((Slot(0),), {})
    values = inputs()
    torch.testing.assert_close(bound.kernel_call(kernel, "norm#0", reference, 1, False)(*values), *reference(*values))


def test_graph_values_inside_a_slice_are_bound() -> None:
    def take(x: torch.Tensor, rows: slice) -> torch.Tensor:
        return x[rows]

    class Take(nn.Module):
        def forward(self, x: torch.Tensor, rows: slice) -> torch.Tensor:
            return x[rows]

    build = GraphBuilder()
    x = build.tensor("x", 4, 8, dynamic=True)
    count = build.method("size", x, 1)
    origin = LayerOrigin(take, forward_signature(Take), is_function=True)
    with build.layer("take", x, slice(0, count), origin=origin) as layer:
        layer.returns(build.method("clone", x))
    kernel = KernelLayer(Take, KernelIdentity("acme/kernels", None, "Take", None))
    bound = Binding.of(kernel, only_call(build.finish(layer.output)))
    result = bound.kernel_call(kernel, "take#0", lambda *inputs: inputs, 1, False)(torch.ones(4, 8), 2)
    assert result.shape == (2, 8)
