from __future__ import annotations

import copy
import pickle

import pytest
import torch
from packaging.version import Version
from torch import fx, nn

from fxkernels.annotate import use_kernel_forward_from_hub
from fxkernels.capture.captured_module import CapturedModule
from fxkernels.capture.rewritten_layer import KernelChoice
from fxkernels.capture.symbolic import trace_symbolically
from fxkernels.capture.symbolic_calls import layer_calls, rewrite_calls
from fxkernels.errors import KernelRuntimeError
from fxkernels.kernels.layer import KernelIdentity, KernelLayer

ran: list[str] = []


@pytest.fixture(autouse=True)
def nothing_ran():
    ran.clear()


@use_kernel_forward_from_hub("Norm")
class Norm(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * self.weight


@use_kernel_forward_from_hub("Rotate")
def rotate(x, angle, sign=1):
    return x * angle * sign


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = Norm()

    def forward(self, x):
        return rotate(self.norm(x), angle=2.0)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.norm = Norm()
        self.alias = self.norm
        self.in_list = [self.norm]

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.norm(rotate(self.norm(x), 0.5)) + self.alias(x)


class NormKernel(nn.Module):
    has_backward = False

    def forward(self, x):
        ran.append("norm")
        return x.detach() * self.weight.detach()


class OtherNormKernel(nn.Module):
    def forward(self, x):
        ran.append("other norm")
        return x * self.weight


class RotateKernel(nn.Module):
    has_backward = False

    def forward(self, q, theta, direction=1):
        ran.append("rotate")
        return (q * theta * direction).detach()


class FailingKernel(nn.Module):
    def forward(self, x):
        raise ValueError("no")


def choice(cls: type[nn.Module]) -> KernelChoice:
    return KernelChoice.of(KernelLayer(cls, KernelIdentity("acme/kernels", None, cls.__name__, None)))


@pytest.fixture
def model() -> Model:
    return Model().eval()


x = torch.randn(3, 4)


def rewritten(model: nn.Module, **kernels: type[nn.Module]) -> CapturedModule:
    traced = trace_symbolically(model)
    rewrite_calls(traced, {call.key: choice(kernels[call.layer_name]) for call in layer_calls(traced) if call.layer_name in kernels})
    return traced


def count(module: nn.Module) -> list[str]:
    ran.clear()
    module(x)
    return list(ran)


def test_calls_are_named_by_path_and_index(model):
    calls = layer_calls(trace_symbolically(model))
    assert [call.key for call in calls] == [
        "blocks.0.norm#0",
        "blocks.0.Rotate#0",
        "blocks.1.norm#0",
        "blocks.1.Rotate#0",
        "norm#0",
        "Rotate#0",
        "norm#1",
        "norm#2",
    ]
    assert [call.owner for call in calls] == ["blocks.0", "blocks.0", "blocks.1", "blocks.1", "", "", "", ""]
    assert {call.layer_name for call in calls} == {"Norm", "Rotate"}


def test_every_rewritten_call_runs_its_kernel_and_the_result_is_the_models(model):
    result = rewritten(model, Norm=NormKernel, Rotate=RotateKernel)
    assert torch.equal(result(x), model(x))
    assert sorted(ran) == ["norm"] * 5 + ["rotate"] * 3


def test_rewritten_calls_are_layer_calls_no_more(model):
    result = rewritten(model, Norm=NormKernel)
    assert [call.layer_name for call in layer_calls(result)] == ["Rotate"] * 3
    assert layer_calls(rewritten(model, Norm=NormKernel, Rotate=RotateKernel)) == ()


def test_the_model_and_a_second_one_are_untouched(model):
    rewritten(model, Norm=NormKernel, Rotate=RotateKernel)
    assert count(model) == count(Model()) == []
    assert type(model.norm) is Norm


def test_one_model_can_be_rewritten_in_two_ways_at_once(model):
    one, other = rewritten(model, Norm=NormKernel), rewritten(model, Norm=OtherNormKernel)
    assert count(one) == ["norm"] * 5
    assert count(other) == ["other norm"] * 5


def test_nothing_chosen_leaves_the_graph_as_it_was(model):
    traced = trace_symbolically(model)
    before = str(traced.graph)
    rewrite_calls(traced, {})
    assert str(traced.graph) == before


def test_state_dict_keys_stay_however_calls_are_decided(model):
    expected = list(model.state_dict())
    assert list(rewritten(model, Norm=NormKernel, Rotate=RotateKernel).state_dict()) == expected
    traced = trace_symbolically(model)
    rewrite_calls(traced, {"norm#1": choice(NormKernel), "norm#2": choice(OtherNormKernel)})
    assert list(traced.state_dict()) == expected


def test_a_layer_whose_calls_are_all_rewritten_is_rewritten_wherever_it_is_referred_to(model):
    result = rewritten(model, Norm=NormKernel)
    assert result.norm is result.alias is result.in_list[0]
    assert isinstance(result.norm, Norm)
    assert count(result.norm) == ["norm"]
    assert count(result.blocks[0]) == ["norm"]


def test_calls_of_one_layer_can_be_decided_separately(model):
    traced = trace_symbolically(model)
    rewrite_calls(traced, {"norm#1": choice(NormKernel), "norm#2": choice(OtherNormKernel)})
    assert torch.equal(traced(x), model(x))
    assert ran == ["norm", "other norm"]
    assert type(traced.norm) is Norm
    traced.norm.train()
    assert count(traced) == ["other norm"]
    traced.norm.eval()
    traced.to(torch.float64)
    assert traced(x.double()).dtype == torch.float64
    traced.graph.lint()


def test_names_and_metadata_of_nodes_survive(model):
    before = trace_symbolically(model)
    after = rewritten(model, Norm=NormKernel, Rotate=RotateKernel)
    assert [node.name for node in after.graph.nodes] == [node.name for node in before.graph.nodes]
    for one, other in zip(before.graph.nodes, after.graph.nodes, strict=True):
        assert one.meta.get("nn_module_stack") == other.meta.get("nn_module_stack")


def test_train_and_eval_choose_per_submodule_for_layers_and_functions(model):
    result = rewritten(model, Norm=NormKernel, Rotate=RotateKernel)
    result.train()
    assert count(result) == []
    result.blocks[0].eval()
    assert count(result) == ["norm", "rotate"]
    result.blocks[0].norm.train()
    assert count(result) == ["rotate"]
    result.eval()
    assert len(count(result)) == 8
    assert not model.training


def test_gradients_through_kernels_without_a_backward_are_the_models(model):
    result = rewritten(model, Norm=NormKernel, Rotate=RotateKernel)

    def gradients(module):
        value = x.clone().requires_grad_()
        return torch.autograd.grad(module(value).sin().sum(), (value, *module.parameters()))

    ours = gradients(result)
    assert len(ran) == 8
    for one, other in zip(ours, gradients(model), strict=True):
        torch.testing.assert_close(one, other)


def test_a_failing_kernel_names_the_call(model):
    result = rewritten(model, Norm=FailingKernel)
    with pytest.raises(KernelRuntimeError, match=r"acme/kernels:FailingKernel failed at blocks\.0\.norm"):
        result(x)


def test_an_unknown_call_is_an_error_before_anything_is_edited(model):
    traced = trace_symbolically(model)
    before = str(traced.graph)
    with pytest.raises(KeyError, match="no such call: nowhere#0"):
        rewrite_calls(traced, {"nowhere#0": choice(NormKernel), "norm#0": choice(NormKernel)})
    assert str(traced.graph) == before


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, copy.copy, lambda module: pickle.loads(pickle.dumps(module))], ids=["deepcopy", "copy", "pickle"]
)
def test_copies_stay_rewritten(model, duplicate):
    result = rewritten(model, Norm=NormKernel, Rotate=RotateKernel)
    traced = trace_symbolically(model)
    rewrite_calls(traced, {"norm#1": choice(NormKernel)})
    for module in (result, traced):
        twin = duplicate(module)
        assert torch.equal(twin(x), model(x))
        assert count(twin) == count(module) != []
        assert list(twin.state_dict()) == list(model.state_dict())
        twin.train()
        assert count(twin) == []
        twin.eval()


