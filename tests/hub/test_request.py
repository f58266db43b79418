"""Kernel repositories that another kernel asks for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxkernels.hub.request import RepositoryRequest, is_repo_id, is_revision


def test_dependency_reads_as_repository_and_state():
    assert str(RepositoryRequest("acme/norms", version=0)) == "acme/norms@v0"
    assert str(RepositoryRequest("acme/norms", revision="9a31f0c")) == "acme/norms@9a31f0c"


def test_equal_dependencies_are_one_key():
    assert len({RepositoryRequest("acme/norms", version=1), RepositoryRequest("acme/norms", version=1)}) == 1


@pytest.mark.parametrize("name", ["acme/norms", "kernels-community/activation", "a/b", "A.B/c_d.e", "_a/b_"])
def test_name_of_a_repository_is_one(name):
    assert is_repo_id(name)


@pytest.mark.parametrize(
    "name", ["", "norms", "acme/", "/norms", "a/b/c", "../norms", "acme/..", "acme/.", "-a/b", "a/b-", "a/b--c", "a b/c", "a/b\n"]
)
def test_other_names_are_none(name):
    assert not is_repo_id(name)
    with pytest.raises(ValueError, match="is no repository on the Hub"):
        RepositoryRequest(name, version=1)


@pytest.mark.parametrize("name", ["main", "v1", "9a31f0c" + "0" * 33, "refs/pr/1", "release-1.0", "a+b"])
def test_name_of_a_revision_is_one(name):
    assert is_revision(name)


@pytest.mark.parametrize(
    "name", ["", "..", "../main", "a/../b", "/main", "main/", "a//b", "-f", ".git", "a/.b", "main.lock", "a b", "main\n", "a:b"]
)
def test_other_revisions_are_none(name):
    assert not is_revision(name)
    with pytest.raises(ValueError, match="no name of a commit, tag or branch"):
        RepositoryRequest("acme/norms", revision=name)


@pytest.mark.parametrize("version", [-1, True, "1", 1.0])
def test_version_that_is_no_count_is_refused(version):
    with pytest.raises(ValueError, match="anything else is a revision"):
        RepositoryRequest("acme/norms", version=version)


@pytest.mark.parametrize("given", [{}, {"version": 1, "revision": "main"}])
def test_exactly_one_of_version_and_revision_is_given(given):
    with pytest.raises(ValueError, match="give one of the two"):
        RepositoryRequest("acme/norms", **given)


@given(st.text())
def test_no_name_that_is_let_through_leads_out_of_a_folder(name):
    if is_repo_id(name) or is_revision(name):
        assert all(part and not part.startswith(".") for part in name.split("/"))
