"""Choosing among a repository's builds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxkernels.hub.variants import choose_variant
from fxkernels.target import Target

CPU = Target("cpu", None, "2.13", None, "linux", "x86_64")
CUDA = Target("cuda", 90, "2.13", "cu130", "linux", "x86_64")
ROCM = Target("rocm", 94, "2.13", "rocm71", "linux", "x86_64")
MPS = Target("mps", None, "2.13", None, "darwin", "aarch64")
XPU = Target("xpu", None, "2.13", "xpu20252", "linux", "x86_64")


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("torch-cpu", CPU),
        ("torch-cuda", CUDA),
        ("torch-rocm", ROCM),
        ("torch-metal", MPS),
        ("torch-universal", CPU),
        ("torch-universal", CUDA),
        ("torch213-cxx11-cpu-x86_64-linux", CPU),
        ("torch213-cpu-x86_64-linux", CPU),
        ("torch213-cxx11-cu130-x86_64-linux", CUDA),
        ("torch213-rocm71-x86_64-linux", ROCM),
        ("torch213-metal-aarch64-darwin", MPS),
        ("torch213-xpu20252-x86_64-linux", XPU),
    ],
)
def test_build_for_the_target_is_chosen(name, target):
    choice = choose_variant([name], target)
    assert choice.variant == name
    assert choice.rejected == ()


@pytest.mark.parametrize(
    ("name", "target", "reason"),
    [
        ("torch-cuda", CPU, "for cuda, the target is cpu"),
        ("torch29-cxx11-cpu-x86_64-linux", CPU, "built for torch 2.9, this is 2.13"),
        ("torch213-cxx11-cpu-aarch64-linux", CPU, "built for aarch64-linux, this is x86_64-linux"),
        ("torch213-cxx11-cpu-x86_64-windows", CPU, "built for x86_64-windows, this is x86_64-linux"),
        ("torch213-cxx11-cu130-x86_64-linux", CPU, "built for cu130, this is cpu"),
        ("torch213-cxx11-cpu-x86_64-linux", CUDA, "built for cpu, this is cu130"),
        ("torch213-cxx11-cu131-x86_64-linux", CUDA, "built for CUDA 13.1, newer than this one, 13.0"),
        ("torch213-cxx11-cu128-x86_64-linux", CUDA, "built for cu128, this is cu130"),
        ("torch213-cxx98-cpu-x86_64-linux", CPU, "built with the pre-C++11 ABI, which no supported torch has"),
        ("torch-stable-abi29-cpu-x86_64-linux", CPU, "stable-ABI and tvm-ffi builds are not supported yet"),
        ("tvm-ffi01-cpu-x86_64-linux", CPU, "stable-ABI and tvm-ffi builds are not supported yet"),
        ("notes", CPU, "not the name of a build variant"),
    ],
)
def test_build_that_does_not_fit_keeps_its_reason(name, target, reason):
    choice = choose_variant([name], target)
    assert choice.variant is None
    assert [str(rejected) for rejected in choice.rejected] == [f"{name}: {reason}"]


BEST_FIRST = [
    "torch213-cu130-x86_64-linux",
    "torch213-cxx11-cu130-x86_64-linux",
    "torch-cuda",
    "torch-universal",
]


@given(st.permutations(BEST_FIRST), st.integers(1, len(BEST_FIRST)))
def test_best_of_the_fitting_builds_is_chosen_whatever_their_order(names, size):
    assert choose_variant(names[:size], CUDA).variant == min(names[:size], key=BEST_FIRST.index)


def test_newest_cuda_minor_that_is_not_newer_than_ours_is_chosen():
    target = Target("cuda", 90, "2.13", "cu128", "linux", "x86_64")
    names = [f"torch213-cxx11-cu{version}-x86_64-linux" for version in (124, 126, 129, 130)]
    assert choose_variant(names, target).variant == "torch213-cxx11-cu126-x86_64-linux"


def test_rejected_builds_are_kept_beside_the_chosen_one():
    choice = choose_variant(["torch-universal", "torch-cuda", "torch-rocm"], CPU)
    assert choice.variant == "torch-universal"
    assert [rejected.name for rejected in choice.rejected] == ["torch-cuda", "torch-rocm"]
