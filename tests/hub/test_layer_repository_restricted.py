"""Repositories of a mapping under a restriction: ``lockfile=`` of `kernelize` and `hubkernels`, and `explain`, which sends no request."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from kernel_repositories import repository as local_repository
from layers import Norm, Stack
from lock_files import change, files_of, locked, write
from loopback import LoopbackHub
from published import LAYERS, kernel
from refusals import refusal
from torch import nn

from fxkernels import LayerRepository, explain, hubkernels, kernelize, use_kernel_mapping
from fxkernels.builtin import builtin_repository
from fxkernels.cli import main
from fxkernels.errors import KernelizeFallback
from fxkernels.hub import LockOnlyRepository, RepositoryRequest, read_lock
from fxkernels.target import Target

CPU = Target.of_machine("cpu")


def mapped(repository: Any) -> dict[str, dict[str, Any]]:
    return {"RMSNorm": {"cpu": repository}}


HUB = LayerRepository("acme/norms", layer_name="RMSNorm", version=1)
X = torch.randn(2, 3, 8)
# Without the class attribute by which tests tell builds apart: a kernel layer has no state of its own.
STATELESS = LAYERS.replace("    VALUE = {value!r}\n", "")


def norms() -> dict[str, bytes]:
    return kernel(more={"layers.py": STATELESS})


class Traceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = Norm()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)


@pytest.mark.parametrize("make", [Stack, Traceable])
def test_a_model_runs_from_the_hub_then_offline_then_from_a_lock_file(
    hub: LoopbackHub, client: Any, tmp_path: Path, request: pytest.FixtureRequest, make: Callable[[], nn.Module]
) -> None:
    commit = hub.add("acme/norms", norms())
    model = make().eval()
    reference = model(X)

    def runs(**options: Any) -> None:
        kernelized = kernelize(model, mapping=mapped(HUB), **options)
        torch.testing.assert_close(kernelized(X), reference)
        assert {str(call.kernel) for call in kernelized.report.calls} == {f"acme/norms@{commit[:7]}:RMSNorm"}

    runs()
    lockfile = write(tmp_path)
    request.getfixturevalue("offline")
    runs()
    runs(lockfile=lockfile)
    runs(lockfile=str(lockfile))


@pytest.mark.parametrize("make", [Stack, Traceable])
def test_a_model_with_a_repository_that_is_not_locked_is_refused(
    hub: LoopbackHub, client: Any, tmp_path: Path, make: Callable[[], nn.Module]
) -> None:
    hub.add("acme/norms", norms())
    hub.add("acme/other", norms())
    lockfile = write(tmp_path, RepositoryRequest("acme/other", version=1))
    model = make().eval()
    assert "acme/norms@v1 is not in" in refusal(lambda: kernelize(model, mapping=mapped(HUB), lockfile=lockfile)(X), "untrusted")
    kernelized = kernelize(model, mapping=mapped(HUB), lockfile=lockfile, use_fallback=KernelizeFallback.ALL)
    assert torch.equal(kernelized(X), model(X))
    assert {call.decisions[-1].misses[0].code for call in kernelized.report.calls} == {"untrusted"}


@pytest.mark.parametrize(
    "repository",
    [
        LayerRepository("acme/norms", layer_name="RMSNorm", version=2),
        LayerRepository("acme/norms", layer_name="RMSNorm", revision="main"),
        LayerRepository("acme/norms", layer_name="RMSNorm", revision="9a31f0c5" * 5),
        local_repository("norms", "RMSNorm"),
        type("Foreign", (), {"load": lambda self: Norm, "repo_id": "acme/norms"})(),
    ],
    ids=["another version", "a branch", "another commit", "a directory", "another library's"],
)
def test_under_a_lock_nothing_but_what_is_locked_is_loaded(hub: LoopbackHub, client: Any, tmp_path: Path, repository: Any) -> None:
    hub.add("acme/norms", norms(), version=2)
    hub.add("acme/norms", norms())
    lockfile = write(tmp_path)
    model = Stack().eval()
    refusal(lambda: kernelize(model, mapping=mapped(repository), lockfile=lockfile)(X), "untrusted")


def test_what_ships_with_the_library_needs_no_lock(hub: LoopbackHub, client: Any, tmp_path: Path) -> None:
    hub.add("acme/norms", norms())
    model = Stack().eval()
    kernelized = kernelize(model, mapping=mapped(builtin_repository("RMSNorm")), lockfile=write(tmp_path))
    torch.testing.assert_close(kernelized(X), model(X))
    assert len(kernelized.report.rewritten) == 3


def test_two_locks_have_to_agree(hub: LoopbackHub, client: Any, tmp_path: Path) -> None:
    hub.add("acme/norms", norms())
    own = write(tmp_path, name="own.lock")
    model = Stack().eval()
    same = kernelize(model, mapping=mapped(locked(own)), lockfile=write(tmp_path))
    assert torch.allclose(same(X), model(X), atol=1e-5)
    changed = write(tmp_path, name="changed.lock")
    change(changed, lambda c: files_of(c).update({"layers.py": "0" * 64}))
    message = refusal(lambda: kernelize(model, mapping=mapped(locked(own)), lockfile=changed)(X), "digest")
    assert "is locked with other files in" in message


def test_the_backend_takes_a_lock_file_and_keeps_it_through_copies_and_pickles(hub: LoopbackHub, client: Any, tmp_path: Path) -> None:
    hub.add("acme/norms", norms())
    lockfile = write(tmp_path)
    backend = hubkernels(inner="eager", mapping=mapped(HUB), lockfile=lockfile)
    lockfile.unlink()
    model = Stack().eval()
    for each in (backend, copy.deepcopy(backend), pickle.loads(pickle.dumps(backend))):
        torch._dynamo.reset()
        torch.testing.assert_close(torch.compile(model, backend=each)(X), model(X))
        assert len(each.report.rewritten) == 3
        assert each.options.lockfile == backend.options.lockfile


def test_the_backend_takes_a_lock_file_among_the_options_of_torch_compile(hub: LoopbackHub, client: Any, tmp_path: Path) -> None:
    hub.add("acme/norms", norms())
    hub.add("acme/other", norms())
    lockfile = write(tmp_path, RepositoryRequest("acme/other", version=1))
    options = {"inner": "eager", "mapping": mapped(HUB), "lockfile": lockfile}
    compiled = torch.compile(Stack().eval(), backend="hubkernels", options=options)
    with pytest.raises(Exception, match="acme/norms@v1 is not in"):
        compiled(X)


def test_a_lock_file_that_cannot_be_read_is_an_error_at_once(tmp_path: Path) -> None:
    assert "there is no lock file" in refusal(lambda: kernelize(Stack(), lockfile=tmp_path / "no.lock"), "load_error")
    with pytest.raises(TypeError, match="lockfile= is the path of a lock file"):
        hubkernels(lockfile=1)  # type: ignore[arg-type]


def test_a_lock_is_read_when_the_model_is_kernelized_and_not_again(hub: LoopbackHub, client: Any, tmp_path: Path) -> None:
    hub.add("acme/norms", norms())
    lockfile = write(tmp_path)
    lock = read_lock(lockfile)
    kernelized = kernelize(Stack().eval(), mapping=mapped(HUB), lockfile=lockfile)
    lockfile.write_text("{}")
    kernelized(X)
    assert len(kernelized.report.rewritten) == 3
    assert pickle.loads(pickle.dumps(lock)) == lock


def test_when_holds_under_a_lock_too(hub: LoopbackHub, client: Any, tmp_path: Path) -> None:
    hub.add("acme/norms", kernel(metadata={"constraints": {"RMSNorm": ["ndim(hidden_states) == 3"]}}))
    path = write(tmp_path)
    both = ("ndim(hidden_states) == 3", "capability >= 80")
    own = locked(path, when="capability >= 80")
    assert own.load_for(CPU).constraints == both
    hubs = LayerRepository("acme/norms", layer_name="RMSNorm", version=1, when="capability >= 80")
    assert LockOnlyRepository(hubs, read_lock(path)).load_for(CPU).constraints == both
    assert LockOnlyRepository(own, read_lock(path)).load_for(CPU).constraints == both


def test_explain_finds_the_records_that_are_shipped_beside_the_lock_file(
    hub: LoopbackHub, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FXKERNELS_VERIFY")
    monkeypatch.setenv("FXKERNELS_CACHE", str(tmp_path / "cache"))
    hub.add("acme/norms", norms())
    lockfile = write(tmp_path)
    model, mapping = Stack().eval(), mapped(locked(lockfile, trust_remote_code=True))
    with torch.no_grad():
        kernelize(model, mapping=mapping)(X)  # probes
        assert CliRunner().invoke(main, ["admitted", "ship", str(lockfile)]).exit_code == 0
        monkeypatch.setenv("FXKERNELS_CACHE", str(tmp_path / "of another machine"))
        with use_kernel_mapping(mapping):
            report = explain(model, X)
    assert len(report.rewritten) == 3, str(report)
