"""Loading under a lock: what was locked is loaded, online and offline, and everything else is refused."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_repositories import repository as local_repository
from layers import Norm, Stack
from loopback import LoopbackHub
from published import LAYERS, kernel
from torch import nn

from fxkernels import LayerRepository, LockedLayerRepository, RepositoryError, hubkernels, kernelize
from fxkernels.builtin import builtin_repository
from fxkernels.fallback import KernelizeFallback
from fxkernels.hub import RepositoryRequest, lock_kernels, read_lock, write_lock
from fxkernels.target import Target

CPU = Target.of_machine("cpu")
NORMS = RepositoryRequest("acme/norms", version=1)


def write(folder: Path, *requires: RepositoryRequest, name: str = "fxkernels.lock") -> Path:
    path = folder / name
    write_lock(lock_kernels(requires or (NORMS,), str(path))[0], path)
    return path


def refusal(action: Callable[[], object], code: str) -> str:
    with pytest.raises(RepositoryError) as caught:
        action()
    assert caught.value.code == code
    return str(caught.value)


def locked(lockfile: Path, **options: Any) -> LockedLayerRepository:
    return LockedLayerRepository("acme/norms", layer_name="RMSNorm", lockfile=lockfile, **options)


def asked(hub: LoopbackHub) -> list[str]:
    return [str(request) for request in hub.requests if "/kernels/" in request.path or "/organizations/" in request.path]


def change(lockfile: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(lockfile.read_text())
    change(content)
    lockfile.write_text(json.dumps(content))


def files_of(content: dict[str, Any], index: int = 0) -> dict[str, str]:
    found: dict[str, str] = content["repositories"][index]["variants"]["torch-universal"]
    return found


# --- LockedLayerRepository --------------------------------------------------------------------------------------------------------------


def test_a_value_that_reads_nothing_is_compared_by_value_and_keeps_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    repository = LockedLayerRepository("acme/norms", layer_name="RMSNorm", trust_remote_code=["acme/norms"])
    assert repository == locked(tmp_path / "fxkernels.lock", trust_remote_code=("acme/norms",))
    assert len({repository, pickle.loads(pickle.dumps(repository)), copy.deepcopy(repository)}) == 1


@pytest.mark.parametrize(
    "arguments", [{"repo_id": "norms"}, {"repo_id": "../x/y"}, {"layer_name": "no name"}, {"trust_remote_code": "acme/norms"}]
)
def test_a_value_that_makes_no_sense_is_refused_when_it_is_made(arguments: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        LockedLayerRepository(**{"repo_id": "acme/norms", "layer_name": "RMSNorm", **arguments})


def test_the_locked_commit_is_loaded_although_the_version_has_moved(hub: LoopbackHub, client: Any, tmp_path: Path) -> None:
    commit = hub.add("acme/norms", kernel(value="locked"))
    lockfile = write(tmp_path)
    hub.add("acme/norms", kernel(value="moved"))
    layer = locked(lockfile).load_for(CPU)
    assert layer.cls.VALUE == "locked"
    assert (layer.identity.repository, layer.identity.revision) == ("acme/norms", commit)
    assert locked(lockfile).load() is layer.cls


@pytest.mark.slow
def test_a_locked_kernel_that_is_cached_loads_without_a_request_and_offline(
    hub: LoopbackHub, client: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    hub.add("acme/norms", kernel())
    lockfile = write(tmp_path)
    locked(lockfile).load_for(CPU)
    hub.requests.clear()
    locked(lockfile).load_for(CPU)
    assert asked(hub) == []
    request.getfixturevalue("offline")
    script = (
        f"from fxkernels import LockedLayerRepository as L; print(L('acme/norms', layer_name='RMSNorm', lockfile={str(lockfile)!r}).load())"
    )
    result = client.run(script, HF_HUB_OFFLINE="1")
    assert "RMSNorm" in result.stdout, result.stderr


def test_a_repository_that_is_not_in_the_lock_is_refused_without_a_request(hub: LoopbackHub, client: Any, tmp_path: Path) -> None:
    hub.add("acme/norms", kernel())
    hub.add("acme/other", kernel())
    lockfile = write(tmp_path, RepositoryRequest("acme/other", version=1))
    hub.requests.clear()
    assert "acme/norms is not in" in refusal(lambda: locked(lockfile).load_for(CPU), "untrusted")
    assert asked(hub) == []


def test_a_build_that_is_not_in_the_lock_does_not_exist(hub: LoopbackHub, client: Any, tmp_path: Path) -> None:
    hub.add("acme/norms", kernel("torch-cpu", value="cpu") | kernel(value="universal"))
    lockfile = write(tmp_path)
    change(lockfile, lambda c: c["repositories"][0]["variants"].pop("torch-cpu"))
    assert locked(lockfile).load_for(CPU).cls.VALUE == "universal"


@pytest.mark.parametrize(
    ("tamper", "file"),
    [
        (lambda files: files.update({"layers.py": "0" * 64}), "layers.py"),
        (lambda files: files.update({"metadata.json": "0" * 64}), "metadata.json"),
        (lambda files: files.update({"more.py": "0" * 64}), "more.py"),
        (lambda files: files.pop("layers.py"), "layers.py"),
        (lambda files: files.pop("metadata.json"), "metadata.json"),
    ],
)
def test_a_file_that_is_changed_missing_or_extra_is_refused_and_named(
    hub: LoopbackHub, client: Any, tmp_path: Path, tamper: Callable[[dict[str, str]], object], file: str
) -> None:
    hub.add("acme/norms", kernel())
    lockfile = write(tmp_path)
    change(lockfile, lambda c: tamper(files_of(c)))
    assert file in refusal(lambda: locked(lockfile).load_for(CPU), "digest")


def test_a_large_file_that_is_not_the_locked_one_is_refused(hub: LoopbackHub, client: Any, tmp_path: Path) -> None:
    hub.add("acme/norms", kernel(more={"ops.so": b"\x7fELF" * 100}))
    lockfile = write(tmp_path)
    change(lockfile, lambda c: files_of(c).update({"ops.so": "0" * 64}))
    assert "ops.so" in refusal(lambda: locked(lockfile).load_for(CPU), "digest")


def test_what_is_locked_is_not_yet_trusted(hub: LoopbackHub, client: Any, tmp_path: Path) -> None:
    hub.add("acme/norms", kernel(), trusted=False)
    path = tmp_path / "fxkernels.lock"
    write_lock(lock_kernels((NORMS,), "", True)[0], path)
    assert "acme is not a trusted publisher" in refusal(lambda: locked(path).load_for(CPU), "untrusted")
    locked(path, trust_remote_code=["acme/norms"]).load_for(CPU)


def test_a_local_override_and_a_lock_contradict_each_other(
    hub: LoopbackHub, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("acme/norms", kernel())
    lockfile = write(tmp_path)
    monkeypatch.setenv("FXKERNELS_LOCAL", f"acme/norms={tmp_path}")
    message = refusal(lambda: locked(lockfile).load_for(CPU), "untrusted")
    assert f"FXKERNELS_LOCAL replaces acme/norms with {tmp_path}" in message


# --- dependencies -----------------------------------------------------------------------------------------------------------------------


def publish_dependant(hub: LoopbackHub) -> None:
    hub.add("acme/base", kernel(value="base"))
    init = "from fxkernels import get_kernel_dep\nBASE = get_kernel_dep('acme/base').layers.RMSNorm.VALUE\nfrom . import layers\n"
    depends = {"kernel-depends": [{"repo-id": "acme/base", "version": 1}]}
    hub.add("acme/norms", kernel(metadata=depends, more={"__init__.py": init}))


def test_a_dependency_is_loaded_as_it_was_locked(hub: LoopbackHub, client: Any, tmp_path: Path) -> None:
    publish_dependant(hub)
    lockfile = write(tmp_path)
    hub.add("acme/base", kernel(value="moved"))
    layer = locked(lockfile).load_for(CPU)
    assert sys.modules[layer.cls.__module__.partition(".")[0]].BASE == "base"


def test_a_dependency_that_is_not_locked_or_was_changed_is_refused(hub: LoopbackHub, client: Any, tmp_path: Path) -> None:
    publish_dependant(hub)
    lockfile = write(tmp_path)
    good = lockfile.read_text()
    change(lockfile, lambda c: files_of(c, 0).update({"layers.py": "0" * 64}))
    message = refusal(lambda: locked(lockfile).load_for(CPU), "digest")
    assert "layers.py" in message
    assert "acme/base" in message
    lockfile.write_text(good)
    change(lockfile, lambda c: c["repositories"].pop(0))
    message = refusal(lambda: locked(lockfile).load_for(CPU), "untrusted")
    assert "acme/base@v1 is not in" in message


# --- the peer's lock --------------------------------------------------------------------------------------------------------------------


def test_a_lock_with_commits_only_pins_the_commit_and_says_that_it_has_no_digests(
    hub: LoopbackHub, client: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    commit = hub.add("acme/norms", kernel(value="locked"))
    hub.add("acme/norms", kernel(value="moved"))
    lockfile = tmp_path / "kernels.lock"
    lockfile.write_text(json.dumps([{"dependency": {"repo-id": "acme/norms", "version": 1}, "lock": {"commit": commit}}]))
    with caplog.at_level(logging.WARNING, logger="fxkernels"):
        assert locked(lockfile).load_for(CPU).cls.VALUE == "locked"
    assert f"{lockfile} has the commit of acme/norms@v1 and no digests" in caplog.text


def test_the_hash_that_an_older_lock_has_of_a_build_is_checked(hub: LoopbackHub, client: Any, tmp_path: Path) -> None:
    files = kernel(more={"ops.so": b"\x7fELF" * 100})
    commit = hub.add("acme/norms", files)
    total = hashlib.sha256()
    for path, content in sorted(files.items()):
        total.update(path.removeprefix("build/torch-universal/").encode())
        git = hashlib.sha1(f"blob {len(content)}\0".encode() + content)
        total.update(hashlib.sha256(content).digest() if path.endswith(".so") else git.digest())
    lockfile = tmp_path / "kernels.lock"
    for digest in (total.hexdigest(), "0" * 64):
        variants = {"torch-universal": {"hash": f"sha256-{digest}", "hash_type": "git_lfs_concat"}}
        lockfile.write_text(json.dumps([{"repo_id": "acme/norms", "sha": commit, "variants": variants}]))
        if digest == "0" * 64:
            refusal(lambda: locked(lockfile).load_for(CPU), "digest")
        else:
            locked(lockfile).load_for(CPU)


# --- kernelize and hubkernels -----------------------------------------------------------------------------------------------------------


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
