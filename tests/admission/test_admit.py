"""How much has to be shown is said by an argument, else by the environment."""

from __future__ import annotations

import pytest
import torch
from hazard_probe_cases import hazard, norm_probe_case
from probe_cases import probe_case_for

from fxkernels.admission import Admitted, admit, verification
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
