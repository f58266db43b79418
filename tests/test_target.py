"""Targets: what is read from the machine, and how they read."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fxkernels.target import Target

H100 = Target(device="cuda", capability=90, torch="2.11", accelerator="cu130", os="linux", cpu="x86_64")


def test_target_reads_as_one_short_line() -> None:
    assert str(H100) == "cuda:sm90 torch2.11 linux-x86_64"
    assert str(dataclasses.replace(H100, device="rocm", capability=94)) == "rocm:94 torch2.11 linux-x86_64"
    assert str(dataclasses.replace(H100, device="cpu", capability=None)) == "cpu torch2.11 linux-x86_64"


def test_target_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        H100.device = "cpu"  # type: ignore[misc]


def test_metal_target_is_an_mps_target() -> None:
    assert dataclasses.replace(H100, device="metal").device == "mps"


def test_cpu_target_of_this_machine_has_neither_capability_nor_accelerator() -> None:
    target = Target.of_machine("cpu")
    assert (target.device, target.capability, target.accelerator) == ("cpu", None, None)
    assert torch.__version__.startswith(target.torch + ".")
    assert target.os in ("linux", "darwin", "windows")


def test_device_type_that_no_mapping_can_name_is_still_a_target() -> None:
    assert Target.of_machine("meta").device == "meta"


def test_torch_built_for_rocm_turns_cuda_into_rocm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.4.43482-0f2d60242")
    target = Target.of_machine("cuda")
    assert (target.device, target.accelerator) == ("rocm", "rocm64")


def test_cuda_accelerator_is_spelled_as_in_build_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert Target.of_machine("cuda").accelerator == "cu128"


def test_xpu_accelerator_is_spelled_as_in_build_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "xpu", "20250201", raising=False)
    assert Target.of_machine("xpu").accelerator == "xpu20252"


@pytest.mark.gpu
def test_cuda_target_of_this_machine_has_its_capability() -> None:
    major, minor = torch.cuda.get_device_capability()
    assert Target.of_machine("cuda").capability == major * 10 + minor
