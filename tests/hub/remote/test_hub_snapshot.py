"""A commit of a repository on the Hub: what is fetched of it, what is not, and what counts as complete."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub
import pytest
from hub_client import client_is_before
from huggingface_hub import constants, hf_hub_download, scan_cache_dir, snapshot_download
from published import kernel

from fxkernels.errors import RepositoryError
from fxkernels.hub import HubSnapshot, LayerRepository, forget_resolved
from fxkernels.target import Target

CPU = Target.parse("cpu torch2.13")
H100 = Target.parse("cuda:sm90 torch2.13 cu131 linux-x86_64")


@pytest.fixture(autouse=True)
def fresh(client):
    forget_resolved()


def load(commit: str | None = None, target: Target = CPU, **options):
    state = {"revision": commit} if commit is not None else {"version": 1}
    return LayerRepository("acme/norms", layer_name="RMSNorm", **{**state, **options}).load_for(target)


def refusal(*arguments, **options) -> RepositoryError:
    with pytest.raises(RepositoryError) as caught:
        load(*arguments, **options)
    return caught.value


def files_in(client) -> set[str]:
    folder = client.folder("acme/norms") / "snapshots"
    return {path.relative_to(folder).as_posix().split("/", 1)[1] for path in folder.rglob("*") if path.is_file()}


# --- what is fetched ---------------------------------------------------------------------------------------------------------------------


def test_only_the_chosen_build_is_downloaded(hub, client):
    hub.add("acme/norms", kernel() | kernel("torch-cuda", backend={"type": "cuda"}) | {"README.md": "", "tests/x.py": ""})
    load()
    names = {f"build/torch-universal/{name}" for name in ("metadata.json", "__init__.py", "layers.py")}
    assert files_in(client) == names
    assert sorted(hub.downloads()) == sorted(names), "each of them once"


def test_metadata_of_builds_that_may_fit_is_read_before_one_is_downloaded(hub, client):
    old = kernel("torch213-cxx11-cu131-x86_64-linux", value="old", backend={"type": "cuda", "archs": ["8.0"]})
    new = kernel("torch213-cxx11-cu130-x86_64-linux", value="new", backend={"type": "cuda", "archs": ["9.0"]})
    generic = kernel("torch-cuda", value="generic", backend={"type": "cuda"})
    hub.add("acme/norms", old | generic | new)
    assert load(target=H100).identity.variant == "torch213-cxx11-cu130-x86_64-linux"
    assert [path for path in hub.downloads() if "cu131" in path] == ["build/torch213-cxx11-cu131-x86_64-linux/metadata.json"]
    assert [path for path in hub.downloads() if "torch-cuda" in path] == []


def test_no_build_for_the_targets_architecture_says_so_and_downloads_no_code(hub, client):
    hub.add("acme/norms", kernel("torch-cuda", backend={"type": "cuda", "archs": ["8.0"]}) | kernel("torch-cpu"))
    error = refusal(target=Target.parse("cuda:sm100 torch2.13 cu130 linux-x86_64"))
    assert error.code == "no_variant"
    assert "torch-cuda: compiled for the architectures 8.0, the target has 10.0" in str(error)
    assert "torch-cpu: for cpu, the target is cuda" in str(error)
    assert [path for path in hub.downloads() if not path.endswith("metadata.json")] == []


@pytest.mark.slow
def test_nothing_is_asked_for_when_the_commit_is_in_the_cache(hub, client):
    commit = hub.add("acme/norms", kernel())
    load()
    hub.requests.clear()
    load(commit)
    script = f"from fxkernels import LayerRepository as R\nprint(R('acme/norms', layer_name='RMSNorm', revision={commit!r}).load().VALUE)"
    fresh_process = client.run(script)
    assert (fresh_process.stdout, fresh_process.stderr) == ("1\n", "")
    assert hub.requests == []


@pytest.mark.slow
def test_cached_commit_is_loaded_without_the_network_client(hub, client):
    commit = hub.add("acme/norms", kernel())
    load()
    script = f"""
