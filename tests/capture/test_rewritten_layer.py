from __future__ import annotations

import copy
import inspect
import logging
import pickle
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from fxkernels.capture.clone import clone_module
from fxkernels.capture.rewritten_layer import KernelChoice, rewrite_in_place, rewritten_class, rewritten_layer
from fxkernels.errors import KernelRuntimeError
from fxkernels.kernels.layer import KernelIdentity, KernelLayer

calls: list[str] = []


@pytest.fixture(autouse=True)
def no_calls():
    calls.clear()


class Scale(nn.Module):
    """Scales."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(1.0, width + 1))

    def forward(self, x, shift=0.0):
        calls.append("reference")
        return x * self.weight + shift

    def extra_repr(self):
        return f"width={len(self.weight)}"


class WithBackward(nn.Module):
    def forward(self, x, shift=0.0):
        calls.append("kernel")
        return x * self.weight + shift


class WithoutBackward(nn.Module):
    has_backward = False

    def forward(self, x, shift=0.0):
        calls.append("kernel")
        return (x * self.weight + shift).detach()


class Detaching(nn.Module):
    def forward(self, x, shift=0.0):
        calls.append("kernel")
        return (x * self.weight + shift).detach()


class Renaming(nn.Module):
    def forward(self, hidden_states, offset=0.0):
        calls.append("kernel")
        return hidden_states * self.weight + offset


class Failing(nn.Module):
    def forward(self, x, shift=0.0):
        raise ZeroDivisionError("no warps left")


def kernel(cls: type[nn.Module]) -> KernelLayer:
    return KernelLayer(cls, KernelIdentity("acme/norms", "1" * 40, cls.__name__, None))


def rewritten(cls: type[nn.Module], layer: nn.Module | None = None) -> nn.Module:
    module = clone_module(layer or Scale()).module
    rewrite_in_place(module, KernelChoice.of(kernel(cls)), "blocks.0.scale")
    return module


x = torch.randn(3, 4)


def run(layer: nn.Module, value: torch.Tensor = x) -> list[str]:
    calls.clear()
    layer(value)
    return list(calls)


def test_it_is_an_instance_of_the_original_class_with_its_repr_signature_and_keys():
    original, layer = Scale(), rewritten(WithBackward)
    assert isinstance(layer, Scale)
    assert repr(layer) == repr(original) == "Scale(width=4)"
    assert inspect.signature(layer.forward) == inspect.signature(original.forward)
    assert layer.state_dict().keys() == original.state_dict().keys()
    assert type(layer).__doc__ == "Scales."


def test_one_class_serves_equal_choices():
    choice = KernelChoice.of(kernel(WithBackward))
    assert rewritten_class(Scale, choice) is rewritten_class(Scale, KernelChoice.of(kernel(WithBackward)))
    assert rewritten_class(Scale, choice) is not rewritten_class(Scale, KernelChoice.of(kernel(WithoutBackward)))


def test_the_original_class_and_layer_are_untouched():
    original, forward = Scale(), Scale.forward
    rewritten(WithBackward, original)
    assert type(original) is Scale
    assert Scale.forward is forward
    assert run(original) == ["reference"]
    assert vars(original).keys() == vars(Scale()).keys()


def test_a_kernel_with_a_backward_runs_in_both_modes():
    layer = rewritten(WithBackward)
    assert run(layer.train()) == run(layer.eval()) == ["kernel"]


def test_a_kernel_without_a_backward_gives_way_in_training_mode_and_comes_back():
    layer = rewritten(WithoutBackward)
    assert run(layer.train()) == ["reference"]
    assert run(layer.eval()) == ["kernel"]
    assert run(layer.train()) == ["reference"]


def test_each_mode_can_have_a_kernel_of_its_own_or_none():
    module = clone_module(Scale()).module
    rewrite_in_place(module, KernelChoice(inference=None, training=kernel(WithBackward)), "scale")
    assert run(module.train()) == ["kernel"]
    assert run(module.eval()) == ["reference"]


def test_a_kernel_without_a_backward_is_no_choice_for_training():
    with pytest.raises(ValueError, match="acme/norms@1111111:WithoutBackward has no backward"):
        KernelChoice(inference=None, training=kernel(WithoutBackward))


def test_a_choice_has_a_kernel():
    with pytest.raises(ValueError, match="at least one mode"):
        KernelChoice(inference=None, training=None)


def gradients(layer: nn.Module, **kwargs: object) -> tuple[torch.Tensor, ...]:
    value = x.clone().requires_grad_()
    output = layer(value, **kwargs)
    return torch.autograd.grad(output.sin().sum(), (value, layer.weight))


def test_a_gradient_through_a_kernel_without_a_backward_is_the_references_recomputed():
    layer, original = rewritten(WithoutBackward).eval(), Scale()
    ours = gradients(layer)
    assert calls == ["kernel", "reference"]
    assert all(map(torch.equal, ours, gradients(original)))


def test_a_gradient_flows_to_the_weights_even_if_the_input_has_none():
    layer = rewritten(WithoutBackward).eval()
    layer(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, x.sum(0))


def test_a_gradient_flows_to_tensors_given_by_keyword():
    layer, shift = rewritten(WithoutBackward).eval(), torch.zeros(4, requires_grad=True)
    layer(x, shift=shift).sum().backward()
    assert shift.grad.tolist() == [3.0] * 4


def test_without_grad_mode_or_without_anything_that_needs_a_gradient_nothing_is_recorded():
    layer = rewritten(WithoutBackward).eval()
    with torch.no_grad():
        assert not layer(x).requires_grad
    layer.requires_grad_(False)
    assert not layer(x).requires_grad
    assert calls == ["kernel", "kernel"]


def test_a_recomputed_gradient_leaves_the_models_own_dictionaries_alone():
    original = Scale()
    before = dict(original._parameters)
    gradients(rewritten(WithoutBackward, original).eval())
    assert original._parameters.keys() == before.keys()
    assert original._parameters["weight"] is before["weight"]


def test_second_derivatives_of_a_recomputed_gradient_are_the_references():
    def second(layer):
        value = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(layer(value).pow(3).sum(), value, create_graph=True)
        return torch.autograd.grad(first.sum(), (value, layer.weight))

    for ours, theirs in zip(second(rewritten(WithoutBackward).eval()), second(Scale()), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_a_kernel_that_detaches_although_it_claims_a_backward_gets_the_references_gradient_and_one_warning(caplog, training):
    module = clone_module(Scale()).module
    path = f"detaching.{training}"
    rewrite_in_place(module, KernelChoice.of(kernel(Detaching)), path)
    module.train(training)
    with caplog.at_level(logging.WARNING, "fxkernels"):
        ours = gradients(module)
        gradients(module)
    assert calls.count("kernel") == 2
    assert all(map(torch.equal, ours, gradients(Scale())))
    (record,) = [record for record in caplog.records if path in record.getMessage()]
    assert "acme/norms@1111111:Detaching" in record.getMessage()
    assert record.levelno == logging.WARNING


@dataclass
class Output:
    main: torch.Tensor
    extras: dict[str, tuple[torch.Tensor, int]]


class Structured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, pair, options):
        y = self.inner(pair[0]) + options["add"]
        return Output(y * pair[1], {"side": (y.exp(), 3), "index": (y.argmax(-1), 4)})


class StructuredKernel(nn.Module):
    has_backward = False

    def forward(self, pair, options):
        y = self.inner(pair[0]) + options["add"]
        return Output((y * pair[1]).detach(), {"side": (y.exp().detach(), 3), "index": (y.argmax(-1), 4)})


def test_tensors_inside_of_containers_and_dataclasses_get_gradients_too():
    original = Structured()
    layer = rewritten(StructuredKernel, original).eval()

    def gradients(module):
        a, b, c = (torch.full((2, 4), value, requires_grad=True) for value in (0.5, 2.0, 1.0))
        output = module([a, b], {"add": c})
        assert output.extras["side"][1] == 3
        assert not output.extras["index"][0].requires_grad
        return torch.autograd.grad(output.main.sum() + output.extras["side"][0].sum(), (a, b, c, *module.parameters()))

    assert all(map(torch.equal, gradients(layer), gradients(original)))


def test_keyword_arguments_reach_a_kernel_that_names_them_otherwise():
    layer = rewritten(Renaming).eval()
    assert torch.equal(layer(x=x, shift=2.0), Scale()(x, shift=2.0))
    assert calls[0] == "kernel"


def test_a_kernel_that_raises_says_where_and_which():
    layer = rewritten(Failing).eval()
    with pytest.raises(KernelRuntimeError) as caught:
        layer(x)
    assert caught.value.path == "blocks.0.scale"
    assert "acme/norms@1111111:Failing failed at blocks.0.scale" in str(caught.value)
    assert "ZeroDivisionError: no warps left" in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_the_references_own_errors_are_not_dressed_up():
    layer = rewritten(WithoutBackward).train()
    with pytest.raises(RuntimeError, match="must match the size"):
        layer(torch.randn(3))


def test_deep_copy_and_pickle_stay_rewritten():
    layer = rewritten(WithoutBackward).eval()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert run(twin) == ["kernel"]
        assert run(twin.train()) == ["reference"]
        assert type(twin) is type(layer)
        assert twin.weight is not layer.weight


def test_hooks_of_the_layer_run():
    original, seen = Scale(), []
    original.register_forward_hook(lambda *_: seen.append("hook"))
    rewritten(WithBackward, original)(x)
    assert seen == ["hook"]


def test_a_second_object_over_a_layers_state_follows_its_flags_and_weights():
    layer = clone_module(Scale()).module.eval()
    view = rewritten_layer(layer, KernelChoice.of(kernel(WithoutBackward)), "scale")
    assert run(layer) == ["reference"]
    assert run(view) == ["kernel"]
    layer.train()
    assert run(view) == ["reference"]
    layer.to(torch.float64)
    assert view.weight.dtype == torch.float64


def test_parametrized_layers_are_rewritten_and_their_gradients_reach_what_they_are_computed_from():
    def model():
        torch.manual_seed(0)
        layer = Scale()
        nn.utils.parametrize.register_parametrization(layer, "weight", nn.Tanh())
        return layer

    def gradient(layer):
        return torch.autograd.grad(layer(x).sum(), layer.parametrizations.weight.original)[0]

    layer = rewritten(WithoutBackward, model()).eval()
    assert torch.equal(gradient(layer), gradient(model()))
    assert calls.count("kernel") == 1


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("cls", [WithBackward, WithoutBackward], ids=["with backward", "without backward"])
def test_torch_compile_traces_it(cls):
    layer = rewritten(QuietBackward if cls is WithBackward else QuietWithoutBackward, QuietScale()).eval()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(x), x * layer.weight)
    value = x.clone().requires_grad_()
    ours = torch.autograd.grad(compiled(value).sin().sum(), (value, layer.weight))
    theirs = torch.autograd.grad((value * layer.weight).sin().sum(), (value, layer.weight))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


class QuietScale(Scale):
    def forward(self, x):
        return x * self.weight


class QuietBackward(nn.Module):
    def forward(self, x):
        return x * self.weight


class QuietWithoutBackward(nn.Module):
    has_backward = False

    def forward(self, x):
        return (x * self.weight).detach()
