"""Trust: what the Hub says about publishers, what the user allows, and what is known offline."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from loopback import LoopbackHub

from fxkernels.errors import RepositoryError
from fxkernels.hub.remote.trust import require_trust

FILES = {"build/torch-universal/metadata.json": b"{}"}
COMMIT = "9a31f0c5" * 5


def refused(repo_id: str, commit: str, trust_remote_code: bool | list[str] = False) -> str:
    with pytest.raises(RepositoryError) as caught:
        require_trust(repo_id, commit, trust_remote_code)
    assert caught.value.code == "untrusted"
    return str(caught.value)


def asked(hub: LoopbackHub) -> list[str]:
    """What was asked about organizations. The client asks for things of its own besides, such as ``/api/agent-harnesses``."""
    return [request.path for request in hub.requests if request.path.startswith("/api/organizations/")]


def records(client: Any) -> list[Path]:
    return sorted(path for path in (client.home / "fxkernels").rglob("*") if path.is_file())


def test_a_trusted_publisher_is_asked_for_once_per_commit(hub: LoopbackHub, client: Any) -> None:
    first = hub.add("acme/norms", FILES)
    second = hub.add("acme/norms", FILES, version=2)
    require_trust("acme/norms", first, False)
    require_trust("acme/norms", first, False)
    assert asked(hub) == ["/api/organizations/acme/overview"]
    require_trust("acme/norms", second, False)
    assert len(asked(hub)) == 2


def test_the_record_holds_offline_for_its_commit_only(hub: LoopbackHub, client: Any, request: pytest.FixtureRequest) -> None:
    commit = hub.add("acme/norms", FILES)
    require_trust("acme/norms", commit, False)
    request.getfixturevalue("offline")
    require_trust("acme/norms", commit, False)
    message = refused("acme/norms", COMMIT)
    assert "acme/norms@9a31f0c is not run: whether acme is a trusted publisher was not recorded with this commit" in message
    assert "load it once with the network" in message
    assert "trust_remote_code=['acme/norms']" in message
    refused("acme/other", commit)


@pytest.mark.slow
def test_the_record_holds_in_another_process_without_a_request(hub: LoopbackHub, client: Any) -> None:
    commit = hub.add("acme/norms", FILES)
    script = f"from fxkernels.hub.remote.trust import require_trust\nrequire_trust('acme/norms', '{commit}', False)"
    assert client.run(script).stderr == ""
    assert client.run(script, HF_HUB_OFFLINE="1").stderr == ""
    assert len(asked(hub)) == 1
    assert len(records(client)) == 1


def test_a_publisher_that_is_not_trusted_is_refused_each_time(hub: LoopbackHub, client: Any) -> None:
    commit = hub.add("acme/norms", FILES, trusted=False)
    assert f"acme is not a trusted publisher on {hub.url}" in refused("acme/norms", commit)
    refused("acme/norms", commit)
    assert len(asked(hub)) == 2
    hub.organizations["acme"] = True
    require_trust("acme/norms", commit, False)


def test_a_user_is_no_trusted_publisher(hub: LoopbackHub, client: Any) -> None:
    assert f"somebody is not an organization on {hub.url}" in refused("somebody/norms", COMMIT)


def test_an_organization_that_was_renamed_is_refused_under_its_old_name(hub: LoopbackHub, client: Any) -> None:
    body = json.dumps({"name": "newacme", "trustedKernelPublisher": True}).encode()
    hub.fail("/api/organizations/acme/overview", status=200, body=body, headers={"Content-Type": "application/json"})
    assert "acme is called 'newacme' now" in refused("acme/norms", COMMIT)


@pytest.mark.parametrize(
    "overview", [{"name": "acme"}, {"name": "acme", "trustedKernelPublisher": "yes"}, ["trustedKernelPublisher"], None]
)
def test_nothing_but_a_plain_yes_is_trust(hub: LoopbackHub, client: Any, overview: object) -> None:
    hub.fail("/api/organizations/acme/overview", status=200, body=json.dumps(overview).encode())
    refused("acme/norms", COMMIT)
    assert records(client) == []


@pytest.mark.parametrize("status", [400, 401, 403, 500, 503])
def test_a_hub_that_does_not_answer_the_question_is_no_trust(hub: LoopbackHub, client: Any, waits: list[float], status: int) -> None:
    hub.add("acme/norms", FILES)
    hub.fail("/api/organizations/*", status=status)
    message = refused("acme/norms", COMMIT)
    assert "whether acme is a trusted publisher cannot be found out" in message
    assert str(status) in message
    assert bool(waits) == (status >= 500)


def test_a_hub_that_is_busy_is_asked_again(hub: LoopbackHub, client: Any, waits: list[float]) -> None:
    commit = hub.add("acme/norms", FILES)
    hub.fail("/api/organizations/*", status=429, times=2)
    require_trust("acme/norms", commit, False)
    assert len(waits) == 2


def test_a_hub_that_cannot_be_reached_is_no_trust(hub: LoopbackHub, client: Any, waits: list[float]) -> None:
    commit = hub.add("acme/norms", FILES)
    hub.stop()
    assert "cannot be reached" in refused("acme/norms", commit)


# --- what the user allows ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("allowed", [True, ["acme/norms"], ("acme/other", "acme/norms")])
def test_what_the_user_allows_is_not_asked_for_and_not_recorded(hub: LoopbackHub, client: Any, allowed: bool | list[str]) -> None:
    require_trust("acme/norms", COMMIT, allowed)
    assert asked(hub) == []
    assert records(client) == []
    hub.organizations["acme"] = False
    refused("acme/norms", COMMIT)


def test_a_list_of_other_repositories_still_asks_about_the_publisher(hub: LoopbackHub, client: Any) -> None:
    commit = hub.add("acme/norms", FILES)
    require_trust("acme/norms", commit, ["acme/other"])
    hub.organizations["acme"] = False
    refused("acme/norms", COMMIT, ["acme/other", "acme/norms-and-more", "acme/norm"])


@pytest.mark.parametrize("value", ["acme/norms", "true", 1, None, {"acme/norms"}, ["norms"], [True], [["acme/norms"]]])
def test_an_allowance_that_makes_no_sense_is_a_type_error(client: Any, value: object) -> None:
    with pytest.raises(TypeError, match="trust_remote_code"):
        require_trust("acme/norms", COMMIT, value)  # type: ignore[arg-type]


@pytest.mark.parametrize("repo_id", ["norms", "acme/norms/x", "../norms", "acme/..", "acme/", "acme\\x/norms", "", "a--b/c"])
def test_an_id_that_could_lead_out_of_the_cache_directory_is_a_value_error(client: Any, repo_id: str) -> None:
    with pytest.raises(ValueError, match="is no repository on the Hub"):
        require_trust(repo_id, COMMIT, True)


@pytest.mark.parametrize("commit", ["main", "9a31f0c", "../../x", "9A31F0C5" * 5, ""])
def test_trust_is_a_matter_of_a_full_commit(client: Any, commit: str) -> None:
    with pytest.raises(ValueError, match="is not a full commit"):
        require_trust("acme/norms", commit, True)


# --- records ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"trusted_publisher": true}', b"\xff"])
def test_a_damaged_record_is_asked_for_again_and_rewritten(
    hub: LoopbackHub, client: Any, request: pytest.FixtureRequest, content: bytes
) -> None:
    commit = hub.add("acme/norms", FILES)
    require_trust("acme/norms", commit, False)
    (record,) = records(client)
    record.write_bytes(content)
    require_trust("acme/norms", commit, False)
    assert len(asked(hub)) == 2
    request.getfixturevalue("offline")
    require_trust("acme/norms", commit, False)


def test_a_record_of_another_repository_commit_or_endpoint_does_not_count(hub: LoopbackHub, client: Any) -> None:
    commit = hub.add("acme/norms", FILES)
    require_trust("acme/norms", commit, False)
    (record,) = records(client)
    hub.organizations["acme"] = False
    good = json.loads(record.read_text())
    for key, value in [("repository", "acme/other"), ("commit", COMMIT), ("endpoint", "http://elsewhere"), ("format", 2)]:
        record.write_text(json.dumps(good | {key: value}))
        refused("acme/norms", commit)
    record.write_text(json.dumps(good))
    require_trust("acme/norms", commit, False)


def test_a_record_that_cannot_be_written_is_a_warning_and_the_code_may_still_run(
    hub: LoopbackHub, client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    commit = hub.add("acme/norms", FILES)
    (client.home / "a-file").write_text("")
    monkeypatch.setenv("FXKERNELS_CACHE", str(client.home / "a-file"))
    with caplog.at_level(logging.WARNING, logger="fxkernels"):
        require_trust("acme/norms", commit, False)
    assert "cannot be recorded" in caplog.text
    assert "acme/norms" in caplog.text


@pytest.mark.slow
def test_processes_that_ask_at_once_leave_one_good_record(hub: LoopbackHub, client: Any) -> None:
    commit = hub.add("acme/norms", FILES)
    script = f"from fxkernels.hub.remote.trust import require_trust\nrequire_trust('acme/norms', '{commit}', False)"
    processes = [client.start(script) for _ in range(2)]
    assert [process.communicate()[1] for process in processes] == [""] * 2
    assert [path.name for path in records(client)] == [f"{commit}.json"]
