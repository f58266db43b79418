"""Faults of the Hub and of the network. Each ends in a clear error and the reference layer, or in a retry of the client.

Each fault is tried from a mapping to a rewritten model, with the real client. Afterwards, without the fault, the next run works with the
same cache. `test_cache.py` has the faults of files that are in the cache already.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hub_client import client_is_before
from huggingface_hub import constants
from layers import Norm
from world import VARIANT, Fault, World

import fxkernels
from fxkernels import KernelizeFallback, LayerRepository
from fxkernels.errors import RepositoryError
from fxkernels.hub import HubSnapshot, forget_resolved
from fxkernels.hub.remote import retries


def answer(path: str, status: int, **options: Any) -> Callable[[World], object]:
    return lambda world: world.hub.fail(path, status=status, **options)


def private(world: World) -> None:
    world.hub.repositories["acme/norms"].private = True


def public(world: World) -> None:
    world.hub.repositories["acme/norms"].private = world.hub.repositories["acme/norms"].gated = False


def gated(world: World) -> None:
    world.hub.repositories["acme/norms"].gated = True


def gone(world: World) -> None:
    world.hub.repositories["elsewhere/norms"] = world.hub.repositories.pop("acme/norms")


def back(world: World) -> None:
    world.hub.repositories["acme/norms"] = world.hub.repositories.pop("elsewhere/norms")


def moved(world: World) -> None:
    world.hub.rename("acme/norms", "mallory/norms")


def moved_back(world: World) -> None:
    world.hub.repositories["acme/norms"] = world.hub.repositories.pop("mallory/norms")


def withdrawn(world: World) -> None:
    world.hub.repositories["acme/norms"].branches.pop("v1")


def released(world: World) -> None:
    world.hub.repositories["acme/norms"].branches["v1"] = world.commit


def listed(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[World], object]:
    """Let the Hub list other files than it has."""

    def happen(world: World) -> None:
        def edit(body: bytes) -> bytes:
            entries = json.loads(body)
            change(entries)
            return json.dumps(entries).encode()

        world.hub.fail("*/tree/*", change=edit)

    return happen


def untrusted(world: World) -> None:
    world.hub.organizations["acme"] = False


def trusted(world: World) -> None:
    world.hub.organizations["acme"] = True


def cache_path_is_a_file(world: World) -> None:
    world.client.cache.mkdir()
    (world.client.cache / "kernels--acme--norms").touch()


def cache_path_is_free(world: World) -> None:
    (world.client.cache / "kernels--acme--norms").unlink()


PAGE = b"<html>Please accept the terms of use of this airport</html>"

SERVER = {
    "hub says 401 for everything": Fault(answer("*", 401), "load_error", ("answered 401", "HF_TOKEN")),
    "hub says 403 for the version": Fault(answer("*/revision/*", 403), "load_error", ("answered 403", "HF_TOKEN")),
    "hub says 403 for a file": Fault(answer("*/layers.py", 403), "load_error", ("answered 403", "layers.py", "HF_TOKEN")),
    "repository is private": Fault(private, "load_error", ("answered 401", "private", "HF_TOKEN"), public),
    "repository is gated": Fault(gated, "load_error", ("answered 403", "restricted", "HF_TOKEN"), public),
    "repository does not exist": Fault(gone, "load_error", ("acme/norms", "no such kernel repository"), back),
    "repository has moved to another organization": Fault(moved, "untrusted", ("moved", "mallory/norms"), moved_back),
    "version does not exist": Fault(withdrawn, "load_error", ("v1", "no such version or revision"), released),
    "listed file does not exist": Fault(
        answer("*/layers.py", 404, headers={"X-Error-Code": "EntryNotFound"}), "load_error", ("layers.py", "no such file")
    ),
    "too many requests for as long as the client waits": Fault(
        answer("*/revision/*", 429, headers={"Retry-After": "1"}), "offline", ("answered 429", "Too many requests")
    ),
    "hub is down when the version is asked for": Fault(answer("*/revision/*", 503), "offline", ("answered 503", "Try again later")),
    "hub is down when the files are listed": Fault(answer("*/tree/*", 502), "offline", ("answered 502", "list the files")),
    "hub is down when a file is asked for": Fault(answer("*/layers.py", 500), "offline", ("answered 500", "layers.py")),
    "hub is down when a file is sent": Fault(answer("*/layers.py", 504, method="GET"), "offline", ("answered 504", "layers.py")),
    "hub is down when the publisher is asked for": Fault(answer("*/overview", 500), "untrusted", ("acme", "500")),
    "publisher is not trusted": Fault(untrusted, "untrusted", ("acme", "trust_remote_code"), trusted),
    "something else answers the version": Fault(answer("*/revision/*", 200, body=PAGE), "offline", ("did not answer as a Hub does",)),
    "something else answers with JSON": Fault(
        answer("*/revision/*", 200, body=b'{"sha": "main"}'), "offline", ("did not answer as a Hub",)
    ),
    "something else lists the files": Fault(answer("*/tree/*", 200, body=PAGE), "offline", ("did not answer as a Hub does",)),
    "something else answers for a file": Fault(answer("*/layers.py", 200, body=PAGE), "offline", ("did not answer as a Hub", "layers.py")),
    "redirects go in a circle": Fault(
        lambda world: world.hub.fail(
            "*/revision/*", status=307, headers={"Location": f"{world.hub.url}/api/kernels/acme/norms/revision/v1"}
        ),
        "offline",
        ("TooManyRedirects",),
    ),
    "connection is cut in every file, always at its beginning": Fault(
        lambda world: world.hub.fail("*/layers.py", method="GET", cut_after=0), "offline", ("cannot be reached", "layers.py")
    ),
    "connection is cut in the list of files": Fault(
        lambda world: world.hub.fail("*/tree/*", cut_after=20), "offline", ("cannot be reached", "list the files")
    ),
    "file arrives shorter than announced": Fault(
        lambda world: world.hub.fail("*/layers.py", method="GET", change=lambda body: body[:-5]), "offline", ("layers.py", "size")
    ),
    "file arrives with other bytes of the same length": Fault(
        lambda world: world.hub.fail("*/layers.py", change=lambda body: b"#" * len(body)), "digest", ("layers.py", "other content")
    ),
    "large file arrives with other bytes": Fault(
        lambda world: world.hub.fail("*/data.bin", change=lambda body: bytes(len(body))), "digest", ("data.bin", "other content")
    ),
    "metadata arrives with other bytes": Fault(
        lambda world: world.hub.fail("*/metadata.json", change=lambda body: body.replace(b"apache", b"public")),
        "digest",
        ("metadata.json", "other content"),
    ),
    "list names a file outside of the repository": Fault(
        listed(lambda entries: entries.append({"type": "file", "path": "build/../../x.py", "size": 1, "oid": "0" * 40})),
        "load_error",
        ("build/../../x.py", "leaves its directory"),
    ),
    "list names an absolute path": Fault(
        listed(lambda entries: entries.append({"type": "file", "path": "/etc/x.py", "size": 1, "oid": "0" * 40})),
        "load_error",
        ("/etc/x.py",),
    ),
    "list says that a file has other content than it has": Fault(
        listed(lambda entries: [entry.update(oid="0" * 40) for entry in entries if entry["path"].endswith("layers.py")]),
        "digest",
        ("layers.py", "other content"),
    ),
    "repository has nothing under build": Fault(listed(lambda entries: entries.clear()), "load_error", ("nothing under build/",)),
    "cache's place is taken by a file": Fault(
        cache_path_is_a_file, "load_error", ("kernels--acme--norms", "The cache is"), cache_path_is_free
    ),
}


@pytest.mark.parametrize("fault", [pytest.param(fault, id=says.replace(" ", "-")) for says, fault in SERVER.items()])
def test_fault_of_the_hub_is_a_clear_error_and_the_next_run_works(world, fault):
    fault.happens(world)
    with pytest.raises(RepositoryError) as caught:
        world.repository().load()
    assert caught.value.code == fault.code, str(caught.value)
    for word in fault.words:
        assert word in str(caught.value)
    assert "acme" in str(caught.value)
    if not client_is_before("1.18"):  # it goes on with the half of a file that it has
        assert [path.name for path in world.client.cache.rglob("*.incomplete")] == [], "nothing half written is left"
    fault.mend(world)
    forget_resolved()
    assert world.repository().load().VALUE == 1


@pytest.mark.parametrize("fault", [pytest.param(fault, id=says.replace(" ", "-")) for says, fault in SERVER.items()])
def test_fault_of_the_hub_leaves_the_reference_where_fallback_is_allowed_and_is_raised_where_not(world, fault):
    fault.happens(world)
    assert_reference_runs(world.repository(), fault.code)


def assert_reference_runs(repository: LayerRepository, code: str) -> None:
    model, x = Norm(8).eval(), torch.randn(2, 8)
    mapping = {"RMSNorm": {"cpu": repository}}
    kernelized = fxkernels.kernelize(model, mapping=mapping, use_fallback=KernelizeFallback.ALL)
    assert torch.equal(kernelized(x), model(x))
    assert {miss.code for call in kernelized.report.calls for decision in call.decisions for miss in decision.misses} == {code}
    assert kernelized.report.rewritten == ()
    with pytest.raises(fxkernels.FxKernelsError):
        fxkernels.kernelize(model, mapping=mapping)(x)


# --- faults that the client's retries get over -------------------------------------------------------------------------------------------

# The Hub sends the first; before 1.22 the client does not read the second.
COME_BACK = {"RateLimit": '"api";r=0;t=7', "Retry-After": "7"}
RETRIES: dict[str, tuple[dict[str, Any], bool]] = {
    "hub is busy twice when the version is asked for": ({"path": "*/revision/*", "status": 503, "times": 2}, True),
    "hub asks to come back after a while": ({"path": "*/revision/*", "status": 429, "headers": COME_BACK, "times": 1}, True),
    "hub is busy twice when the files are listed": ({"path": "*/tree/*", "status": 502, "times": 2}, True),
    "hub is busy once when a file is asked for": ({"path": "*/layers.py", "method": "HEAD", "status": 503, "times": 1}, False),
    "too many requests when a file is sent": ({"path": "*/layers.py", "method": "GET", "status": 429, "times": 2}, True),
    "connection is cut in a small file": ({"path": "*/layers.py", "method": "GET", "cut_after": 100, "times": 1}, True),
    "connection is cut in a large file": ({"path": "*/data.bin", "method": "GET", "cut_after": 5000, "times": 3}, True),
    "connection is cut in the list of files once": ({"path": "*/tree/*", "cut_after": 10, "times": 1}, True),
    "hub is slow": ({"path": "*/resolve/*", "delay": 0.2}, False),
}


@pytest.mark.parametrize(("fault", "waited"), [pytest.param(*case, id=says.replace(" ", "-")) for says, case in RETRIES.items()])
def test_fault_that_passes_ends_in_a_retry_of_the_client(world, waits, fault, waited):
    happening = world.hub.fail(**fault)
    assert world.repository().load().VALUE == 1
    assert happening.happened >= 1
    assert bool(waits) is waited
    if "headers" in fault:
        assert max(waits) >= 7


def test_download_that_was_cut_goes_on_where_it_ended(world):
    world.monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what is less than one at the end is asked for again
    world.hub.fail("*/data.bin", method="GET", cut_after=5000, times=1)
    world.repository().load()
    ranges = [request.headers.get("range") for request in world.hub.requests if request.to_cdn and request.method == "GET"]
    assert ranges == [None, "bytes=5000-"]


def test_hub_that_stalls_is_given_up(world, waits):
    world.monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    world.hub.fail("*/revision/*", delay=1.0)
    with pytest.raises(RepositoryError, match="cannot be reached") as caught:
        world.repository().load()
    assert caught.value.code == "offline"
    assert len(waits) == 5


def test_hub_that_refuses_connections_is_given_up(world, waits):
    world.hub.stop()
    with pytest.raises(RepositoryError, match="Check the network, or HF_ENDPOINT") as caught:
        world.repository().load()
    assert caught.value.code == "offline"
    assert "refused" in str(caught.value)
    assert len(waits) >= 5


def test_hub_that_refuses_connections_for_a_while_is_asked_again(world, waits):
    restart_hub_after(3, world, waits)
    world.hub.stop()
    assert world.repository().load().VALUE == 1
    assert len(waits) >= 3


def test_hub_that_refuses_connections_for_a_while_when_a_file_is_asked_for_is_asked_again(world, waits):
    snapshot = HubSnapshot("acme/norms", world.commit)
    assert "layers.py" in snapshot.files("torch-universal")
    restart_hub_after(3, world, waits)
    world.hub.stop()
    assert snapshot.fetch("torch-universal", ["layers.py"])["layers.py"].read_bytes() == world.files[f"{VARIANT}/layers.py"]
    assert len(waits) >= 3


def restart_hub_after(count: int, world: World, waits: list[float]) -> None:
    """Let the Hub answer again when the client has waited so many times."""
    lock = threading.Lock()

    def sleep(seconds: float) -> None:
        with lock:
            waits.append(seconds)
            if len(waits) == count:
                world.hub.start()

    world.monkeypatch.setattr(retries.time, "sleep", sleep)  # the clock that `waits` has given to all that wait


def test_hub_that_is_gone_is_not_missed_when_the_commit_is_cached(world):
    world.repository().load()
    world.hub.stop()
    forget_resolved()
    assert world.repository(revision=world.commit).load().VALUE == 1


def test_there_are_more_faults_than_twenty_five():
    assert len(SERVER) + len(RETRIES) > 25
