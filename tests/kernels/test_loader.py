"""Loading kernel layers, each once."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
from kernel_repositories import repository
from torch import nn

from fxkernels.kernels.layer import KernelLayer
from fxkernels.kernels.loader import KernelLoader
from fxkernels.passes.miss import Miss
from fxkernels.target import Target

CPU = Target("cpu", None, "2.13", None, "linux", "x86_64")


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
