"""From a version, branch, tag or short commit to the commit, with the Hub and without it."""

from __future__ import annotations

import logging

import pytest
from huggingface_hub import constants
from published import kernel

from fxkernels.errors import RepositoryError
from fxkernels.hub import CachedRepository, RepositoryRequest, available_versions, forget_resolved
from fxkernels.hub import resolve as resolve_request


@pytest.fixture(autouse=True)
def fresh(client):
    forget_resolved()
    yield
    forget_resolved()


@pytest.fixture
def commits(hub):
    """Version 1 with a tag and a branch of its own, then version 2."""
    return [hub.add("acme/norms", kernel(), tag="v1.0.3", branch="feature/fast"), hub.add("acme/norms", kernel(), version=2)]


def resolve(repo_id, **state):
    return resolve_request(RepositoryRequest(repo_id, **state))


def go_offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    forget_resolved()


def refusal(*arguments, **options):
    with pytest.raises(RepositoryError) as caught:
        resolve(*arguments, **options)
    return caught.value


def test_version_is_the_commit_of_its_branch(commits):
    assert [resolve("acme/norms", version=1), resolve("acme/norms", version=2)] == commits


@pytest.mark.parametrize("name", ["v1.0.3", "feature/fast", "v1"])
def test_tag_and_branch_are_the_commits_that_they_point_to(commits, name):
    assert resolve("acme/norms", revision=name) == commits[0]


def test_beginning_of_a_commit_is_that_commit(commits):
    assert resolve("acme/norms", revision=commits[0][:8]) == commits[0]


def test_full_commit_needs_no_request(hub, commits):
    assert resolve("acme/norms", revision=commits[1]) == commits[1]
    assert hub.requests == []


def test_hub_is_asked_once_per_process(hub, commits):
    assert resolve("acme/norms", version=1) == resolve("acme/norms", version=1)
    assert len(hub.requests) == 1


@pytest.mark.parametrize("name", ["v1", "v1.0.3", "feature/fast", "main", "short"])
def test_what_was_resolved_once_is_known_offline(hub, commits, monkeypatch, name):
    name = commits[0][:9] if name == "short" else name
    commit = resolve("acme/norms", revision=name)
    asked = len(hub.requests)
    go_offline(monkeypatch)
    assert resolve("acme/norms", revision=name) == commit
    assert len(hub.requests) == asked


def test_beginning_of_a_cached_commit_is_known_offline_though_it_was_never_resolved(client, commits, monkeypatch):
    CachedRepository.of("acme/norms").snapshot(commits[0]).mkdir(parents=True)
    go_offline(monkeypatch)
    assert resolve("acme/norms", revision=commits[0][:7]) == commits[0]


def test_beginning_that_fits_two_cached_commits_is_not_guessed(client, monkeypatch):
    for commit in ("abcdef0" + "1" * 33, "abcdef0" + "2" * 33):
        CachedRepository.of("acme/norms").snapshot(commit).mkdir(parents=True)
    go_offline(monkeypatch)
    assert refusal("acme/norms", revision="abcdef0").code == "offline"


def test_what_was_never_resolved_is_an_error_offline_that_says_what_is_there(commits, monkeypatch):
    resolve("acme/norms", version=1)
    go_offline(monkeypatch)
    error = refusal("acme/norms", version=2)
    assert error.code == "offline"
    assert "acme/norms@v2" in str(error)
    assert "it has: v1." in str(error)


def test_branch_that_moved_is_noticed(hub, commits):
    assert resolve("acme/norms", version=1) == commits[0]
    moved = hub.add("acme/norms", kernel())
    assert resolve("acme/norms", version=1) == commits[0], "one process, one answer"
    forget_resolved()
    assert resolve("acme/norms", version=1) == moved


def test_hub_that_cannot_be_reached_is_replaced_by_its_last_answer_with_a_warning(hub, commits, waits, caplog):
    commit = resolve("acme/norms", version=1)
    forget_resolved()
    hub.stop()
    with caplog.at_level(logging.WARNING, "fxkernels"):
        assert resolve("acme/norms", version=1) == commit
    assert "cannot be reached" in caplog.text
    assert commit in caplog.text
    assert waits == [], "somebody who has an answer does not wait"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_busy_hub_is_replaced_by_its_last_answer_with_a_warning(hub, commits, waits, caplog, status):
    commit = resolve("acme/norms", version=1)
    forget_resolved()
    hub.fail("*/revision/*", status=status)
    with caplog.at_level(logging.WARNING, "fxkernels"):
        assert resolve("acme/norms", version=1) == commit
    assert f"answered {status}" in caplog.text


def test_version_that_was_withdrawn_is_an_error_though_it_is_cached(hub, commits):
    resolve("acme/norms", version=1)
    forget_resolved()
    del hub.repositories["acme/norms"].branches["v1"]
    error = refusal("acme/norms", version=1)
    assert error.code == "load_error"
    assert "no such version or revision" in str(error)


def test_renamed_repository_is_followed_in_its_organization_with_a_warning(hub, commits, caplog):
    hub.rename("acme/norms", "acme/normalization")
    with caplog.at_level(logging.WARNING, "fxkernels"):
        assert resolve("acme/norms", version=1) == commits[0]
    assert "acme/norms was renamed to acme/normalization" in caplog.text


def test_repository_that_moved_to_another_organization_is_not_trusted(hub, commits):
    hub.rename("acme/norms", "somebody/norms")
    error = refusal("acme/norms", version=1)
    assert error.code == "untrusted"
    assert "somebody/norms" in str(error)


def test_ref_that_cannot_be_written_is_a_warning(hub, client, commits, caplog):
    client.folder("acme/norms").mkdir(parents=True)
    (client.folder("acme/norms") / "refs").touch()
    with caplog.at_level(logging.WARNING, "fxkernels"):
        assert resolve("acme/norms", version=1) == commits[0]
    assert "cannot be written into the cache" in caplog.text


def test_damaged_ref_is_no_answer(client, commits, monkeypatch):
    resolve("acme/norms", version=1)
    (client.folder("acme/norms") / "refs/v1").write_text("")
    go_offline(monkeypatch)
    assert refusal("acme/norms", version=1).code == "offline"


def test_versions_are_listed_with_their_commits(hub, commits):
    hub.add("acme/norms", kernel(), version=10)
    assert list(available_versions("acme/norms")) == [1, 2, 10]
    assert available_versions("acme/norms")[2] == commits[1]


def test_versions_offline_are_those_that_were_resolved(commits, monkeypatch):
    resolve("acme/norms", version=2)
    resolve("acme/norms", revision="feature/fast")
    go_offline(monkeypatch)
    assert available_versions("acme/norms") == {2: commits[1]}


@pytest.mark.parametrize("revision", ["../../etc", "/v1", "v1/", "a..b", "", "-x", "v1\n"])
def test_name_that_is_no_revision_is_refused_before_any_request(hub, revision):
    with pytest.raises(ValueError, match="no name of a commit, tag or branch"):
        resolve("acme/norms", revision=revision)
    assert hub.requests == []


@pytest.mark.parametrize("repo_id", ["norms", "../norms", "acme/../norms", "acme/norms/x", "acme--x/norms"])
def test_name_that_is_no_repository_is_refused_before_any_request(hub, repo_id):
    with pytest.raises(ValueError, match="no repository on the Hub"):
        resolve(repo_id, version=1)
    assert hub.requests == []
