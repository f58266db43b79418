"""The files of a build against the digests in its metadata, and against their names in the cache."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_builds import digests_of

from fxkernels.errors import RepositoryError
from fxkernels.hub.builds.digests import Digests, git_blob_sha1, sha256_of, verify_content, verify_file, verify_files
from fxkernels.hub.builds.paths import variant_files

WHERE = "acme/norms@9a31f0c (torch-cpu)"
LONG_AGO = 1_600_000_000
CONTENTS = {"__init__.py": b"from . import layers\n", "layers.py": b"VALUE = 1\n", "ops/norm.so": bytes(range(256)) * 40}


@pytest.fixture
def build(tmp_path) -> Path:
    """A build of a local repository, as it was published some time ago."""
    directory = tmp_path / "norms" / "build" / "torch-cpu"
    for name, content in (CONTENTS | {"metadata.json": b"{}"}).items():
        write(directory / name, content)
    return directory


@pytest.fixture
def cached(tmp_path) -> Path:
    """The same build in a cache like huggingface_hub's: the snapshot's files are links to blobs that are named by their hash."""
    folder = tmp_path / "hub" / "kernels--acme--norms"
    for name, content in (CONTENTS | {"metadata.json": b"{}"}).items():
        blob = (
            hashlib.sha256(content).hexdigest() if name.endswith(".so") else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        )
        write(folder / "blobs" / blob, content)
        link = folder / "snapshots" / "9a31f0c" / "build" / "torch-cpu" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(folder / "blobs" / blob, link.parent))
    return folder / "snapshots" / "9a31f0c" / "build" / "torch-cpu"


@pytest.fixture
def hashed(monkeypatch) -> Iterator[list[str]]:
    """The names of the files that are read from now on in order to hash them."""
    names: list[str] = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, algorithm: (names.append(Path(file.name).name), digest(file, algorithm))[1])
    return names


def write(path: Path, content: bytes, modified: int = LONG_AGO) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (modified, modified))


def root_of(directory: Path) -> Path:
    return directory.parents[3] if "snapshots" in directory.parts else directory.parents[1]


def files_of(directory: Path) -> dict[str, Path]:
    return variant_files(directory, root_of(directory))


def published(algorithm: str = "sha256") -> Digests:
    return Digests(algorithm, {name: hashlib.new(algorithm, content).digest() for name, content in CONTENTS.items()})


PUBLISHED = published()


def verify(directory: Path, expected: Digests | None = PUBLISHED) -> None:
    verify_files(files_of(directory), expected, WHERE)


def refusal(directory: Path, expected: Digests | None = PUBLISHED) -> str:
    with pytest.raises(RepositoryError) as caught:
        verify(directory, expected)
    assert caught.value.code == "digest"
    assert str(caught.value).startswith(f"{WHERE} is not the build that was published:")
    return str(caught.value)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_published_files_pass_in_either_algorithm(build, algorithm):
    verify(build, published(algorithm))


def test_digests_are_those_of_the_kernels_package(build):
    peer = pytest.importorskip("kernels._rust")
    theirs = peer.Digest.hash_variant(peer.DigestAlgorithm.SHA512, build)
    expected = Digests(str(theirs.algorithm), {name: base64.b64decode(digest) for name, digest in theirs.files.items()})
    verify(build, expected)
    assert expected == published("sha512")


@pytest.mark.parametrize("name", ["layers.py", "ops/norm.so"])
def test_tampered_file_is_named_with_both_digests(build, name):
    changed = CONTENTS[name].replace(b"\x01", b"\x02").replace(b"1", b"2")
    assert len(changed) == len(CONTENTS[name])
    write(build / name, changed)
    message = refusal(build)
    assert f"  {name} ({len(changed)} bytes) has the sha256 {hashlib.sha256(changed).hexdigest()[:12]}..." in message
    assert f"not {hashlib.sha256(CONTENTS[name]).hexdigest()[:12]}..." in message
    assert "Put the published files back." in message


@pytest.mark.parametrize("left", [0, 100])
def test_truncated_file_is_named_with_its_size(build, left):
    write(build / "ops/norm.so", CONTENTS["ops/norm.so"][:left])
    assert f"  ops/norm.so ({left} bytes) has the sha256" in refusal(build)


@pytest.mark.parametrize(
    "name", ["evil.py", "evil.so", "ops/evil.py", "layers/__init__.py", "layers.pyc", "ops/metadata.json", "__pycache__/x.py"]
)
def test_extra_file_is_named(build, name):
    write(build / name, b"")
    assert f"  {name} is not part of it" in refusal(build)


def test_missing_file_is_named(build):
    (build / "ops/norm.so").unlink()
    assert "  ops/norm.so is missing" in refusal(build)


def test_file_that_cannot_be_read_is_named(build):
    files = files_of(build)
    (build / "layers.py").unlink()
    with pytest.raises(RepositoryError, match=r"  layers.py cannot be read: No such file or directory"):
        verify_files(files, published(), WHERE)


def test_all_problems_are_told_at_once_and_a_long_list_is_cut(build):
    (build / "layers.py").unlink()
    write(build / "ops/norm.so", b"")
    for number in range(8):
        write(build / f"evil{number}.py", b"")
    message = refusal(build)
    assert "evil0.py" in message
    assert "evil4.py" in message
    assert "... and 5 more" in message


def test_signature_of_the_metadata_needs_no_digest(build):
    write(build / "metadata.json.sigstore", b"{}")
    verify(build)


def test_lock_that_lists_the_metadata_holds_it_to_its_digest(build):
    locked = digests_of(files_of(build))
    assert sorted(locked.files) == ["__init__.py", "layers.py", "metadata.json", "ops/norm.so"]
    verify(build, locked)
    write(build / "metadata.json", b'{"id": "other"}')
    assert "  metadata.json (15 bytes) has the sha256" in refusal(build, locked)


def test_local_build_without_digests_passes(build):
    verify(build, None)


@pytest.mark.parametrize("expected", [PUBLISHED, None], ids=["digests", "no digests"])
def test_build_in_the_cache_passes(cached, expected):
    verify(cached, expected)


@pytest.mark.parametrize("expected", [PUBLISHED, None], ids=["digests", "no digests"])
@pytest.mark.parametrize("name", ["layers.py", "ops/norm.so"])
def test_tampered_blob_is_named_as_the_file_of_the_build_with_what_to_delete(cached, name, expected):
    write((cached / name).resolve(), b"evil")
    message = refusal(cached, expected)
    assert f"  {name} (4 bytes) has the " in message
    assert message.endswith(f"Delete {root_of(cached)}, and load the kernel again: it is then downloaded anew.")


def test_tampered_metadata_in_the_cache_is_named_although_no_digest_lists_it(cached):
    write((cached / "metadata.json").resolve(), b'{"id": "other"}')
    assert "  metadata.json (15 bytes) has the git blob hash" in refusal(cached)


@pytest.mark.parametrize("expected", [PUBLISHED, None], ids=["digests", "no digests"])
def test_file_that_was_planted_in_a_snapshot_is_named(cached, expected):
    write(cached / "evil.py", b"")
    assert "  evil.py is not part of it" in refusal(cached, expected)


def test_link_that_was_replaced_by_a_file_is_named(cached):
    (cached / "layers.py").unlink()
    write(cached / "layers.py", CONTENTS["layers.py"])
    verify(cached)  # the digests say what it holds, and it holds that
    assert "  layers.py is not part of it: it was not downloaded" in refusal(cached, None)


def test_mirror_that_names_files_by_their_plain_sha1_is_accepted(cached):
    plain = hashlib.sha1(CONTENTS["layers.py"]).hexdigest()
    blob = (cached / "layers.py").resolve()
    blob.rename(blob.with_name(plain))
    (cached / "layers.py").unlink()
    (cached / "layers.py").symlink_to(f"../../../../blobs/{plain}")
    verify(cached, None)


def test_name_that_is_no_hash_says_nothing_about_the_content(cached):
    blob = (cached / "layers.py").resolve()
    blob.rename(blob.with_name("W-5f3a"))
    (cached / "layers.py").unlink()
    (cached / "layers.py").symlink_to("../../../../blobs/W-5f3a")
    verify(cached, None)


def test_tampered_blob_in_the_shared_store_is_to_be_deleted_too(cached):
    name = "ab" * 32
    blob = (cached / "ops/norm.so").resolve()
    shared = root_of(cached).parent / "blobs" / "ab" / name
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(f"../../blobs/ab/{name}")
    verify(cached, None)
    write(shared, b"evil")
    message = refusal(cached, None)
    assert "  ops/norm.so (4 bytes) has the sha256 hash" in message
    assert f"Delete {root_of(cached)} and {shared}, and load" in message


def test_copies_on_a_system_without_links_are_checked_by_digest_only(cached):
    shutil.copytree(cached, cached.with_name("copied"))
    copied = cached.with_name("copied")
    verify(copied)
    verify(copied, None)
    write(copied / "layers.py", b"evil")
    assert f"Delete {root_of(cached)}, and load" in refusal(copied)


def test_second_verification_reads_nothing(build, hashed):
    verify(build)
    assert sorted(hashed) == ["__init__.py", "layers.py", "norm.so"]
    verify(build)
    assert len(hashed) == 3


def test_file_that_was_just_written_is_read_again(build, hashed):
    write(build / "layers.py", CONTENTS["layers.py"], modified=int(time.time()) + 600)  # however long the next line has to wait
    verify(build)
    verify(build)
    assert hashed.count("layers.py") == 2
    assert hashed.count("__init__.py") == 1


def test_file_that_changed_after_it_was_verified_is_noticed_though_its_time_was_set_back(build):
    verify(build)
    write(build / "layers.py", b"VALUE = 2\n")
    assert "  layers.py (10 bytes)" in refusal(build)


def test_file_that_was_replaced_after_it_was_verified_is_noticed(build, tmp_path):
    verify(build)
    write(tmp_path / "other.py", b"VALUE = 2\n")
    os.replace(tmp_path / "other.py", build / "layers.py")
    assert "  layers.py (10 bytes)" in refusal(build)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # of Python 3.12 and later
def test_forked_child_reads_everything_itself(build, hashed):
    verify(build)
    count = len(hashed)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        verify(build)
        os.write(writer, bytes([len(hashed)]))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 1)[0] == 2 * count
    os.close(reader)
    os.close(writer)


def test_nothing_is_written_beside_the_files(build):
    before = sorted(root_of(build).rglob("*"))
    verify(build)
    assert sorted(root_of(build).rglob("*")) == before


def test_large_files_are_verified_in_threads_and_the_answer_is_the_same(tmp_path):
    contents = {f"part{number}.so": os.urandom(3 << 20) for number in range(4)}
    for name, content in contents.items():
        write(tmp_path / name, content)
    files = {name: tmp_path / name for name in contents}
    expected = Digests("sha256", {name: hashlib.sha256(content).digest() for name, content in contents.items()})
    verify_files(files, expected, WHERE)
    write(tmp_path / "part2.so", contents["part2.so"][:-1])
    with pytest.raises(RepositoryError, match=r"  part2.so \(3145727 bytes\)"):
        verify_files(files, expected, WHERE)


def test_threads_that_verify_at_once_agree(build):
    write(build / "layers.py", b"evil")
    messages: list[str] = []
    threads = [threading.Thread(target=lambda: messages.append(refusal(build))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(messages) == 8
    assert len(set(messages)) == 1


@given(st.binary(max_size=300))
def test_content_that_is_about_to_run_passes_only_if_it_is_the_published_one(content):
    digest = hashlib.sha256(content).digest()
    verify_content(content, Path("layers.py"), digest, "sha256", WHERE)
    with pytest.raises(RepositoryError, match=r"layers.py \(\d+ bytes\) has the sha256"):
        verify_content(content + b"\n", Path("layers.py"), digest, "sha256", WHERE)
    with pytest.raises(RepositoryError, match=r"layers.py is not part of it"):
        verify_content(content, Path("layers.py"), None, "sha256", WHERE)


def test_single_file_is_verified(build):
    verify_file(build / "layers.py", published().files["layers.py"], "sha256", WHERE)
    with pytest.raises(RepositoryError, match=r"layers.py \(10 bytes\) has the sha256"):
        verify_file(build / "layers.py", published().files["__init__.py"], "sha256", WHERE)


@pytest.mark.parametrize("content", [b"", b"VALUE = 1\n", b"\x00" * 100_000])
def test_hashes_are_those_of_sha256sum_and_of_git(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    assert sha256_of(path) == hashlib.sha256(content).hexdigest()
    assert git_blob_sha1(path) == subprocess.run(["git", "hash-object", path], check=True, capture_output=True, text=True).stdout.strip()
