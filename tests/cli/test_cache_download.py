"""`fxkernels download`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hub_commands import CUDA_BUILD, H100, Run, answer, project
from loopback import LoopbackHub
from published import kernel


@pytest.mark.slow
def test_download_fetches_the_build_that_fits_and_what_it_depends_on_for_offline_use(hub: LoopbackHub, client: Any, run: Run) -> None:
    hub.add("acme/base", kernel(value="base"))
    depends = {"kernel-depends": [{"repo-id": "acme/base", "version": 1}]}
    commit = hub.add("acme/norms", kernel("torch-cpu", metadata=depends) | kernel("torch-cuda", more={"ops.so": b"x" * 1000}))
    result = run("download", "acme/norms", "--version", "1", "--for", "cpu", "--json")
    builds = answer(result)["builds"]
    assert [(build["repository"], build["variant"], build["files"]) for build in builds] == [
        ("acme/norms", "torch-cpu", 3),
        ("acme/base", "torch-universal", 3),
    ]
    assert builds[0]["commit"] == commit
    assert Path(builds[0]["path"], "layers.py").is_file()
    assert not any(path.endswith(".so") for path in hub.downloads())
    script = "from fxkernels import LayerRepository as L; print(L('acme/norms', layer_name='RMSNorm', version=1).load().__name__)"
    loaded = client.run(script, HF_HUB_OFFLINE="1")
    assert loaded.stdout == "RMSNorm\n", loaded.stderr


def test_download_of_all_variants_fetches_each_build(hub: LoopbackHub, run: Run) -> None:
    hub.add("acme/norms", kernel("torch-cpu") | kernel(CUDA_BUILD, more={"ops.so": b"x" * 1000}))
    result = run("download", "acme/norms", "--revision", "main", "--all-variants")
    assert f"{CUDA_BUILD}: 4 files" in result.stdout
    assert "torch-cpu: 3 files" in result.stdout


def test_download_of_a_lock_file_fetches_what_is_locked(hub: LoopbackHub, run: Run) -> None:
    commit = hub.add("acme/norms", kernel("torch-cpu") | kernel(CUDA_BUILD))
    project('"acme/norms" = 1')
    assert run("lock").exit_code == 0
    hub.add("acme/norms", kernel("torch-cpu"))
    builds = answer(run("download", "--lockfile", "fxkernels.lock", "--for", H100, "--json"))["builds"]
    assert [(build["commit"], build["variant"]) for build in builds] == [(commit, CUDA_BUILD)]
    assert len(answer(run("download", "--lockfile", "fxkernels.lock", "--all-variants", "--json"))["builds"]) == 2
