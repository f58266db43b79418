"""Names of build variants, as values and back."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fxkernels.hub.builds.variants import NoarchBuild, Platform, Release, StableAbiBuild, TorchBuild, TvmFfiBuild, parse_variant

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy with other tests

LINUX = ("x86_64", "linux")

releases = st.builds(Release, st.integers(0, 9), st.integers(0, 999))
platforms = st.builds(
    Platform,
    st.from_regex(r"[a-z]+[0-9]*", fullmatch=True),
    st.from_regex(r"[a-z0-9_]+", fullmatch=True),
    st.from_regex("[a-z]+", fullmatch=True),
)
builds = st.one_of(
    st.builds(TorchBuild, releases, st.sampled_from([None, "cxx11", "cxx98"]), platforms),
    st.builds(StableAbiBuild, releases, platforms),
    st.builds(TvmFfiBuild, releases, platforms),
    st.builds(NoarchBuild, st.from_regex(r"[a-z][a-z0-9_]*", fullmatch=True)),
)


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("torch213-cxx11-cpu-x86_64-linux", TorchBuild(Release(2, 13), "cxx11", Platform("cpu", *LINUX))),
        ("torch29-cxx98-cu118-x86_64-linux", TorchBuild(Release(2, 9), "cxx98", Platform("cu118", *LINUX))),
        ("torch211-cu130-aarch64-linux", TorchBuild(Release(2, 11), None, Platform("cu130", "aarch64", "linux"))),
        ("torch213-rocm71-x86_64-linux", TorchBuild(Release(2, 13), None, Platform("rocm71", *LINUX))),
        ("torch213-metal-aarch64-darwin", TorchBuild(Release(2, 13), None, Platform("metal", "aarch64", "darwin"))),
        ("torch213-xpu20252-x86_64-linux", TorchBuild(Release(2, 13), None, Platform("xpu20252", *LINUX))),
        ("torch-stable-abi29-cu130-x86_64-linux", StableAbiBuild(Release(2, 9), Platform("cu130", *LINUX))),
        ("tvm-ffi01-cpu-x86_64-linux", TvmFfiBuild(Release(0, 1), Platform("cpu", *LINUX))),
        ("torch-npu", NoarchBuild("npu")),
        ("torch-universal", NoarchBuild("universal")),
    ],
)
def test_name_is_read_into_what_it_demands(name, build):
    assert parse_variant(name) == build
    assert str(build) == name


@unhurried
@given(builds)
@example(TorchBuild(Release(2, 13), None, Platform("cxx11", "x86_64", "linux")))
@example(NoarchBuild("stable"))
def test_every_build_is_read_back_from_its_name(build):
    assert parse_variant(str(build)) == build


@unhurried
@given(st.one_of(st.text(), st.from_regex("(torch|tvm-ffi)[-a-z0-9_\u0663]*(-[a-z0-9]+){0,4}\\n?", fullmatch=True)))
@example("torch2" + "9" * 5000 + "-cpu-x86_64-linux")
def test_text_that_is_read_is_the_name_of_what_was_read_and_no_text_raises(text):
    build = parse_variant(text)
    assert build is None or str(build) == text


@pytest.mark.parametrize(
    "name",
    [
        "",
        "notes",
        "torch",
        "torch-",
        "torch2-cpu-x86_64-linux",
        "torch209-cpu-x86_64-linux",  # 2.09 would be a second name of 2.9
        "torch29-cpu-x86_64",
        "torch29-cpu-x86_64-linux-gnu",
        "torch29-cxx14-cpu-x86_64-linux",
        "torch29-cpu-x86_64-linux\n",
        "Torch-cpu",
        "torch-stable-abi-cpu-x86_64-linux",
        "torch-a-b",
        "../torch-cpu",
        "torch-cpu/..",
        "torch\uff129-cpu-x86_64-linux",
    ],
)
def test_other_names_are_none(name):
    assert parse_variant(name) is None


def test_releases_are_compared_as_numbers():
    assert Release(2, 9) < Release(2, 13) < Release(3, 0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Platform("cu-130", *LINUX),
        lambda: Platform("cpu", "x86-64", "linux"),
        lambda: Platform("cpu", "x86_64", "Linux"),
        lambda: NoarchBuild("../cpu"),
        lambda: TorchBuild(Release(2, 9), "cxx14", Platform("cpu", *LINUX)),
        lambda: StableAbiBuild(Release(10, 0), Platform("cpu", *LINUX)),
        lambda: TvmFfiBuild(Release(0, 1000), Platform("cpu", *LINUX)),
    ],
)
def test_build_whose_name_could_not_be_read_back_cannot_be_made(make):
    with pytest.raises(ValueError, match="ABI|cannot be part of a build variant's name"):
        make()


def test_build_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        NoarchBuild("cpu").backend = "cuda"
