"""What the errors tell a user, and which calls may keep their original layer."""

from __future__ import annotations

import copy
import pickle

import pytest

from fxkernels.decide.gates import CODES
from fxkernels.errors import (
    REPOSITORY_CODES,
    CaptureError,
    ContractError,
    FxKernelsError,
    KernelizeFallback,
    KernelRuntimeError,
    NoKernelError,
    RepositoryError,
)
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


CASES = {
    KernelizeFallback.NO_LAYER: {"no_mapping"},
    KernelizeFallback.NO_DEVICE: {"no_device"},
    KernelizeFallback.NO_COMPATIBLE_PROPERTIES: {"capability"},
    KernelizeFallback.NO_COMPATIBLE_MODE: {"no_mode", "no_backward", "not_compilable"},
    KernelizeFallback.CANNOT_LOAD: set(REPOSITORY_CODES),
}
OTHERS = set(CODES) - set().union(*CASES.values())


def permitted(fallback: KernelizeFallback) -> set[str]:
    return {code for code in CODES if fallback.permits(Miss(code, "for this reason"))}


@pytest.mark.parametrize("case", CASES)
def test_each_case_permits_its_own_misses_and_those_that_are_of_no_case(case: KernelizeFallback) -> None:
    assert permitted(case) == CASES[case] | OTHERS


def test_none_permits_nothing() -> None:
    assert permitted(KernelizeFallback.NONE) == set()


def test_all_permits_everything() -> None:
    assert permitted(KernelizeFallback.ALL) == set(CODES)


def test_default_permits_all_but_a_repository_that_cannot_be_loaded() -> None:
    assert permitted(KernelizeFallback.DEFAULT) == set(CODES) - set(REPOSITORY_CODES)


def test_cases_can_be_combined() -> None:
    both = KernelizeFallback.NO_LAYER | KernelizeFallback.CANNOT_LOAD
    assert permitted(both) == {"no_mapping", *REPOSITORY_CODES} | OTHERS


@pytest.mark.parametrize(
    ("value", "flags"),
    [
        (True, KernelizeFallback.DEFAULT),
        (False, KernelizeFallback.NONE),
        (KernelizeFallback.NO_DEVICE, KernelizeFallback.NO_DEVICE),
    ],
)
def test_argument_is_a_bool_or_a_flag(value: bool | KernelizeFallback, flags: KernelizeFallback) -> None:
    assert KernelizeFallback.of(value) is flags


@pytest.mark.parametrize("value", [1, "all", None])
def test_anything_else_is_a_type_error_that_says_what_it_may_be(value: object) -> None:
    with pytest.raises(TypeError, match="use_fallback is True, False or a KernelizeFallback, not"):
        KernelizeFallback.of(value)  # type: ignore[arg-type]


def test_members_are_those_of_the_kernels_package() -> None:
    kernels = pytest.importorskip("kernels.layer")
    theirs = {name: flag.value for name, flag in kernels.KernelizeFallback.__members__.items()}
    assert {name: flag.value for name, flag in KernelizeFallback.__members__.items()} == theirs
