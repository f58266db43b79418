"""The hazards in other clothes are found as well, and the same calls with right kernels pass."""

from __future__ import annotations

import inspect
import sys

import pytest
from hazard_probe_cases import hazard
from hazard_variants import REPAIRED, TWINS, VARIANTS, Variant
from torch import nn

from fxkernels.admission.probe import probe
from fxkernels.admission.verdict import Verdict

pytestmark = pytest.mark.slow


def became(verdict: Verdict) -> str:
    """The miss code, ``repaired``, or ``admitted``."""
    return verdict.code or (REPAIRED if verdict.repairs.copied_inputs or verdict.repairs.reordered_outputs else verdict.result)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_wrong_kernel_is_refused_or_repaired(variant: Variant) -> None:
    assert became(probe(variant.case())) == variant.becomes


@pytest.mark.parametrize("twin", TWINS, ids=str)
def test_a_right_kernel_is_admitted_for_a_call_of_the_same_kind(twin: Variant) -> None:
    verdict = probe(twin.case())
    assert became(verdict) == "admitted", verdict.message


def test_every_kernel_of_the_repository_is_tried() -> None:
    layers = inspect.getmodule(hazard("Detached").cls)
    assert layers is not None
    package = layers.__package__
    shown = {variant.name.split()[0] for variant in (*VARIANTS, *TWINS)}
    found = {
        name
        for name, value in vars(sys.modules[f"{package}.layers"]).items()
        if isinstance(value, type) and issubclass(value, nn.Module) and value is not nn.Module and value.__module__ != f"{package}.process"
    }
    assert found - shown == set()
