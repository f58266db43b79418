"""Paths and files that may belong to a build."""

from __future__ import annotations

import os
import posixpath
import socket
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fxkernels.errors import RepositoryError
from fxkernels.hub.builds.paths import check_relative_path, variant_files

CACHE_LAYOUT = "snapshots/9a31f0c/build/torch-cpu"
BLOB = "0f" * 32


@pytest.fixture
def local(tmp_path) -> tuple[Path, Path]:
    """A local repository: the directory of its one build, and its root."""
    root = tmp_path / "norms"
    return written(root / "build" / "torch-cpu", "layers.py"), root


@pytest.fixture
def cached(tmp_path) -> tuple[Path, Path]:
    """A repository in a cache like huggingface_hub's, with one file: the directory of its one build, and its root."""
    root = tmp_path / "hub" / "kernels--acme--norms"
    directory = root / CACHE_LAYOUT
    directory.mkdir(parents=True)
    written(root / "blobs", BLOB)
    (directory / "layers.py").symlink_to(f"../../../../blobs/{BLOB}")
    return directory, root


def written(directory: Path, *names: str) -> Path:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(name)
    return directory


def refusal(directory: Path, root: Path) -> str:
    with pytest.raises(RepositoryError) as caught:
        variant_files(directory, root)
    assert caught.value.code == "load_error"
    return str(caught.value)


@pytest.mark.parametrize("path", ["layers.py", "ops/norm.py", "a/b/c.so", ".gitattributes", "metadata.json", "größe.py", "a..b/..c.py"])
def test_ordinary_path_comes_back_as_it_is(path):
    assert check_relative_path(path) == path


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "is empty"),
        ("/etc/passwd", "is absolute"),
        ("//server/share", "is absolute"),
        ("..", "leaves its directory"),
        ("../evil.py", "leaves its directory"),
        ("ops/../../evil.py", "leaves its directory"),
        ("ops/..", "leaves its directory"),
        (".", "no plain name"),
        ("./layers.py", "no plain name"),
        ("ops/./norm.py", "no plain name"),
        ("ops//norm.py", "empty part"),
        ("ops/", "empty part"),
        ("..\\evil.py", "has a '\\\\' in it"),
        ("ops\\norm.py", "has a '\\\\' in it"),
        ("C:/evil.py", "has a ':' in it"),
        ("C:evil.py", "has a ':' in it"),
        ("layers.py:stream", "has a ':' in it"),
        ("layers.py\0.txt", "has a '\\x00' in it"),
        ("layers\n.py", "has a '\\n' in it"),
        (".. /evil.py", "no plain name"),
        ("... /evil.py", "no plain name"),
        ("layers.py.", "no plain name"),
        ("layers.py ", "no plain name"),
        ("layers\udc80.py", "not valid Unicode"),
    ],
)
def test_path_that_is_no_plain_relative_one_is_refused_with_the_reason(path, reason):
    with pytest.raises(RepositoryError) as caught:
        check_relative_path(path, "acme/norms, metadata.json")
    assert caught.value.code == "load_error"
    assert reason in str(caught.value)
    assert str(caught.value).startswith(f"acme/norms, metadata.json: the path {path!r}")


PARTS = st.one_of(
    st.sampled_from(["..", ".", "", "a", "C:", "~", "..  ", "con", "*"]), st.text(alphabet=st.characters(codec="utf-8"), max_size=4)
)


@given(st.lists(PARTS, max_size=5), st.sampled_from(["/", "\\", "//"]), st.sampled_from(["", "/", "\\", "C:"]))
@example(parts=["a", ".. ", "b"], separator="/", start="")
def test_path_that_is_accepted_stays_below_its_directory_on_every_system(parts, separator, start):
    path = start + separator.join(parts)
    try:
        check_relative_path(path)
    except RepositoryError:
        return
    assert posixpath.normpath(path) == path
    assert not PurePosixPath(path).is_absolute()
    assert not PureWindowsPath(path).drive
    assert not PureWindowsPath(path).root
    assert PureWindowsPath(path).parts == PurePosixPath(path).parts
    assert not any(part.rstrip(". ") != part or part in ("", "..") for part in path.split("/"))


