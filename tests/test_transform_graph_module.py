"""A model that torch.fx traces exactly: kernelize() makes a graph module of it, which is captured and decided like any other model."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernel_repositories import executions, repository, reset_executions
from layers import Block, Norm, gradients
from torch import fx, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import fxkernels
from fxkernels import CaptureError, NoKernelError, kernelize, use_kernel_forward_from_hub

NORMS = {"RMSNorm": {"cpu": repository("norms", "RMSNorm")}}


@use_kernel_forward_from_hub("Rotate")
def rotate(x: torch.Tensor, angle: float = 2.0) -> torch.Tensor:
    return x * angle


class RotateKernel(nn.Module):
    """Nobody could mistake its result for that of `rotate`. It needs a mode without gradients."""

    has_backward = False

    def forward(self, x: torch.Tensor, angle: float = 2.0) -> torch.Tensor:
        return x.detach() * angle + 100


class RotateRepository:
    def load(self) -> type[nn.Module]:
        return RotateKernel


ROTATE = {"Rotate": {"cpu": RotateRepository()}}


class Turn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rotate(self.linear(x)) + rotate(x, 3.0)


class Turns(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Turn(), Turn()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 8)


@pytest.fixture(autouse=True)
def fresh_counters() -> None:
    reset_executions("norms")


def runs(layer_name: str = "RMSNorm") -> int:
    return executions("norms")[layer_name]


def kernelized(model: nn.Module | None = None, layer_name: str = "RMSNorm", **options: Any) -> Any:
    mapping = {"RMSNorm": {"cpu": repository("norms", layer_name)}}
    return kernelize(Block() if model is None else model, mapping=mapping, capture="symbolic", **{"verify": "off", **options})


def test_the_graph_shows_each_layer_as_one_call() -> None:
    model = kernelized()
    assert [node.target for node in model.graph.nodes if node.op == "call_module"] == ["norm", "linear"]
    assert "self.norm(x)" in model.code
    assert list(model.state_dict()) == list(Block().state_dict())


def test_the_report_is_that_of_any_other_model(x: torch.Tensor) -> None:
    model = kernelized(verify="probe")
    assert (model.report.pending, model.report.capture) == (True, "symbolic")
    model(x)
    ((decision,),) = [call.decisions for call in model.report.calls]
    assert (model.report.capture, model.report.model, decision.status) == ("symbolic", "Block", "rewritten")
    assert decision.evidence.how == "probed"
    assert decision.inputs[0] == "hidden_states: f32[3, 8]"
    assert [gate.outcome for gate in decision.candidates[0].gates if gate.name == "admission"] == ["passed"]


def test_a_refused_kernel_is_not_run_and_without_fallback_an_error_of_the_call(x: torch.Tensor) -> None:
    model = kernelized(layer_name="DetachedRMSNorm", verify="probe")
    model(x).sum().backward()
    assert runs("DetachedRMSNorm") == 0
    (call,) = model.report.calls
    assert (call.status, call.miss.code) == ("missed", "gradient")
    with pytest.raises(NoKernelError, match="norm#0"):
        kernelized(layer_name="DetachedRMSNorm", verify="probe", use_fallback=False)(x)


def test_a_graph_module_that_is_kernelized_again_stays_one_and_has_the_other_kernels(x: torch.Tensor) -> None:
    once = kernelized().eval()
    twice = kernelize(once, mapping={"RMSNorm": {"cpu": repository("norms", "InferenceRMSNorm")}}, verify="off")
    torch.testing.assert_close(twice(x), once(x))
    assert (runs("InferenceRMSNorm"), runs()) == (1, 1)
    assert isinstance(twice, fx.GraphModule)
    assert fxkernels.original(twice) is once
    assert "is a graph module already" in twice.report.notes[0]


def test_a_changed_constant_of_a_layer_is_decided_anew(x: torch.Tensor) -> None:
    model = kernelized()
    model(x)
    model.norm.variance_epsilon = 1.0
    plain = copy.deepcopy(fxkernels.original(model))
    plain.norm.variance_epsilon = 1.0
    torch.testing.assert_close(model(x), plain(x))
    assert runs() == 2


def test_a_size_that_changes_becomes_dynamic() -> None:
    model = kernelized()
    for rows in range(2, 12):
        torch.testing.assert_close(model(x := torch.randn(rows, 8)), fxkernels.original(model)(x))
    assert runs() == 10
    assert len(model.report.calls[0].decisions) == 2


def test_hooks_of_a_layer_run_around_its_kernel(x: torch.Tensor) -> None:
    plain, seen = Block(), []
    plain.norm.register_forward_hook(lambda *_: seen.append("hook"))
    kernelized(plain)(x)
    assert seen == ["hook"]
    assert runs() == 1


def test_annotated_layers_inside_one_without_a_kernel_have_their_turn(x: torch.Tensor) -> None:
    @use_kernel_forward_from_hub("Outer")
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = Norm()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(x) + 1

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.outer = Outer()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.outer(x)

    model = kernelized(Holder())
    model(x)
    assert {call.key: call.status for call in model.report.calls} == {"outer#0": "missed", "outer.norm#0": "rewritten"}


# --- functions ----------------------------------------------------------------------------------------------------------------------------


def test_calls_of_a_function_are_named_by_their_caller_and_follow_its_training_flag(x: torch.Tensor) -> None:
    plain = Turns().eval()
    model = kernelize(plain, mapping=ROTATE, capture="symbolic", verify="off")
    with torch.no_grad():
        model(x)
        keys = ["first.Rotate#0", "first.Rotate#1", "second.Rotate#0", "second.Rotate#1"]
        assert [call.key for call in model.report.rewritten] == keys
        model.second.train()
        torch.testing.assert_close(model(x), plain.second(plain.first(x) + 200))
        model.eval()
        torch.testing.assert_close(model(x), plain.second(plain.first(x) + 200) + 200)
    assert [call.key for call in kernelize(plain, mapping=ROTATE, capture="dynamo", example_args=(x,)).report.calls] == keys


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"])
def test_functions_keep_their_kernels_in_a_duplicate(x: torch.Tensor, duplicate: Callable[[Any], Any]) -> None:
    plain = Turns().eval()
    model = duplicate(kernelize(plain, mapping=ROTATE, capture="symbolic", verify="off"))
    assert list(model.state_dict()) == list(plain.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain.second(plain.first(x) + 200) + 200)


def _by_closure() -> Callable[[torch.Tensor], torch.Tensor]:
    function = rotate
    return lambda x: function(x)


REACHED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "a closure": _by_closure(),
    "a dict": lambda x, table={"turn": rotate}: table["turn"](x),
    "a list": lambda x, functions=[rotate]: functions[0](x),
    "functools.partial": functools.partial(rotate, angle=2.0),
}


class Reaches(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.linear, self.function = nn.Linear(8, 8), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.linear(x))


@pytest.mark.parametrize("how", REACHED)
def test_an_annotated_function_that_is_reached_by_other_ways_than_its_name_is_rewritten(x: torch.Tensor, how: str) -> None:
    plain = Reaches(REACHED[how]).eval()
    model = kernelize(plain, mapping=ROTATE, verify="off")
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain(x) + 100)
    assert "calls rotate, which is annotated, where torch.fx does not see the call" in model.report.notes[0]
    with pytest.raises(CaptureError, match="calls rotate, which is annotated"):
        kernelize(plain, mapping=ROTATE, capture="symbolic")


def test_a_layer_whose_forward_is_called_by_itself_is_rewritten(x: torch.Tensor) -> None:
    class Calls(Block):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(self.norm.forward(x))

    model = kernelize(Calls(), mapping=NORMS, verify="off")
    model(x)
    assert runs() == 1
    assert "calls Norm.forward, which is annotated, where torch.fx does not see the call" in model.report.notes[0]


def test_functions_of_the_kernels_package_are_rewritten(x: torch.Tensor) -> None:
    kernels = pytest.importorskip("kernels.layer")
    turn = kernels.use_kernel_forward_from_hub("Rotate")(_plain_turn)
    plain = Reaches(lambda x: turn(x)).eval()
    model = kernelize(plain, mapping=ROTATE, verify="off")
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain(x) + 100)


def _plain_turn(x: torch.Tensor, angle: float = 2.0) -> torch.Tensor:
    return x * angle


# --- what is put around a model -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["symbolic", "dynamo"])
def block(request: pytest.FixtureRequest) -> Any:
    return kernelize(Block(), mapping=NORMS, capture=request.param, verify="off")


def test_a_checkpoint_around_it_gives_the_right_gradients(block: Any, x: torch.Tensor) -> None:
    def checkpointed(x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = checkpoint(block, x, use_reentrant=False)
        return result

    parameters = list(block.parameters())
    torch.testing.assert_close(gradients(checkpointed, x, parameters), gradients(fxkernels.original(block), x, parameters))
    assert runs() >= 1


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_forward_mode_ad_gets_the_tangent_of_the_original(block: Any, x: torch.Tensor) -> None:
    def tangent(model: Any) -> Any:
        with torch.no_grad(), forward_ad.dual_level():
            return forward_ad.unpack_dual(model(forward_ad.make_dual(x, torch.ones_like(x)))).tangent

    torch.testing.assert_close(tangent(block), tangent(fxkernels.original(block)))
    assert runs() == 0


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_transforms_of_torch_func_give_what_the_original_gives(block: Any, x: torch.Tensor) -> None:
    plain = fxkernels.original(block)
    torch.testing.assert_close(torch.func.grad(lambda x: block(x).sum())(x), torch.func.grad(lambda x: plain(x).sum())(x))
    tangents = [torch.func.jvp(model, (x,), (torch.ones_like(x),))[1] for model in (block, plain)]
    torch.testing.assert_close(*tangents)
    with torch.no_grad():
        torch.testing.assert_close(torch.func.vmap(block)(x[None].expand(2, 3, 8)), plain(x[None].expand(2, 3, 8)))


TRACES: dict[str, Callable[[Any, torch.Tensor], Any]] = {
    "symbolic_trace": lambda model, x: fx.symbolic_trace(model),
    "make_fx": lambda model, x: make_fx(model)(x),
    "torch.jit.trace": lambda model, x: torch.jit.trace(model, (x,), check_trace=False),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.trace.*` is deprecated")
@pytest.mark.parametrize("trace", TRACES)
def test_a_trace_gets_the_original_layers_and_the_next_call_runs_kernels(block: Any, x: torch.Tensor, trace: str) -> None:
    traced = TRACES[trace](block, x)
    torch.testing.assert_close(traced(x), fxkernels.original(block)(x))
    assert runs() == 0
    block(x)
    assert runs() == 1


def test_a_call_under_a_dispatch_mode_runs_the_original_and_the_next_one_kernels(block: Any, x: torch.Tensor) -> None:
    with FlopCounterMode(display=False) as counter:
        block(x)
    assert counter.get_total_flops() == 2 * 3 * 8 * 8
    assert runs() == 0
    block(x)
    assert runs() == 1
    assert len(block.report.rewritten) == 1


def test_a_dropped_copy_is_freed(block: Any, x: torch.Tensor) -> None:
    model = kernelize(Block(), mapping=NORMS, capture=block.report.capture, verify="off")
    model(x)
    alive = weakref.ref(model), weakref.ref(model.linear.weight)
    del model
    gc.collect()
    assert [reference() for reference in alive] == [None, None]
