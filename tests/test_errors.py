"""What the errors tell a user."""

from __future__ import annotations

import copy
import pickle

import pytest

from fxkernels.errors import CaptureError, ContractError, FxKernelsError, KernelRuntimeError, NoKernelError, RepositoryError
from fxkernels.passes.miss import Miss

NO_MAPPING = Miss("no_mapping", "no kernel is mapped to layer name {layer!r}", {"layer": "RMSNorm"})


@pytest.mark.parametrize("kind", [RepositoryError, ContractError, NoKernelError, KernelRuntimeError, CaptureError])
def test_every_error_can_be_caught_as_fxkernels_error(kind: type[Exception]) -> None:
    assert issubclass(kind, FxKernelsError)


def test_repository_error_reads_as_its_message_and_carries_a_miss_code() -> None:
    error = RepositoryError("no_variant", "acme/norms has no build for cpu")
    assert (str(error), error.code) == ("acme/norms has no build for cpu", "no_variant")


def test_repository_error_refuses_a_code_that_is_not_about_repositories() -> None:
    with pytest.raises(ValueError, match=r"'shape'.*load_error"):
        RepositoryError("shape", "...")


def test_no_kernel_error_lists_every_call_with_its_first_miss() -> None:
    error = NoKernelError([("model.norm#0", "RMSNorm", NO_MAPPING), ("model.mlp.act#0", "SiluAndMul", Miss("dtype", "float64"))])
    assert "2 layer calls have no kernel" in str(error)
    assert "model.norm#0 (RMSNorm): no_mapping: no kernel is mapped to layer name 'RMSNorm'" in str(error)
    assert "model.mlp.act#0 (SiluAndMul): dtype: float64" in str(error)


def test_no_kernel_error_folds_a_long_list_but_keeps_all_misses() -> None:
    error = NoKernelError([(f"layers.{i}.norm#0", "RMSNorm", NO_MAPPING) for i in range(33)])
    assert "... and 13 more" in str(error)
    assert "layers.19.norm#0" in str(error)
    assert "layers.20.norm#0" not in str(error)
    assert len(error.misses) == 33


def test_kernel_runtime_error_names_path_kernel_and_cause() -> None:
    cause = RuntimeError("an illegal memory access")
    error = KernelRuntimeError("model.norm#0", "acme/norms@9a31f0c:RMSNorm", cause)
    for part in ("model.norm#0", "acme/norms@9a31f0c:RMSNorm", "RuntimeError: an illegal memory access"):
        assert part in str(error)
    assert error.__cause__ is cause


@pytest.mark.parametrize(
    "error",
    [
        RepositoryError("offline", "no network"),
        NoKernelError([("norm#0", "RMSNorm", NO_MAPPING)]),
        KernelRuntimeError("norm#0", "acme/norms@9a31f0c:RMSNorm", ValueError("bad")),
    ],
)
def test_errors_survive_pickling_and_copying(error: Exception) -> None:
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(copy.copy(error)) == str(error)
