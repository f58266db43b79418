"""How much has to be shown is said by an argument, else by the environment; the backend and kernelize hand ``verify=`` on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hazard_probe_cases import hazard, norm_probe_case
from kernel_repositories import repository
from layers import Block
from probe_cases import probe_case_for

import fxkernels
from fxkernels.admission import Admitted, Verify, admit, verification
from fxkernels.admission.probe_case import ProbeCase
from fxkernels.passes.miss import Miss


def unprobeable() -> ProbeCase:
    """A layer that returns no finite number for any random input."""
    return probe_case_for(hazard("hazard-twins:RMSNorm"), lambda x: x * float("nan"), [torch.empty(2, 3)], gradient=False)


def test_probing_is_the_default() -> None:
    assert verification() == "probe"


def test_the_environment_says_it_where_no_argument_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FXKERNELS_VERIFY", "strict")
    assert verification() == "strict"
    assert verification("off") == "off"


def test_an_unknown_word_is_an_error_that_lists_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="verify='always' is not one of 'off', 'probe', 'strict'"):
        verification("always")
    monkeypatch.setenv("FXKERNELS_VERIFY", "yes")
    with pytest.raises(ValueError, match="FXKERNELS_VERIFY='yes'"):
        verification()


def test_without_verification_a_wrong_kernel_is_used_and_called_unverified() -> None:
    found = admit(norm_probe_case("hazard-5-cut-gradient:IdentityGradient"), verify="off")
    assert isinstance(found, Admitted)
    assert str(found) == "unverified"


def test_what_cannot_be_probed_is_used_and_called_unprobed() -> None:
    found = admit(unprobeable())
    assert isinstance(found, Admitted)
    assert str(found) == "unprobed: the layer returns no finite numbers for random inputs"


def test_strictly_what_cannot_be_probed_is_refused() -> None:
    found = admit(unprobeable(), verify="strict")
    assert isinstance(found, Miss)
    assert found.code == "unprobed"


def test_a_call_whose_sizes_nobody_knows_is_unprobed() -> None:
    assert str(admit("a size of its inputs is known only when it runs")).startswith("unprobed")
    assert isinstance(admit("a size of its inputs is known only when it runs", verify="strict"), Miss)


# --- what the backend and kernelize hand on -----------------------------------------------------------------------------------------------


def mapping(layer: str, kernels: str) -> Any:
    return {"RMSNorm": {"cpu": repository(kernels, layer)}}


def report_of(layer: str, verify: Verify | None, way: str, kernels: str) -> Any:
    model, x = Block(8), torch.randn(3, 8)
    if way == "kernelize":
        run: Any = fxkernels.kernelize(model, mapping=mapping(layer, kernels), verify=verify)
        run(x).sum().backward()
        return run.report
    backend = fxkernels.hubkernels(inner="aot_eager", mapping=mapping(layer, kernels), verify=verify)
    torch.compile(model, backend=backend, fullgraph=True)(x).sum().backward()
    return backend.report


@pytest.mark.parametrize("way", ["kernelize", "backend"])
def test_kernel_that_overwrites_the_incoming_gradient_is_refused_with_its_evidence(way: str) -> None:
    (call,) = report_of("RMSNorm", "probe", way, "hazard-1-incoming-gradient").calls
    assert call.status == "missed"
    assert call.miss.code == "gradient"
    assert "incoming gradient" in str(call.miss)


@pytest.mark.parametrize("way", ["kernelize", "backend"])
def test_kernel_that_passes_the_probe_is_used(way: str) -> None:
    assert len(report_of("RMSNorm", "strict", way, "norms").rewritten) == 1


def test_nothing_is_probed_where_verification_is_off() -> None:
    assert len(report_of("RMSNorm", "off", "backend", "hazard-1-incoming-gradient").rewritten) == 1


def test_unknown_word_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'off', 'probe', 'strict'"):
        fxkernels.hubkernels(verify="maybe")
