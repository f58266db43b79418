"""Names of build variants, as values and back; and choosing among a repository's builds."""

from __future__ import annotations

import dataclasses
from itertools import combinations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fxkernels.hub import Metadata, choose_variant, why_not_arch
from fxkernels.hub.builds.variants import NoarchBuild, Platform, Release, StableAbiBuild, TorchBuild, TvmFfiBuild, parse_variant
from fxkernels.target import Target

# --- names ------------------------------------------------------------------------------------------------------------------------------

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


@given(builds)
@example(TorchBuild(Release(2, 13), None, Platform("cxx11", "x86_64", "linux")))
@example(NoarchBuild("stable"))
def test_every_build_is_read_back_from_its_name(build):
    assert parse_variant(str(build)) == build


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


# --- choice ------------------------------------------------------------------------------------------------------------------------------

CPU = Target("cpu", None, "2.13", None, "linux", "x86_64")
CUDA = Target("cuda", 90, "2.13", "cu130", "linux", "x86_64")
ROCM = Target("rocm", 94, "2.13", "rocm71", "linux", "x86_64")
MPS = Target("mps", None, "2.13", None, "darwin", "aarch64")
XPU = Target("xpu", None, "2.13", "xpu20252", "linux", "x86_64")
NPU = Target("npu", None, "2.13", "cann81", "linux", "aarch64")

# A small world, so that builds meet targets that they fit. CUDA 12.8 and 12.6 run on 12.9, and so on.
accelerators = st.sampled_from("cpu cu118 cu126 cu128 cu129 cu130 cu131 rocm71 metal xpu20252 cann81 tpu".split())
machines = st.sampled_from([("x86_64", "linux"), ("aarch64", "linux"), ("aarch64", "darwin")])
fitting_releases = st.builds(Release, st.just(2), st.integers(9, 14))
fitting_platforms = st.builds(lambda accelerator, machine: Platform(accelerator, *machine), accelerators, machines)
fitting_builds = st.one_of(
    st.builds(TorchBuild, fitting_releases, st.sampled_from([None, "cxx11", "cxx98"]), fitting_platforms),
    st.builds(StableAbiBuild, fitting_releases, fitting_platforms),
    st.builds(TvmFfiBuild, st.builds(Release, st.just(0), st.integers(1, 3)), fitting_platforms),
    st.builds(NoarchBuild, st.sampled_from("cpu cuda rocm metal xpu npu neuron tpu universal".split())),
)
targets = st.sampled_from([CPU, CUDA, ROCM, MPS, XPU, NPU, *(Target.parse(f"cuda:sm100 torch2.11 cu{cuda}") for cuda in (126, 129))])


