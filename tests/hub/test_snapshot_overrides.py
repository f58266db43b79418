"""Local overrides: ``FXKERNELS_LOCAL``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from layers import Stack
from loopback import LoopbackHub
from published import LAYERS, kernel

from fxkernels import LayerRepository, kernelize
from fxkernels.errors import RepositoryError
from fxkernels.hub.snapshot import local_override
from fxkernels.kernels.layer import KernelIdentity
from fxkernels.target import Target


def test_without_the_variable_nothing_is_overridden(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, "", "  "):
        if value is None:
            monkeypatch.delenv("FXKERNELS_LOCAL", raising=False)
        else:
            monkeypatch.setenv("FXKERNELS_LOCAL", value)
        assert local_override("acme/norms") is None


def test_a_repository_is_taken_from_the_directory_that_the_variable_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "norms").mkdir()
    (tmp_path / "a=b").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FXKERNELS_LOCAL", f"acme/norms=norms, acme/rotary={tmp_path / 'a=b'},")
    assert local_override("acme/norms") == tmp_path / "norms"
    assert local_override("acme/rotary") == tmp_path / "a=b"
    assert local_override("acme/other") is None


def test_an_override_is_a_warning_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("FXKERNELS_LOCAL", f"acme/norms={tmp_path}")
    with caplog.at_level(logging.WARNING, logger="fxkernels"):
        local_override("acme/norms")
        local_override("acme/norms")
    (record,) = caplog.records
    assert record.getMessage() == (
        f"acme/norms is taken from {tmp_path}, because FXKERNELS_LOCAL says so: neither trust nor digests are checked"
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("acme/norms", "has 'acme/norms'; it has the form organization/name=path"),
        ("norms=/x", "has 'norms=/x'"),
        ("acme/norms=", "has 'acme/norms='"),
        ("=/x", "has '=/x'"),
        ("acme/norms/x=/x", "organization/name=path"),
        ("acme/other=/x,broken", "has 'broken'"),
        ("acme/norms=/a,acme/norms=/b", "has two paths for acme/norms: /a and /b"),
    ],
)
def test_a_malformed_variable_is_an_error_whichever_repository_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, value: str, message: str
) -> None:
    monkeypatch.setenv("FXKERNELS_LOCAL", value)
    with pytest.raises(ValueError, match="FXKERNELS_LOCAL") as caught:
        local_override("acme/third")
    assert message in str(caught.value)


def test_a_directory_that_is_not_there_is_an_error_and_not_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FXKERNELS_LOCAL", f"acme/norms={tmp_path / 'gone'}")
    with pytest.raises(RepositoryError, match="replaces acme/norms with .*, which is not a directory") as caught:
        local_override("acme/norms")
    assert caught.value.code == "load_error"


def test_the_identity_of_a_kernel_says_that_it_was_overridden() -> None:
    identity = KernelIdentity("acme/norms", None, "RMSNorm", "torch-cpu", override="/home/me/norms")
    assert str(identity) == "acme/norms (local override /home/me/norms):RMSNorm"
    assert identity != KernelIdentity("acme/norms", None, "RMSNorm", "torch-cpu")


# --- loading ----------------------------------------------------------------------------------------------------------------------------


def written(files: dict[str, bytes], folder: Path) -> Path:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def test_a_kernelized_model_runs_the_override_and_its_report_says_so(
    hub: LoopbackHub, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("acme/norms", kernel(), trusted=False)
    layers = LAYERS.replace("    VALUE = {value!r}\n", "").replace("return self.weight", "return 2 * self.weight")
    folder = written(kernel(more={"layers.py": layers}), tmp_path / "norms")
    monkeypatch.setenv("FXKERNELS_LOCAL", f"acme/norms={folder}")
    model = Stack(0).eval()
    repository = LayerRepository("acme/norms", layer_name="RMSNorm", version=1)
    kernelized = kernelize(model, mapping={"RMSNorm": {"cpu": repository}})
    x = torch.randn(2, 8)
    torch.testing.assert_close(kernelized(x), 2 * model(x))
    (call,) = kernelized.report.calls
    assert call.kernel is not None
    assert (call.kernel.repository, call.kernel.revision, call.kernel.override) == ("acme/norms", None, str(folder))
    assert f"local override {folder}" in str(call.kernel)
    assert "local override" in " ".join(str(kernelized.report).split())
    assert hub.requests == []


def test_the_digests_of_an_override_are_not_checked(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = written(kernel(digests=True, value="published"), tmp_path / "norms")
    layers = folder / "build" / "torch-universal" / "layers.py"
    layers.write_text(layers.read_text().replace("published", "edited"))
    monkeypatch.setenv("FXKERNELS_LOCAL", f"acme/norms={folder}")
    layer = LayerRepository("acme/norms", layer_name="RMSNorm", version=1).load_for(Target.of_machine("cpu"))
    assert layer.cls.VALUE == "edited"
