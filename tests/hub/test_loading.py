"""Loading kernels from the loopback Hub whose files in the cache were changed, and kernels with faults of their publisher."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from published import UNIVERSAL, kernel

from fxkernels.errors import RepositoryError
from fxkernels.hub import LayerRepository, forget_resolved
from fxkernels.target import Target

pytestmark = pytest.mark.slow

CPU = Target("cpu", None, "2.13", None, "linux", "x86_64")
LIBRARY = "_C.so"  # served as a large file: the cache names it by its SHA-256


@pytest.fixture(autouse=True)
def fresh(client):
    forget_resolved()


@pytest.fixture(params=[True, False], ids=["digests", "no digests"])
def cached(request, hub, client) -> Path:
    """A build in the cache, as it was downloaded; loaded from there once, in this process."""
    commit = hub.add("acme/norms", kernel(digests=request.param, more={LIBRARY: os.urandom(5000), "ops/rms.py": "V = 1\n"}))
    load()
    return client.folder("acme/norms") / "snapshots" / commit / "build" / UNIVERSAL


def load(repo_id: str = "acme/norms") -> type:
    return LayerRepository(repo_id, layer_name="RMSNorm", version=1).load_for(CPU).cls


def refusal(code: str, repo_id: str = "acme/norms") -> str:
    with pytest.raises(RepositoryError) as caught:
        load(repo_id)
    assert caught.value.code == code
    return str(caught.value)


def rewrite(path: Path, content: bytes) -> None:
    """Change a cached file's content, as an editor or a failing disk would: in the blob, behind the link."""
    path.resolve().write_bytes(content)


def test_cached_build_that_nobody_changed_is_loaded_again(cached):
    assert load().VALUE == 1


@pytest.mark.parametrize("name", ["layers.py", "ops/rms.py", LIBRARY, "metadata.json"])
def test_tampered_file_is_named(cached, name):
    content = (cached / name).read_bytes()
    rewrite(cached / name, content[:-2] + b"#\n")
    assert name in refusal("digest")


@pytest.mark.parametrize("name", ["layers.py", LIBRARY])
@pytest.mark.parametrize("left", [0, 20])
def test_truncated_file_is_named(cached, name, left):
    rewrite(cached / name, (cached / name).read_bytes()[:left])
    assert name in refusal("digest")


@pytest.mark.parametrize("name", ["evil.py", "evil.so", "layers/__init__.py", "ops/evil.py", "layers.pyc"])
def test_extra_file_is_named(cached, name):
    (cached / name).parent.mkdir(exist_ok=True)
    (cached / name).write_text("raise AssertionError('planted code was run')")
    assert re.search(rf"{re.escape(name)} is not part of it", refusal("digest"))


def test_extra_link_to_a_blob_of_the_same_repository_is_named(cached):
    (cached / "evil.py").symlink_to(os.readlink(cached / "layers.py"))
    assert "evil.py is not part of it" in refusal("digest")


def test_files_that_were_exchanged_are_named(cached):
    one, two = os.readlink(cached / "layers.py"), os.readlink(cached / "__init__.py")
    for name, target in (("layers.py", two), ("__init__.py", one)):
        (cached / name).unlink()
        (cached / name).symlink_to(target)
    message = refusal("digest")
    assert "layers.py" in message
    assert "__init__.py" in message


def test_link_out_of_the_snapshot_is_refused(cached, tmp_path):
    outside = tmp_path / "layers.py"
    outside.write_bytes((cached / "layers.py").read_bytes())
    (cached / "layers.py").unlink()
    (cached / "layers.py").symlink_to(outside)
    assert f"layers.py is a link to {outside}, which is not part of the repository" in refusal("load_error")


def test_link_to_a_directory_is_refused(cached, tmp_path):
    shutil.copytree(cached / "ops", tmp_path / "ops")
    shutil.rmtree(cached / "ops")
    (cached / "ops").symlink_to(tmp_path / "ops")
    assert "ops is a link to a directory" in refusal("load_error")


def test_pipe_among_the_files_is_refused_and_not_waited_for(cached):
    os.mkfifo(cached / "pipe.py")
    assert "pipe.py is neither a file nor a directory" in refusal("load_error")


def test_what_the_error_tells_to_delete_is_enough_to_load_again(cached):
    rewrite(cached / "layers.py", b"evil")
    folder = Path(re.search(r"Delete (\S+), and load the kernel again", refusal("digest"))[1])
    shutil.rmtree(folder)
    assert load().VALUE == 1


def test_changed_file_is_not_run_in_a_fresh_process_that_is_offline(cached, client):
    rewrite(cached / "layers.py", b"print('changed code was run')")
    script = "from fxkernels import LayerRepository\nLayerRepository('acme/norms', layer_name='RMSNorm', version=1).load()"
    result = client.run(script, HF_HUB_OFFLINE="1")
    assert "changed code was run" not in result.stdout
    assert "RepositoryError" in result.stderr
    assert re.search(r"layers\.py.* has the|layers\.py is not the file", result.stderr)