@given(st.lists(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}(\.py)?", fullmatch=True), min_size=1, max_size=5))
def test_names_of_modules_and_packages_are_always_accepted(parts):
    assert check_relative_path("/".join(parts)) == "/".join(parts)


def test_files_are_found_at_every_depth_with_their_relative_paths(local):
    directory, root = local
    written(directory, "__init__.py", "ops/deep/norm.py", "ops/_C.abi3.so", "metadata.json")
    files = variant_files(directory, root)
    assert list(files) == ["__init__.py", "layers.py", "metadata.json", "ops/_C.abi3.so", "ops/deep/norm.py"]
    assert files["ops/deep/norm.py"].read_text() == "ops/deep/norm.py"


def test_byte_code_in_its_folder_is_left_out_and_anything_else_there_is_not(local):
    directory, root = local
    written(directory, "__pycache__/layers.cpython-311.pyc", "ops/__pycache__/x.pyc", "__pycache__/evil.py", "layers.pyc")
    assert list(variant_files(directory, root)) == ["__pycache__/evil.py", "layers.py", "layers.pyc"]


def test_files_of_other_builds_are_not_found(local):
    directory, root = local
    written(root / "build" / "torch-cuda", "other.py")
    assert list(variant_files(directory, root)) == ["layers.py"]


def test_repository_may_itself_be_reached_through_a_link(local, tmp_path):
    directory, root = local
    (tmp_path / "link").symlink_to(root)
    assert list(variant_files(tmp_path / "link" / directory.relative_to(root), tmp_path / "link")) == ["layers.py"]


def test_snapshot_in_the_cache_gives_the_blobs(cached):
    directory, root = cached
    assert variant_files(directory, root) == {"layers.py": root / "blobs" / BLOB}


def test_blob_in_the_store_that_the_repositories_of_a_cache_share_is_accepted(cached):
    directory, root = cached
    written(root.parent / "blobs" / BLOB[:2], BLOB)
    (root / "blobs" / BLOB).unlink()
    (root / "blobs" / BLOB).symlink_to(f"../../blobs/{BLOB[:2]}/{BLOB}")
    assert variant_files(directory, root) == {"layers.py": root / "blobs" / BLOB}


def test_copy_in_place_of_a_link_is_accepted_in_the_cache(cached):
    directory, root = cached
    written(directory, "copied.py")
    assert list(variant_files(directory, root)) == ["copied.py", "layers.py"]


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../../../../../secret", "../../../refs/main", "../../../../refs/main", "../torch-cuda/x.py"]
)
def test_link_in_the_cache_that_leads_anywhere_but_to_a_blob_is_refused(cached, target):
    directory, root = cached
    written(root, "refs/main", "../secret")
    written(root / "snapshots", "refs/main")
    written(directory.parent / "torch-cuda", "x.py")
    (directory / "evil.py").symlink_to(target)
    message = refusal(directory, root)
    assert f"{directory / 'evil.py'} is a link to" in message
    assert "not part of the repository" in message


@pytest.mark.parametrize("target", ["../../blobs/0f/secret", "../../blobs/0f/../../secret", "../../blobs/" + BLOB])
def test_blob_that_leads_to_anything_else_than_an_entry_of_the_shared_store_is_refused(cached, target):
    directory, root = cached
    written(root.parent, "blobs/0f/secret", "secret", f"blobs/{BLOB}")
    (root / "blobs" / BLOB).unlink()
    (root / "blobs" / BLOB).symlink_to(target)
    assert "not part of the repository" in refusal(directory, root)


