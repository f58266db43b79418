"""Faults of a kernel in the cache and of the cache's disk. Each is an error that names the file, and nothing of the build runs."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from published import kernel
from world import VARIANT, Fault, World

from fxkernels.errors import RepositoryError
from fxkernels.hub import HubSnapshot

# --- faults of the cache -----------------------------------------------------------------------------------------------------------------


def write(name: str, change: Callable[[bytes], bytes]) -> Callable[[World], object]:
    """Change the content of a file, through its link."""

    def happen(world: World) -> None:
        blob = (world.build / name).resolve()
        blob.write_bytes(change(blob.read_bytes()))

    return happen


def replace(name: str, text: str) -> Callable[[World], object]:
    """Put a file in the place of the link."""

    def happen(world: World) -> None:
        (world.build / name).unlink()
        (world.build / name).write_text(text)

    return happen


def link(name: str, target: Callable[[World], Path]) -> Callable[[World], object]:
    """Let the link lead somewhere else."""

    def happen(world: World) -> None:
        path = target(world)
        (world.build / name).unlink(missing_ok=True)
        (world.build / name).symlink_to(path)

    return happen


def foreign_file(world: World) -> Path:
    file = world.client.home / "foreign.py"
    file.write_text("")
    return file


def foreign_blob(world: World) -> Path:
    path = world.client.cache / "kernels--other--norms/blobs/x"
    path.parent.mkdir(parents=True)
    path.write_text("")
    return path


def swap(world: World) -> None:
    one, other = world.build / "__init__.py", world.build / "layers.py"
    targets = one.resolve(), other.resolve()
    for path, target in zip((other, one), targets, strict=True):
        path.unlink()
        path.symlink_to(target)


def pipe(world: World) -> None:
    os.mkfifo(world.build / "pipe.py")


CACHE = {
    "source was changed": Fault(write("layers.py", lambda text: text + b"\nEVIL = 1\n"), "digest", ("layers.py",)),
    "source was changed without changing its length": Fault(
        write("layers.py", lambda text: text.replace(b"1", b"2")), "digest", ("layers.py",)
    ),
    "source was truncated": Fault(write("layers.py", lambda text: text[:40]), "digest", ("layers.py",)),
    "source was emptied": Fault(write("__init__.py", lambda text: b""), "digest", ("__init__.py",)),
    "large file was truncated": Fault(write("data.bin", lambda text: text[:-1]), "digest", ("data.bin",)),
    "metadata was changed": Fault(
        write("metadata.json", lambda text: text.replace(b"published", b"colorsys_")), "digest", ("metadata.json",)
    ),
    "file was put in the place of a link": Fault(replace("layers.py", "EVIL = 1"), "digest", ("layers.py",)),
    "file was added": Fault(lambda world: (world.build / "evil.py").write_text(""), "digest", ("evil.py",)),
    "byte code was added beside the source": Fault(
        lambda world: (world.build / "layers.pyc").write_bytes(b"evil"), "digest", ("layers.pyc",)
    ),
    "folder with a file was added": Fault(
        lambda world: ((world.build / "torch").mkdir(), (world.build / "torch/__init__.py").write_text("")),
        "digest",
        ("torch/__init__.py",),
    ),
    "two links were swapped": Fault(swap, "digest", ("__init__.py", "layers.py")),
    "link leads out of the cache": Fault(link("layers.py", foreign_file), "load_error", ("layers.py", "foreign.py")),
    "link leads into another repository": Fault(link("layers.py", foreign_blob), "load_error", ("layers.py", "other--norms")),
    "link to a folder was added": Fault(link("more", lambda world: world.client.home), "load_error", ("more",)),
    "pipe was added": Fault(pipe, "load_error", ("pipe.py",)),
}


@pytest.mark.parametrize("digests", [True, False], ids=["digests", "no-digests"])
@pytest.mark.parametrize("fault", [pytest.param(fault, id=says.replace(" ", "-")) for says, fault in CACHE.items()])
def test_fault_of_the_cache_is_an_error_that_names_the_file_and_nothing_of_the_build_runs(world, fault, digests):
    world.publish(digests=digests)
    HubSnapshot("acme/norms", world.commit).directory("torch-universal")  # in the cache, and not imported
    fault.happens(world)
    asked = len(world.hub.requests)
    with pytest.raises(RepositoryError) as caught:
        world.repository(revision=world.commit, trust_remote_code=True).load()
    assert caught.value.code == fault.code, str(caught.value)
    for word in fault.words:
        assert word in str(caught.value)
    assert json.loads(world.files[f"{VARIANT}/metadata.json"])["id"] not in sys.modules
    assert len(world.hub.requests) == asked, "what is wrong in the cache is not silently downloaded again"


SCRIPT = """
import sys
from fxkernels import LayerRepository
from fxkernels.errors import RepositoryError
try:
    print(LayerRepository("acme/norms", layer_name="RMSNorm", revision={commit!r}).load().VALUE)