def metadata(backend: str, *archs: str) -> Metadata:
    return Metadata("norms", "norms", 1, "apache-2.0", (), backend, archs or None)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("torch-cpu", CPU),
        ("torch-cuda", CUDA),
        ("torch-rocm", ROCM),
        ("torch-metal", MPS),
        ("torch-xpu", XPU),
        ("torch-npu", NPU),
        ("torch-universal", CPU),
        ("torch-universal", CUDA),
        ("torch213-cxx11-cpu-x86_64-linux", CPU),
        ("torch213-cpu-x86_64-linux", CPU),
        ("torch213-cxx11-cu130-x86_64-linux", CUDA),
        ("torch213-rocm71-x86_64-linux", ROCM),
        ("torch213-metal-aarch64-darwin", MPS),
        ("torch213-xpu20252-x86_64-linux", XPU),
        ("torch213-cann81-aarch64-linux", NPU),
        ("torch-stable-abi213-cpu-x86_64-linux", CPU),
        ("torch-stable-abi29-cu130-x86_64-linux", CUDA),
        ("tvm-ffi01-cpu-x86_64-linux", CPU),
        ("tvm-ffi01-metal-aarch64-darwin", MPS),
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
        ("torch-cuda", ROCM, "for cuda, the target is rocm"),
        ("torch-mps", MPS, "for mps, the target is metal"),
        ("torch29-cxx11-cpu-x86_64-linux", CPU, "built for torch 2.9, this is 2.13"),
        ("torch213-cxx11-cpu-aarch64-linux", CPU, "built for aarch64-linux, this is x86_64-linux"),
        ("torch213-cxx11-cpu-x86_64-windows", CPU, "built for x86_64-windows, this is x86_64-linux"),
        ("torch213-cxx11-cu130-x86_64-linux", CPU, "built for cu130, this is cpu"),
        ("torch213-cxx11-cpu-x86_64-linux", CUDA, "built for cpu, this is cu130"),
        ("torch213-cxx11-cu131-x86_64-linux", CUDA, "built for CUDA 13.1, newer than this one, 13.0"),
        ("torch213-cxx11-cu128-x86_64-linux", CUDA, "built for cu128, this is cu130"),
        ("torch213-cxx11-cu130-x86_64-linux", Target.parse("cuda torch2.13"), "built for cu130, the target does not say which it has"),
        ("torch213-cxx11-cpu-x86_64-linux", Target.parse("cuda torch2.13"), "built for cpu, this is cuda"),
        ("torch213-rocm70-x86_64-linux", ROCM, "built for rocm70, this is rocm71"),
        ("torch213-cann81-aarch64-linux", CPU, "built for aarch64-linux, this is x86_64-linux"),
        ("torch213-cxx98-cpu-x86_64-linux", CPU, "built with the pre-C++11 ABI, which no supported torch has"),
        ("torch-stable-abi214-cpu-x86_64-linux", CPU, "built for the stable ABI of torch 2.14, newer than this one, 2.13"),
        ("torch-stable-abi29-cu131-x86_64-linux", CUDA, "built for CUDA 13.1, newer than this one, 13.0"),
        ("tvm-ffi01-cu130-x86_64-linux", CPU, "built for cu130, this is cpu"),
        ("notes", CPU, "not the name of a build variant"),
    ],
)
def test_build_that_does_not_fit_keeps_its_reason(name, target, reason):
    choice = choose_variant([name], target)
    assert choice.variant is None
    assert [str(rejected) for rejected in choice.rejected] == [f"{name}: {reason}"]


BEST_FIRST = (
    "torch-stable-abi213-cu126-x86_64-linux",
    "torch-stable-abi29-cu128-x86_64-linux",
    "torch-stable-abi29-cu126-x86_64-linux",
    "torch213-cu126-x86_64-linux",
    "torch213-cxx11-cu128-x86_64-linux",
    "torch213-cxx11-cu126-x86_64-linux",
    "tvm-ffi02-cu126-x86_64-linux",
    "tvm-ffi01-cu128-x86_64-linux",
    "torch-cuda",
    "torch-universal",
)


@given(st.permutations(BEST_FIRST))
def test_builds_that_fit_are_ordered_by_preference_however_they_are_listed(names):
    assert choose_variant(names, Target.parse("cuda torch2.13 cu128")).fitting == BEST_FIRST


@given(st.lists(fitting_builds, max_size=12), targets, st.randoms(use_true_random=False))
def test_choice_is_independent_of_the_order_in_which_builds_are_listed(variants, target, random):
    names = [str(variant) for variant in variants]
    shuffled = random.sample(names, len(names))
    assert choose_variant(names, target) == choose_variant(shuffled, target)


@given(st.lists(fitting_builds, max_size=12), targets)
def test_every_build_either_fits_or_is_rejected_with_a_reason(variants, target):
    names = {str(variant) for variant in variants}
    choice = choose_variant(names, target)
    assert sorted([*choice.fitting, *(rejected.name for rejected in choice.rejected)]) == sorted(names)
    assert all(rejected.reason for rejected in choice.rejected)


@given(st.lists(fitting_builds, max_size=12), targets)
def test_preference_between_two_builds_is_the_same_whatever_else_is_there(variants, target):
    for better, worse in combinations(choose_variant(map(str, variants), target).fitting, 2):
        assert choose_variant([worse, better], target).fitting == (better, worse)


@given(st.lists(st.text(), max_size=5), targets)
@example(["\x1b[31mtorch-cpu", "torch-cpu\n", "", "../torch-cpu", "\ud800"], CPU)
def test_arbitrary_names_are_rejected_with_a_reason_that_can_be_printed(names, target):
    choice = choose_variant(names, target)
    assert {rejected.name for rejected in choice.rejected} | set(choice.fitting) == set(names)
    assert all(str(rejected).isprintable() for rejected in choice.rejected)


