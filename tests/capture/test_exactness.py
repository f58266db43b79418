from __future__ import annotations

import collections
import functools

import pytest
import torch
from torch import nn

from fxkernels.annotate import use_kernel_forward_from_hub
from fxkernels.capture.symbolic import trace_exactly
from fxkernels.errors import CaptureError


@use_kernel_forward_from_hub("RMSNorm")
class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x, scale=1.0):
        if self.training:
            return x * self.weight * scale + 0
        return x * self.weight * scale


class Inner(nn.Module):
    """Traced through; tests give it the behaviour they are about."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = Norm()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return self.norm(self.linear(x), scale=2.0)


def why_not_exact(model: nn.Module) -> str | None:
    try:
        trace_exactly(model)
    except CaptureError as error:
        return str(error)
    return None


class Model(nn.Module):
    def __init__(self, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.inner = inner or Inner()
        self.drop = nn.Dropout()

    def forward(self, x):
        return self.drop(self.inner(x))


def reason(forward=None, **members):
    """Why a model is not exact whose traced-through part has this forward and these members."""
    members = {"forward": forward, **members} if forward is not None else members
    return why_not_exact(Model(type("Special", (Inner,), members)()))


def test_a_plain_model_with_layers_that_know_modes_is_exact():
    assert why_not_exact(Model()) is None


def test_asking_changes_nothing_about_the_model():
    model = Model()
    model.inner.eval()
    before = {path: dict(vars(module)) for path, module in model.named_modules()}
    why_not_exact(model)
    assert {path: dict(vars(module)) for path, module in model.named_modules()} == before


def test_other_operations_in_eval_mode_are_a_reason():
    def forward(self, x):
        return x + 1 if self.training else x

    assert reason(forward) == "inner has other operations in eval mode than in training mode: add"


def test_another_constant_in_eval_mode_is_a_reason():
    def forward(self, x):
        return nn.functional.dropout(x, training=self.training)

    assert reason(forward) == "inner has other operations in eval mode than in training mode: dropout"


def test_true_and_one_are_not_the_same_constant():
    assert "in eval mode" in reason(lambda self, x: torch.add(x, True if self.training else 1))


def test_operations_that_depend_on_grad_mode_are_a_reason():
    assert "in eval mode" in reason(lambda self, x: x + 1 if torch.is_grad_enabled() else x)


def test_dropping_the_gradient_inside_is_a_reason():
    def forward(self, x):
        with torch.no_grad():
            return x + 1

    assert reason(forward) == "inner switches grad mode, inference mode or autocast"


def test_autocast_inside_is_a_reason():
    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.linear(x)

    assert reason(forward) == "inner switches grad mode, inference mode or autocast"


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"])
def test_hooks_on_a_module_that_is_traced_through_are_a_reason(register):
    model = Model()
    getattr(model.inner, register)(lambda *_: None)
    assert why_not_exact(model).startswith("inner has hooks")
    model = Model()
    getattr(model, register)(lambda *_: None)
    assert why_not_exact(model).startswith("the model, a Model, has hooks")


def test_hooks_on_layers_are_no_reason():
    model = Model()
    model.inner.norm.register_forward_hook(lambda *_: None)
    model.inner.linear.register_forward_hook(lambda *_: None)
    assert why_not_exact(model) is None


def test_hooks_for_all_modules_are_a_reason():
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert why_not_exact(Model()) == "the model would lose the hooks that are registered for all modules (forward_hooks)"
    finally:
        handle.remove()


@pytest.mark.parametrize("method", ["train", "eval"])
def test_an_own_train_or_eval_is_a_reason(method):
    def own(self, *args):
        return getattr(super(Inner, self), method)(*args)

    assert reason(**{method: own}) == f"inner overrides {method}, which may treat its parts differently"


def test_an_own_call_is_a_reason_also_of_a_layer():
    def call(self, *args, **kwargs):
        return nn.Module.__call__(self, *args, **kwargs) + 1

    assert reason(__call__=call).startswith("inner overrides __call__")
    model = Model()
    model.inner.norm = type("Called", (Norm,), {"__call__": call})()
    assert why_not_exact(model).startswith("inner.norm overrides __call__")


def test_a_changed_attribute_is_a_reason():
    def forward(self, x):
        self.calls = getattr(self, "calls", 0) + 1
        return x

    assert reason(forward) == "inner.calls was changed by running the model, and a graph would not change it"


def test_a_changed_container_is_a_reason_and_is_put_back():
    inner = type("Remembers", (Inner,), {"forward": lambda self, x: (self.seen.append(x), x)[1]})()
    inner.seen = []
    assert why_not_exact(Model(inner)) == "inner.seen was changed by running the model, and a graph would not change it"
    assert inner.seen == []


def test_a_tensor_made_while_running_is_a_reason():
    assert reason(lambda self, x: x + torch.ones(4)) == "the model makes a tensor while it runs, and a graph would keep the first one"


def test_a_tensor_attribute_is_no_reason():
    inner = type("Shifted", (Inner,), {"forward": lambda self, x: x + self.shift})()
    inner.shift = torch.ones(4)
    assert why_not_exact(Model(inner)) is None


def test_what_is_computed_from_buffers_alone_is_no_reason():
    inner = type("Buffered", (Inner,), {"forward": lambda self, x: x + self.table * 2})()
    inner.register_buffer("table", torch.ones(4))
    assert why_not_exact(Model(inner)) is None


@pytest.mark.parametrize(
    "kind", [torch.Tensor, (list, torch.Tensor), collections.abc.Mapping, nn.Parameter], ids=["tensor", "several", "abstract", "parameter"]
)
def test_asking_for_the_type_of_a_value_is_a_reason(kind):
    assert reason(lambda self, x: x if isinstance(x, kind) else x + 1).startswith("inner asks for the type of a value")


def test_testing_an_argument_for_none_is_a_reason():
    class Optional(nn.Module):
        def forward(self, x, mask):
            return x if mask is None else x + mask

    assert why_not_exact(Optional()) == "the model tests whether its argument mask is None, and a graph keeps one answer"


def test_testing_an_argument_for_none_amid_an_operation_is_a_reason():
    class Optional(nn.Module):
        def forward(self, x, mask):
            return x + (x if mask is None else mask)  # Python 3.13 loads x and mask in one instruction

    assert why_not_exact(Optional()) == "the model tests whether its argument mask is None, and a graph keeps one answer"


def test_a_part_that_tests_what_the_model_hands_through_for_none_is_a_reason():
    class Part(nn.Module):
        def forward(self, x, mask=None):
            present = mask is not None
            return x + mask if present else x

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = Part()

        def forward(self, x, mask):
            return self.part(x, mask)

    class Alone(Whole):
        def forward(self, x):
            return self.part(x)

    assert why_not_exact(Whole()).startswith("part tests whether its argument mask is None")
    assert why_not_exact(Alone()) is None


def test_a_branch_on_a_value_is_a_reason_that_names_the_place():
    assert reason(lambda self, x: x if x.sum() > 0 else -x).startswith("inner cannot be traced: TraceError")


def test_a_module_outside_the_submodules_is_a_reason():
    inner = type("Hidden", (Inner,), {"forward": lambda self, x: self.layers[0](x)})()
    inner.layers = [nn.Linear(4, 4)]
    assert why_not_exact(Model(inner)) == "inner calls a Linear that is not among its submodules"


def test_a_dict_of_another_class_among_the_outputs_is_a_reason():
    class Output(nn.Module):
        def forward(self, x):
            return collections.OrderedDict(x=x)

    assert why_not_exact(Output()) == "the model passes a OrderedDict, which a graph turns into a plain dict"


class Configured(nn.Module):
    def forward(self, x, flag=False):
        return -x if flag else x


class Variadic(nn.Module):
    def forward(self, *xs):
        return xs[0]


class Keywords(nn.Module):
    def forward(self, x, **options):
        return x


@pytest.mark.parametrize(
    ("model", "part"),
    [(Configured(), "has a default for flag"), (Variadic(), "takes *xs"), (Keywords(), "takes **options")],
    ids=["default", "args", "kwargs"],
)
def test_optional_arguments_of_the_model_are_a_reason(model, part):
    assert part in why_not_exact(model)


class Encoder(Model):
    def encode(self, x):
        return self.inner(x)


class InheritsEncode(Encoder):
    pass


class HasProperty(Model):
    @property
    def width(self):
        return 4


class HasCached(Model):
    @functools.cached_property
    def width(self):
        return 4


class HasItems(Model):
    def __getitem__(self, index):
        return self.inner


class OwnStateDict(Model):
    def state_dict(self, *args, **kwargs):
        return super().state_dict(*args, **kwargs)


class OwnExtraState(Model):
    def get_extra_state(self):
        return 1


class OnlyPrivate(Model):
    def _helper(self):
        return 1

    def extra_repr(self):
        return "x"


@pytest.mark.parametrize(
    "cls", [Encoder, InheritsEncode, HasProperty, HasCached, HasItems, OwnStateDict, OwnExtraState], ids=lambda cls: cls.__name__
)
def test_a_model_with_more_public_methods_than_forward_is_not_exact(cls):
    assert why_not_exact(cls()) is not None


def test_private_methods_are_no_reason():
    assert why_not_exact(OnlyPrivate()) is None


def test_the_reason_names_class_and_method():
    assert why_not_exact(InheritsEncode()) == "the model offers Encoder.encode besides forward, which a graph module would not have"


def test_a_model_that_is_itself_an_annotated_layer_is_not_exact():
    assert "is itself an annotated layer" in why_not_exact(Norm())


def test_a_forward_on_the_instance_is_a_reason():
    model = Model()
    model.inner.forward = model.inner.forward
    assert why_not_exact(model).startswith("inner has a forward set on the instance")
    model = Model()
    model.forward = model.forward
    assert why_not_exact(model).startswith("the model, a Model, has a forward set on the instance")


def test_no_transformers_model_is_exact():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, vocab_size=64)
    assert why_not_exact(transformers.LlamaForCausalLM(config)) is not None
