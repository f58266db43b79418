"""Modes: what may be combined, and which kernels may serve which mode."""

from __future__ import annotations

import copy
import pickle
import re

import pytest

from fxkernels.mode import Mode, mapping_mode, preference

INFERENCE, TRAINING, COMPILE, FALLBACK = Mode.INFERENCE, Mode.TRAINING, Mode.TORCH_COMPILE, Mode.FALLBACK


def test_inference_and_training_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        INFERENCE | TRAINING
    with pytest.raises(ValueError, match="exclude each other"):
        (INFERENCE | COMPILE) | (TRAINING | COMPILE)


@pytest.mark.parametrize("other", [INFERENCE, TRAINING, COMPILE])
def test_fallback_cannot_be_combined(other: Mode) -> None:
    with pytest.raises(ValueError, match=r"FALLBACK cannot be combined"):
        FALLBACK | other
    with pytest.raises(ValueError, match=r"FALLBACK cannot be combined"):
        other | FALLBACK


def test_a_mode_combined_with_itself_is_itself() -> None:
    assert FALLBACK | FALLBACK is FALLBACK
    assert (TRAINING | COMPILE) | COMPILE == TRAINING | COMPILE


def test_combining_with_something_else_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        INFERENCE | 1  # type: ignore[operator]


def test_a_flag_can_be_taken_out_of_a_mode() -> None:
    assert (TRAINING | COMPILE) & ~COMPILE == TRAINING


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (INFERENCE, (INFERENCE, INFERENCE | COMPILE, TRAINING, TRAINING | COMPILE, FALLBACK)),
        (TRAINING, (TRAINING, TRAINING | COMPILE, FALLBACK)),
        (INFERENCE | COMPILE, (INFERENCE | COMPILE, TRAINING | COMPILE, FALLBACK)),
        (TRAINING | COMPILE, (TRAINING | COMPILE, FALLBACK)),
    ],
)
def test_preference_order_is_that_of_the_kernels_package(mode: Mode, expected: tuple[Mode, ...]) -> None:
    assert preference(mode) == expected


@pytest.mark.parametrize("mode", [FALLBACK, COMPILE, Mode(0), Mode(6)])
def test_a_model_cannot_run_in_other_modes(mode: Mode) -> None:
    with pytest.raises(ValueError, match="choose one of: INFERENCE, TRAINING"):
        preference(mode)


def test_label_is_what_a_user_writes() -> None:
    assert (INFERENCE | COMPILE).label == "INFERENCE | TORCH_COMPILE"


def test_modes_survive_pickling_and_copying() -> None:
    mode = TRAINING | COMPILE
    assert pickle.loads(pickle.dumps(mode)) is mode
    assert copy.deepcopy(mode) is mode


@pytest.mark.parametrize("mode", preference(INFERENCE))
def test_modes_of_the_kernels_package_mean_the_same_in_a_mapping(mode: Mode) -> None:
    kernels = pytest.importorskip("kernels.layer")
    flags = [kernels.Mode[str(flag.name)] for flag in mode]
    theirs = flags[0] if len(flags) == 1 else flags[0] | flags[1]
    assert mapping_mode(theirs) is mode


@pytest.mark.parametrize("key", [COMPILE, Mode(0), Mode(FALLBACK.value + INFERENCE.value)])
def test_a_mode_nobody_can_ask_for_is_no_key_of_a_mapping(key: Mode) -> None:
    with pytest.raises(ValueError, match="keys of a mode dict are one of"):
        mapping_mode(key)


@pytest.mark.parametrize("key", ["inference", 1, None, re.IGNORECASE])
def test_what_is_no_mode_is_no_key_of_a_mapping(key: object) -> None:
    with pytest.raises(TypeError, match="is not a mode"):
        mapping_mode(key)
