"""Devices and targets: their names and capability ranges, and what is read from the machine or from text."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from fxkernels.target import ACCELERATORS, DEVICE_TYPES, CUDAProperties, Device, ROCMProperties, Target, device_of


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


H100 = Target(device="cuda", capability=90, torch="2.11", accelerator="cu130", os="linux", cpu="x86_64")
THIS_TORCH = ".".join(torch.__version__.split(".")[:2])

digits = st.from_regex("[0-9]{1,6}", fullmatch=True)
targets = st.builds(
    lambda device, version, **rest: Target(device, accelerator=ACCELERATORS.get(device, "no") + version if version else None, **rest),
    device=st.sampled_from([*DEVICE_TYPES, "metal", "meta"]),
    version=st.none() | digits,
    capability=st.none() | st.integers(0, 9999),
    torch=st.builds("{}.{}".format, st.integers(0, 999), st.integers(0, 999)),
    os=st.from_regex("[a-z][a-z0-9_.-]*", fullmatch=True),
    cpu=st.from_regex("[a-z0-9_]+", fullmatch=True).filter(lambda name: name not in ("arm64", "amd64")),
)


def test_target_reads_as_one_short_line() -> None:
    assert str(H100) == "cuda:sm90 torch2.11 cu130 linux-x86_64"
    assert str(dataclasses.replace(H100, device="rocm", capability=94)) == "rocm:94 torch2.11 linux-x86_64"
    assert str(dataclasses.replace(H100, device="cpu", capability=None)) == "cpu torch2.11 linux-x86_64"


def test_target_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        H100.device = "cpu"  # type: ignore[misc]


def test_metal_target_is_an_mps_target() -> None:
    assert dataclasses.replace(H100, device="metal").device == "mps"


@pytest.mark.parametrize("device", ["cpu", "mps", "rocm", "xpu"])
def test_target_moved_to_another_device_leaves_the_accelerator_behind(device: str) -> None:
    assert dataclasses.replace(H100, device=device).accelerator is None


@pytest.mark.parametrize("version", ["", "2", "2.11.0", "2.x", "torch2.11"])
def test_torch_version_of_a_target_is_major_and_minor(version: str) -> None:
    with pytest.raises(ValueError, match="write major and minor"):
        dataclasses.replace(H100, torch=version)


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


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("cuda:sm90 torch2.11 cu130", H100),
        ("cuda:90 cu130 torch2.11.1", H100),
        ("  cuda:9.0\tlinux-amd64 cu130  torch2.11\n", H100),
        ("cuda:10.3 torch2.11", Target("cuda", 103, "2.11", None, "linux", "x86_64")),
        ("rocm:94 torch2.13 rocm71", Target("rocm", 94, "2.13", "rocm71", "linux", "x86_64")),
        ("xpu torch2.13 xpu20252 windows-x86_64", Target("xpu", None, "2.13", "xpu20252", "windows", "x86_64")),
        ("npu torch2.9 cann81 linux-aarch64", Target("npu", None, "2.9", "cann81", "linux", "aarch64")),
        ("metal torch2.13", Target("mps", None, "2.13", None, "darwin", "aarch64")),
        ("mps torch2.13 darwin-arm64", Target("mps", None, "2.13", None, "darwin", "aarch64")),
        ("cpu", Target("cpu", None, THIS_TORCH, None, "linux", "x86_64")),
    ],
)
def test_target_of_another_machine_is_read_from_text(text: str, target: Target) -> None:
    assert Target.parse(text) == target


@given(targets)
@example(Target.of_machine("cpu"))
@example(Target.of_machine("cuda"))
@example(Target("cpu", None, "2.11", None, "cygwin_nt-10.0", "x86_64"))
def test_target_is_read_back_from_what_it_reads_as(target: Target) -> None:
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not begin with a device"),
        ("torch2.11 cuda", "does not begin with a device: 'torch2.11'"),
        ("cuda:sm90a torch2.11", "A suffix such as the a of sm90a belongs to a build"),
        ("cuda:hopper", "does not begin with a device: 'cuda:hopper'"),
        ("cdua:sm90", "'cdua', which is no device type; known are cpu, cuda"),
        ("cuda torch2", "a part that cannot be read: 'torch2'"),
        ("cuda torch2.11 torch2.13", "names the torch version twice: 2.11 and 2.13"),
        ("cuda cu126 cu130", "names the accelerator twice: cu126 and cu130"),
        ("cuda rocm71", "accelerator 'rocm71'; cuda takes one such as cu130"),
        ("cpu cu130", "accelerator 'cu130'; cpu takes none"),
        ("cuda CUDA13.0", "a part that cannot be read: 'CUDA13.0'"),
        ("cpu linux", "a part that cannot be read: 'linux'"),
        ("cpu linux-", "a part that cannot be read: 'linux-'"),
    ],
)
def test_text_that_is_no_target_is_refused_with_the_part_and_what_is_expected(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="target") as caught:
        Target.parse(text)
    assert message in str(caught.value)


@given(st.text())
def test_arbitrary_text_is_a_target_or_a_value_error(text: str) -> None:
    try:
        target = Target.parse(text)
    except ValueError:
        return
    assert Target.parse(str(target)) == target


@pytest.mark.gpu
def test_cuda_target_of_this_machine_has_its_capability() -> None:
    major, minor = torch.cuda.get_device_capability()
    assert Target.of_machine("cuda").capability == major * 10 + minor
