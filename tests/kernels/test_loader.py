"""Loading kernel layers and checking their contract, each once."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
from kernel_repositories import repository
from layers import Norm
from torch import nn

from fxkernels.kernels.layer import KernelLayer
from fxkernels.kernels.loader import CallForm, KernelLoader
from fxkernels.kernels.signature import forward_signature
from fxkernels.passes.miss import Miss
from fxkernels.target import Target

CPU = Target("cpu", None, "2.13", None, "linux", "x86_64")
FORM = CallForm(Norm, forward_signature(Norm), 1, (), frozenset({"weight", "variance_epsilon"}))


class Counting:
    """A repository that counts how often it is asked."""

    def __init__(self, layer: str = "RMSNorm") -> None:
        self.loads, self._layer = 0, layer

    def load(self) -> type[nn.Module]:
        self.loads += 1
        return repository("norms", self._layer).load_for(CPU).cls


class Failing(Counting):
    def load(self) -> type[nn.Module]:
        self.loads += 1
        raise ImportError("libcudart.so.13 is missing")


def loaded(layer: str, name: str = "norms") -> KernelLayer:
    kernel = KernelLoader().load(repository(name, layer), CPU)
    assert isinstance(kernel, KernelLayer)
    return kernel


def test_kernel_layer_comes_with_its_identity() -> None:
    assert str(loaded("RMSNorm").identity) == "norms:RMSNorm"


def test_repository_is_asked_once() -> None:
    loader, source = KernelLoader(), Counting()
    assert loader.load(source, CPU) is loader.load(source, CPU)
    assert source.loads == 1


def test_repository_is_asked_for_each_target() -> None:
    loader, source = KernelLoader(), Counting()
    loader.load(source, CPU)
    loader.load(source, replace(CPU, torch="2.11"))
    assert source.loads == 2


def test_repositories_are_told_apart_though_the_earlier_one_is_gone() -> None:
    loader = KernelLoader()
    names = []
    for layer in ("RMSNorm", "EpsRMSNorm", "InferenceRMSNorm"):
        kernel = loader.load(Counting(layer), CPU)
        gc.collect()
        names.append(kernel.cls.__name__ if isinstance(kernel, KernelLayer) else kernel)
    assert names == ["RMSNorm", "EpsRMSNorm", "InferenceRMSNorm"]


def test_repository_that_cannot_be_loaded_is_a_miss_with_its_own_words() -> None:
    miss = KernelLoader().load(Failing(), CPU)
    assert isinstance(miss, Miss)
    assert str(miss) == "load_error: Failing cannot be loaded: ImportError: libcudart.so.13 is missing"


def test_repository_that_cannot_be_loaded_is_not_tried_again() -> None:
    loader, source = KernelLoader(), Failing()
    loader.load(source, CPU)
    loader.load(source, CPU)
    assert source.loads == 1


@pytest.mark.parametrize(
    ("name", "layer", "code"),
    [("norms", "NoSuchLayer", "load_error"), ("broken-import", "RMSNorm", "load_error"), ("other-machine", "RMSNorm", "no_variant")],
)
def test_miss_has_the_code_of_the_error(name: str, layer: str, code: str) -> None:
    miss = KernelLoader().load(repository(name, layer), CPU)
    assert isinstance(miss, Miss)
    assert miss.code == code


def test_words_of_an_error_may_contain_braces() -> None:
    class Braces(Counting):
        def load(self) -> type[nn.Module]:
            raise KeyError("{name}")

    miss = KernelLoader().load(Braces(), CPU)
    assert isinstance(miss, Miss)
    assert "{name}" in miss.message


def test_good_kernel_keeps_its_contract() -> None:
    assert KernelLoader().contract(loaded("RMSNorm"), FORM) is None


@pytest.mark.parametrize(
    ("name", "layer", "code"),
    [("broken", "OwnInit", "own_state"), ("broken", "WritesSelf", "own_state"), ("norms", "EpsRMSNorm", "missing_attribute")],
)
def test_broken_contract_is_a_miss(name: str, layer: str, code: str) -> None:
    miss = KernelLoader().contract(loaded(layer, name), FORM)
    assert miss is not None
    assert miss.code == code


def test_kernel_with_other_parameters_is_a_miss() -> None:
    def norm(hidden_states: object, residual: object) -> None: ...

    class Residual(nn.Module):
        def forward(self, hidden_states: object, residual: object) -> None: ...

    form = replace(FORM, reference=norm, signature=forward_signature(Residual), positional=2)
    miss = KernelLoader().contract(loaded("RMSNorm"), form)
    assert miss is not None
    assert miss.code == "signature"


def test_contract_depends_on_how_the_reference_is_called() -> None:
    loader, kernel = KernelLoader(), loaded("EpsRMSNorm")
    answers = [loader.contract(kernel, form) for form in (FORM, replace(FORM, attributes=FORM.attributes | {"eps"}))]
    assert [answer.code if answer else None for answer in answers] == ["missing_attribute", None]


def test_contract_is_checked_once() -> None:
    loader, kernel = KernelLoader(), loaded("EpsRMSNorm")
    assert loader.contract(kernel, FORM) is loader.contract(kernel, FORM)
