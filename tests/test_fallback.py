"""Which calls may keep their original layer."""

from __future__ import annotations

import pytest

from fxkernels.decide.gates import CODES
from fxkernels.errors import REPOSITORY_CODES
from fxkernels.fallback import KernelizeFallback
from fxkernels.passes.miss import Miss

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