def test_byte_code_beside_the_source_that_says_something_else_is_not_run(hub, client):
    commit = hub.add("acme/norms", kernel(value="source"))
    folder = client.folder("acme/norms") / "snapshots" / commit / "build" / UNIVERSAL
    script = "from fxkernels import LayerRepository\nprint(LayerRepository('acme/norms', layer_name='RMSNorm', version=1).load().VALUE)"
    assert client.run(script).stdout == "source\n"
    for name in ("__init__.py", "layers.py"):
        target = Path(importlib.util.cache_from_source(str(folder / name)))
        target.parent.mkdir(exist_ok=True)
        stat = (folder / name).stat()
        code = compile("print('byte code was run')", name, "exec")
        target.write_bytes(importlib._bootstrap_external._code_to_timestamp_pyc(code, int(stat.st_mtime), stat.st_size))
    assert client.run(script).stdout == "source\n"


@pytest.mark.parametrize("path", ["../evil.py", "/etc/passwd", "ops/../../evil.py", "..\\evil.py", "C:/evil.py"])
def test_digest_of_a_file_outside_of_the_build_is_refused(hub, client, path):
    digest = {"algorithm": "sha256", "files": {path: "A" * 43 + "="}}
    hub.add("acme/norms", kernel(metadata={"digest": digest}))
    message = refusal("load_error")
    assert "digest.files" in message
    assert repr(path) in message


def test_id_of_a_standard_library_module_is_refused_and_the_module_stays(hub, client):
    import colorsys

    hub.add("acme/norms", kernel(metadata={"id": "colorsys"}))
    assert "'colorsys'" in refusal("load_error")
    assert sys.modules["colorsys"] is colorsys


def test_import_that_fails_names_its_line_and_the_next_version_loads(hub, client):
    broken = kernel(metadata={"id": "changed_cache_broken"}, more={"__init__.py": "from . import layers\n1/0"})
    hub.add("acme/norms", broken, version=1)
    assert re.search(r"ZeroDivisionError: division by zero\n  at \S+/__init__.py:2", refusal("load_error"))
    assert not [name for name in sys.modules if name.startswith("changed_cache_broken")]
    hub.add("acme/norms", kernel(value=2, metadata={"id": "changed_cache_broken"}), version=2)
    assert LayerRepository("acme/norms", layer_name="RMSNorm", version=2).load_for(CPU).cls.VALUE == 2


def dependant(*repo_ids: str, text: str = "") -> dict[str, bytes]:
    """The files of a kernel that depends on others."""
    depends = [{"repo-id": repo_id, "version": 1} for repo_id in repo_ids]
    return kernel(metadata={"kernel-depends": depends}, more={"__init__.py": f"from . import layers\n{text}"})


ASK = "from kernels import get_kernel_dep\nlayers.RMSNorm.BASE = get_kernel_dep('acme/base').layers.RMSNorm.VALUE"


def test_kernel_from_the_hub_gets_its_dependency_from_the_hub_and_then_offline(hub, client):
    hub.add("acme/base", kernel(value="base"))
    hub.add("acme/norms", dependant("acme/base", text=ASK))
    assert load().BASE == "base"
    script = "from fxkernels import LayerRepository\nprint(LayerRepository('acme/norms', layer_name='RMSNorm', version=1).load().BASE)"
    assert client.run(script, HF_HUB_OFFLINE="1").stdout == "base\n"


def test_kernels_that_depend_on_each_other_are_an_error_that_shows_the_circle(hub, client):
    base = hub.add("acme/base", dependant("acme/norms"))
    norms = hub.add("acme/norms", dependant("acme/base"))
    assert f"acme/norms@{norms[:7]} -> acme/base@{base[:7]} -> acme/norms@{norms[:7]}" in refusal("load_error")


def test_dependency_that_is_not_on_the_hub_names_who_needs_it(hub, client):
    commit = hub.add("acme/norms", dependant("acme/base"))
    message = refusal("load_error")
    assert "acme/base" in message
    assert f"needed by acme/norms@{commit[:7]}" in message


def test_dependency_from_a_publisher_that_nobody_trusts_is_refused_and_nothing_runs(hub, client):
    hub.add("evil/base", kernel(), trusted=False)
    commit = hub.add("acme/norms", dependant("evil/base", text="raise AssertionError('was run')"))
    message = refusal("untrusted")
    assert "evil/base" in message
    assert f"needed by acme/norms@{commit[:7]}" in message


def test_changed_file_of_a_dependency_is_named_with_who_needs_it(hub, client):
    base = hub.add("acme/base", kernel(value="base"))
    commit = hub.add("acme/norms", dependant("acme/base", text=ASK))
    load("acme/base")
    rewrite(client.folder("acme/base") / "snapshots" / base / "build" / UNIVERSAL / "layers.py", b"evil")
    message = refusal("digest")
    assert f"acme/base@{base[:7]}" in message
    assert f"needed by acme/norms@{commit[:7]}" in message
