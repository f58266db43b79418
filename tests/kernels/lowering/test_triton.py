"""Raw Triton launches are traced while a kernel of ours is, and nobody else notices. Nothing is launched here: no GPU is needed."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import warnings
from typing import Any

import pytest
import torch
from functorch.compile import aot_function, make_boxed_func
from lowering_rows import ROWS, GatedBlock, lowerings
from row_kernels import row_repository, why_unavailable
from torch import fx
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses.fake_tensor import FakeTensorMode

from fxkernels.kernels.lowering.triton import Launches, call_routed
from fxkernels.target import Target

pytestmark = [
    pytest.mark.skipif(why_unavailable("triton-raw", "cuda") is not None, reason="needs triton"),
    # Dynamo itself makes an instance of autograd.Function, which torch deprecates (2.13)
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]


class TargetOnly:
    """A Triton driver that knows a target and no device: enough for torch to ask Triton what a kernel writes."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> None:
    import triton

    monkeypatch.setattr(triton.runtime.driver, "_active", TargetOnly())


class Layer:
    """What the kernels read of the layer that they replace."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight, self.variance_epsilon = weight, 1e-6


def kernel(layer_name: str) -> Any:
    """A kernel layer of the repository with raw Triton, as a function of input and weight."""
    cls = row_repository("triton-raw", layer_name).load_for(Target.of_machine("cpu")).cls
    return lambda x, weight: cls.forward(Layer(weight), x)


def inputs(requires_grad: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(3, 40, requires_grad=requires_grad), torch.rand(40, requires_grad=requires_grad)


class Graphs:
    """A compiler for AOTAutograd that keeps the graphs; instead of them, zeros are computed."""

    def __init__(self) -> None:
        self.graphs: list[fx.Graph] = []

    def __call__(self, gm: fx.GraphModule, _: Any) -> Any:
        self.graphs.append(gm.graph)
        (outputs,) = gm.graph.find_nodes(op="output")[0].args
        values = [node.meta["val"] if isinstance(node, fx.Node) else None for node in outputs]
        return make_boxed_func(lambda *_: [_zero(value) for value in values])


def traced(function: Any, *tensors: torch.Tensor, dynamic: bool = False) -> list[fx.Graph]:
    """Return the graphs that AOTAutograd makes of a function and its backward."""
    compiler = Graphs()
    aot_function(function, fw_compiler=compiler, bw_compiler=compiler, dynamic=dynamic)(*tensors).sum().backward()
    return compiler.graphs


def _zero(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return torch.zeros([int(size) for size in value.shape], dtype=value.dtype)
    return value if value is None else int(value)


def launched(graph: fx.Graph) -> list[list[str]]:
    """For each Triton launch in a graph, the arguments that it writes."""
    return [node.kwargs["tensors_to_clone"] for node in graph.nodes if "triton_kernel_wrapper_functional" in str(node.target)]


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("dynamic", [False, True])
def test_launches_of_forward_and_backward_are_in_the_graphs_with_what_they_write(dynamic):
    launches, norm = Launches(), kernel("RMSNorm")
    forward, backward = traced(lambda x, weight: call_routed(norm, (x, weight), launches).sin(), *inputs(), dynamic=dynamic)
    assert launched(forward) == [["y", "scale"]]
    assert launched(backward) == [["grad_x"], ["partial"]]
    assert set(launches.names) == {"_forward", "_backward_input", "_backward_weight"}


def test_a_warning_while_triton_compiles_is_no_reason_to_take_all_pointers_for_written(monkeypatch):
    import triton

    class Warns(TargetOnly):
        def get_current_target(self) -> Any:
            warnings.warn("the default will change", UserWarning, stacklevel=2)  # Triton 3.9 does, of another thing
            return super().get_current_target()

    monkeypatch.setattr(triton.runtime.driver, "_active", Warns())
    norm, activation = kernel("RMSNorm"), kernel("SiluAndMul")

    def traced_where_warnings_are_errors() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return traced(lambda x, weight: call_routed(activation, (call_routed(norm, (x, weight)), weight)), *inputs())

    with pytest.warns(UserWarning, match="the default will change"):
        forward, _ = traced_where_warnings_are_errors()
    assert launched(forward) == [["y", "scale"], ["y"]]


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("layer_name", ["SiluAndMul", "TunedSiluAndMul"])
def test_heuristics_and_autotuners_are_traced_like_plain_kernels(layer_name):
    activation = kernel(layer_name)
    forward, backward = traced(lambda x, weight: call_routed(activation, (x, weight)), *inputs())
    assert (launched(forward), launched(backward)) == ([["y"]], [["grad_x"]])


@pytest.mark.usefixtures("target")
def test_two_kernels_one_after_the_other_route_their_own_backwards():
    norm, activation = kernel("RMSNorm"), kernel("SiluAndMul")

    def both(x, weight):
        return call_routed(activation, (call_routed(norm, (x, weight)), weight))

    forward, backward = traced(both, *inputs())
    assert (len(launched(forward)), len(launched(backward))) == (2, 3)


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_compiled_model_has_the_launches_in_its_graphs(dynamic):
    compiler, row = Graphs(), ROWS["raw triton"]
    backend = row.backend("cpu", inner=aot_autograd(fw_compiler=compiler, bw_compiler=compiler))
    x = torch.randn(2, 5, 40, requires_grad=True)
    torch.compile(GatedBlock(), backend=backend, fullgraph=True, dynamic=dynamic)(x).sum().backward()
    forward, backward = compiler.graphs
    assert lowerings(backend) == {"RMSNorm": "triton", "SiluAndMul": "triton"}
    assert launched(forward) == [["y", "scale"], ["y"]]
    assert sorted(launched(backward)) == [["grad_x"], ["grad_x"], ["partial"]]


@pytest.mark.usefixtures("target")
def test_a_compiled_model_recomputes_the_layer_where_the_launching_kernel_has_no_backward():
    compiler, row = Graphs(), ROWS["raw triton without backward"]
    backend = row.backend("cpu", inner=aot_autograd(fw_compiler=compiler, bw_compiler=compiler), backward="recompute")
    torch.compile(GatedBlock(), backend=backend, fullgraph=True)(torch.randn(2, 5, 40, requires_grad=True)).sum().backward()
    forward, backward = compiler.graphs
    assert lowerings(backend) == {"RMSNorm": "triton", "SiluAndMul": "triton"}
    assert (len(launched(forward)), len(launched(backward))) == (2, 0)


def test_a_kernel_without_a_gradient_is_traced_as_well():
    launches = Launches()
    with FakeTensorMode(), torch.no_grad():
        output = call_routed(kernel("RMSNorm"), inputs(requires_grad=False), launches)
    assert output.shape == (3, 40)
    assert launches.names == ["_forward"]


def test_plain_torch_launches_nothing():
    launches = Launches()
    with FakeTensorMode():
        call_routed(torch.mul, inputs(), launches)
    assert launches.names == []


def fails_without_data() -> None:
    with FakeTensorMode(), pytest.raises((RuntimeError, ValueError)):
        kernel("RMSNorm")(*inputs(requires_grad=False))


def test_launches_of_others_fail_without_data_as_they_always_did():
    fails_without_data()
    with FakeTensorMode():
        call_routed(kernel("RMSNorm"), inputs())
    fails_without_data()


def test_other_threads_are_not_routed_meanwhile():
    failures: list[BaseException] = []

    def elsewhere() -> None:
        try:
            fails_without_data()
        except BaseException as error:
            failures.append(error)

    def run(*_: Any) -> torch.Tensor:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        return torch.zeros(1)

    call_routed(run, inputs())
    assert not failures


@pytest.mark.skipif(torch.cuda.is_available(), reason="the launch would work")
def test_a_launch_with_data_is_tritons_own():
    launches = Launches()
    with pytest.raises(RuntimeError, match="active drivers"):
        call_routed(kernel("RMSNorm"), inputs(), launches)
    assert launches.names == []


def test_a_backward_that_raises_leaves_nothing_routed():
    class Raising(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            raise ValueError("no")

    output = call_routed(Raising.apply, (torch.ones(3, requires_grad=True),))
    with pytest.raises(ValueError, match="no"):
        output.sum().backward()
    del output
    gc.collect()
    fails_without_data()


def test_what_cannot_be_traced_is_an_error_and_not_a_constant():
    import triton
    from triton.tools.tensor_descriptor import TensorDescriptor

    @triton.jit
    def reads(descriptor, x):
        pass

    def run(x: torch.Tensor, _: Any) -> torch.Tensor:
        reads[(1,)](TensorDescriptor(x, [3, 40], [40, 1], [1, 8]), x)
        return x

    with FakeTensorMode(), pytest.raises(TypeError, match="reads takes a TensorDescriptor"):
        call_routed(run, inputs())


def test_no_kernel_object_is_modified():
    kernel("RMSNorm")
    module = sys.modules["fxtest_triton_raw.rms_norm"]
    assert module._forward.cache_key  # Triton computes the hash of a kernel at its first use
    before = dict(vars(module._forward))
    with FakeTensorMode():
        call_routed(kernel("RMSNorm"), inputs())
    assert vars(module._forward) == before


def test_triton_is_imported_by_kernels_only():
    program = (
        "import sys, torch; from fxkernels.kernels.lowering.triton import call_routed; call_routed(torch.sin, (torch.ones(1),))\n"
        "assert not any(name == 'triton' or name.startswith('triton.') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