def test_newest_cuda_minor_that_is_not_newer_than_ours_is_chosen():
    target = Target("cuda", 90, "2.13", "cu128", "linux", "x86_64")
    names = [f"torch213-cxx11-cu{version}-x86_64-linux" for version in (124, 126, 129, 130)]
    assert choose_variant(names, target).variant == "torch213-cxx11-cu126-x86_64-linux"


def test_rejected_builds_are_kept_beside_the_chosen_one():
    choice = choose_variant(["torch-universal", "torch-cuda", "torch-rocm"], CPU)
    assert choice.variant == "torch-universal"
    assert [rejected.name for rejected in choice.rejected] == ["torch-cuda", "torch-rocm"]


def test_name_that_is_listed_twice_is_one_build():
    assert choose_variant(["torch-cpu", "torch-cpu", "notes", "notes"], CPU).fitting == ("torch-cpu",)
    assert len(choose_variant(["torch-cpu", "notes", "notes"], CPU).rejected) == 1


def test_laptop_can_ask_what_another_machine_would_get():
    names = ["torch-cpu", "torch-cuda", "torch211-cxx11-cu128-x86_64-linux", "torch211-cxx11-cu130-x86_64-linux"]
    choice = choose_variant(names, Target.parse("cuda:sm90 torch2.11 cu130"))
    assert choice.fitting == ("torch211-cxx11-cu130-x86_64-linux", "torch-cuda")


@pytest.mark.parametrize(
    ("arch", "capabilities", "others"),
    [
        ("8.0", [80, 86, 89], [75, 90, 100]),
        ("8.6", [86, 89], [80, 90]),
        ("9.0a", [90], [89, 91, 100]),
        ("10.0a", [100], [101, 103, 120]),
        ("10.0f", [100, 101, 103], [90, 110, 120]),
        ("10.3f", [103], [100, 110]),
        ("12.0f", [120, 121], [100, 110]),
        ("8.0+PTX", [80, 86, 90, 120], [75]),
        ("9.0a+PTX", [90], [100]),  # PTX for one architecture's own features is compiled for no other
        ("10.0f+PTX", [100, 103], [120]),
    ],
)
def test_cuda_architecture_covers_the_capabilities_that_its_code_runs_on(arch, capabilities, others):
    covered = [capability for capability in capabilities + others if covers(arch, capability)]
    assert covered == capabilities


def covers(arch: str, capability: int) -> bool:
    return why_not_arch(metadata("cuda", arch), Target("cuda", capability, "2.13", "cu130", "linux", "x86_64")) is None


def test_build_is_rejected_only_if_none_of_its_architectures_covers_the_target():
    assert why_not_arch(metadata("cuda", "8.0", "9.0a"), CUDA) is None
    reason = why_not_arch(metadata("cuda", "8.0", "10.0+PTX"), CUDA)
    assert reason == "compiled for the architectures 8.0, 10.0+PTX, the target has 9.0"


def test_architectures_in_an_unknown_form_reject_nothing_alone_and_allow_nothing_beside_others():
    assert why_not_arch(metadata("cuda", "sm_90", "hopper"), CUDA) is None
    assert why_not_arch(metadata("cuda", "hopper", "8.0"), CUDA) is not None


def test_build_that_lists_no_architectures_is_for_all():
    assert why_not_arch(metadata("cuda"), CUDA) is None
    assert why_not_arch(Metadata("norms", "norms", 1, "apache-2.0", (), "cuda", ()), CUDA) is None


def test_target_of_unknown_capability_is_refused_by_no_architecture():
    assert why_not_arch(metadata("cuda", "8.0"), Target.parse("cuda torch2.13 cu130")) is None


def test_architectures_of_another_backend_say_nothing():
    assert why_not_arch(metadata("rocm", "gfx90a"), CUDA) is None
    assert why_not_arch(metadata("cuda", "8.0"), XPU) is None


@pytest.mark.parametrize(
    ("capability", "covered"), [(94, ["gfx942"]), (90, ["gfx90a"]), (110, ["gfx1100"]), (120, ["gfx1201"]), (103, ["gfx1030:xnack-"])]
)
def test_rocm_architecture_covers_the_capability_that_torch_reports_for_it(capability, covered):
    archs = ["gfx942", "gfx90a", "gfx1100", "gfx1201", "gfx1030:xnack-"]
    target = Target("rocm", capability, "2.13", "rocm71", "linux", "x86_64")
    assert [arch for arch in archs if why_not_arch(metadata("rocm", arch), target) is None] == covered
