"""Admission on a GPU: the child has a context of its own, and one that a kernel has spoilt is given up."""

from __future__ import annotations

import pytest
import torch
from hazard_probe_cases import norm_probe_case

from fxkernels.admission import Admitted, admit
from fxkernels.passes.miss import Miss

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_correct_norm_is_admitted(dtype: torch.dtype) -> None:
    found = admit(norm_probe_case("hazard-twins:RMSNorm", dtype, device="cuda"))
    assert isinstance(found, Admitted), found
    assert found.how == "probed", found


@pytest.mark.parametrize(
    ("layer", "code"),
    [
        ("hazard-1-incoming-gradient:RMSNorm", "gradient"),
        ("hazard-7-repacked-parameters:RMSNorm", "mutates_input"),
        ("hazard-9-other-function:ZeroCentredRMSNorm", "numerics"),
    ],
)
def test_a_wrong_norm_is_refused(layer: str, code: str) -> None:
    found = admit(norm_probe_case(layer, torch.bfloat16, device="cuda"))
    assert isinstance(found, Miss)
    assert found.code == code


def test_a_kernel_that_spoils_the_device_is_refused_and_the_next_one_is_probed() -> None:
    found = admit(norm_probe_case("FailsOnDevice", device="cuda"))
    assert isinstance(found, Miss)
    assert found.code == "crash"
    assert isinstance(admit(norm_probe_case("hazard-twins:RMSNorm", torch.float32, 3, 32, device="cuda")), Admitted)
    torch.ones(3, device="cuda").sum().item()  # ours is as good as before