import sys
from fxkernels import LayerRepository
LayerRepository("acme/norms", layer_name="RMSNorm", revision={commit!r}).load()
print([name for name in ("httpx", "httpx2", "huggingface_hub.hf_api", "huggingface_hub.file_download") if name in sys.modules])
"""
    assert client.run(script).stdout == "[]\n"


def test_cached_version_asks_one_question(hub, client):
    hub.add("acme/norms", kernel())
    load()
    hub.requests.clear()
    forget_resolved()
    load()
    assert [str(request) for request in hub.requests] == ["GET /api/kernels/acme/norms/revision/v1 -> 200"]


def test_byte_code_is_never_downloaded(hub, client):
    hub.add("acme/norms", kernel(more={"__pycache__/layers.cpython-311.pyc": b"evil", "old.pyc": b"evil"}))
    load()
    assert [path for path in hub.downloads() if "pyc" in path] == []


def test_second_version_downloads_only_what_changed(hub, client):
    first = kernel(more={"big.py": "x = 1\n" * 1000})
    hub.add("acme/norms", first)
    load()
    hub.requests.clear()
    hub.add(
        "acme/norms", {**first, **{path: text for path, text in kernel(value=2).items() if not path.endswith("__init__.py")}}, version=2
    )
    assert load(version=2, revision=None).cls.VALUE == 2
    assert sorted(hub.downloads()) == ["build/torch-universal/layers.py", "build/torch-universal/metadata.json"]


def test_long_list_of_files_is_read_to_its_end(hub, client):
    hub.page_size = 3
    hub.add("acme/norms", kernel(more={f"part{number}.py": f"V = {number}" for number in range(20)}))
    load()
    assert len(files_in(client)) == 23


def test_large_files_come_from_the_other_host_without_the_token(hub, client, monkeypatch):
    hub.tokens.add("hf_secret")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.add("acme/norms", kernel(more={"weights.bin": bytes(range(256)) * 4000}), private=True)
    load()
    cdn = [request for request in hub.requests if request.to_cdn]
    assert cdn
    assert not [request for request in cdn if "authorization" in {name.lower() for name in request.headers}]
    assert [request for request in hub.requests if request.headers.get("authorization") == "Bearer hf_secret"]


@pytest.mark.slow
def test_token_of_the_environment_opens_a_private_repository(hub, client):
    hub.tokens.add("hf_secret")
    hub.add("acme/norms", kernel(), private=True)
    script = "from fxkernels import LayerRepository as R\nprint(R('acme/norms', layer_name='RMSNorm', version=1).load().VALUE)"
    assert client.run(script, HF_TOKEN="hf_secret").stdout == "1\n"
    refused = client.run(script, HF_HOME=str(client.home / "other")).stderr
    assert "there is no such kernel repository, or it is private" in refused
    assert "HF_TOKEN" in refused


@pytest.mark.slow
def test_cache_lies_where_the_environment_says(hub, client, tmp_path):
    hub.add("acme/norms", kernel())
    script = "from fxkernels import LayerRepository as R\nR('acme/norms', layer_name='RMSNorm', version=1).load()"
    for variable, place in {"HF_HOME": tmp_path / "home", "HF_HUB_CACHE": tmp_path / "cache"}.items():
        assert client.run(script, **{variable: str(place)}).returncode == 0
    assert (tmp_path / "home/hub/kernels--acme--norms/snapshots").is_dir()
    assert (tmp_path / "cache/kernels--acme--norms/snapshots").is_dir()


@pytest.mark.slow
def test_progress_is_shown_by_the_clients_bars_and_can_be_switched_off(hub, client, tmp_path):
    hub.add("acme/norms", kernel())
    script = "from fxkernels import LayerRepository as R\nR('acme/norms', layer_name='RMSNorm', version=1).load()"
    shown = client.run(script, HF_HUB_DISABLE_PROGRESS_BARS="0", HF_HOME=str(tmp_path / "one"))
    assert "Fetching acme/norms@" in shown.stderr
    assert client.run(script, HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HOME=str(tmp_path / "two")).stderr == ""


# --- what counts as complete -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["layers.py", "__init__.py", "metadata.json"])
def test_half_downloaded_build_is_not_used_offline_and_the_error_names_the_file(hub, client, monkeypatch, missing):
    commit = hub.add("acme/norms", kernel())
    load()
    (client.folder("acme/norms") / "snapshots" / commit / "build/torch-universal" / missing).unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    error = refusal(commit)
    assert error.code == "offline"
    assert f"build/torch-universal/{missing} is missing" in str(error)


def test_half_downloaded_build_is_completed_with_what_is_missing(hub, client):
    commit = hub.add("acme/norms", kernel())
    load()
    path = client.folder("acme/norms") / "snapshots" / commit / "build/torch-universal/layers.py"
    path.resolve().unlink()
    hub.requests.clear()
    load(commit)
    assert hub.downloads() == ["build/torch-universal/layers.py"]


def test_build_of_which_only_the_metadata_is_there_is_not_taken_for_complete_offline(hub, client, monkeypatch):
    commit = hub.add("acme/norms", kernel())
    HubSnapshot("acme/norms", commit).metadata("torch-universal")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "layers.py" in str(refusal(commit, trust_remote_code=True))


def test_nothing_in_the_cache_is_an_error_offline_that_says_what_to_do(hub, client, monkeypatch):
    commit = hub.add("acme/norms", kernel())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for error in (refusal(commit, trust_remote_code=True), refusal()):
        assert error.code == "offline"
        assert "HF_HUB_OFFLINE" in str(error)
        assert "Load it once with the network" in str(error).replace(". Load it", "\n  Load it")
    assert hub.requests == []


keeps_lists = pytest.mark.skipif(client_is_before("1.23"), reason="before 1.23 the client keeps no list of a commit's files")


@keeps_lists
def test_what_the_client_itself_has_downloaded_can_be_used_offline(hub, client, monkeypatch):
    commit = hub.add("acme/norms", kernel(more={"weights.bin": b"0123" * 1000}))
    snapshot_download("acme/norms", revision="v1", repo_type="kernel")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    assert load(trust_remote_code=True).identity.revision == commit
    assert len(hub.requests) == asked


@keeps_lists
def test_what_the_client_has_downloaded_in_part_is_not_used_offline(hub, client, monkeypatch):
    commit = hub.add("acme/norms", kernel())
    snapshot_download("acme/norms", revision="v1", repo_type="kernel", allow_patterns=["*/metadata.json", "*/__init__.py"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "build/torch-universal/layers.py is missing" in str(refusal(commit, trust_remote_code=True))


def test_what_the_client_has_downloaded_without_a_list_is_not_used_offline(hub, client, monkeypatch):
    files = kernel()
    commit = hub.add("acme/norms", files)
    for path in files:
        hf_hub_download("acme/norms", path, revision="v1", repo_type="kernel")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "nothing says which files it has, and HF_HUB_OFFLINE is set\n  Load it once with the network" in str(
        refusal(commit, trust_remote_code=True)
    )


def test_damaged_list_of_files_is_asked_for_again(hub, client):
    commit = hub.add("acme/norms", kernel())
    load()
    (listing,) = (client.folder("acme/norms") / "fxkernels").iterdir()
    for text in ("", "[]", '{"format": 1}', '{"format": 1, "files": {"../x": {"size": 1}}}', '{"format": 99, "files": {}}'):
        listing.write_text(text)
        hub.requests.clear()
        load(commit)
        assert len(hub.requests) == 1
        assert json.loads(listing.read_text())["format"] == 1


def test_other_tools_still_read_the_cache(hub, client):
    hub.add("acme/norms", kernel())
    load()
    assert snapshot_download("acme/norms", revision="v1", repo_type="kernel", local_files_only=True)
    if not client_is_before("2.0"):  # it lists no kernels
        (repository,) = scan_cache_dir(client.cache).repos
        assert (repository.repo_id, repository.repo_type, len(repository.revisions)) == ("acme/norms", "kernel", 1)


def test_records_can_be_read_by_whoever_can_read_the_cache(hub, client):
    hub.add("acme/norms", kernel())
    load()
    files = [*(client.folder("acme/norms") / "fxkernels").iterdir(), *(client.folder("acme/norms") / "refs").iterdir()]
    plain = client.home / "plain"
    plain.touch()
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {stat.S_IMODE(plain.stat().st_mode)}


# --- many at once ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_eight_processes_that_load_one_repository_from_a_cold_cache_all_get_it(hub, client):
    commit = hub.add("acme/norms", kernel(digests=True, more={"weights.bin": bytes(1_000_000), **{f"p{n}.py": "" for n in range(5)}}))
    hub.fail("*/resolve/*", method="GET", delay=0.05)
    script = """
