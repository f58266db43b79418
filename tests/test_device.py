"""Devices: their types, other names and capability ranges."""

from __future__ import annotations

import pickle

import pytest
import torch

from fxkernels.device import DEVICE_TYPES, CUDAProperties, Device, ROCMProperties, device_of


def test_metal_is_another_name_for_mps() -> None:
    assert Device("metal") == Device("mps")
    assert Device("metal").type == "mps"


def test_unknown_device_type_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'gpu'") as caught:
        Device("gpu")
    for name in (*DEVICE_TYPES, "metal"):
        assert name in str(caught.value)


def test_device_type_must_be_a_string() -> None:
    with pytest.raises(TypeError, match="a device type is a string"):
        Device(0)  # type: ignore[arg-type]


def test_both_ends_belong_to_a_capability_range() -> None:
    hopper = CUDAProperties(min_capability=80, max_capability=90)
    assert [capability in hopper for capability in (79, 80, 90, 91)] == [False, True, True, False]


@pytest.mark.parametrize("ends", [(90, 80), (-1, 80)])
def test_empty_or_negative_capability_range_is_an_error(ends: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no capability lies in"):
        CUDAProperties(*ends)


@pytest.mark.parametrize("value", [9.0, (9, 0), "90", True])
def test_capability_must_be_written_as_an_int(value: object) -> None:
    with pytest.raises(TypeError, match=r"90 for capability 9\.0"):
        CUDAProperties(value, 100)  # type: ignore[arg-type]


def test_properties_must_belong_to_the_device_type() -> None:
    with pytest.raises(ValueError, match="ROCMProperties describe 'rocm' devices"):
        Device("cuda", ROCMProperties(80, 90))
    with pytest.raises(ValueError, match="CUDAProperties describe 'cuda' devices"):
        Device("cpu", CUDAProperties(80, 90))


def test_properties_of_no_known_kind_are_an_error() -> None:
    with pytest.raises(TypeError, match="CUDAProperties, ROCMProperties or None"):
        Device("cuda", (80, 90))  # type: ignore[arg-type]


def test_equal_devices_are_one_key_and_survive_pickling() -> None:
    device = Device("cuda", CUDAProperties(80, 90))
    assert {device: 1}[Device("cuda", CUDAProperties(80, 90))] == 1
    assert pickle.loads(pickle.dumps(device)) == device


def test_cuda_and_rocm_ranges_are_never_equal() -> None:
    assert CUDAProperties(80, 90) != ROCMProperties(80, 90)


def test_a_mapping_key_may_be_a_name_a_device_or_a_torch_device() -> None:
    assert device_of("cuda") == device_of(Device("cuda")) == device_of(torch.device("cuda")) == Device("cuda")


def test_a_mapping_key_cannot_name_one_of_several_devices() -> None:
    with pytest.raises(ValueError, match="write 'cuda'"):
        device_of(torch.device("cuda:1"))


def test_what_is_no_device_is_no_key_of_a_mapping() -> None:
    with pytest.raises(TypeError, match=r"write a device type.*or a fxkernels\.Device"):
        device_of(0)


def test_devices_of_the_kernels_package_mean_the_same() -> None:
    kernels = pytest.importorskip("kernels.layer")
    theirs = kernels.Device(type="cuda", properties=kernels.CUDAProperties(min_capability=80, max_capability=90))
    assert device_of(theirs) == Device("cuda", CUDAProperties(80, 90))
    assert device_of(kernels.Device(type="mps")) == Device("mps")