except RepositoryError as error:
    print(f"RepositoryError [{{error.code}}] {{error}}")
    sys.exit(3)
"""


def run_elsewhere(world: World, check: bool = True, **environment: str) -> Any:
    result = world.client.run(SCRIPT.format(commit=world.commit), **environment)
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.mark.slow
def test_what_an_error_of_the_cache_says_helps(world):
    run_elsewhere(world)
    CACHE["source was changed"].happens(world)
    said = run_elsewhere(world, check=False).stdout
    folder = str(world.client.folder("acme/norms"))
    assert f"Delete {folder}" in said
    shutil.rmtree(folder)
    assert run_elsewhere(world).stdout == "1\n"


# --- faults of the disk ------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_full_disk_is_an_error_that_says_so_and_leaves_nothing_half_written(world):
    world.hub.add("acme/norms", kernel(more={"big.bin": os.urandom(400_000)}))
    world.commit = world.hub.repositories["acme/norms"].branches["v1"]
    place = world.client.home / "small"
    place.mkdir()
    report = f"import os\nfor folder, _, files in os.walk({str(place)!r}):\n    print(*files)\n"
    mounts = f"mount -t tmpfs -o size=200k tmpfs {place}"
    result = world.client.run_mounted(
        mounts, SCRIPT.format(commit=world.commit).replace("sys.exit(3)", report.replace("\n", "\n    ")), HF_HOME=str(place)
    )
    assert "RepositoryError [load_error]" in result.stdout, result.stdout + result.stderr
    assert "no space left on the disk" in result.stdout
    assert "big.bin" in result.stdout
    assert ".incomplete" not in result.stdout.split("\n", 3)[3]


@pytest.mark.slow
def test_read_only_cache_that_has_the_commit_is_as_good_as_any(world):
    run_elsewhere(world)
    world.hub.requests.clear()
    result = world.client.run_mounted(read_only(world), SCRIPT.format(commit=world.commit))
    assert (result.stdout, result.stderr) == ("1\n", "")
    assert world.hub.requests == []


@pytest.mark.slow
def test_read_only_cache_that_lacks_the_commit_is_an_error_that_says_so(world):
    result = world.client.run_mounted(read_only(world), SCRIPT.format(commit=world.commit))
    assert "RepositoryError [load_error]" in result.stdout, result.stdout + result.stderr
    assert "the cache cannot be written" in result.stdout
    assert "HF_HOME" in result.stdout


def read_only(world: World) -> str:
    return f"mount --bind {world.client.home} {world.client.home}\nmount -o remount,bind,ro {world.client.home}"


@pytest.mark.slow
def test_process_that_was_killed_while_it_downloaded_leaves_a_cache_that_the_next_one_completes(world):
    world.hub.fail("*/layers.py", method="GET", delay=30.0, times=1)
    process = world.client.start(SCRIPT.format(commit=world.commit))
    while not any(request.method == "HEAD" and request.path.endswith("layers.py") for request in world.hub.requests):
        assert process.poll() is None
    process.kill()
    process.communicate()
    offline = run_elsewhere(world, check=False, HF_HUB_OFFLINE="1")
    assert "RepositoryError [offline]" in offline.stdout
    assert "layers.py" in offline.stdout
    assert run_elsewhere(world).stdout == "1\n"