def test_a_view_in_a_deep_copy_has_the_weights_of_the_copy(model):
    traced = trace_symbolically(model)
    rewrite_calls(traced, {"norm#1": choice(NormKernel)})
    twin = copy.deepcopy(traced)
    with torch.no_grad():
        twin.norm.weight.zero_()
    assert torch.equal(twin(x), torch.zeros(3, 4))
    assert not torch.equal(traced(x), torch.zeros(3, 4))


def test_model_and_rewritten_graph_stay_in_step(model):
    result = rewritten(model, Norm=NormKernel, Rotate=RotateKernel)
    model.load_state_dict({key: torch.randn_like(value) for key, value in model.state_dict().items()}, assign=True)
    assert torch.equal(result(x), model(x))
    model.to(torch.float64)
    assert torch.equal(result(x.double()), model(x.double()))


class CosineNormKernel(nn.Module):
    has_backward = False

    def forward(self, x):
        return x * self.weight.cos().acos()


class CosineRotateKernel(nn.Module):
    def forward(self, q, theta, direction=1):
        return q.acos().cos() * theta * direction


@pytest.mark.skipif(Version(torch.__version__) < Version("2.13"), reason="Dynamo takes every compilation for an export (seen in 2.11)")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("grad", [False, True], ids=["no grad", "grad"])
def test_torch_compile_puts_all_kernels_into_one_graph(model, grad):
    result = trace_symbolically(model)
    kernels = {"Norm": CosineNormKernel, "Rotate": CosineRotateKernel}
    rewrite_calls(result, {call.key: choice(kernels[call.layer_name]) for call in layer_calls(result) if call.key != "norm#0"})
    targets: list[str] = []

    def backend(gm, example_inputs):
        targets.extend(node.target for module in gm.modules() if isinstance(module, fx.GraphModule) for node in module.graph.nodes)
        return gm

    compiled = torch.compile(result, backend=backend, fullgraph=True)
    small = (x / 100).requires_grad_(grad)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(compiled(small), model(small), atol=1e-4, rtol=1e-3)
    assert targets.count("acos") == 7


def test_a_function_called_by_a_container_gets_no_place_in_it():
    class Chain(nn.Sequential):
        def forward(self, x):
            for layer in self:
                x = rotate(layer(x), 2.0)
            return x

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.chain = Chain(nn.Identity())

        def forward(self, x):
            return self.chain(x)

    result = rewritten(Whole().eval(), Rotate=RotateKernel)
    assert count(result) == ["rotate"]
    assert len(result.chain) == 1


def test_functions_of_the_kernels_package_are_rewritten_and_pickled():
    kernels = pytest.importorskip("kernels.layer")
    globals()["decorated"] = kernels.use_kernel_forward_from_hub("Rotate")(plain_rotate)

    class Whole(nn.Module):
        def forward(self, x):
            return globals()["decorated"](x, sign=-1, angle=2.0)

    model = Whole().eval()
    untouched = trace_symbolically(model)
    result = rewritten(model, Rotate=RotateKernel)
    for module, expected in ((untouched, []), (result, ["rotate"])):
        for twin in (module, pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
            assert torch.equal(twin(x), x * -2.0)
            assert count(twin) == expected


def plain_rotate(x, angle, sign=1):
    return x * angle * sign