import sys, threading
from fxkernels import LayerRepository
from fxkernels.target import Target
print("ready", flush=True)
sys.stdin.readline()
print(LayerRepository("acme/norms", layer_name="RMSNorm", version=1).load_for(Target.of_machine("cpu")))
"""
    processes = [client.start(script) for _ in range(8)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [process.communicate(timeout=120) for process in processes]
    assert {(process.returncode, err) for process, (_, err) in zip(processes, results, strict=True)} == {(0, "")}
    assert all("acme/norms" in out for out, _ in results)
    assert not [path for path in client.cache.rglob("*") if path.name.endswith((".incomplete", ".tmp"))]
    hub.requests.clear()
    assert load(commit).identity.revision == commit
    assert hub.requests == [], "the cache is complete"


def test_threads_that_load_different_versions_at_once_each_get_theirs(hub, client):
    for version in range(4):
        hub.add("acme/norms", kernel(value=version), version=version)
    with ThreadPoolExecutor(8) as pool:
        layers = list(pool.map(lambda version: load(version=version % 4, revision=None), range(8)))
    assert [layer.cls.VALUE for layer in layers] == [0, 1, 2, 3] * 2


def test_clients_release_has_what_is_used_of_it():
    assert "kernel" in constants.REPO_TYPES_WITH_KERNEL
    for name in ("build_hf_headers", "hf_raise_for_status", "http_backoff", "tqdm"):
        assert hasattr(huggingface_hub.utils, name)
    assert Path(constants.HF_HUB_CACHE).is_absolute()
