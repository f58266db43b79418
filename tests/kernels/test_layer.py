"""Loading a kernel layer from any repository, and what names it."""

from __future__ import annotations

import pytest
from kernel_repositories import repository
from torch import nn

from fxkernels.errors import RepositoryError
from fxkernels.kernels.layer import KernelIdentity, KernelLayer, load_kernel_layer
from fxkernels.target import Target

CPU = Target("cpu", None, "2.13", None, "linux", "x86_64")
COMMIT = "9a31f0c5" * 5


class Plain(nn.Module):
    def forward(self, x):
        return x


class Someones:
    """A repository of somebody else: it has a load() and nothing more."""

    def __init__(self, result=None, error=None):
        self.result, self.error = result, error

    def load(self):
        if self.error is not None:
            raise self.error
        return self.result


def test_identity_is_short_in_words():
    assert str(KernelIdentity("acme/norms", COMMIT, "RMSNorm", "torch-cpu")) == "acme/norms@9a31f0c:RMSNorm"
    assert str(KernelIdentity("acme/norms", "v1", "RMSNorm", None)) == "acme/norms@v1:RMSNorm"
    assert str(KernelIdentity("norms", None, "RMSNorm", "torch-cpu")) == "norms:RMSNorm"


def test_layer_that_says_nothing_has_a_backward_and_cannot_be_compiled():
    kernel = KernelLayer(Plain, KernelIdentity("a", None, "Plain", None))
    assert kernel.has_backward is True
    assert kernel.can_torch_compile is False


def test_flags_of_the_class_are_the_kernels():
    assert load_kernel_layer(repository("norms", "InferenceRMSNorm"), CPU).has_backward is False
    assert load_kernel_layer(repository("norms", "RMSNorm"), CPU).can_torch_compile is True


def test_repository_that_knows_targets_is_asked_for_the_target():
    with pytest.raises(RepositoryError, match="has no build for xpu") as caught:
        load_kernel_layer(repository("other-machine", "RMSNorm"), Target("xpu", None, "2.13", None, "linux", "x86_64"))
    assert caught.value.code == "no_variant"


def test_any_object_with_load_is_a_repository():
    kernel = load_kernel_layer(Someones(Plain), CPU)
    assert kernel.cls is Plain
    assert str(kernel.identity) == "Someones:Plain"


def test_repository_of_the_kernels_package_is_named_by_its_id():
    kernels = pytest.importorskip("kernels.layer")
    repo = kernels.LayerRepository(repo_id="acme/norms", layer_name="RMSNorm", revision=COMMIT)
    repo.load = lambda: Plain
    assert str(load_kernel_layer(repo, CPU).identity) == "acme/norms@9a31f0c:RMSNorm"


def test_error_of_a_foreign_repository_keeps_its_cause():
    with pytest.raises(RepositoryError, match="Someones cannot be loaded: OSError: no route") as caught:
        load_kernel_layer(Someones(error=OSError("no route")), CPU)
    assert caught.value.code == "load_error"
    assert isinstance(caught.value.__cause__, OSError)


def test_repository_error_passes_through_unchanged():
    error = RepositoryError("offline", "not in the cache")
    with pytest.raises(RepositoryError) as caught:
        load_kernel_layer(Someones(error=error), CPU)
    assert caught.value is error


def test_load_that_returns_no_class_is_refused():
    with pytest.raises(RepositoryError, match=r"Someones.load\(\) returned 7"):
        load_kernel_layer(Someones(7), CPU)
