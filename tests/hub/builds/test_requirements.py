"""What a build needs of the Python installation, checked before its code runs."""

from __future__ import annotations

import importlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxkernels.errors import RepositoryError
from fxkernels.hub.builds.metadata import Metadata
from fxkernels.hub.builds.requirements import UNDERSTOOD, check_requirements


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on `sys.path` into which packages are installed: their description, and a module that says that it was imported."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name: str, version: str | None, module: str | None = None) -> None:
        description = tmp_path / f"{name.replace('-', '_')}-{version or 0}.dist-info"
        description.mkdir()
        (description / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\n" + (f"Version: {version}\n" if version else ""))
        if module is not None:
            add_module(module)
            (description / "top_level.txt").write_text(module)
        importlib.invalidate_caches()

    def add_module(name: str) -> None:
        (tmp_path / f"{name}.py").write_text("raise AssertionError('imported')")
        importlib.invalidate_caches()

    install.module = add_module
    return install


def metadata(*python_depends: str, minver: str | None = None) -> Metadata:
    return Metadata("norms", "norms", 1, "apache-2.0", python_depends, "cpu", minver=minver)


def refusal(wanted: Metadata, variant: str | None = None) -> str:
    with pytest.raises(RepositoryError) as caught:
        check_requirements(wanted, "acme/norms (torch-cpu)", variant)
    assert caught.value.code == "load_error"
    assert str(caught.value).startswith("acme/norms (torch-cpu) ")
    return str(caught.value)


@pytest.mark.parametrize(
    "requirement", ["torch", "torch>=2.11", "torch>=2.11,<99", "Torch", "sympy", "huggingface_hub", "huggingface-hub>=0.20"]
)
def test_package_that_is_installed_is_enough(requirement):
    check_requirements(metadata(requirement), "acme/norms")


def test_build_without_requirements_needs_nothing():
    check_requirements(metadata(), "acme/norms")


def test_missing_packages_are_named_together_with_the_command_that_installs_them():
    message = refusal(metadata("fxtest-nowhere", "torch", "fxtest_neither>=0.7,<1"))
    assert "fxtest-nowhere: not installed" in message
    assert "fxtest-neither<1,>=0.7: not installed" in message
    assert message.endswith("pip install fxtest-nowhere 'fxtest-neither<1,>=0.7'")


def test_package_that_is_too_old_is_named_with_the_version_that_is_there(site):
    site("fxtest-old", "0.6.1", "fxtest_old")
    message = refusal(metadata("fxtest-old>=0.7"))
    assert "fxtest-old>=0.7: 0.6.1 is installed" in message
    assert message.endswith("pip install 'fxtest-old>=0.7'")


@pytest.mark.parametrize("version", ["0.7", "0.7.1", "1.0rc1", "0.8.dev3", "0.7+cu130"])
def test_package_that_is_new_enough_is_enough_also_as_a_prerelease_or_local_build(site, version):
    site("fxtest-new", version, "fxtest_new")
    check_requirements(metadata("fxtest-new>=0.7"), "acme/norms")


def test_nothing_is_imported(site):
    site("fxtest-explosive", "1.0", "fxtest_explosive")
    site.module("fxtest_mine")
    check_requirements(metadata("fxtest-explosive>=0.7", "fxtest-mine"), "acme/norms")
    refusal(metadata("fxtest_mine.submodule"))
    assert not {"fxtest_explosive", "fxtest_mine"} & set(sys.modules)


@pytest.mark.parametrize(
    ("requirement", "package", "module"),
    [("tvm-ffi", "apache-tvm-ffi", "tvm_ffi"), ("nvidia-cutlass-dsl", "nvidia-cutlass-dsl", "cutlass"), ("onednn", "onednn-devel", None)],
)
def test_package_that_the_hub_knows_by_another_name_is_found_by_its_own(site, requirement, package, module):
    assert f"pip install {package}" in refusal(metadata(requirement))
    site(package, "4.2", module)
    check_requirements(metadata(requirement), "acme/norms")


def test_package_that_is_installed_under_another_name_is_found_by_its_module(site):
    site("fxtest-nightly-builds", "3.4", "fxtest_compiler")
    check_requirements(metadata("fxtest-compiler>=3"), "acme/norms")
    assert "fxtest-compiler>=4: 3.4 is installed" in refusal(metadata("fxtest-compiler>=4"))


def test_module_without_a_package_is_enough_unless_a_version_is_asked_for(site):
    site.module("fxtest_checkout")
    check_requirements(metadata("fxtest-checkout"), "acme/norms")
    assert "no package that says which version it is" in refusal(metadata("fxtest-checkout>=1"))


@pytest.mark.parametrize("version", [None, "not-a-version"])
def test_package_whose_version_cannot_be_compared_is_not_taken_for_new_enough(site, version):
    site("fxtest-damaged", version, "fxtest_damaged")
    check_requirements(metadata("fxtest-damaged"), "acme/norms")
    assert "cannot be compared" in refusal(metadata("fxtest-damaged>=1"))


def test_requirement_of_another_system_is_none_here():
    check_requirements(metadata("fxtest-nowhere; sys_platform == 'amiga'", "fxtest-nowhere; extra == 'all'"), "acme/norms")


def test_requirement_that_cannot_be_read_is_quoted():
    assert "'einops 0.7', which is no Python requirement" in refusal(metadata("einops 0.7"))


def test_requirement_that_names_a_place_to_download_from_is_refused():
    assert "it may name packages, not places" in refusal(metadata("einops @ https://example.org/einops.whl"))


@given(st.text())
def test_arbitrary_requirement_is_met_or_refused_with_the_build_named(text):
    try:
        check_requirements(metadata(text), "acme/norms")
    except RepositoryError:
        with pytest.raises(RepositoryError, match="acme/norms (needs|depends)"):
            check_requirements(metadata(text), "acme/norms")


@pytest.mark.parametrize("minver", ["0.9", "0.17", "0.17.0", "0.17.9", "0", str(UNDERSTOOD)])
def test_minimum_version_up_to_the_one_that_is_understood_is_met_whatever_is_installed(minver):
    check_requirements(metadata(minver=minver), "acme/norms")


@pytest.mark.parametrize("minver", ["0.18.0", "1", "1.0.0", "0.100"])
def test_minimum_version_beyond_what_is_understood_is_named_with_both_versions(minver):
    message = refusal(metadata("fxtest-nowhere", minver=minver))
    assert f"kernels {minver}" in message
    assert f"as of {UNDERSTOOD}" in message
    assert "pip install --upgrade fxkernels" in message


def test_build_for_tvm_ffi_needs_that_version_of_it(site):
    variant = "tvm-ffi01-cpu-x86_64-linux"
    assert "pip install 'apache-tvm-ffi==0.1.*'" in refusal(metadata(), variant)
    site("apache-tvm-ffi", "0.2.0", "tvm_ffi")
    assert "0.2.0 is installed" in refusal(metadata(), variant)
    check_requirements(metadata("tvm-ffi"), "acme/norms", "tvm-ffi02-cpu-x86_64-linux")


def test_other_builds_do_not_need_tvm_ffi():
    check_requirements(metadata(), "acme/norms", "torch213-cpu-x86_64-linux")
