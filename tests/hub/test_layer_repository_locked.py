"""LockedLayerRepository: what was locked is loaded, online and offline, and everything else is refused."""

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
from lock_files import change, files_of, locked, write
from loopback import LoopbackHub
from published import kernel
from refusals import refusal

from fxkernels import LockedLayerRepository
from fxkernels.hub import RepositoryRequest
from fxkernels.target import Target

CPU = Target.of_machine("cpu")


def asked(hub: LoopbackHub) -> list[str]:
    return [str(request) for request in hub.requests if "/kernels/" in request.path or "/organizations/" in request.path]


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
    path = write(tmp_path, trust=True)
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


# --- dependencies --------------------------------------------------------------------------------------------------------------------


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


# --- kernels.lock --------------------------------------------------------------------------------------------------------------------


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
