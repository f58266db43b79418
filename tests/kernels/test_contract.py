"""The gates of a kernel layer's contract."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
from kernel_repositories import FOLDER, repository
from layers import Norm
from torch import nn

from fxkernels.kernels.contract import (
    CONTRACT,
    attributes_exist,
    breaks_contract,
    has_no_own_state,
    leaves_the_layer_alone,
    signature_agrees,
)
from fxkernels.kernels.layer import KernelIdentity, KernelLayer
from fxkernels.kernels.origin import LayerOrigin
from fxkernels.kernels.signature import forward_signature
from fxkernels.kernels.stand_in import LayerState
from fxkernels.target import Target

CPU = Target("cpu", None, "2.13", None, "linux", "x86_64")
LLAMA_NORM = ("weight", "variance_epsilon")
GOOD = [
    ("norms", "RMSNorm"),
    ("norms", "CountedRMSNorm"),
    ("norms", "InferenceRMSNorm"),
    ("norms", "UntraceableRMSNorm"),
    ("activations", "SiLU"),
    ("activations", "GeLU"),
    ("activations", "SiluAndMul"),
    ("activations", "QuickGELU"),
    ("rotary", "rotary_pos_emb"),
    ("rotary", "InferenceRotary"),
]


def norm(hidden_states): ...


def rotary(q, k, cos, sin, unsqueeze_dim=1): ...


def loaded(name: str, layer: str) -> KernelLayer:
    return repository(name, layer).load_for(CPU)


def kernel_of(forward) -> KernelLayer:
    cls = type("Kernel", (nn.Module,), {"forward": forward})
    return KernelLayer(cls, KernelIdentity("test", None, "Kernel", None))


@pytest.mark.parametrize(("name", "layer"), GOOD)
def test_layer_with_only_a_forward_and_flags_has_no_own_state(name, layer):
    assert has_no_own_state(loaded(name, layer)) is None


@pytest.mark.parametrize(("layer", "member"), [("OwnInit", "__init__"), ("ExtraState", "block_size"), ("HelperMethod", "scaled")])
def test_member_that_the_replaced_layer_lacks_is_named(layer, member):
    miss = has_no_own_state(loaded("broken", layer))
    assert miss.code == "own_state"
    assert f"{layer} brings {member}," in miss.message


def test_class_that_is_no_module_is_a_miss():
    miss = has_no_own_state(loaded("broken", "NoModule"))
    assert miss.code == "own_state"
    assert "NoModule is not derived from torch.nn.Module" in miss.message


def test_state_inherited_from_another_layer_is_own_state():
    kernel = KernelLayer(type("Kernel", (nn.LayerNorm,), {}), KernelIdentity("test", None, "Kernel", None))
    assert "__init__" in has_no_own_state(kernel).message


def test_annotations_docstring_and_extra_repr_are_no_state():
    class Kernel(nn.Module):
        """Documented."""

        weight: nn.Parameter

        def forward(self, x):
            return x

        def extra_repr(self):
            return "fast"

    assert has_no_own_state(KernelLayer(Kernel, KernelIdentity("test", None, "Kernel", None))) is None


def test_behaviour_that_the_replaced_layer_would_not_have_is_own_state():
    class Kernel(nn.Module):
        def forward(self, x):
            return x

        def __call__(self, x):
            return self.forward(x.contiguous())

    assert "__call__" in has_no_own_state(KernelLayer(Kernel, KernelIdentity("test", None, "Kernel", None))).message


def test_layer_that_writes_to_the_layer_is_a_miss_that_names_the_line():
    miss = leaves_the_layer_alone(loaded("broken", "WritesSelf"))
    assert miss.code == "own_state"
    (line,) = [
        number
        for number, text in enumerate((FOLDER / "broken" / "build" / "torch-universal" / "layers.py").read_text().splitlines(), 1)
        if "self.last_shape =" in text
    ]
    assert miss.message == f"WritesSelf writes to the layer: self.last_shape at layers.py:{line}; a kernel layer only reads it"


@pytest.mark.parametrize(("name", "layer"), GOOD)
def test_layer_that_only_reads_passes(name, layer):
    assert leaves_the_layer_alone(loaded(name, layer)) is None


def test_signature_of_the_reference_agrees():
    assert signature_agrees(loaded("norms", "RMSNorm"), inspect.signature(norm), 1, ()) is None
    assert signature_agrees(loaded("rotary", "rotary_pos_emb"), inspect.signature(rotary), 4, ("unsqueeze_dim",)) is None


@pytest.mark.parametrize(
    ("layer", "reference", "positional"),
    [("MoreParameters", norm, 1), ("FewerParameters", rotary, 4), ("SwappedNames", rotary, 4), ("OtherDefault", rotary, 4)],
)
def test_other_signature_is_a_miss_that_shows_both(layer, reference, positional):
    kernel = loaded("broken", layer)
    miss = signature_agrees(kernel, inspect.signature(reference), positional, ())
    assert miss.code == "signature"
    assert f"the layer's takes {inspect.signature(reference)}" in miss.message
    assert "the kernel's forward takes (" in miss.message
    assert "self" not in miss.message


def test_default_that_differs_does_not_matter_to_a_call_that_passes_the_argument():
    kernel = loaded("broken", "OtherDefault")
    assert signature_agrees(kernel, inspect.signature(rotary), 5, ()) is None
    assert signature_agrees(kernel, inspect.signature(rotary), 4, ("unsqueeze_dim",)) is None


def test_forward_without_a_signature_is_a_miss():
    assert signature_agrees(kernel_of(min), inspect.signature(norm), 1, ()).code == "signature"


@pytest.mark.parametrize("layer", ["RMSNorm", "CountedRMSNorm", "UntraceableRMSNorm", "Float32RMSNorm"])
def test_kernel_that_reads_what_the_layer_has_passes(layer):
    assert attributes_exist(loaded("norms", layer), LLAMA_NORM) is None


def test_attribute_that_the_layer_lacks_is_named_beside_those_it_has():
    miss = attributes_exist(loaded("norms", "EpsRMSNorm"), LLAMA_NORM)
    assert miss.code == "missing_attribute"
    assert miss.message == "it reads self.eps; the layer has: weight, variance_epsilon"


def test_message_about_a_set_of_attributes_is_the_same_each_time():
    assert attributes_exist(loaded("norms", "EpsRMSNorm"), {"weight", "bias", "axis"}).message.endswith("has: axis, bias, weight")


def test_layer_with_many_attributes_is_not_listed_in_full():
    names = [f"a{number}" for number in range(15)]
    assert attributes_exist(loaded("norms", "EpsRMSNorm"), names).message.endswith("a10, a11 and 3 more")


def test_layer_without_attributes_is_said_to_have_none():
    assert attributes_exist(loaded("norms", "EpsRMSNorm"), ()).message.endswith("the layer has: (nothing)")


def test_what_every_module_has_is_not_missing():
    def forward(self, x):
        if self.training and self.has_backward:
            return [x, *self.parameters(), *self._buffers]
        return self.named_parameters, self.__class__, self._forward_hooks

    assert attributes_exist(kernel_of(forward), ()) is None


def test_every_repository_for_tests_is_described():
    described = (FOLDER / "README.md").read_text()
    hazards = {f"hazard-{number}" for number in range(1, 11)}  # one line for all of them
    named = {path.name: "-".join(path.name.split("-")[:2]) for path in FOLDER.iterdir() if path.is_dir()}
    assert [name for name, short in named.items() if f"`{name}`" not in described and short not in hazards] == []


NORM = LayerOrigin(Norm, forward_signature(Norm), is_function=False, state=LayerState(Norm, ("weight",), {"variance_epsilon": 1e-6}))


def test_a_good_kernel_keeps_its_contract() -> None:
    assert breaks_contract(loaded("norms", "RMSNorm"), NORM, 1, ()) is None


@pytest.mark.parametrize(
    ("name", "layer", "code"),
    [("broken", "OwnInit", "own_state"), ("broken", "WritesSelf", "own_state"), ("norms", "EpsRMSNorm", "missing_attribute")],
)
def test_a_broken_contract_is_a_miss_of_the_gate(name: str, layer: str, code: str) -> None:
    miss = breaks_contract(loaded(name, layer), NORM, 1, ())
    assert miss is not None
    assert CONTRACT.failed(miss).miss is miss
    assert miss.code == code


def test_a_kernel_with_other_parameters_breaks_the_contract() -> None:
    class Residual(nn.Module):
        def forward(self, hidden_states: object, residual: object) -> None: ...

    miss = breaks_contract(loaded("norms", "RMSNorm"), replace(NORM, signature=forward_signature(Residual)), 2, ())
    assert miss is not None
    assert miss.code == "signature"


def test_the_contract_depends_on_what_the_layer_has() -> None:
    kernel, state = loaded("norms", "EpsRMSNorm"), LayerState(Norm, ("weight",), {"variance_epsilon": 1e-6, "eps": 1e-6})
    answers = [breaks_contract(kernel, origin, 1, ()) for origin in (NORM, replace(NORM, state=state))]
    assert [answer.code if answer else None for answer in answers] == ["missing_attribute", None]