def test_link_straight_into_the_shared_store_is_refused(cached):
    directory, root = cached
    written(root.parent / "blobs" / BLOB[:2], BLOB)
    (directory / "evil.py").symlink_to(f"../../../../../blobs/{BLOB[:2]}/{BLOB}")
    assert f"{directory / 'evil.py'} is a link to" in refusal(directory, root)


def test_link_into_the_blobs_of_another_repository_is_refused(cached):
    directory, root = cached
    written(root.parent / "kernels--evil--norms" / "blobs", BLOB)
    (directory / "evil.py").symlink_to(f"../../../../../kernels--evil--norms/blobs/{BLOB}")
    assert "not part of the repository" in refusal(directory, root)


def test_blob_that_is_a_link_out_of_the_cache_is_refused(cached, tmp_path):
    directory, root = cached
    written(tmp_path, "secret")
    (root / "blobs" / BLOB).unlink()
    (root / "blobs" / BLOB).symlink_to(tmp_path / "secret")
    assert f"{directory / 'layers.py'} is a link to {tmp_path / 'secret'}" in refusal(directory, root)


def test_link_within_a_local_repository_is_accepted(local):
    directory, root = local
    written(root / "shared", "norm.py")
    (directory / "norm.py").symlink_to("../../shared/norm.py")
    assert variant_files(directory, root)["norm.py"] == root / "shared" / "norm.py"


def test_link_out_of_a_local_repository_is_refused_with_what_to_do(local, tmp_path):
    directory, root = local
    written(tmp_path, "secret.py")
    (directory / "evil.py").symlink_to("../../../secret.py")
    message = refusal(directory, root)
    assert f"{directory / 'evil.py'} is a link to {tmp_path / 'secret.py'}, which is not part of the repository in {root}" in message
    assert "replace it with a copy of the file" in message


def test_link_to_a_directory_is_refused_even_within_the_repository(local):
    directory, root = local
    written(root / "shared", "norm.py")
    (directory / "ops").symlink_to("../../shared")
    assert f"{directory / 'ops'} is a link to a directory" in refusal(directory, root)


@pytest.mark.parametrize("link", ["build", "build/torch-cpu"])
def test_build_behind_a_link_is_refused(local, tmp_path, link):
    directory, root = local
    (root / link).rename(tmp_path / "elsewhere")
    (root / link).symlink_to(tmp_path / "elsewhere")
    assert f"{directory} lies behind a link" in refusal(directory, root)


def test_link_to_nothing_and_links_in_a_circle_are_refused(local):
    directory, root = local
    (directory / "gone.py").symlink_to("nowhere.py")
    assert f"{directory / 'gone.py'} is a link to 'nowhere.py', which does not exist" in refusal(directory, root)
    (directory / "gone.py").unlink()
    (directory / "circle.py").symlink_to("circle.py")
    assert f"{directory / 'circle.py'} is a link to" in refusal(directory, root)


def test_pipe_is_refused_without_being_opened(local):
    directory, root = local
    os.mkfifo(directory / "pipe.py")
    assert f"{directory / 'pipe.py'} is neither a file nor a directory" in refusal(directory, root)


def test_socket_is_refused(local, monkeypatch):
    directory, root = local
    monkeypatch.chdir(directory)  # the path of a socket may have 107 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.py")
        assert "s.py is neither a file nor a directory" in refusal(directory, root)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_link_to_a_device_is_refused_without_being_opened(local, device):
    directory, root = local
    (directory / "endless.py").symlink_to(device)
    assert f"is a link to {device}, which is not a file" in refusal(directory, root)


def test_file_name_that_another_system_reads_differently_is_refused(local):
    directory, root = local
    written(directory, "..\\evil.py")
    assert "'..\\\\evil.py' has a '\\\\' in it" in refusal(directory, root)


def test_directory_that_does_not_exist_is_named(local):
    _, root = local
    assert f"{root / 'build' / 'torch-cuda'} cannot be read" in refusal(root / "build" / "torch-cuda", root)
